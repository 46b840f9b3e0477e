"""How many bits of a prompt matter: its numbers are rounded to a few bits each, and the loss it then has is
measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from soft_prompts.engine.evaluate import TokenScores, evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.interventions.base import Intervention
from soft_prompts.stats import ratio

BITS = (1, 2, 3, 4, 6, 8)
"""Bits per number that are tried, fewest first."""
CHECKED = 32
"""Validation documents, and as many held-out ones, on which rounded prompts are measured, at most."""
LOSSLESS = 0.002
"""Nats per token on the validation documents: more bits are not tried once rounding costs less."""

ROUNDED = 1e-6
"""Share of a known number of bits that float32 may have added to it: 24 must not become 25."""


@dataclass(frozen=True)
class Size:
    """A prompt at some number of bits, measured."""

    bits_per_number: int
    """0: it is not rounded, but told by a draw, or made of tokens."""
    bits: int
    """Of the whole prompt in one condition: ``numbers`` of ``bits_per_number``, and P scales of 16 (in a
    subspace, one)."""
    numbers: int
    """P x D; in a subspace its dimensions."""
    trained_numbers: int
    """Numbers that were trained: P x D, the dimensions of a subspace, or all weights of a generator that makes a prompt
    for every condition."""
    validation_loss: float
    """Nats per scored token of the validation documents: that of the unrounded prompt, and the increase on CHECKED of
    them. Sizes are chosen by it."""
    loss: float
    """Nats per scored token of the held-out documents: that of the unrounded prompt, and the increase."""
    increase: dict
    """Held-out loss minus that of the unrounded prompt, paired by document, on CHECKED of them: value, interval, n.
    Documents differ far more than what rounding costs on them, so a part of them is enough."""


def rounded_sizes(bench: Bench, intervention: Intervention, scores: TokenScores, validation_loss: float) -> list[Size]:
    """Round a prompt to more and more bits until nothing is lost.

    Which of the sizes is enough depends on the whole curve: a longer prompt may be rounded more coarsely and still
    reach what a shorter one reaches. results/enough_bits.py chooses.

    Args:
        bench: The model, and the documents that losses are measured on.
        intervention: The trained prompt.
        scores: Its own held-out scores, unrounded.
        validation_loss: Its own validation loss, unrounded, in nats per token.

    Returns:
        The sizes tried, from the fewest bits on. A prompt of no tokens has none.
    """
    if not intervention.n_numbers:
        return []
    if (nats := intervention.nats) is not None:
        bits = math.ceil(nats.item() / math.log(2) * (1 - ROUNDED))
        nothing = ratio(0 * scores.sums, scores.counts)
        numbers = intervention.n_numbers
        return [Size(0, max(1, bits), numbers, numbers, validation_loss, scores.loss, nothing)]
    chosen_on = [e for e in bench.validation if e.n_scored][:CHECKED]
    (unrounded,) = evaluate(bench.model, [intervention], chosen_on, bench.token_budget)
    tried: list[tuple[int, Intervention, float]] = []
    for n_bits in BITS:
        rounded = intervention.rounded(n_bits)
        (validated,) = evaluate(bench.model, [rounded], chosen_on, bench.token_budget)
        tried.append((n_bits, rounded, validation_loss + validated.loss - unrounded.loss))
        if validated.loss - unrounded.loss <= LOSSLESS:
            break
    checked = np.flatnonzero(scores.counts)[:CHECKED]
    documents = [bench.held_out[i] for i in checked]
    measured = evaluate(bench.model, [rounded for _, rounded, _ in tried], documents, bench.token_budget)
    increases = [ratio(own.sums - scores.sums[checked], own.counts) for own in measured]
    return [
        Size(
            bits_per_number=n_bits,
            bits=intervention.bits(n_bits),
            numbers=intervention.n_numbers,
            trained_numbers=sum(parameter.numel() for parameter in intervention.parameters()),
            validation_loss=validated,
            loss=scores.loss + increase["value"],
            increase=increase,
        )
        for (n_bits, _, validated), increase in zip(tried, increases, strict=True)
    ]
