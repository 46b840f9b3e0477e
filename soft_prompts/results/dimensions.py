"""How many random directions, and so how many bits, a prompt needs: by a logistic curve through what some numbers of
them reach, so that the answer is no power of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from soft_prompts.results.curve import Curve, Point
from soft_prompts.stats import CONFIDENCE, two_level_draws

SCALE_BITS = 16
"""Of the one scale that all numbers of a subspace share."""
FINEST = 0.05
"""Doublings between the places that are tried for the middle of the curve."""
SLOPES = np.geomspace(0.25, 8, 41)
"""Per doubling, tried for its steepness."""


@dataclass(frozen=True)
class Dimensions:
    """Where the curve crosses the share that was asked for."""

    dimensions: float
    """Directions; inf: more than a doubling beyond the most that were tried."""
    bits_per_number: int
    """To which they are rounded: what needs the fewest bits by the validation documents."""
    draws: np.ndarray
    """[resamples] of the bits, over documents and seeds."""

    @property
    def bits(self) -> float:
        """Of all directions and their scale."""
        return self.dimensions * self.bits_per_number + SCALE_BITS

    def __str__(self) -> str:
        low, high = np.quantile(self.draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest")
        told = f"{self.dimensions:,.0f} of {self.bits_per_number} bits"
        return f"{_shown(self.bits)} [{_shown(low)}, {_shown(high)}] ({told})"


def _shown(bits: float) -> str:
    return "beyond" if math.isinf(bits) else f"{bits:,.0f}"


def dimensions(curves: Sequence[Curve], share: float) -> Dimensions | None:
    """The fewest bits of a prompt in a random subspace that closes a share of the gap between L(0) and the anchor.

    The share of the gap that d directions close is taken to be logistic in log d, from 0 to 1. The curve is fitted by
    least squares, once for each number of bits that they may be rounded to, and in every draw of documents and seeds.

    Args:
        curves: One for each number of directions, with the same documents, anchor and length of prompt.
        share: Of the gap, between 0 and 1.

    Returns:
        None if there are fewer than two numbers of directions, or no gap on the validation documents.
    """
    of_number = dict(sorted((curve.recipe["subspace"], curve) for curve in curves))
    first = next(iter(of_number.values()), None)
    anchor = first.anchor if first else None
    if len(of_number) < 2 or not anchor or "validation_loss" not in anchor or first.points[0].n_tokens:
        return None
    zero = first.points[0]
    points = [curve.points[-1] for curve in of_number.values()]
    at_zero = zero.results[0].validation_loss
    if any(not p.pairs_with(zero) for p in points) or at_zero is None or at_zero <= anchor["validation_loss"]:
        return None
    doublings = np.log2(list(of_number))
    tried = sorted({size["bits_per_number"] for p in points for r in p.results for size in r.sizes})

    def needed(n_bits: int, split: str, losses: np.ndarray, start: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Bits of a number of directions that is enough, for each row of losses [R, K]."""
        rounded = losses + np.array([_increase(p, n_bits, split) for p in points])
        shares = (start[:, None] - rounded) / (start - goal)[:, None]
        return 2 ** logistic_crossings(doublings, shares, share) * n_bits + SCALE_BITS

    validated = np.array([[np.mean([r.validation_loss for r in p.results]) for p in points]])
    ends = np.array([at_zero]), np.array([anchor["validation_loss"]])
    n_bits = min(tried, key=lambda b: needed(b, "validation", validated, *ends)[0])

    held_out = [zero.by_seed, *(p.by_seed for p in points), np.array([anchor["document_losses"]])]
    values = np.array([[x.mean(0).sum() for x in held_out]]) / zero.counts.sum()
    drawn = two_level_draws(held_out, zero.counts)
    bits, draws = (needed(n_bits, "held_out", x[:, 1:-1], x[:, 0], x[:, -1]) for x in (values, drawn))
    return Dimensions(float((bits[0] - SCALE_BITS) / n_bits), n_bits, draws)


def _increase(point: Point, n_bits: int, split: str) -> float:
    """By how much rounding raises the loss, mean over the seeds. More bits than were tried lose no more than those."""
    of_seeds = []
    for result in point.results:
        size = max((s for s in result.sizes if s["bits_per_number"] <= n_bits), key=lambda s: s["bits_per_number"])
        by_documents = size["validation_loss"] - result.validation_loss
        of_seeds.append(by_documents if split == "validation" else size["increase"]["value"])
    return float(np.mean(of_seeds))


def logistic_crossings(x: np.ndarray, shares: np.ndarray, share: float) -> np.ndarray:
    """Where the logistic curve through some shares, 1 / (1 + exp(-slope (x - middle))), reaches ``share``.

    Args:
        x: float [K], ascending.
        shares: float [R, K], one curve for each row.
        share: Between 0 and 1.

    Returns:
        float [R], in the units of ``x``; inf: more than 1 beyond the last of them.
    """
    middles = np.arange(x[0] - 4, x[-1] + 4, FINEST)
    slopes, middles = (grid.ravel() for grid in np.meshgrid(SLOPES, middles))
    tried = 1 / (1 + np.exp(-slopes * (x[:, None] - middles)))  # [K, curves]
    best = ((tried**2).sum(0) - 2 * shares @ tried).argmin(1)  # the least squares, without what all of a row share
    at = middles[best] + np.log(share / (1 - share)) / slopes[best]
    return np.where(at <= x[-1] + 1, at, np.inf)
