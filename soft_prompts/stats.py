"""Intervals: the document is the unit that is drawn at random, so documents are what the bootstrap resamples."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import binomtest

CONFIDENCE = 0.95
N_RESAMPLES = 4000


def ratio_interval(sums: np.ndarray, counts: np.ndarray, seed: int = 0) -> list[float]:
    """Percentile bootstrap interval [low, high] of sum(sums) / sum(counts), clustered by document.

    ``sums`` and ``counts`` are per document: nats and scored tokens, say. Documents are drawn with replacement (Efron and
    Tibshirani 1993, chapter 13), each with all its tokens, since the tokens of one document are not independent.
    """
    n = len(sums)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES)  # [resamples, documents]
    drawn_counts = draws @ counts
    ratios = (draws @ sums)[drawn_counts > 0] / drawn_counts[drawn_counts > 0]
    return [float(x) for x in np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])]


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
