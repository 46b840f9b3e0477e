"""Ordinary text: every token of a document is wanted where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from soft_prompts.data.documents import Encoding, Split
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.prompted import PromptedModel
from soft_prompts.stats import ratio
from soft_prompts.tasks.base import TaskScores, continuations
from soft_prompts.tasks.text import TextTask


@dataclass(frozen=True)
class Autoregressive(TextTask):
    """Every token of a document is wanted where it stands."""

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        for document, tokens in self.documents(split, encoding, seed):
            yield Example(tokens, np.array([IGNORE, *tokens[1:]]), document)

    def score(self, prompted: PromptedModel, held_out: Sequence[Example]) -> TaskScores:
        """accuracy: share of the tokens that are the model's first choice."""
        scores = prompted.held_out_scores
        n_correct = np.array([x.sum() for x in scores.correct])
        return TaskScores({"accuracy": ratio(n_correct, scores.counts)}, continuations(prompted, held_out))
