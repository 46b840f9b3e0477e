"""How much noise takes half of a prompt's effect away, and whether behaviours that are far are fragile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from soft_prompts.results.curve import Curve, Point
from soft_prompts.results.distance import crossings
from soft_prompts.results.record import Result
from soft_prompts.stats import CONFIDENCE, N_RESAMPLES, two_level_draws

HALF = 0.5
"""Of the gain."""
SHOWN = (0.25, 1.0)
"""Sizes of the noise that tables show."""
ENDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class HalfNoise:
    """The noise at which half of what a prompt of P tokens gains is gone, in units of each row's norm."""

    n_tokens: int
    at: float
    """Interpolated between the sizes that were tried; inf: larger than all of them."""
    low: float
    """Lower end of the 95 % interval over documents and seeds."""
    high: float
    """Upper end."""
    largest: float
    """The largest size tried."""

    def __str__(self) -> str:
        return f"{self._shown(self.at)} [{self._shown(self.low)}, {self._shown(self.high)}] (P={self.n_tokens})"

    def _shown(self, size: float) -> str:
        return f"> {self.largest:g}" if math.isinf(size) else f"{size:.2g}"


def half_noises(curve: Curve) -> list[HalfNoise]:
    """The noise that takes half of the gain, of every length where it was measured and whose gain is above 0 with 95 %
    confidence."""
    without = curve.point(0)
    found = [half_noise(point, without) for point in curve.points if point.n_tokens] if without else []
    return [one for one in found if one]


def half_noise(point: Point, without: Point) -> HalfNoise | None:
    """The noise that takes half of the gain of a point; None if it was not measured or there is no gain.

    Args:
        point: A prompt length.
        without: No tokens, on the same documents.
    """
    measured = _measured(point)
    if not measured or not point.pairs_with(without):
        return None
    sizes = np.array([level["size"] for level in measured[0].fragility["noise"]])
    levels = [[r.fragility["noise"][k] for r in measured] for k in range(len(sizes))]
    losses, draws = _losses(point, without, measured, levels)
    if not _gains(draws):
        return None
    at = _halves(losses, sizes)[0]
    low, high = np.quantile(_halves(draws, sizes), ENDS, method="nearest")
    return HalfNoise(point.n_tokens, float(at), float(low), float(high), float(sizes[-1]))


@dataclass(frozen=True)
class Share:
    """What is left of a gain."""

    value: float
    interval: list[float] | None
    """95 %, over documents and seeds. None: it is not certain that there is a gain, so a share of it has no bounds."""

    def __str__(self) -> str:
        between = f" [{100 * self.interval[0]:z.0f}, {100 * self.interval[1]:z.0f}]" if self.interval else ""
        return f"{self.value:z.0%}{between}"


def shares_kept(point: Point, without: Point) -> dict[str, Share]:
    """What of a point's gain is left under some changes, on the probed documents, averaged over the seeds.

    Returns:
        What was changed, in words -> share. Empty if it was not measured or the prompt gains nothing.
    """
    measured = _measured(point)
    if not measured or not point.pairs_with(without):
        return {}
    levels: dict[str, list[dict]] = {}
    for r in measured:
        of = {f"noise {level['size']:g}": level for level in r.fragility["noise"] if level["size"] in SHOWN}
        of |= {f"{level['share']:.0%} left out": level for level in r.fragility["left_out"]}
        of |= {"shuffled": r.fragility["shuffled"]} if r.fragility["shuffled"] else {}
        for name, level in of.items():
            levels.setdefault(name, []).append(level)
    losses, draws = _losses(point, without, measured, list(levels.values()))
    if losses[0, 0] <= losses[0, 1]:
        return {}

    def shares(of: np.ndarray) -> np.ndarray:
        return (of[:, :1] - of[:, 2:]) / (of[:, :1] - of[:, 1:2])

    low, high = np.quantile(shares(draws), ENDS, axis=0) if _gains(draws) else (None, None)
    intervals = [None if low is None else [float(low[k]), float(high[k])] for k in range(len(levels))]
    return {name: Share(float(x), of) for name, x, of in zip(levels, shares(losses)[0], intervals, strict=True)}


