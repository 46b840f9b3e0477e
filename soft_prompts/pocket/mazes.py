"""Paths through mazes, as pocket's corpus writes them: the task that pocket can do and nobody else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from soft_prompts.data.documents import Encoding, Split, document_id, is_held_out
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.stats import ratio
from soft_prompts.tasks.base import Task, TaskScores

if TYPE_CHECKING:
    from soft_prompts.engine.prompted import PromptedModel

SHARES = {"held_out": 0.013, "validation": 0.02, "train": 1.0}
"""A split holds the mazes whose hash lies between the share before it and its own. pocket was trained on none below
0.02 (HELD_OUT in train.py)."""
PATH = "Path:"
"""What stands before the words that are scored."""


@dataclass(frozen=True)
class Mazes(Task):
    """The words of a shortest path behind the picture of a maze, and where it ends."""

    n_mazes: int = 12_000
    """Mazes made, before equal ones are dropped; some 13 in a thousand are held out."""

    headline: ClassVar[tuple[str, ...]] = ("right",)

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        texts = _mazes(self.n_mazes)[split]
        random = np.random.default_rng(seed)
        while True:
            order = random.permutation(len(texts)) if split == "train" else range(len(texts))
            chosen = [texts[i] for i in order]
            for text, tokens, starts in zip(chosen, *encoding.tokens(chosen), strict=True):
                if len(tokens) < encoding.max_tokens:
                    yield _example(text, tokens, starts, encoding.separator)
            if split != "train":
                return

    def facts(self, encoding: Encoding) -> dict[str, Any]:
        return {f"{split}_documents": len(texts) for split, texts in _mazes(self.n_mazes).items()}

    def score(self, prompted: PromptedModel, held_out: Sequence[Example]) -> TaskScores:
        """right: share of the words of paths and of their ends that are the model's first choice. Often several words
        are right, and one of them stands there, so a perfect guide stays below 1."""
        scores = prompted.held_out_scores
        return TaskScores({"right": ratio(np.array([x.sum() for x in scores.correct]), scores.counts)}, [])


def _example(text: str, tokens: np.ndarray, starts: np.ndarray, separator: int) -> Example:
    """A maze of which the path is scored, and the separator behind it, which ends every document of pocket's corpus."""
    tokens = np.append(tokens, separator)
    is_path = np.append(starts >= text.index(PATH) + len(PATH), True)
    return Example(tokens, np.where(is_path, tokens, IGNORE), document_id(text))


@lru_cache(maxsize=2)
def _mazes(n: int) -> dict[str, list[str]]:
    """The mazes of each split, none twice."""
    from soft_prompts.pocket.corpus import maze  # brings what reads games

    found: dict[str, list[str]] = {split: [] for split in SHARES}
    for text in dict.fromkeys(maze(i) for i in range(n)):
        name = document_id(text)
        found[next(split for split, share in SHARES.items() if is_held_out(name, share))].append(text)
    return found
