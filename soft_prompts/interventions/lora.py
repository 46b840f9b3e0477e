"""LoRA: a change of low rank to every matrix of the model's body, as an intervention without tokens."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.base import Change, Intervention
from soft_prompts.interventions.rounding import round_rows


class LoRA(Intervention):
    """W + B A for every linear layer of the body (Hu et al. 2021, arXiv 2106.09685). It sees no conditions."""

    n_tokens = 0

    def __init__(self, layers: Mapping[str, Sequence[int]], rank: int, width: int, generator: torch.Generator):
        """A change that does nothing yet: B is 0.

        Args:
            layers: Name -> n_in and n_out of each layer.
            rank: Of A [rank, n_in] and B [n_out, rank].
            width: D, of the model's embeddings.
            generator: Source of chance for A, on the CPU.
        """
        super().__init__()
        self.layers, self.width, self.rank = tuple(layers), width, rank
        draws = [torch.randn(rank, n_in, generator=generator) / n_in**0.5 for n_in, _ in layers.values()]
        self.a = nn.ParameterList(draws)
        self.b = nn.ParameterList([torch.zeros(n_out, rank) for _, n_out in layers.values()])

    @classmethod
    def on(cls, lm: PreTrainedModel, rank: int, generator: torch.Generator) -> LoRA:
        """A change of a model that does nothing yet.

        Raises:
            SoftPromptsError: The model has no linear layers that could be changed.
        """
        layers = {name: _sizes(layer) for name, layer in _linear_layers(lm).items()}
        if not layers:
            raise SoftPromptsError(f"{type(lm).__name__} has no linear layers for a LoRA; choose another --anchor.")
        return cls(layers, rank, lm.get_input_embeddings().weight.shape[1], generator)

    @property
    def n_numbers(self) -> int:
        return sum(p.numel() for p in self.parameters())

    @property
    def n_scales(self) -> int:
        return 2 * self.rank * len(self.layers)

    def forward(self, condition: Tensor) -> Tensor:
        return condition.new_zeros(len(condition), 0, self.width, dtype=torch.float32)

    def changes(self, lm: PreTrainedModel) -> dict[nn.Module, Change]:
        layers = _linear_layers(lm)
        return {layers[name]: _adds(a, b) for name, a, b in zip(self.layers, self.a, self.b, strict=True)}

    def rounded(self, n_bits: int) -> LoRA:
        """With a scale for every row of A and every column of B."""
        other = copy.deepcopy(self)
        for a, b in zip(other.a, other.b, strict=True):
            a.data, b.data = round_rows(a.detach(), n_bits), round_rows(b.detach().T, n_bits).T.contiguous()
        return other

    def config(self) -> dict[str, Any]:
        sizes = ([a.shape[1], b.shape[0]] for a, b in zip(self.a, self.b, strict=True))
        return {"rank": self.rank, "width": self.width, "layers": dict(zip(self.layers, sizes, strict=True))}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LoRA:
        return cls(config["layers"], config["rank"], config["width"], torch.Generator())

    @classmethod
    def check(cls, config: dict[str, Any], tensors: dict[str, Tensor], lm: PreTrainedModel) -> None:
        layers = {name: list(_sizes(layer)) for name, layer in _linear_layers(lm).items()}
        shapes = {
            **{f"a.{i}": [config["rank"], n_in] for i, (n_in, _) in enumerate(layers.values())},
            **{f"b.{i}": [n_out, config["rank"]] for i, (_, n_out) in enumerate(layers.values())},
        }
        if config["layers"] != layers or shapes != {name: list(tensor.shape) for name, tensor in tensors.items()}:
            raise ValueError("its matrices do not fit the model's layers")


def _linear_layers(lm: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers of the body by name; GPT-2's have a class of their own."""
    return {name: m for name, m in lm.base_model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """n_in and n_out."""
    n_out, n_in = layer.weight.shape if isinstance(layer, nn.Linear) else reversed(layer.weight.shape)
    return n_in, n_out


def _adds(a: Tensor, b: Tensor) -> Change:
    """Adds B A x."""

    def add(given: Tensor, passed_on: Tensor) -> Tensor:
        if passed_on.dim() != 3:  # a layer that mixes the rows cannot be changed for some of them
            raise SoftPromptsError("a LoRA needs layers that read [batch, length, width]; choose another --anchor.")
        # A large model's layers are on several devices.
        change = given.float() @ a.to(given.device).T @ b.to(given.device).T
        return passed_on + change.to(passed_on.dtype)

    return add
