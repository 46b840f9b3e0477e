"""Intervention: what is put into the forward pass of a frozen model, and trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Change = Callable[[Tensor, Tensor], Tensor]
"""What a module is given and what it passes on, the rows of one intervention of each -> what it passes on instead."""

SCALE_BITS = 16
"""Bits of a scale that rounded numbers keep (a bfloat16)."""


class Intervention(nn.Module):
    """P tokens that are inserted into the text, or changes of what the model's layers pass on (then usually P = 0), or
    both.

    A soft prompt is P tokens and no changes, a steering vector or a LoRA is P = 0 and changes. engine/changes.py makes
    them for an intervention's own rows of a batch only, so that rival interventions share forward passes.
    """

    @property
    def n_tokens(self) -> int:
        """P: how many tokens are inserted."""
        raise NotImplementedError

    @property
    def n_numbers(self) -> int:
        """How many numbers the model is told in one condition: P x D for a soft prompt."""
        raise NotImplementedError

    @property
    def n_scales(self) -> int:
        """How many scales a rounded one keeps: one for each of its tokens, as ``RoundedPrompt`` does."""
        return self.n_tokens

    @property
    def nats(self) -> Tensor | None:
        """What telling it costs, if that is known without rounding it: a number on the device. By default it is not."""
        return None

    @property
    def trainable(self) -> bool:
        """Whether there is anything to train: a prompt of no tokens has no parameters."""
        return any(parameter.numel() for parameter in self.parameters())

    def forward(self, condition: Tensor) -> Tensor:
        """The inserted tokens of each example.

        Args:
            condition: [B, C], float. An unconditional intervention uses only B.

        Returns:
            Embeddings, float32 [B, P, D].
        """
        raise NotImplementedError

    def changes(self, lm: PreTrainedModel) -> Mapping[nn.Module, Change]:
        """What it changes in a forward pass; by default nothing.

        Args:
            lm: The frozen model.

        Returns:
            Module -> what is made of its output, for the rows of this intervention: see ``Change``.
        """
        return {}

    def rounded(self, n_bits: int) -> Intervention:
        """The same intervention with every number rounded to ``n_bits`` bits: what it is worth then is measured."""
        raise NotImplementedError

    def bits(self, n_bits: int) -> int:
        """Bits of it when it is rounded so: its numbers, and its scales."""
        return self.n_numbers * n_bits + self.n_scales * SCALE_BITS

    def show(self, n_tokens: int) -> None:
        """Insert only the first ``n_tokens`` of its tokens from now on. What inserts none has none to hide."""

    def draw(self, seed: int) -> None:
        """Settle what is left to chance in its tokens, until the next draw; by default nothing is."""

    def penalty(self) -> Tensor | None:
        """What is added to its loss in training, nats per scored token, with a gradient; by default nothing is."""
        return None

    def plain(self) -> Intervention:
        """The same without what only its training needed: what snapshots hold."""
        return self

    def config(self) -> dict[str, Any]:
        """What ``from_config`` needs to make an intervention of the same shape, as plain JSON. Snapshots store it."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Intervention:
        """An intervention of the shape that ``config`` says, with meaningless numbers, to load a state into."""
        raise NotImplementedError

    @classmethod
    def check(cls, config: dict[str, Any], tensors: dict[str, Tensor], lm: PreTrainedModel) -> None:
        """Refuse a configuration that does not fit the tensors of a state, or the model, before anything is made of it.

        Raises:
            ValueError: With what does not fit.
        """
        raise NotImplementedError