def _losses(
    point: Point, without: Point, measured: Sequence[Result], levels: Sequence[Sequence[dict]]
) -> tuple[np.ndarray, np.ndarray]:
    """Nats per token on the probed documents: without a prompt, with it, and with it changed in K ways.

    Args:
        point: A prompt length.
        without: No tokens, on the same documents.
        measured: Its seeds.
        levels: Of each change, what was recorded of each seed.

    Returns:
        The losses [1, 2 + K], and draws of them over documents and seeds [resamples, 2 + K].
    """
    checked = _checked(point, measured[0])
    still = [r.fragility["unmoved"] for r in measured]
    changed = [np.array([level["document_losses"] for level in of_seeds]) for of_seeds in (still, *levels)]
    sums, counts = [without.by_seed[:, checked], *changed], point.counts[checked]
    return np.array([[s.mean(0).sum() for s in sums]]) / counts.sum(), two_level_draws(sums, counts)


def _gains(draws: np.ndarray) -> bool:
    """Whether a prompt gains something on the probed documents, with 95 % confidence."""
    return bool(np.quantile(draws[:, 0] - draws[:, 1], ENDS[0]) > 0)


def steepness(point: Point) -> dict[str, float]:
    """Slope and curvatures of the loss at a point's prompts, averaged over the seeds, by name. Empty: not measured."""
    of_seeds = [
        {
            "slope": r.fragility["unmoved"]["slope"],
            "curvature": r.fragility["curvature"]["random"],
            "along the gradient": r.fragility["curvature"]["gradient"],
        }
        for r in _measured(point)
    ]
    return {name: float(np.mean([of[name] for of in of_seeds])) for name in (of_seeds or [{}])[0]}


def _measured(point: Point) -> list[Result]:
    """The seeds whose fragility was measured on the documents, and under the noise, of the first of them."""

    def setting(result: Result) -> tuple[list[str], list[float]]:
        return result.fragility["documents"], [level["size"] for level in result.fragility["noise"]]

    known = [r for r in point.results if r.fragility]
    return [r for r in known if setting(r) == setting(known[0])]


def _checked(point: Point, result: Result) -> list[int]:
    """Where the probed documents stand among the held-out ones."""
    place = {document: i for i, document in enumerate(point.documents)}
    return [place[document] for document in result.fragility["documents"]]


def _halves(losses: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Where the losses come up to half of the gain, by size.

    Args:
        losses: [rows, 2 + K], without a prompt, with it, and with it at K sizes of noise.
        sizes: [K], ascending.
    """
    half = losses[:, 1] + HALF * (losses[:, 0] - losses[:, 1])
    # In units of the smallest size all are at least 1, as lengths are. Losses fall with length and rise with noise.
    return sizes[0] * crossings(np.array([0, *sizes / sizes[0]]), -losses[:, 1:], -half)


def rank_correlation(pairs: Sequence[tuple[float, float]], seed: int = 0) -> tuple[float, list[float]] | None:
    """Spearman's rank correlation, and its 95 % interval by resampling the pairs.

    Args:
        pairs: Such as distance and fragility of each behaviour; inf stands for "beyond all".
        seed: Of the resampling.

    Returns:
        None if there are fewer than 4 pairs, or one side does not vary.
    """
    from scipy.stats import rankdata

    if len(pairs) < 4:
        return None
    sides = np.array(pairs).T

    def correlation(of: np.ndarray) -> float:
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.corrcoef([rankdata(side) for side in of])[0, 1])

    value = correlation(sides)
    random = np.random.default_rng(seed)
    drawn = [correlation(sides[:, random.integers(0, len(pairs), len(pairs))]) for _ in range(N_RESAMPLES // 4)]
    drawn = [x for x in drawn if not math.isnan(x)]  # of resamples that do not vary
    if math.isnan(value) or not drawn:
        return None
    return value, [float(x) for x in np.quantile(drawn, ENDS)]
