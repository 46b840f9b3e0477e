"""Intervals. Two things are drawn at random: the held-out documents, and the luck of training (the seed)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

CONFIDENCE = 0.95
"""Of all intervals."""
TOLERATED_NATS, TOLERATED_SHARE = 0.005, 0.02
"""A loss that moves by less than the larger of them has not moved: so many nats per token, and this share of the
largest gain."""
N_RESAMPLES = 4000
"""Bootstrap draws of an interval."""
WIDEST = 1e6
"""By which factor an interval over very few documents is widened at most: two of them, one a thousand times as long,
say nothing of others, and Student's t would be infinite."""


def resampled(sums: np.ndarray, counts: np.ndarray, n_resamples: int = N_RESAMPLES, seed: int = 0) -> np.ndarray:
    """Bootstrap draws of sum(sums) / sum(counts), clustered by document.

    Documents are drawn with replacement (Efron and Tibshirani 1993, chapter 13), each with all its tokens, since the
    tokens of one document are not independent. Several rows of ``sums`` are drawn together, so they stay paired.

    Args:
        sums: [..., documents], such as nats by document.
        counts: [documents], such as scored tokens by document.
        n_resamples: How many draws.
        seed: Of the draws.

    Returns:
        float64 [n_resamples, ...]. Draws without any scored token are left out.
    """
    drawn = _drawn(len(counts), n_resamples, seed)
    drawn_counts = drawn @ counts
    drawn_sums = np.moveaxis(np.asarray(sums @ drawn.T), -1, 0)  # [resamples, ...]
    kept = drawn_counts > 0
    return drawn_sums[kept] / drawn_counts[kept].reshape(-1, *[1] * (drawn_sums.ndim - 1))


@lru_cache(maxsize=2)
def _drawn(n: int, n_resamples: int, seed: int) -> np.ndarray:
    """How often each of ``n`` documents is in each resample, [resamples, n]. Kept, since all scores of a task need the
    same."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(np.float64)


def two_level_draws(
    sums: Sequence[np.ndarray], counts: np.ndarray, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Draws of K losses from their joint sampling distribution over documents and seeds.

    Documents: the bootstrap of ``resampled``, drawn once for all K losses, so they stay paired. Few documents make its
    percentiles too narrow, so deviations are widened by t(n - 1) / z and by sqrt(n / (n - 1)) (Hesterberg 2015, doi
    10.1080/00031305.2015.1089789, section 3.4), where n is the effective number of documents of unequal lengths.

    Seeds: with three of them, resampling would be far too narrow. The variance between seeds is estimated instead,
    without the part of it that documents explain, and the mean over seeds is moved by a draw from Student's t with
    n_seeds - 1 degrees of freedom. A loss with one seed is not moved: its interval is over documents only.

    Args:
        sums: K arrays [n_seeds, documents] of nats by document; the number of seeds may differ.
        counts: [documents], scored tokens.
        n_resamples: How many draws.
        seed: Of the draws.

    Returns:
        float64 [n_resamples, K], nats per token.
    """
    from scipy.stats import norm
    from scipy.stats import t as student_t

    counts = np.asarray(counts, np.float64)
    means = np.stack([np.mean(of_seeds, 0) for of_seeds in sums])  # [K, documents]
    losses = means.sum(1) / counts.sum()
    n = counts.sum() ** 2 / (counts**2).sum()
    with np.errstate(divide="ignore", invalid="ignore"):  # of one effective document it is no number
        widened = student_t.ppf((1 + CONFIDENCE) / 2, n - 1) / norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(n / (n - 1))
    widened = np.fmin(widened, WIDEST)
    draws = losses + widened * (resampled(means, counts, n_resamples, seed) - losses)
    random = np.random.default_rng(seed + 1)
    for k, of_seeds in enumerate(sums):
        if len(of_seeds) > 1:
            spread = np.sqrt(seed_variance(of_seeds, counts) / len(of_seeds))
            # Evenly spaced quantiles in random order: the tails of Student's t are exact with few draws, too.
            even = (random.permutation(len(draws)) + 0.5) / len(draws)
            draws[:, k] += spread * student_t.ppf(even, len(of_seeds) - 1)
    return draws


