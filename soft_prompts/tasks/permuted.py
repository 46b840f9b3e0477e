"""A control for any task: the same texts, but every label is another token, by one permutation of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from soft_prompts.data.documents import Encoding, Split
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.tasks.base import Task

if TYPE_CHECKING:
    from torch import Tensor

    from soft_prompts.models.language_model import Head


@dataclass(frozen=True)
class PermutedLabels(Task):
    """What is frequent, and what follows what, is as regular as before, so counting reaches the same loss. But no text
    ever read like that, so a model has nothing to bring out."""

    task: Task = field(default_factory=Task)
    """The task whose labels are permuted."""

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        from soft_prompts.models.language_model import n_entries  # brings torch, which takes a second to import

        permutation = np.random.default_rng(0).permutation(n_entries(encoding.tokenizer))
        for e in self.task.examples(split, encoding, seed):
            scored = e.labels != IGNORE
            labels = np.where(scored, permutation[np.where(scored, e.labels, 0)], IGNORE)
            yield replace(e, labels=labels)

    def loss(self, head: Head, hidden: Tensor, labels: Tensor) -> Tensor:
        return self.task.loss(head, hidden, labels)
