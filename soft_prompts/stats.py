"""Intervals. The document is the unit that is drawn at random, so documents are what the bootstrap resamples."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

CONFIDENCE = 0.95
"""Of all intervals."""
N_RESAMPLES = 4000
"""Bootstrap draws of an interval."""


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


def ratio_interval(sums: np.ndarray, counts: np.ndarray, seed: int = 0, n_resamples: int = N_RESAMPLES) -> list[float]:
    """Percentile bootstrap interval [low, high], 95 %, of sum(sums) / sum(counts), clustered by document; see
    ``resampled``."""
    draws = resampled(np.asarray(sums, np.float64), np.asarray(counts, np.float64), n_resamples, seed)
    return [float(x) for x in np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])]


def band(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A band that holds all K ratios sum(sums[k]) / sum(counts) at once with 95 % confidence.

    The largest deviation among the K, in standard errors, is bootstrapped (max-t: Romano and Wolf 2005,
    doi 10.1198/016214504000000539). So looking at several lengths does not make one of them stand out by chance.

    Args:
        sums: [K, documents].
        counts: [documents].

    Returns:
        Low and high ends, [K] each.
    """
    draws = resampled(sums, counts)  # [resamples, K]
    value, error = sums.sum(-1) / counts.sum(), draws.std(0)
    deviation = np.abs(draws - value) / np.where(error > 0, error, np.inf)
    width = np.quantile(deviation.max(1), CONFIDENCE) * error
    return value - width, value + width


def comparison_widths(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Half-widths of intervals by which ratios on the same documents can be compared by eye.

    If two of the intervals do not overlap, the paired difference of the two ratios differs from 0 with 95 % confidence.
    The
    interval of each ratio alone is no help there: what makes a document hard at every length is no difference between
    lengths. The widths are fitted so that the sum of two comes close to the width of their paired difference, by
    relative least squares (Goldstein and Healy 1995, doi 10.2307/2983411, for unpaired means). Where a sum still falls
    short, the wider of the two is widened.

    Args:
        sums: [K, documents], K at least 2.
        counts: [documents].

    Returns:
        [K].
    """
    draws, n = resampled(sums, counts), len(sums)
    low, high = np.quantile(draws[:, :, None] - draws[:, None, :], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    first, second = np.triu_indices(n, 1)
    paired = ((high - low) / 2)[first, second].clip(1e-12)  # of every difference
    adds = np.zeros((len(paired), n))
    adds[np.arange(len(paired)), first] = adds[np.arange(len(paired)), second] = 1
    widths = np.linalg.lstsq(adds / paired[:, None], np.ones(len(paired)), rcond=None)[0].clip(0)
    for j, k, wanted in zip(first, second, paired, strict=True):
        wider = j if widths[j] > widths[k] else k
        widths[wider] += max(0.0, wanted - widths[j] - widths[k])
    return widths


def seed_interval(values: np.ndarray) -> list[float] | None:
    """Student's interval [low, high], 95 %, of the mean over seeds; None for fewer than two.

    Seeds are another source of variance than documents: the luck of the start and of the order of training documents.
    No number of held-out documents says anything about it.
    """
    from scipy.stats import t as student_t  # scipy.stats takes most of a second to import

    n = len(values)
    if n < 2:
        return None
    half = student_t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / n**0.5
    return [float(np.mean(values) - half), float(np.mean(values) + half)]


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
