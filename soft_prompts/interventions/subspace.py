"""An intervention of which only a few numbers are trained: its start, moved along fixed random directions.

The fewest numbers that reach a loss say how much must be told, whatever the width of the model is (Li et al. 2018,
arXiv 1804.08838: the intrinsic dimension of an objective).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from soft_prompts.interventions.base import Change, Intervention
from soft_prompts.interventions.rounding import round_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Subspace(Intervention):
    """start + theta A / sqrt(d) for all parameters together, with theta [d] trained and A [d, numbers] normal.

    The start and A follow from a seed, so d numbers are all that has to be told. At theta = 0 it is the start, and a
    learning rate moves the parameters about as far as it would without the subspace.
    """

    def __init__(self, inner: Intervention, dimensions: int, seed: int):
        """
        Args:
            inner: Where training starts. It is left as it is.
            dimensions: d.
            seed: Of the directions.
        """
        super().__init__()
        self._inner = (inner,)  # in a tuple: its parameters are not to be trained
        self._names = [name for name, _ in inner.named_parameters()]
        random = torch.Generator().manual_seed(seed)
        for i, parameter in enumerate(inner.parameters()):
            directions = torch.randn(dimensions, parameter.numel(), generator=random) / dimensions**0.5
            self.register_buffer(f"start_{i}", parameter.detach().clone(), persistent=False)
            self.register_buffer(f"directions_{i}", directions, persistent=False)
        for name, buffer in inner.named_buffers():
            self.register_buffer(f"inner_{name}", buffer.detach().clone(), persistent=False)
        self.theta = nn.Parameter(torch.zeros(dimensions if inner.trainable else 0))

    @property
    def n_tokens(self) -> int:
        return self._inner[0].n_tokens

    @property
    def n_numbers(self) -> int:
        return self.theta.numel()

    @property
    def n_scales(self) -> int:
        return 1

    def forward(self, condition: Tensor) -> Tensor:
        return functional_call(self._inner[0], self._moved(), (condition,))

    def changes(self, lm: PreTrainedModel) -> Mapping[nn.Module, Change]:
        moved = {f"inner.{name}": tensor for name, tensor in self._moved().items()}
        return functional_call(_Changes(self._inner[0]), moved, (lm,))

    def _moved(self) -> dict[str, Tensor]:
        """Parameters and buffers of the inner intervention."""
        moved = {name: getattr(self, f"inner_{name}") for name, _ in self._inner[0].named_buffers()}
        for i, name in enumerate(self._names):
            start = getattr(self, f"start_{i}")
            step = (self.theta @ getattr(self, f"directions_{i}")).view_as(start) if self.n_numbers else 0.0
            moved[name] = start + step
        return moved

    def show(self, n_tokens: int) -> None:
        self._inner[0].show(n_tokens)

    def plain(self) -> Intervention:
        inner = copy.deepcopy(self._inner[0]).to(self.theta.device)
        inner.load_state_dict({name: tensor.detach() for name, tensor in self._moved().items()})
        return inner

    def rounded(self, n_bits: int) -> Intervention:
        other = copy.copy(self)
        other._parameters = {"theta": nn.Parameter(round_rows(self.theta.detach()[None], n_bits)[0])}
        return other


class _Changes(nn.Module):
    """The changes of an intervention as what a module's call returns, since only calls can be made with other
    parameters."""

    def __init__(self, inner: Intervention):
        super().__init__()
        self.inner = inner

    def forward(self, lm: PreTrainedModel) -> Mapping[nn.Module, Change]:
        return self.inner.changes(lm)
