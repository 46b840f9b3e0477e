"""A prompt rounded to a few bits a number."""

from __future__ import annotations

import torch
from torch import Tensor

from soft_prompts.interventions.base import Intervention

N_SCALES = 32
"""Scales tried for each token, evenly spaced up to its largest number. The one with the least squared error is
taken."""


class RoundedPrompt(Intervention):
    """A prompt whose every token is rounded to 2^b evenly spaced levels around 0, with a scale of its own.

    Of a conditional prompt, the tokens made for each condition are rounded: what the model reads, not the network.
    """

    def __init__(self, prompt: Intervention, n_bits: int):
        super().__init__()
        self.prompt, self.n_bits = prompt, n_bits

    @property
    def n_tokens(self) -> int:
        return self.prompt.n_tokens

    @property
    def n_numbers(self) -> int:
        return self.prompt.n_numbers

    def forward(self, condition: Tensor) -> Tensor:
        return round_rows(self.prompt(condition), self.n_bits)


def round_rows(rows: Tensor, n_bits: int) -> Tensor:
    """Round every number to the nearest of 2^b levels times its row's scale.

    Args:
        rows: [..., D].
        n_bits: b; the levels are -2^(b-1) + 1/2, ..., 2^(b-1) - 1/2.

    Returns:
        The rounded rows [..., D]. Scales are bfloat16 numbers.
    """
    highest = 2 ** (n_bits - 1) - 0.5
    largest = rows.abs().amax(-1, keepdim=True).clamp_min(1e-12)
    best, least = rows, torch.full_like(largest, torch.inf)
    for i in range(1, N_SCALES + 1):
        scale = (largest / highest * i / N_SCALES if n_bits > 1 else 2 * largest * i / N_SCALES).bfloat16().float()
        rounded = ((rows / scale - 0.5).round() + 0.5).clamp(-highest, highest) * scale
        error = (rounded - rows).square().sum(-1, keepdim=True)
        best, least = torch.where(error < least, rounded, best), torch.minimum(error, least)
    return best
