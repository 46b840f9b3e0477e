"""How long an ability lasts in a model that is trained on: the half-life of what it gains, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from soft_prompts.results.distance import UPPER
from soft_prompts.stats import two_level_draws

LEAST_LEFT = 1 / 64
"""A loss that has risen to where nothing is gained any more, or beyond, counts as if so much of the gain were left: an
exponential never gets to nothing."""


@dataclass(frozen=True)
class HalfLife:
    """After how many steps half of a gain is gone."""

    steps: float
    """inf: not within the steps that were measured; nan: there was no gain to begin with."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    last: int
    """The last step that was measured."""
    draws: np.ndarray = field(repr=False, compare=False)
    """[resamples], to compare with others from the same draws."""

    def __str__(self) -> str:
        if math.isnan(self.steps):
            return "nothing to lose"
        return f"{self._shown(self.steps)} [{self._shown(self.low)}, {self._shown(self.high)}]"

    def _shown(self, steps: float) -> str:
        return f"> {self.last}" if steps == math.inf else f"{steps:.2g}" if steps < 100 else f"{steps:.0f}"

    def times(self, other: HalfLife) -> str:
        """How many times as long it is as another from the same draws, with its interval.

        Where this one was not seen to end, it counts as the last step, so the ratio is a lower bound (">"). Empty where
        the other was not seen to end, or either had nothing to lose.
        """
        if not (np.isfinite(other.draws).mean() >= UPPER and math.isfinite(other.steps)) or math.isnan(self.steps):
            return ""
        known = np.isfinite(other.draws) & ~np.isnan(self.draws)
        ratios = np.minimum(self.draws[known], self.last) / other.draws[known]
        low, high = np.quantile(ratios, [1 - UPPER, UPPER])
        if self.steps == math.inf:
            return f"> {self.last / other.steps:.2g} [{low:.2g}, >]"
        return f"{self.steps / other.steps:.2g} [{low:.2g}, {'>' if self.high == math.inf else f'{high:.2g}'}]"


def half_lives(
    steps: Sequence[int],
    losses: Mapping[int, Sequence[np.ndarray]],
    never: Mapping[int, Sequence[np.ndarray]],
    counts: np.ndarray,
    seed: int = 0,
) -> dict[int, HalfLife]:
    """The half-life of what a model gains over one that never learned, by prompt length.

    The gain at a step is the loss of what never learned minus the loss there. What never learned is the best of several
    rivals, such as counting and a model that was never taught, each with a prompt of the same length. All losses come
    from the same draws of documents and of luck, so that half-lives can be compared.

    Args:
        steps: K steps, ascending from 0.
        losses: Prompt length -> K arrays [n_seeds, documents], nats by document.
        never: Prompt length -> arrays [n_seeds, documents] of the rivals.
        counts: Scored tokens, int [documents].
        seed: Of the draws; half-lives on other documents are compared by draws of their own.

    Returns:
        Prompt length -> its half-life.
    """
    parts = [x for n in losses for x in (*losses[n], *never[n])]
    means = np.array([np.mean(x, 0).sum() for x in parts]) / np.sum(counts)
    rows = np.concatenate([means[None], two_level_draws(parts, counts, seed=2 * seed)])
    found, start = {}, 0
    for n in losses:
        here = rows[:, start : start + len(losses[n])]
        start += len(losses[n])
        rival = rows[:, start : start + len(never[n])].min(1)
        start += len(never[n])
        at = half_gone(np.asarray(steps), rival[:, None] - here)
        drawn = np.nan_to_num(at[1:], nan=0.0, posinf=np.inf)
        low, high = np.quantile(drawn, [1 - UPPER, UPPER], method="nearest")
        found[n] = HalfLife(float(at[0]), float(low), float(high), int(steps[-1]), at[1:])
    return found


def half_gone(steps: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Where gains first come down to half of the first one, in steps.

    Between two steps a gain is taken to fall exponentially, so the half-life of an exponential comes out wherever it
    was looked at.

    Args:
        steps: int [K], ascending.
        gains: [rows, K].

    Returns:
        float [rows]; inf if a row never comes down to half, nan if there is no gain at the first step.
    """
    shares = gains / np.where(gains[:, :1] > 0, gains[:, :1], np.nan)
    below = shares <= 0.5
    i = below.argmax(1)
    row, before = np.arange(len(gains)), np.maximum(i - 1, 0)
    heights = np.log(np.maximum(shares, LEAST_LEFT))
    with np.errstate(divide="ignore", invalid="ignore"):  # rows that never come down are left out below
        way = (heights[row, before] - math.log(0.5)) / (heights[row, before] - heights[row, i])
        at = steps[before] + way * (steps[i] - steps[before])
    return np.where(np.isnan(shares[:, 0]), np.nan, np.where(below.any(1), at, np.inf))
