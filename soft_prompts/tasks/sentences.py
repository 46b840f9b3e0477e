"""Prose behind prompts that are told how long its sentences are: a property that a rule reads off the text, and that
some models were told of by a token in front of every document (pocket/metatokens.py)."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from soft_prompts.data.documents import Encoding, Split, document_id
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.prompted import PromptedModel
from soft_prompts.stats import ratio
from soft_prompts.tasks.base import Anchor, Conditions, TaskScores, effect_of_condition, strangers
from soft_prompts.tasks.text import TextTask

if TYPE_CHECKING:
    from soft_prompts.engine.prompted import Bench

LIMITS = (12.0, 15.5, 18.0, 23.0, 26.0, 31.0, 50.0)
"""Words per sentence from which on a text is in the next bin: eight bins of about equal size in the pieces of books and
articles that pocket/metatokens.py makes."""
N_BINS = len(LIMITS) + 1
SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")


def words_per_sentence(text: str) -> float:
    """Words by sentence ends. Of a text without a sentence end, all of its words."""
    return len(text.split()) / max(1, len(SENTENCE_END.findall(text)))


def bin_of(text: str) -> int:
    """Which of the N_BINS bins a text's mean sentence length is in, from 0, the shortest."""
    return bisect_right(LIMITS, words_per_sentence(text))


def metatoken(number: int) -> str:
    """The token that stands for a bin."""
    return f"<|sentences {number}|>"


@dataclass(frozen=True)
class Sentences(TextTask):
    """Every token of a text is wanted where it stands, and the prompt is told the bin of its mean sentence length."""

    headline: ClassVar[tuple[str, ...]] = ("length_effect",)
    conditions: ClassVar[Conditions] = Conditions(("bin of the mean sentence length",), (N_BINS - 1) / 2, N_BINS / 4)

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        known = self._split(encoding)
        # The bin is that of the whole text, also where fewer tokens of it are read.
        bins = {document_id(text): bin_of(text) for text in (*known.train, *known.validation, *known.held_out)}
        for document, tokens in self.documents(split, encoding, seed):
            condition = self.conditions([bins[document]])
            yield Example(tokens, np.array([IGNORE, *tokens[1:]]), document, condition=condition)

    def bins(self, examples: Sequence[Example]) -> list[int]:
        """The bins that examples are told."""
        return [round(float(e.condition[0]) * self.conditions.scale + self.conditions.offset) for e in examples]

    def anchor(self, bench: Bench) -> Anchor:
        """The loss behind each document's own metatoken."""
        from soft_prompts.engine.behind import behind_texts

        return Anchor("the metatoken", *behind_texts(bench, [metatoken(i) for i in self.bins(bench.held_out)]))

    def score(self, prompted: PromptedModel, held_out: Sequence[Example]) -> TaskScores:
        """length_effect: nats per token that are lost if every document gets the sentence length of another one.

        accuracy: share of the tokens that are the model's first choice.
        """
        true = prompted.held_out_scores
        n_correct = np.array([x.sum() for x in true.correct])
        effect = effect_of_condition(true, prompted.scores(strangers(held_out)))
        return TaskScores({"length_effect": effect, "accuracy": ratio(n_correct, true.counts)}, [])
