"""Which clusters do vectors form, and are they more than what any cloud of the same extent falls into?

k-means finds k clusters in anything. So each number stands beside the same one of a control that has no clusters: as
many draws from a Gaussian with the mean and the covariance of the vectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

ROUNDS = 30
"""Of k-means. It moves little after ten."""


@dataclass(frozen=True)
class Clusters:
    """What k-means found from one start."""

    labels: np.ndarray
    """The cluster of each vector, int [n]."""
    distances: np.ndarray
    """From each vector to the centre of its cluster, [n]."""

    def nearest_first(self) -> list[np.ndarray]:
        """The vectors of each cluster, as int arrays of their places: the largest cluster first, and in each the
        nearest to its centre first."""
        order = np.argsort(self.distances, kind="stable")
        members = [order[self.labels[order] == j] for j in np.unique(self.labels)]
        return sorted(members, key=len, reverse=True)


@dataclass(frozen=True)
class Fit:
    """How well vectors fall into k clusters."""

    k: int
    silhouette: float
    """See ``silhouette``; mean over starts."""
    agreement: float
    """See ``agreement``."""


def k_means(rows: np.ndarray, k: int, starts: int) -> list[Clusters]:
    """k-means from several starts of k-means++.

    Args:
        rows: [n, D], n at least k.
        k: Clusters; one that loses all its vectors is left out.
        starts: How many.

    Returns:
        What each start found. The tightest, with the smallest sum of squared distances, comes first.
    """
    from scipy.cluster.vq import kmeans2, vq

    rows = np.asarray(rows, np.float64)
    found = []
    for seed in range(starts):
        with warnings.catch_warnings(action="ignore"):  # that a cluster lost all its vectors
            centres, _ = kmeans2(rows, k, ROUNDS, minit="++", rng=np.random.default_rng(seed))
        found.append(Clusters(*vq(rows, centres)))
    return sorted(found, key=lambda one: float((one.distances**2).sum()))


def agreement(clusterings: Sequence[np.ndarray]) -> float:
    """Whether clusterings of the same vectors agree: the adjusted Rand index, mean over pairs of them.

    It counts pairs of vectors that are together in both, less what is expected of random clusters of the same sizes
    (Hubert and Arabie 1985, doi 10.1007/BF01908075). 1: they are the same; 0: they agree no more than by chance.

    Args:
        clusterings: The cluster of each vector, int [n] from 0; two at least.
    """

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1.0)).sum() / 2)

    def index(a: np.ndarray, b: np.ndarray) -> float:
        both = np.zeros((a.max() + 1, b.max() + 1))
        np.add.at(both, (a, b), 1)
        of_a, of_b, all_pairs = pairs(both.sum(1)), pairs(both.sum(0)), pairs(np.array([len(a)]))
        expected, most = of_a * of_b / all_pairs, (of_a + of_b) / 2
        return 1.0 if most == expected else (pairs(both) - expected) / (most - expected)

    return float(np.mean([index(a, b) for a, b in combinations(clusterings, 2)]))


def silhouette(between: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette (Rousseeuw 1987, doi 10.1016/0377-0427(87)90125-7).

    A vector's is (b - a) / max(a, b), with a its mean distance to the others of its cluster and b that to the nearest
    other cluster: 1 if it is far nearer to its own, 0 if it lies between them or is alone.

    Args:
        between: Distances between all vectors, [n, n].
        labels: The cluster of each, int [n]; two clusters at least.
    """
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    at = np.arange(len(labels))
    member = np.eye(len(counts), dtype=between.dtype)[labels]  # [n, k]
    sums = between @ member  # to all vectors of each cluster
    own = sums[at, labels] / np.maximum(counts[labels] - 1, 1)
    means = sums / counts
    means[at, labels] = np.inf
    other = means.min(1)
    alone = counts[labels] == 1
    return float(np.where(alone, 0.0, (other - own) / np.maximum(np.maximum(own, other), 1e-30)).mean())


def fits(rows: np.ndarray, ks: Sequence[int], starts: int) -> list[Fit]:
    """How well vectors fall into each of some numbers of clusters.

    Args:
        rows: [n, D], n more than any k. Memory grows with n squared.
        ks: Two clusters at least.
        starts: Two at least.
    """
    vectors = torch.as_tensor(np.asarray(rows, np.float32))
    between = torch.cdist(vectors, vectors).numpy()
    found = []
    for k in ks:
        labels = [one.labels for one in k_means(rows, k, starts)]
        found.append(Fit(k, float(np.mean([silhouette(between, of) for of in labels])), agreement(labels)))
    return found


def without_clusters(rows: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """The control: n draws from a Gaussian with the mean and the covariance of the rows, [n, D].

    Args:
        rows: [any number, D].
        n: How many draws.
        seed: Of the draws.
    """
    variances, axes = np.linalg.eigh(np.cov(np.asarray(rows, np.float64), rowvar=False))
    noise = np.random.default_rng(seed).standard_normal((n, rows.shape[1]))
    return rows.mean(0) + noise * np.sqrt(variances.clip(0)) @ axes.T
