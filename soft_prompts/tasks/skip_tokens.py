"""Looking ahead: not the next token is wanted, but the one k tokens behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from soft_prompts.data.documents import Encoding, Split
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.prompted import PromptedModel
from soft_prompts.stats import ratio
from soft_prompts.tasks.base import TaskScores, Variant, continuations
from soft_prompts.tasks.text import TextTask


@dataclass(frozen=True)
class SkipTokens(TextTask):
    """At every position, the token behind the next k ones is wanted."""

    skip: tuple[int, ...] = (1, 2, 4, 8)
    """k: how many tokens are passed over; every k is a curve of its own."""

    headline: ClassVar[tuple[str, ...]] = ("accuracy", "unigram_accuracy")

    @property
    def shortest(self) -> int:
        (k,) = self.skip
        return k + 2

    def variants(self) -> list[SkipTokens]:
        return [replace(self, skip=(k,)) for k in self.skip]

    def variant(self) -> Variant:
        (k,) = self.skip
        return Variant(f"skip {k}", ("skip",))

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        (k,) = self.skip
        for document, tokens in self.documents(split, encoding, seed):
            labels = np.full(len(tokens), IGNORE)
            labels[1 : len(tokens) - k] = tokens[1 + k :]
            yield Example(tokens, labels, document)

    def score(self, prompted: PromptedModel, held_out: Sequence[Example]) -> TaskScores:
        """accuracy: share of the wanted tokens that are the model's first choice. unigram_accuracy: what always saying
        the commonest token gets right."""
        scores = prompted.held_out_scores
        wanted = [e.labels[e.labels != IGNORE] for e in held_out]
        commonest = np.bincount(np.concatenate(wanted)).argmax()
        return TaskScores(
            {
                "accuracy": ratio(np.array([x.sum() for x in scores.correct]), scores.counts),
                "unigram_accuracy": ratio(np.array([(x == commonest).sum() for x in wanted]), scores.counts),
            },
            continuations(prompted, held_out),
        )
