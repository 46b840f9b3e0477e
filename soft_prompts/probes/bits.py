"""How many bits of a prompt matter: its numbers are rounded to a few bits each, and the loss it then has is
measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from soft_prompts.engine.evaluate import TokenScores, evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.interventions.base import Intervention
from soft_prompts.stats import ratio

BITS = (1, 2, 3, 4, 6, 8)
"""Bits per number that are tried, fewest first."""
SCALE_BITS = 16
"""Bits of the one scale that each token keeps (a bfloat16)."""


@dataclass(frozen=True)
class Size:
    """A prompt at some number of bits, measured."""

    bits_per_number: int
    bits: int
    """Of the whole prompt in one condition: P x D numbers of ``bits_per_number``, and P scales of SCALE_BITS."""
    loss: float
    """Nats per scored token."""
    increase: dict
    """Loss minus that of the unrounded prompt, paired by document: value, interval, n."""


def fewest_bits(bench: Bench, intervention: Intervention, scores: TokenScores, tolerance: float) -> list[Size]:
    """Round a prompt to more and more bits until its loss is kept.

    Args:
        bench: The model and the documents that the loss is measured on.
        intervention: The trained prompt.
        scores: Its own scores on these documents, unrounded.
        tolerance: Nats per token by which the loss may rise: the upper end of the increase's interval must lie below.

    Returns:
        The sizes tried, from the fewest bits on. The last is the answer if its increase is within the tolerance; a
        prompt that needs more than 8 bits a number has no answer. A prompt of no tokens has no sizes.
    """
    sizes: list[Size] = []
    if not intervention.n_numbers:
        return sizes
    for n_bits in BITS:
        rounded = intervention.rounded(n_bits)
        (of_rounded,) = evaluate(bench.model, [rounded], bench.held_out, bench.token_budget)
        increase = ratio(of_rounded.sums - scores.sums, np.asarray(scores.counts))
        bits = intervention.n_numbers * n_bits + intervention.n_tokens * SCALE_BITS
        sizes.append(Size(n_bits, bits, of_rounded.loss, increase))
        if increase["interval"][1] <= tolerance:
            break
    return sizes
