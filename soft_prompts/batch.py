"""Examples and batches: which tokens a model reads, which of them are scored, and where the prompt goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

IGNORE = -100
"""The label of a place that is not scored (the value torch's own losses ignore)."""


@dataclass(frozen=True)
class Example:
    """One document as the model sees it.

    tokens     int [T]; by convention opens with the model's document separator.
    labels     int [T]; the token wanted at each place, predicted from whatever stands just before it (the prompt's last
               token where the prompt was inserted there), or IGNORE. Place 0 has nothing before it and is never scored.
    document   identity of the document, the same in every run: what pairs results and keeps splits apart.
    insert_at  the prompt goes before this place: 1, the default, is just behind the separator; T is the end.
    condition  float [C]; C = 0 for an unconditional task.
    weights    float [T] or None: how much each scored place counts in training (held-out losses are never weighted).
    """

    tokens: np.ndarray
    labels: np.ndarray
    document: str
    insert_at: int = 1
    condition: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    weights: np.ndarray | None = None

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
        return int((self.labels != IGNORE).sum())

    @property
    def total_weight(self) -> float:
        """Sum of the weights of the scored places: their count, where no weights are given."""
        return float(self.weights[self.labels != IGNORE].sum()) if self.weights is not None else float(self.n_scored)

    def prefix(self, length: int) -> Example:
        """The first ``length`` tokens, as the start of a continuation."""
        return replace(self, tokens=self.tokens[:length], labels=self.labels[:length], weights=None)


@dataclass(frozen=True)
class Batch:
    """Examples as tensors, padded on the right.

    With padding on the right and causal attention no real token ever sees padding, so no attention mask is needed and
    positions simply count up: a padded row equals the same row alone.
    """

    tokens: Tensor  # int64 [B, T]
    labels: Tensor  # int64 [B, T], IGNORE on padding
    weights: Tensor  # float32 [B, T], 0 where not scored
    lengths: Tensor  # int64 [B]
    insert_at: Tensor  # int64 [B]
    condition: Tensor  # float32 [B, C]

    def to(self, device: torch.device) -> Batch:
        return Batch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples, padding with token 0 (never seen, never scored) to the longest."""
    shape = len(examples), max(len(e) for e in examples)
    tokens, labels = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
    weights = np.zeros(shape, np.float32)
    for i, e in enumerate(examples):
        tokens[i, : len(e)] = e.tokens
        labels[i, : len(e)] = e.labels
        weights[i, : len(e)] = (e.labels != IGNORE) * (1 if e.weights is None else e.weights)
    return Batch(
        tokens=torch.from_numpy(tokens),
        labels=torch.from_numpy(labels),
        weights=torch.from_numpy(weights),
        lengths=torch.tensor([len(e) for e in examples]),
        insert_at=torch.tensor([e.insert_at for e in examples]),
        condition=torch.from_numpy(np.stack([e.condition for e in examples]).astype(np.float32)),
    )
