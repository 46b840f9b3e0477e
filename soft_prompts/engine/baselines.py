"""Data baselines: what models reach that only count the training documents.

A soft prompt can simply teach which tokens are frequent, and which follow which. Counting models say how far that
alone gets. What a prompted model predicts better than the best of them, it did not learn by counting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from soft_prompts.data.example import IGNORE, Example

ALPHAS = np.geomspace(1e-4, 1e2, 25)
"""Additive smoothing constants that the unigram chooses from."""
ORDERS = {"bigram": 1, "trigram": 2, "5-gram": 4}
"""Name of an n-gram model -> tokens of context it reads at most."""
N_BINS = 8
"""Bins of each condition at most."""


@dataclass(frozen=True)
class Baseline:
    """What one counting model reaches on the held-out documents."""

    name: str
    losses: np.ndarray
    """Nats of each held-out document, summed over its scored tokens, float64 [documents]."""
    counts: np.ndarray
    """Scored tokens of each held-out document, int64 [documents]."""

    @property
    def loss(self) -> float:
        """Nats per scored token."""
        return float(self.losses.sum() / self.counts.sum())


def data_baselines(training: Sequence[Example], held_out: Sequence[Example], n_vocabulary: int) -> list[Baseline]:
    """Held-out losses of models that only count the training documents. Weights of examples are ignored.

    An n-gram model predicts the label of position i from the tokens that stand just before it: tokens[i - 1],
    tokens[i - 2], ... If the labels are not the tokens themselves (the token behind the next one is wanted, say), the
    same rule gives the skip-gram. It mixes all shorter contexts in (interpolated Witten-Bell smoothing):

        p(w | c) = (count(c, w) + T(c) p(w | c without its farthest token)) / (count(c) + T(c)),

    where T(c) is how many different labels were seen behind the context c. A context that was never seen, or that would
    begin before position 0, leaves the prediction of the shorter one as it is. The shortest context is the unigram or,
    given conditions, the label's frequency in documents of the same bin of conditions. Each condition is cut into at
    most N_BINS bins at its quantiles in the training documents.

    Sources: Witten and Bell 1991, doi 10.1109/18.87000 (their method C); Chen and Goodman 1999,
    doi 10.1006/csla.1999.0128 (the interpolated form).

    Args:
        training: Documents that are counted. One that comes again, the same in all, is counted once: a second reading
            is no new evidence, and smoothing would take its tokens for surer than they are.
        held_out: Documents that are predicted.
        n_vocabulary: V.

    Returns:
        In this order: "uniform": ln V nats per token. "unigram": the frequencies of the labels, with additive
        smoothing. "bigram", "trigram", "5-gram": from at most 1, 2 and 4 tokens before. If the examples have
        conditions, also "bigram given conditions" and so on.
    """
    counted, wanted = _scored(_distinct(training)), _scored(held_out)
    unigram = _smoothed(np.bincount(counted.labels, minlength=n_vocabulary))[wanted.labels]
    by_name = {"uniform": np.full(len(unigram), 1 / n_vocabulary), "unigram": unigram}
    by_name |= _n_grams(counted, wanted, unigram, n_vocabulary)
    if len(held_out[0].condition):
        conditional = _n_grams(counted, wanted, unigram, n_vocabulary, given_conditions=True)
        by_name |= {f"{name} given conditions": p for name, p in conditional.items()}
    counts = np.bincount(wanted.document, minlength=len(held_out))
    return [
        Baseline(name, np.bincount(wanted.document, -np.log(p), minlength=len(held_out)), counts)
        for name, p in by_name.items()
    ]


@dataclass(frozen=True)
class _Scored:
    """The scored positions of documents that stand one behind the other: N tokens, M of them scored."""

    tokens: np.ndarray
    """int64 [N]"""
    labels: np.ndarray
    """int64 [M]"""
    at: np.ndarray
    """int64 [M], where each is among the N."""
    n_before: np.ndarray
    """int64 [M], how many tokens of its own document stand before it."""
    document: np.ndarray
    """int64 [M], which document it is in."""
    conditions: np.ndarray
    """float64 [documents, C]"""


def _scored(examples: Sequence[Example]) -> _Scored:
    lengths = np.array([len(e) for e in examples], np.int64)
    none = [np.empty(0, np.int64)]  # so that no documents at all can be joined, too
    tokens, labels = (np.concatenate(none + [getattr(e, x) for e in examples]) for x in ("tokens", "labels"))
    at = np.flatnonzero(labels != IGNORE)
    document = np.repeat(np.arange(len(lengths)), lengths)[at]
    n_before = at - (np.cumsum(lengths) - lengths)[document]
    conditions = np.array([e.condition for e in examples], np.float64)
    return _Scored(tokens, labels[at], at, n_before, document, conditions)


def _distinct(examples: Sequence[Example]) -> list[Example]:
    def content(e: Example) -> tuple:
        return e.document, e.tokens.tobytes(), e.labels.tobytes(), e.condition.tobytes()

    return list({content(e): e for e in examples}.values())


def _smoothed(counts: np.ndarray) -> np.ndarray:
    """Probabilities (count + alpha) / (N + alpha V), float64 [V], from counts, int64 [V].

    Adding one to each of 50,000 counts takes more probability from what was seen than a few thousand documents give. So
    alpha is the one among ALPHAS under which every label is most likely, given all other labels.
    """
    n, seen = counts.sum(), counts[counts > 0]
    n_others = max(n - 1, 0)  # without any label all alphas are as good
    by_alpha = np.log(seen - 1 + ALPHAS[:, None]) @ seen - n * np.log(n_others + ALPHAS * len(counts))
    alpha = ALPHAS[by_alpha.argmax()]
    return (counts + alpha) / (n + alpha * len(counts))


@dataclass(frozen=True)
class _Contexts:
    """Scored positions by what stands before them."""

    scored: _Scored
    rows: np.ndarray
    """int64 [n], which of the scored positions."""
    ids: np.ndarray
    """int64 [n], the same for two positions if and only if their contexts are the same."""

    @property
    def labels(self) -> np.ndarray:
        return self.scored.labels[self.rows]

    def reaching(self, length: int) -> _Contexts:
        """Only the positions with ``length`` tokens before them."""
        kept = self.scored.n_before[self.rows] >= length
        return _Contexts(self.scored, self.rows[kept], self.ids[kept])

    def tokens_before(self, distance: int) -> np.ndarray:
        """The token that stands ``distance`` before each position, int64 [n]."""
        return self.scored.tokens[self.scored.at[self.rows] - distance]


def _n_grams(
    counted: _Scored, wanted: _Scored, unigram: np.ndarray, n_vocabulary: int, given_conditions: bool = False
) -> dict[str, np.ndarray]:
    """Probabilities of the wanted labels under each model of ORDERS, float64 [M]; see ``data_baselines``.

    Contexts are numbered length by length: a longer one is the number of the shorter one and a further token. So two
    different contexts never get the same number.
    """
    p, found = unigram.copy(), {}
    base = max([n_vocabulary, *(x.tokens.max(initial=0) + 1 for x in (counted, wanted))])
    both = [_Contexts(x, np.arange(len(x.at)), np.zeros(len(x.at), np.int64)) for x in (counted, wanted)]
    if given_conditions:
        bins = _bins(counted.conditions, wanted.conditions)
        both = _numbered(*both, [b[x.document] for b, x in zip(bins, (counted, wanted), strict=True)])
        p = _witten_bell(*both, p, base)
    for length in range(1, max(ORDERS.values()) + 1):
        both = [x.reaching(length) for x in both]
        both = _numbered(*both, [x.ids * base + x.tokens_before(length) for x in both])
        rows = both[1].rows
        p[rows] = _witten_bell(*both, p[rows], base)
        found |= {name: p.copy() for name, order in ORDERS.items() if order == length}
    return found


def _numbered(counted: _Contexts, wanted: _Contexts, keys: Sequence[np.ndarray]) -> list[_Contexts]:
    """Both under new ids 0, 1, ... for the different ``keys``. What nobody will ask for need not be counted: training
    positions whose context stands nowhere in the held-out documents are dropped."""
    known, ids = np.unique(keys[1], return_inverse=True)
    places, among = _look_up(known, keys[0])
    return [_Contexts(counted.scored, counted.rows[among], places[among]), _Contexts(wanted.scored, wanted.rows, ids)]


def _look_up(known: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each key is in ``known``, which is sorted, int64; and whether it is there at all, bool."""
    places = np.searchsorted(known, keys)
    among = places < len(known)
    among[among] = known[places[among]] == keys[among]
    return places, among