def seed_variance(sums: np.ndarray, counts: np.ndarray) -> float:
    """Variance of the loss between seeds, in nats per token squared, without what documents explain.

    The seeds' losses on the same documents also differ because each seed does better on some documents than on others.
    That part would average out over more documents; it is estimated by document and subtracted.

    Args:
        sums: [n_seeds, documents], nats by document, at least two seeds.
        counts: [documents], scored tokens.

    Returns:
        At least 0.
    """
    losses = sums.sum(1) / counts.sum()
    deviations = sums - sums.mean(0) - (losses - losses.mean())[:, None] * counts
    by_documents = (deviations**2).sum() / (len(sums) - 1) / counts.sum() ** 2
    return max(0.0, float(losses.var(ddof=1) - by_documents))


def ratio_interval(sums: np.ndarray, counts: np.ndarray, seed: int = 0, n_resamples: int = N_RESAMPLES) -> list[float]:
    """Percentile bootstrap interval [low, high], 95 %, of sum(sums) / sum(counts), clustered by document; see
    ``resampled``."""
    return interval_of(resampled(np.asarray(sums, np.float64), np.asarray(counts, np.float64), n_resamples, seed))


def interval_of(draws: np.ndarray) -> list[float]:
    """The 95 % interval [low, high] of a number, from draws of its sampling distribution."""
    return [float(x) for x in np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])]


def estimated(value: float, draws: np.ndarray) -> dict[str, Any]:
    """A score from draws of its sampling distribution: "value" and "interval" [low, high], 95 %."""
    return {"value": float(value), "interval": interval_of(draws)}


def band(values: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A band that holds K numbers at once with 95 % confidence.

    The largest deviation among the K, in units of their own intervals' widths, is bootstrapped (max-t: Romano and Wolf
    2005, doi 10.1198/016214504000000539). So looking at several lengths does not make one of them stand out by chance.

    Args:
        values: [K].
        draws: [resamples, K], draws of their joint sampling distribution.

    Returns:
        Low and high ends, [K] each.
    """
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    scale = np.maximum(high - low, 1e-12)
    width = np.quantile((np.abs(draws - values) / scale).max(1), CONFIDENCE) * scale
    return values - width, values + width


def comparison_widths(draws: np.ndarray) -> np.ndarray:
    """Half-widths of intervals by which K numbers measured on the same documents can be compared by eye.

    If two of the intervals do not overlap, the two numbers differ with 95 % confidence. The interval of each number
    alone is no help there: what makes a document hard at every length is no difference between lengths. The widths are
    fitted so that the sum of two comes close to the width of their difference's interval, by relative least squares
    (Goldstein and Healy 1995, doi 10.2307/2983411, for unpaired means). Where a sum still falls short, the wider of the
    two is widened.

    Args:
        draws: [resamples, K], draws of their joint sampling distribution; K at least 2.

    Returns:
        [K].
    """
    n = draws.shape[1]
    first, second = np.triu_indices(n, 1)
    low, high = np.quantile(draws[:, first] - draws[:, second], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    paired = ((high - low) / 2).clip(1e-12)  # of every difference
    adds = np.zeros((len(paired), n))
    adds[np.arange(len(paired)), first] = adds[np.arange(len(paired)), second] = 1
    widths = np.linalg.lstsq(adds / paired[:, None], np.ones(len(paired)), rcond=None)[0].clip(0)
    for j, k, wanted in zip(first, second, paired, strict=True):
        wider = j if widths[j] > widths[k] else k
        widths[wider] += max(0.0, wanted - widths[j] - widths[k])
    return widths


def ratio(sums: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """A score from sums and counts by document. With the differences of two losses as sums it is their paired
    difference.

    Returns:
        "value": sum(sums) / sum(counts); "interval": [low, high], 95 %; "n": documents that count. None, None, 0 for
            none.
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    if not counts.sum():
        return {"value": None, "interval": None, "n": 0}
    return {
        "value": float(sums.sum() / counts.sum()),
        "interval": ratio_interval(sums, counts),
        "n": int((counts > 0).sum()),
    }


def rate(successes: np.ndarray) -> dict[str, Any]:
    """A score from one success or failure by document: the share, with Wilson's interval (right at 0 % and 100 %, too).

    Returns:
        "value", "interval" [low, high], 95 %, and "n" documents. None, None, 0 for none.
    """
    from scipy.stats import binomtest

    n, k = len(successes), int(np.sum(successes))
    if not n:
        return {"value": None, "interval": None, "n": 0}
    interval = binomtest(k, n).proportion_ci(CONFIDENCE, method="wilson")
    return {"value": k / n, "interval": [float(interval.low), float(interval.high)], "n": n}


def tolerance(gain: float) -> float:
    """Nats per token that a loss may move without having moved.

    Args:
        gain: The largest gain so far, nats per token.
    """
    return max(TOLERATED_NATS, TOLERATED_SHARE * gain)
