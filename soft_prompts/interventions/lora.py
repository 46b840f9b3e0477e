"""LoRA: a change of low rank to every matrix of the model's body, as an intervention without tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.base import Intervention


class LoRA(Intervention):
    """W + B A for every linear layer of the body (Hu et al. 2021, arXiv 2106.09685). It sees no conditions."""

    n_tokens = 0

    def __init__(self, lm: PreTrainedModel, rank: int, generator: torch.Generator):
        """A change that does nothing yet: B is 0.

        Args:
            lm: The model; it is not kept.
            rank: Of A [rank, n_in] and B [n_out, rank].
            generator: Source of chance for A, on the CPU.

        Raises:
            SoftPromptsError: The model has no linear layers that could be changed.
        """
        super().__init__()
        layers = _linear_layers(lm)
        if not layers:
            raise SoftPromptsError(f"{type(lm).__name__} has no linear layers for a LoRA; choose another --anchor.")
        self.layers = tuple(layers)
        """Names of the layers, in the order of ``a`` and ``b``."""
        self.width = lm.get_input_embeddings().weight.shape[1]
        sizes = [_sizes(layer) for layer in layers.values()]
        draws = [torch.randn(rank, n_in, generator=generator) / n_in**0.5 for n_in, _ in sizes]
        self.a = nn.ParameterList(draws)
        self.b = nn.ParameterList([torch.zeros(n_out, rank) for _, n_out in sizes])

    @property
    def n_numbers(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def forward(self, condition: Tensor) -> Tensor:
        return condition.new_zeros(len(condition), 0, self.width, dtype=torch.float32)

    def hooks(self, lm: PreTrainedModel, rows: slice) -> Sequence[AbstractContextManager]:
        layers = _linear_layers(lm)
        changes = zip(self.layers, self.a, self.b, strict=True)
        return [layers[name].register_forward_hook(_adds(a, b, rows)) for name, a, b in changes]


def _linear_layers(lm: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers of the body by name; GPT-2's have a class of their own."""
    return {name: m for name, m in lm.base_model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """n_in and n_out."""
    n_out, n_in = layer.weight.shape if isinstance(layer, nn.Linear) else reversed(layer.weight.shape)
    return n_in, n_out


def _adds(a: Tensor, b: Tensor, rows: slice):
    """A hook that adds B A x to some rows of a layer's output."""

    def add(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if output.dim() != 3:  # a layer that mixes the rows cannot be changed for some of them
            raise SoftPromptsError("a LoRA needs layers that read [batch, length, width]; choose another --anchor.")
        changed = output.clone()
        # A large model's layers are on several devices.
        read, on_a, on_b = given[0][rows].float(), a.to(output.device), b.to(output.device)
        changed[rows] = output[rows] + (read @ on_a.T @ on_b.T).to(output.dtype)
        return changed

    return add
