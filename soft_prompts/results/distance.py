"""How far a behaviour is: conditional distance and saturation, in tokens, with intervals.

All quantities come from one bootstrap of the held-out documents, drawn once for all prompt lengths, so the lengths stay
paired. L(P) is the held-out loss at prompt length P, seeds averaged. docs/measurement.md has the definitions on one
page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from soft_prompts.stats import CONFIDENCE, resampled

TOLERANCE = 0.01
"""Nats per token by which a longer prompt must be better to count as better."""
UPPER = (1 + CONFIDENCE) / 2


@dataclass(frozen=True)
class Distance:
    """A prompt length with its uncertainty. None stands for "longer than the longest prompt trained"."""

    value: int | None
    """The length at which the target is reached with confidence."""
    low: int | None
    """Lower end of the 95 % interval."""
    high: int | None
    """Upper end."""
    longest: int
    """The longest prompt trained."""

    def __str__(self) -> str:
        if (self.value, self.low, self.high) == (None, None, None):
            return f"> {self.longest}"
        return f"{self._shown(self.value)} [{self._shown(self.low)}, {self._shown(self.high)}]"

    def _shown(self, n: int | None) -> str:
        return f"> {self.longest}" if n is None else str(n)


@dataclass(frozen=True)
class PairedLosses:
    """Held-out losses by prompt length on the same documents; K lengths."""

    n_tokens: np.ndarray
    """int [K], ascending."""
    sums: np.ndarray
    """float [K, documents], nats by document, seeds averaged."""
    counts: np.ndarray
    """int [documents], scored tokens."""

    @property
    def losses(self) -> np.ndarray:
        """L(P), nats per scored token, [K]."""
        return self.sums.sum(1) / self.counts.sum()

    @property
    def envelope(self) -> np.ndarray:
        """The monotone envelope, [K]: the best loss of any prompt up to each length. A longer prompt could imitate
        it."""
        return np.minimum.accumulate(self.losses)

    @cached_property
    def draws(self) -> np.ndarray:
        """Bootstrap draws of all losses, [resamples, K]."""
        return resampled(self.sums, self.counts)

    @property
    def longest(self) -> int:
        """The longest prompt trained, in tokens."""
        return int(self.n_tokens[-1])

    def distance_to_loss(self, target: float) -> Distance:
        """The smallest P with L(P) < ``target``."""
        return self._first(lambda losses: np.full(losses.shape[:-1], target))

    def distance_to_share(self, share: float) -> Distance:
        """The smallest P that closes ``share`` of the gap between L(0) and the plateau, the lowest loss of all lengths.

        Raises:
            ValueError: There is no P = 0.
        """
        if self.n_tokens[0] != 0:
            raise ValueError("a share of the gap needs the loss at 0 tokens")

        def target(losses: np.ndarray) -> np.ndarray:
            none, plateau = losses[..., 0], losses.min(-1)
            return none - share * (none - plateau)

        return self._first(target, at_plateau=True)

    def saturation(self, tolerance: float = TOLERANCE) -> Distance:
        """The smallest P beyond which no longer prompt is better by more than ``tolerance`` nats.

        The longest prompt has nothing beyond it. If only the longest would do, saturation was not seen.
        """

        def lacks(losses: np.ndarray) -> np.ndarray:
            best_beyond = np.minimum.accumulate(losses[..., ::-1], -1)[..., ::-1]
            return losses[..., :-1] - best_beyond[..., 1:]  # [..., K - 1]

        confident = np.quantile(lacks(self.draws), UPPER, axis=0) <= tolerance
        return self._distance(confident, lacks(self.draws) <= tolerance)

    def bits_saved(self, n_tokens: int) -> np.ndarray:
        """Bits that a prompt of ``n_tokens`` saves on each document: (nats at 0 - nats at P) / ln 2, float
        [documents]."""
        at = int(np.flatnonzero(self.n_tokens == n_tokens)[0])
        return (self.sums[0] - self.sums[at]) / np.log(2)

    def _first(self, target: Callable[[np.ndarray], np.ndarray], at_plateau: bool = False) -> Distance:
        """The smallest P below a target that may itself depend on the losses.

        The value asks for confidence: the upper limit of L(P) - target is below 0. The interval takes the smallest P of
            every
        draw.

        Args:
            target: Losses [..., K] -> the target of each row [...].
            at_plateau: The plateau itself counts as reached, since nothing can lie below it.
        """
        excess = self.draws - target(self.draws)[:, None]  # [resamples, K]
        reached = excess <= 1e-12 if at_plateau else excess < 0
        confident = np.quantile(excess, UPPER, axis=0)
        return self._distance(confident <= 1e-12 if at_plateau else confident < 0, reached)

    def _distance(self, confident: np.ndarray, reached: np.ndarray) -> Distance:
        lengths = [int(n) for n in self.n_tokens]
        # [resamples]: index of the first length that reaches the target; beyond the last: none does.
        first = np.where(reached.any(1), reached.argmax(1), len(lengths))
        low, high = np.quantile(first, [1 - UPPER, UPPER], method="nearest")
        known = [*lengths, None] if reached.shape[1] == len(lengths) else [*lengths[:-1], None, None]
        value = known[int(confident.argmax())] if confident.any() else None
        return Distance(value, known[int(low)], known[int(high)], self.longest)


def smallest_with_score(lengths: Sequence[int], intervals: Sequence[Sequence[float]], target: float) -> Distance:
    """The smallest P whose behavioural score is at least ``target``.

    Args:
        lengths: Prompt lengths, ascending.
        intervals: [low, high] of the score at each of them.
        target: The score wanted.

    Returns:
        The value and the upper end go by the intervals' low ends, the lower end by their high ends.
    """

    def first(ends: Sequence[float]) -> int | None:
        return next((n for n, end in zip(lengths, ends, strict=True) if end >= target), None)

    low_ends, high_ends = ([interval[i] for interval in intervals] for i in (0, 1))
    return Distance(first(low_ends), first(high_ends), first(low_ends), lengths[-1])
