"""Intervention: what is put into the forward pass of a frozen model, and trained."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Intervention(nn.Module):
    """P tokens that are inserted into the text, or hooks on the model's layers (then usually P = 0), or both.

    A soft prompt is P tokens and no hooks. A steering vector or a LoRA is P = 0 and hooks that change its own rows of a
    batch only, so that rival interventions share forward passes.
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

    def hooks(self, lm: PreTrainedModel, rows: slice) -> Sequence[AbstractContextManager]:
        """Register hooks on the model's modules for one forward pass; by default none.

        Args:
            lm: The frozen model.
            rows: The rows of the batch that belong to this intervention. Hooks must leave all others as they are.

        Returns:
            What removes the hooks when the pass is over, such as the handles of ``register_forward_hook``.
        """
        return ()

    def rounded(self, n_bits: int) -> Intervention:
        """The same intervention with every number rounded to ``n_bits`` bits: what it is worth then is measured."""
        raise NotImplementedError

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
