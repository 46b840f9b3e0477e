"""Batches: examples as tensors, and the prompt inserted into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from soft_prompts.data.example import IGNORE, Example


@dataclass(frozen=True)
class Batch:
    """Examples as tensors, padded on the right.

    With padding on the right and causal attention no real token ever sees padding. So no attention mask is needed and
    positions simply count up: a padded row equals the same row alone.
    """

    tokens: Tensor
    """int64 [B, T]; padding is token 0."""
    labels: Tensor
    """int64 [B, T]; IGNORE on padding."""
    weights: Tensor
    """float32 [B, T]; 0 where nothing is scored."""
    lengths: Tensor
    """int64 [B]"""
    insert_at: Tensor
    """int64 [B]"""
    condition: Tensor
    """float32 [B, C]"""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples, padded to the longest with token 0, which is never seen and never scored."""
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


def insert(rows: Tensor, block: Tensor, at: Tensor) -> Tensor:
    """Insert a block into each row. Serves embeddings, labels, weights and masks alike.

    Args:
        rows: [B, T, ...].
        block: [B, P, ...].
        at: int64 [B], the position before which the block goes: 0 puts it first, the row's length puts it last (before
            any padding).

    Returns:
        [B, T + P, ...], in the dtype of ``rows``.
    """
    n_rows, n_block = rows.shape[1], block.shape[1]
    row = torch.arange(len(rows), device=rows.device)[:, None]  # [B, 1]
    position = torch.arange(n_rows + n_block, device=rows.device)  # [L], in the result
    at = at[:, None]  # [B, 1]
    source = position - n_block * (position >= at + n_block)  # [B, L]: what stands behind the block moves by P
    joined = rows[row, source.clamp(max=n_rows - 1)]  # [B, L, ...]; the block's own positions hold anything
    joined[row, at + position[:n_block]] = block.to(rows.dtype)
    return joined
