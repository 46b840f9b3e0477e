"""Steering vectors: what some layers pass on is moved by a vector each, as an intervention without tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.base import Change, Intervention
from soft_prompts.interventions.rounding import round_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LISTENED = 32
"""Random tokens by which the size of what layers pass on is measured."""


class Steering(Intervention):
    """h + v at every position, for what each of S layers passes on (Turner et al. 2023, arXiv 2308.10248, with trained
    vectors as in Subramani et al. 2022, arXiv 2205.05124). It sees no conditions.

    Vectors are counted in units of the root mean square of what their layer passes on, so that a learning rate means
    the same in every model and at every depth.
    """

    n_tokens = 0

    def __init__(self, layers: Sequence[int], vectors: Tensor, scales: Tensor):
        """
        Args:
            layers: Numbers of S layers, from 0.
            vectors: [S, D], where training starts, in units of ``scales``.
            scales: [S].
        """
        super().__init__()
        self.layers = tuple(layers)
        self.vectors = nn.Parameter(vectors.detach().float())
        self.register_buffer("scales", scales.detach().float())

    @classmethod
    def on(cls, lm: PreTrainedModel, layers: Sequence[int]) -> Steering:
        """Vectors of zeros for some layers of a model.

        Raises:
            SoftPromptsError: The model's layers cannot be found.
        """
        zeros = torch.zeros(len(layers), lm.get_input_embeddings().weight.shape[1])
        return cls(layers, zeros, sizes_passed_on(lm)[list(layers)])

    @property
    def n_numbers(self) -> int:
        return self.vectors.numel()

    @property
    def n_scales(self) -> int:
        return len(self.layers)

    def forward(self, condition: Tensor) -> Tensor:
        return condition.new_zeros(len(condition), 0, self.vectors.shape[1], dtype=torch.float32)

    def changes(self, lm: PreTrainedModel) -> dict[nn.Module, Change]:
        layers = layers_of(lm)
        moves = zip(self.layers, self.vectors * self.scales[:, None], strict=True)
        return {layers[i]: _moves(vector) for i, vector in moves}

    def rounded(self, n_bits: int) -> Steering:
        other = copy.deepcopy(self)
        other.vectors.data = round_rows(self.vectors.detach(), n_bits)
        return other

    def config(self) -> dict[str, Any]:
        return {"layers": list(self.layers), "width": self.vectors.shape[1]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Steering:
        n = len(config["layers"])
        return cls(config["layers"], torch.zeros(n, config["width"]), torch.ones(n))

    @classmethod
    def check(cls, config: dict[str, Any], tensors: dict[str, Tensor], lm: PreTrainedModel) -> None:
        wanted = (len(config["layers"]), lm.get_input_embeddings().weight.shape[1])
        fit = wanted == tuple(tensors["vectors"].shape) and config["width"] == wanted[1]
        if not fit or not set(config["layers"]) <= set(range(len(layers_of(lm)))):
            raise ValueError("its vectors do not fit the model's layers")


def layers_of(lm: PreTrainedModel) -> nn.ModuleList:
    """The blocks of the body, in order.

    Raises:
        SoftPromptsError: There is no list of as many modules as the configuration has layers.
    """
    n = lm.config.get_text_config().num_hidden_layers
    for module in lm.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n:
            return module
    raise SoftPromptsError(f"{type(lm).__name__} has no list of its {n} layers, so it cannot be steered.")


@torch.no_grad()
def sizes_passed_on(lm: PreTrainedModel) -> Tensor:
    """The root mean square of what each layer passes on, float32 [layers]: the median over positions, since at some,
    such as the first, a few numbers can be huge."""
    embedding = lm.get_input_embeddings().weight
    tokens = torch.randint(len(embedding), (1, LISTENED), generator=torch.Generator().manual_seed(0))
    sizes: list[Tensor] = []

    def listen(layer: nn.Module, given: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        sizes.append(hidden[0].float().square().mean(-1).sqrt().median().cpu())

    handles = [layer.register_forward_hook(listen) for layer in layers_of(lm)]
    try:
        lm.base_model(tokens.to(embedding.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(sizes)


def _moves(vector: Tensor) -> Change:
    """Adds a vector."""
    return lambda given, passed_on: passed_on + vector.to(passed_on.device, passed_on.dtype)