def _witten_bell(counted: _Contexts, wanted: _Contexts, shorter: np.ndarray, base: int) -> np.ndarray:
    """Probabilities of the wanted labels behind their contexts, float64 [n], mixed with those behind the ``shorter``
    ones, float64 [n]."""
    n_contexts = wanted.ids.max(initial=-1) + 1
    pairs, n_pairs = np.unique(counted.ids * base + counted.labels, return_counts=True)
    places, seen = _look_up(pairs, wanted.ids * base + wanted.labels)
    n_label = np.zeros(len(shorter))
    n_label[seen] = n_pairs[places[seen]]
    n_all = np.bincount(counted.ids, minlength=n_contexts)[wanted.ids]
    n_different = np.bincount(pairs // base, minlength=n_contexts)[wanted.ids]
    n = n_all + n_different  # 0 behind a context never seen
    return np.where(n > 0, (n_label + n_different * shorter) / np.maximum(n, 1), shorter)


def _bins(training: np.ndarray, held_out: np.ndarray) -> list[np.ndarray]:
    """Conditions as numbers of bins: each dimension is cut where ``_starts`` says, and documents that share the bin of
    every dimension share a number.

    Args:
        training: float64 [documents, C].
        held_out: float64 [documents, C].

    Returns:
        Of each of the two the bin of each document, int64 [documents].
    """
    rows = np.concatenate([training.reshape(-1, held_out.shape[1]), held_out])
    for c, column in enumerate(training.T):
        rows[:, c] = np.searchsorted(_starts(column)[1:], rows[:, c], side="right")
    numbers = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    return np.split(numbers, [len(training)])


def _starts(values: np.ndarray) -> list[float]:
    """The least value of each of at most N_BINS bins, ascending. Few different values get a bin each.

    Many are cut at their quantiles. A value that more documents share than fit a bin still fills only one, since each
    bin takes its share of what the bins before it left.
    """
    starts, rest = [], np.sort(values)
    for n_left in range(N_BINS, 0, -1):
        different = np.unique(rest)
        if len(different) <= n_left:
            return [*starts, *different]
        starts.append(rest[0])
        last = rest[(len(rest) - 1) // n_left]
        rest = rest[rest > last]
    return starts
