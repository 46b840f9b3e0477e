"""Two tasks of more or less overlap, for tiny models that learn both and are trained on without the first.

A is sums of two digits, "a b = c" with c = (a + b) mod DIGITS. B is either something else, or sums in other clothes:
the same rule over other symbols. Documents that pair symbols say which symbol of one alphabet is which of the other, or
say nothing of it. tests/overlap_test.py trains the models and measures how long A lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from soft_prompts.data.documents import Encoding, Split
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.stats import ratio
from soft_prompts.tasks.base import Task, TaskScores

if TYPE_CHECKING:
    from soft_prompts.engine.prompted import PromptedModel

DIGITS = 5
FACTS = 4
"""Sums of a document."""
LENGTH = 1 + 4 * FACTS
"""Tokens of every document, the separator first."""
SEPARATOR = 0
FIRST, SECOND = (np.arange(1 + i * (DIGITS + 1), 1 + (i + 1) * (DIGITS + 1)) for i in range(2))
"""The alphabets: DIGITS digits and, last, the sign for "equals"."""
ENTRIES = 1 + 2 * (DIGITS + 1)
LEFT_OUT = 3
"""The digit of which, in one of the pairs, nothing says which symbol it is in the other alphabet."""
PAIRS = ("nothing shared", "other clothes", "translated", "one left out")
"""What A and B have in common, rising. In the first, B is reversals of three symbols. In the others it is sums in other
clothes; documents that pair symbols translate between the alphabets in the last two, but for LEFT_OUT in the last."""
MIXTURE = {"A": 13, "B": 13, "paired": 6}
"""Documents of a step."""
WITHOUT_A = {"A": 0, "B": 32, "paired": 0}
NEVER_A = {"A": 0, "B": 26, "paired": 6}
"""What the twin learns that is never taught A."""
CHECK = np.array([0, *(2 * np.arange(LENGTH - 1) + 1)])
"""Odd numbers by which a document's tokens are added up, to tell the splits apart."""
N_SPLITS = 8
"""A document of A is held out if that total is 0 modulo this, for validation if it is 1, and else for training."""


def sums(random: np.random.Generator, n: int, alphabet: np.ndarray) -> np.ndarray:
    """Documents of FACTS sums each, int [n, LENGTH]."""
    a, b = random.integers(DIGITS, size=(2, n, FACTS))
    facts = np.stack([a, b, np.full_like(a, DIGITS), (a + b) % DIGITS], -1)
    return _behind_separator(alphabet[facts.reshape(n, LENGTH - 1)])


def reversals(random: np.random.Generator, n: int, alphabet: np.ndarray) -> np.ndarray:
    """Documents of three symbols and the same backwards, "p q r = r q p =", twice: int [n, LENGTH]."""
    forth = random.integers(DIGITS, size=(n, FACTS // 2, 3))
    sign = np.full((n, FACTS // 2, 1), DIGITS)
    both = np.concatenate([forth, sign, forth[:, :, ::-1], sign], -1)
    return _behind_separator(alphabet[both.reshape(n, LENGTH - 1)])


def pairings(random: np.random.Generator, n: int, pair: str) -> np.ndarray:
    """Documents that say which symbols belong together, two by two: int [n, LENGTH].

    Where a pair of tasks is translated, a symbol stands beside that of the other alphabet, in half of the documents in
    one order and in half in the other. Where it is not, symbols of either alphabet stand beside themselves.
    """
    known = np.arange(DIGITS + 1)
    if pair == "one left out":
        known = np.delete(known, LEFT_OUT)
    drawn = random.choice(known, size=(n, (LENGTH - 1) // 2))
    order = np.where(random.random((n, 1)) < 0.5, 0, 1)
    alphabets = np.stack([FIRST, SECOND])
    other = 1 - order if pair in ("translated", "one left out") else order
    both = np.stack([alphabets[order, drawn], alphabets[other, drawn]], -1)
    return _behind_separator(both.reshape(n, LENGTH - 1))


def of_b(random: np.random.Generator, n: int, pair: str) -> np.ndarray:
    """Documents of task B, int [n, LENGTH]."""
    return (reversals if pair == PAIRS[0] else sums)(random, n, SECOND)


def follows(pair: str) -> np.ndarray:
    """The places of a document of B whose symbols follow from those before, int [n]."""
    return np.array([5, 6, 7, 13, 14, 15]) if pair == PAIRS[0] else np.arange(4, LENGTH, 4)


def _behind_separator(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([np.full((len(rows), 1), SEPARATOR), rows], 1)


def checks(rows: np.ndarray) -> np.ndarray:
    """What tells the splits apart, int [n]; see N_SPLITS."""
    return rows @ CHECK % N_SPLITS


def steps_of(pair: str, mixture: Mapping[str, int], seed: int) -> Iterator[np.ndarray]:
    """The documents of every step, int [B, LENGTH], without end. Those of A are of the training split.

    Args:
        pair: Of PAIRS.
        mixture: How many of "A", "B" and "paired".
        seed: Of all documents.
    """
    random = np.random.default_rng(seed)
    while True:
        of_a = sums(random, 3 * mixture["A"], FIRST)
        parts = [
            of_a[checks(of_a) > 1][: mixture["A"]],  # a quarter is left out, so there are enough
            of_b(random, mixture["B"], pair),
            pairings(random, mixture["paired"], pair),
        ]
        yield np.concatenate(parts)


@dataclass(frozen=True)
class Sums(Task):
    """Task A: the sums are scored. Half of the documents that are held out have LEFT_OUT in each sum, half in none."""

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        if split == "train":
            random = np.random.default_rng([seed, 2])
            while True:
                rows = sums(random, 64, FIRST)
                for row in rows[checks(rows) > 1]:
                    yield self.example(row)
        n, wanted = (24, 0) if split == "held_out" else (8, 1)
        random, found = np.random.default_rng(wanted), {True: {}, False: {}}
        while min(map(len, found.values())) < n:
            rows = sums(random, 4096, FIRST)
            rows = rows[checks(rows) == wanted]
            has = has_left_out(rows)
            for kind, of_kind in ((True, has.all(1)), (False, ~has.any(1))):
                found[kind].update({name_of(row): row for row in rows[of_kind]})
        for of_kind in found.values():
            yield from map(self.example, list(of_kind.values())[:n])

    def example(self, row: np.ndarray) -> Example:
        """A document of which the sums are scored."""
        labels = np.full(LENGTH, IGNORE)
        labels[4::4] = row[4::4]
        return Example(row, labels, name_of(row))

    def score(self, prompted: PromptedModel, held_out: Sequence[Example]) -> TaskScores:
        """right: share of the sums that are the model's first choice."""
        scores = prompted.held_out_scores
        return TaskScores({"right": ratio(np.array([x.sum() for x in scores.correct]), scores.counts)}, [])


def name_of(row: np.ndarray) -> str:
    """A document's identity: its tokens."""
    return " ".join(map(str, row[1:]))


def has_left_out(rows: np.ndarray) -> np.ndarray:
    """Whether LEFT_OUT is among the digits of each sum, bool [n, FACTS]."""
    return (rows[:, 1:].reshape(len(rows), FACTS, 4) == FIRST[LEFT_OUT]).any(-1)
