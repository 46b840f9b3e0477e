"""An example: one document as the model sees it, with the tokens that are scored.

One alphabet for shapes, here and everywhere else in this package:

    B examples · T tokens · P soft prompt tokens · L = T + P · D embedding width · C conditions · V vocabulary · R runs
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

IGNORE = -100
"""The label of a position that is not scored (the value that torch's own losses ignore)."""


@dataclass(frozen=True)
class Example:
    """One document as the model sees it.

    Raises ValueError if the arrays do not fit together or position 0 is scored.
    """

    tokens: np.ndarray
    """int [T]. By convention the first token is the model's document separator."""
    labels: np.ndarray
    """int [T]: the token wanted at each position, or IGNORE. It is predicted from whatever stands just before the
    position (the prompt's last token, if the prompt was inserted there). Nothing stands before position 0, so it is
    never scored."""
    document: str
    """Identity of the document, the same in every run: it pairs results and keeps the splits apart."""
    insert_at: int = 1
    """The prompt goes before this position. 1, the default, is just behind the separator; T is the end."""
    condition: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """float [C], what the prompt may depend on. C = 0 for an unconditional task."""
    weights: np.ndarray | None = None
    """float [T], how much each scored token counts in training; None: all count 1. Held-out losses are never
    weighted."""

    def __post_init__(self) -> None:
        if len(self.tokens) == 0 or len(self.labels) != len(self.tokens):
            raise ValueError(
                f"{self.document}: {len(self.tokens)} tokens and {len(self.labels)} labels: need as many, >= 1"
            )
        if self.labels[0] != IGNORE:
            raise ValueError(f"{self.document}: place 0 is scored, but without a prompt nothing stands before it")
        if not 0 <= self.insert_at <= len(self.tokens):
            raise ValueError(f"{self.document}: insert_at {self.insert_at} is outside 0..{len(self.tokens)}")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_scored(self) -> int:
        """How many tokens are scored."""
        return int((self.labels != IGNORE).sum())

    @property
    def total_weight(self) -> float:
        """Sum of the weights of the scored tokens: their count, if no weights are given."""
        return float(self.weights[self.labels != IGNORE].sum()) if self.weights is not None else float(self.n_scored)

    def prefix(self, length: int) -> Example:
        """The first ``length`` tokens, as the start of a continuation."""
        return replace(self, tokens=self.tokens[:length], labels=self.labels[:length], weights=None)
