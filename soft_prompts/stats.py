"""Intervals: the document is the unit that is drawn at random, so documents are what the bootstrap resamples."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student_t

CONFIDENCE = 0.95
N_RESAMPLES = 4000


def resampled(sums: np.ndarray, counts: np.ndarray, n_resamples: int = N_RESAMPLES, seed: int = 0) -> np.ndarray:
    """Bootstrap draws of sum(sums) / sum(counts), float64 [n_resamples, ...], clustered by document.

    ``sums`` [..., documents] and ``counts`` [documents] are nats and scored tokens, say. Documents are drawn with replacement
    (Efron and Tibshirani 1993, chapter 13), each with all its tokens, since the tokens of one document are not
    independent; several rows of ``sums`` are drawn together, so that they stay paired. Draws without any scored token are left out.
    """
    drawn = _drawn(len(counts), n_resamples, seed)
    drawn_counts = drawn @ counts
    drawn_sums = np.moveaxis(np.asarray(sums @ drawn.T), -1, 0)  # [resamples, ...]
    kept = drawn_counts > 0
    return drawn_sums[kept] / drawn_counts[kept].reshape(-1, *[1] * (drawn_sums.ndim - 1))


@lru_cache(maxsize=2)
def _drawn(n: int, n_resamples: int, seed: int) -> np.ndarray:
    """How often each of ``n`` documents is in each resample, [resamples, n]; the same for all scores of a task, and dear to draw."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(np.float64)


def ratio_interval(sums: np.ndarray, counts: np.ndarray, seed: int = 0, n_resamples: int = N_RESAMPLES) -> list[float]:
    """Percentile bootstrap interval [low, high] of sum(sums) / sum(counts), clustered by document."""
    draws = resampled(np.asarray(sums, np.float64), np.asarray(counts, np.float64), n_resamples, seed)
    return [float(x) for x in np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])]


def band(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high [K] of a band that holds all K ratios sum(sums[k]) / sum(counts) at once with 95 % confidence.

    The largest deviation among the K, in standard errors, is bootstrapped (max-t: Romano and Wolf 2005,
    doi 10.1198/016214504000000539), so that looking at several lengths does not make one of them stand out by chance.
    """
    draws = resampled(sums, counts)  # [resamples, K]
    value, error = sums.sum(-1) / counts.sum(), draws.std(0)
    deviation = np.abs(draws - value) / np.where(error > 0, error, np.inf)
    width = np.quantile(deviation.max(1), CONFIDENCE) * error
    return value - width, value + width


def comparison_widths(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Half-widths [K] of intervals to compare the K ratios sum(sums[k]) / sum(counts) of the same documents by eye.

    Where two of the intervals do not overlap, the paired difference of the two differs from 0 with 95 % confidence. The
    interval of each ratio alone is no help there: what makes a document hard at every length is no difference between lengths. The
    widths' sums fit the widths of all paired differences by relative least squares (Goldstein and Healy 1995, doi 10.2307/2983411,
    for unpaired means); then the wider of two is widened where their sum falls short. K must be at least 2.
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
    """Student's interval [low, high] of the mean over seeds, None for fewer than two: another source of variance than documents.

    It says how much the luck of the start and of the order of training documents matters, which no number of held-out
    documents can.
    """
    n = len(values)
    if n < 2:
        return None
    half = student_t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / n**0.5
    return [float(np.mean(values) - half), float(np.mean(values) + half)]


def ratio(sums: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """A score from per-document sums and counts: value sum / sum, its interval, and n documents that count.

    A paired difference of two losses is the ratio of the differences of their document sums.
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
    """A score from one success or failure per document: the share, with Wilson's interval (right at 0 % and 100 % too)."""
    n, k = len(successes), int(np.sum(successes))
    if not n:
        return {"value": None, "interval": None, "n": 0}
    found = binomtest(k, n).proportion_ci(CONFIDENCE, method="wilson")
    return {"value": k / n, "interval": [float(found.low), float(found.high)], "n": n}
