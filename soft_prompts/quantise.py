"""How many bits of a prompt matter: its numbers rounded to a few bits each, and the loss it then has, measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from soft_prompts.evaluate import Bench, Prompt, TokenScores, evaluate
from soft_prompts.stats import ratio

BITS = (1, 2, 3, 4, 6, 8)
"""Bits per number that are tried, fewest first."""
SCALE_BITS = 16
"""Bits of the one scale that each token keeps (a bfloat16)."""
N_SCALES = 32
"""Scales tried for each token, from 1 / N_SCALES of its largest number up; that with the least squared error is taken."""


class Quantised(nn.Module):
    """A prompt whose every token is rounded to 2^b evenly spaced levels around 0, with a scale of its own.

    Of a conditional prompt it is the tokens made for each condition that are rounded: what the model reads, not the network.
    """

    def __init__(self, prompt: Prompt, n_bits: int):
        super().__init__()
        self.prompt, self.n_bits = prompt, n_bits

    @property
    def n_tokens(self) -> int:
        return self.prompt.n_tokens

    def forward(self, condition: Tensor) -> Tensor:
        """[B, C] -> [B, P, D]"""
        return round_rows(self.prompt(condition), self.n_bits)


def round_rows(rows: Tensor, n_bits: int) -> Tensor:
    """``rows`` [..., D] with every number replaced by the nearest of 2^b levels (-2^(b-1) + 1/2 ... 2^(b-1) - 1/2) times its row's
    scale."""
    highest = 2 ** (n_bits - 1) - 0.5
    largest = rows.abs().amax(-1, keepdim=True).clamp_min(1e-12)
    best, least = rows, torch.full_like(largest, torch.inf)
    for i in range(1, N_SCALES + 1):
        scale = (largest / highest * i / N_SCALES if n_bits > 1 else 2 * largest * i / N_SCALES).bfloat16().float()
        rounded = ((rows / scale - 0.5).round() + 0.5).clamp(-highest, highest) * scale
        error = (rounded - rows).square().sum(-1, keepdim=True)
        best, least = torch.where(error < least, rounded, best), torch.minimum(error, least)
    return best


@dataclass(frozen=True)
class Size:
    """A prompt at some number of bits, measured."""

    bits_per_number: int
    bits: int
    """Of the whole prompt: P (D b + SCALE_BITS)."""
    loss: float
    """Nats per scored token."""
    increase: dict
    """Loss over that of the unrounded prompt, paired by document: value, interval, n."""


def fewest_bits(bench: Bench, prompt: Prompt, scores: TokenScores, tolerance: float) -> list[Size]:
    """Sizes from the smallest up to the first whose loss is within ``tolerance`` nats of the prompt's own, with confidence.

    ``scores`` are the prompt's own. The last size is the answer if its increase is within the tolerance; a prompt that needs more than 8 bits per
    number has none. A prompt of no tokens has no bits.
    """
    found: list[Size] = []
    if not prompt.n_tokens:
        return found
    for n_bits in BITS:
        (rounded,) = evaluate(bench.model, [Quantised(prompt, n_bits)], bench.held_out, bench.token_budget)
        increase = ratio(rounded.sums - scores.sums, np.asarray(scores.counts))
        n = prompt.n_tokens * (bench.model.vocabulary.shape[1] * n_bits + SCALE_BITS)
        found.append(Size(n_bits, n, rounded.loss, increase))
        if increase["interval"][1] <= tolerance:
            break
    return found
