"""How far a behaviour is, in tokens: conditional distance, saturation and contribution, with intervals.

L(P) is the held-out loss at prompt length P, seeds averaged. All quantities come from the same draws of documents and
training luck, so lengths, controls and baselines stay paired. docs/measurement.md has the definitions on one page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from soft_prompts.stats import CONFIDENCE, two_level_draws

SATURATED = 0.05
"""Share of the gain (or of the contribution, if it is known) by which a longer prompt must be better to count as
better."""
UPPER = (1 + CONFIDENCE) / 2
NO_GAIN = "no gain"
NO_GAP = "none, as it is no better than no prompt"


@dataclass(frozen=True)
class Distance:
    """The shortest prompt that reaches a target, between two lengths that were trained."""

    value: int | None
    """The shortest trained length that reaches it. None: no length does, or none is known to (see ``why``)."""
    below: int | None = None
    """The trained length before it, which does not reach the target. None: there is none."""
    at: float = math.inf
    """Where the loss crosses the target, interpolated between the two, in tokens; inf: nowhere."""
    low: float = math.inf
    """Lower end of the 95 % interval of ``at``."""
    high: float = math.inf
    """Upper end; inf: beyond the longest prompt trained."""
    longest: int = 0
    """The longest prompt trained."""
    why: str = ""
    """Why there is no value although the curve has been measured, such as "no gain"."""

    def __str__(self) -> str:
        if self.why:
            return self.why
        if self.value is None:
            return f"> {self.longest}"
        if self.below is None:
            return f"{self.value}"
        return f"({self.below}, {self.value}], about {_shown(self.at)} [{self._end(self.low)}, {self._end(self.high)}]"

    def _end(self, at: float) -> str:
        return f"> {self.longest}" if at == math.inf else _shown(at)


def _shown(at: float) -> str:
    """Tokens with two digits."""
    return f"{at:.2g}" if at < 10 else f"{at:.0f}"


@dataclass(frozen=True)
class PairedLosses:
    """Losses by prompt length, and what stands beside them, all on the same held-out documents; K lengths."""

    n_tokens: np.ndarray
    """int [K], ascending."""
    sums: tuple[np.ndarray, ...]
    """K arrays [n_seeds, documents], nats by document."""
    counts: np.ndarray
    """int [documents], scored tokens."""
    control: tuple[np.ndarray, ...] = ()
    """The same as ``sums`` of a model that knows nothing; empty if it was not measured at these lengths."""
    baselines: tuple[np.ndarray, ...] = ()
    """Arrays [n_seeds, documents] of the data baselines, each counted on the documents that the seed's prompt saw."""
    anchor: np.ndarray | None = None
    """[1, documents], nats of what is known to bring the behaviour out: a trigger text, say, or the base model."""

    @property
    def losses(self) -> np.ndarray:
        """L(P), nats per scored token, [K]."""
        return self._per_token(self.sums)

    @property
    def longest(self) -> int:
        """The longest prompt trained, in tokens."""
        return int(self.n_tokens[-1])

    @cached_property
    def draws(self) -> np.ndarray:
        """Draws of all losses, [resamples, K]."""
        return self._drawn[:, : len(self.sums)]

    @cached_property
    def _drawn(self) -> np.ndarray:
        """Draws of the losses, then of control, baselines and anchor."""
        anchor = () if self.anchor is None else (self.anchor,)
        return two_level_draws([*self.sums, *self.control, *self.baselines, *anchor], self.counts)

    def _per_token(self, sums: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([x.mean(0).sum() for x in sums]) / self.counts.sum()

    # --- gain ---

    def gains(self) -> Estimates:
        """L(0) - L(P) of the lengths above 0. Raises ValueError if there is no P = 0."""
        if self.n_tokens[0] != 0:
            raise ValueError("a gain needs the loss at 0 tokens")
        draws = self.draws[:, :1] - self.draws[:, 1:]
        return Estimates(self.losses[0] - self.losses[1:], draws)

    def contribution(self) -> Estimates | None:
        """E(P) = min(best data baseline, loss of the control at P) - L(P), [K]: what the model brought.

        None if there is neither a control nor a baseline.
        """
        n, n_control = len(self.sums), len(self.control)
        rivals: list[tuple[np.ndarray, np.ndarray]] = []
        if self.control:
            rivals.append((self._per_token(self.control), self._drawn[:, n : n + n_control]))
        for i, value in enumerate(self._per_token(self.baselines)):
            rivals.append((np.full(n, value), self._drawn[:, [n + n_control + i]].repeat(n, 1)))
        if not rivals:
            return None
        least = np.minimum.reduce([value for value, _ in rivals])
        least_draws = np.minimum.reduce([draws for _, draws in rivals])
        return Estimates(least - self.losses, least_draws - self.draws)

    # --- distances ---

    def distance_to_loss(self, target: float) -> Distance:
        """The smallest P with L(P) <= ``target``."""
        return self._crossing(self.losses, self.draws, target, np.full(len(self.draws), target))

    def distance_to_anchor(self, share: float) -> Distance:
        """The smallest P that closes ``share`` of the gap between L(0) and the anchor.

        Raises:
            ValueError: There is no anchor or no P = 0.
        """
        if self.anchor is None or self.n_tokens[0] != 0:
            raise ValueError("a share of the gap to the anchor needs an anchor and the loss at 0 tokens")
        goal = float(self._per_token([self.anchor])[0])
        gap = Estimates(self.losses[:1] - goal, self.draws[:, :1] - self._drawn[:, -1:])
        if not gap.seen:
            return Distance(None, longest=self.longest, why=NO_GAP)
        if not self.gains().seen:
            return Distance(None, longest=self.longest, why=NO_GAIN)
        return self._to_share(share, goal, self._drawn[:, -1])

    def distance_to_plateau(self, share: float) -> Distance:
        """The smallest P that closes ``share`` of the gap between L(0) and the curve's own plateau.

        The plateau is the mean loss of all lengths from saturation on. If saturation was not seen there is no plateau,
        and the distance is censored: "> longest".
        """
        if not self.gains().seen:
            return Distance(None, longest=self.longest, why=NO_GAIN)
        first = self._settled()
        if first is None:
            return Distance(None, longest=self.longest)
        return self._to_share(share, self.losses[first:].mean(), self.draws[:, first:].mean(1))

    def distance_to_contribution(self, share: float) -> Distance:
        """The smallest P whose contribution is ``share`` of the anchor's.

        Without an anchor, or with one that contributes nothing, it is a share of the largest contribution: the mean of
        all lengths from saturation on. If saturation was not seen, the distance is censored: "> longest".
        """
        contribution = self.contribution()
        if contribution is None or not contribution.seen:
            return Distance(None, longest=self.longest, why="no contribution seen")
        goal = self._contribution_of_anchor(contribution)
        if goal is None:
            first = self._settled()
            if first is None:
                return Distance(None, longest=self.longest)
            goal = contribution.values[first:].mean(), contribution.draws[:, first:].mean(1)
        wanted, wanted_draws = (share * x for x in goal)
        return self._crossing(-contribution.values, -contribution.draws, -wanted, -wanted_draws)

    def _contribution_of_anchor(self, contribution: Estimates) -> tuple[float, np.ndarray] | None:
        """By how much the anchor beats what knows nothing, without a prompt: its value and draws. None: by nothing."""
        if self.anchor is None:
            return None
        rival, rival_draws = contribution.values[0] + self.losses[0], contribution.draws[:, 0] + self.draws[:, 0]
        value = float(rival - self._per_token([self.anchor])[0])
        return (value, rival_draws - self._drawn[:, -1]) if value > 0 else None

    def _settled(self) -> int | None:
        """Which of the lengths is the first that is saturated; None if saturation was not seen."""
        value = self.saturation().value
        return None if value is None else int(np.flatnonzero(self.n_tokens == value)[0])

    def saturation(self, tolerance: float | None = None) -> Distance:
        """The smallest P beyond which no longer prompt is better by more than ``tolerance``, with 95 % confidence.

        The longest prompt has nothing beyond it. If only the longest would do, saturation was not seen: "> longest".

        Args:
            tolerance: Nats per token. None: SATURATED times the largest contribution, or gain if that is not known.
        """
        if tolerance is None:
            contribution = self.contribution()
            largest = contribution.values.max() if contribution else self.losses[0] - self.losses.min()
            tolerance = SATURATED * max(0.0, float(largest))
        lacks = _lacks(self.draws)
        confident = np.quantile(lacks, UPPER, axis=0) <= tolerance
        if not confident.any():
            return Distance(None, longest=self.longest)
        value = int(self.n_tokens[confident.argmax()])
        within = np.concatenate([lacks <= tolerance, np.ones((len(lacks), 1), bool)], 1)  # the longest always is
        low, high = np.quantile(self.n_tokens[within.argmax(1)], [1 - UPPER, UPPER], method="nearest")
        return Distance(value, None, float(value), float(low), float(high), self.longest)

    def bits_saved(self, n_tokens: int) -> np.ndarray:
        """Bits that a prompt of ``n_tokens`` saves on each document: (nats at 0 - nats at P) / ln 2, float
        [documents]."""
        at = int(np.flatnonzero(self.n_tokens == n_tokens)[0])
        return (self.sums[0].mean(0) - self.sums[at].mean(0)) / np.log(2)

    def _to_share(self, share: float, goal: float, goal_draws: np.ndarray) -> Distance:
        target = self.losses[0] - share * (self.losses[0] - goal)
        target_draws = self.draws[:, 0] - share * (self.draws[:, 0] - goal_draws)
        return self._crossing(self.losses, self.draws, target, target_draws)

    def _crossing(self, losses: np.ndarray, draws: np.ndarray, target: float, target_draws: np.ndarray) -> Distance:
        """Where losses [K] first come down to a target; the interval is that of the same place in every draw."""
        at = float(crossings(self.n_tokens, losses[None], np.array([target]))[0])
        places = crossings(self.n_tokens, draws, target_draws)
        low, high = np.quantile(places, [1 - UPPER, UPPER], method="nearest")
        reached = losses <= target + 1e-12
        if not reached.any():
            return Distance(None, longest=self.longest, low=float(low), high=float(high))
        i = int(reached.argmax())
        below = int(self.n_tokens[i - 1]) if i else None
        return Distance(int(self.n_tokens[i]), below, at, float(low), float(high), self.longest)


@dataclass(frozen=True)
class Estimates:
    """K numbers that are wanted to be above 0, with draws of their joint sampling distribution."""

    values: np.ndarray
    """[K]"""
    draws: np.ndarray
    """[resamples, K]"""

    def interval(self, k: int) -> list[float]:
        """[low, high], 95 %, of the k-th."""
        return [float(x) for x in np.quantile(self.draws[:, k], [1 - UPPER, UPPER])]

    @property
    def seen(self) -> bool:
        """Whether any is above 0, with 95 % confidence for all of them together (max-t: Romano and Wolf 2005)."""
        low, high = np.quantile(self.draws, [1 - UPPER, UPPER], axis=0)
        scale = np.maximum(high - low, 1e-12)
        excess = ((self.draws - self.values) / scale).max(1)  # how far the luckiest is above its true value
        return bool(((self.values / scale) > np.quantile(excess, UPPER)).any())


def crossings(n_tokens: np.ndarray, losses: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Where rows of losses first come down to their targets, in tokens, interpolated.

    Between two lengths the loss is taken to be linear in the logarithm of the length; between 0 and 1 token, in the
    length.

    Args:
        n_tokens: int [K], ascending.
        losses: [rows, K].
        targets: [rows].

    Returns:
        float [rows]; inf if a row never comes down to its target.
    """
    reached = losses <= targets[:, None] + 1e-12
    i = reached.argmax(1)
    before = np.maximum(i - 1, 0)
    row = np.arange(len(losses))
    drop = losses[row, before] - losses[row, i]
    share = np.where(i > 0, (losses[row, before] - targets) / np.where(drop > 0, drop, 1.0), 1.0)
    # A doubling is a step, and 0 stands one before 1.
    step = np.where(n_tokens > 0, np.log2(np.maximum(n_tokens, 1)), -1.0)
    at = step[before] + share * (step[i] - step[before])
    tokens = np.where(at < 0, at + 1, 2.0**at)
    return np.where(reached.any(1), tokens, np.inf)


def _lacks(losses: np.ndarray) -> np.ndarray:
    """By how much the best longer prompt is better, [rows, K - 1], from losses [rows, K]."""
    best_beyond = np.minimum.accumulate(losses[:, ::-1], 1)[:, ::-1]
    return losses[:, :-1] - best_beyond[:, 1:]


def smallest_with_score(lengths: Sequence[int], intervals: Sequence[Sequence[float]], target: float) -> Distance:
    """The smallest P whose behavioural score is at least ``target``, as Nordby (arXiv 2505.14943) defines the distance.

    Args:
        lengths: Prompt lengths, ascending.
        intervals: [low, high] of the score at each of them.
        target: The score wanted.

    Returns:
        The value and the upper end go by the intervals' low ends, the lower end by their high ends.
    """

    def first(ends: Sequence[float]) -> float:
        return next((n for n, end in zip(lengths, ends, strict=True) if end >= target), math.inf)

    low_ends, high_ends = ([interval[i] for interval in intervals] for i in (0, 1))
    value = first(low_ends)
    if value == math.inf:
        return Distance(None, low=first(high_ends), longest=lengths[-1])
    return Distance(int(value), None, value, first(high_ends), value, lengths[-1])
