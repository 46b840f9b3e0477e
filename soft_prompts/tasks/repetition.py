"""Repetition: behind any text, one string over and over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from soft_prompts.data.documents import Encoding, Split
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.prompted import PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.stats import rate, ratio
from soft_prompts.tasks.base import TaskScores, Variant
from soft_prompts.tasks.text import TextTask


@dataclass(frozen=True)
class Repetition(TextTask):
    """A text broken off at a random place, then the prompt, then the string over and over. All repetitions are
    scored."""

    strings: tuple[str, ...] = ("pee", "meowster jones", "the great and terrible meowster jones")
    """What to repeat; every string is a curve of its own."""
    targets: tuple[int, ...] = tuple(range(11))
    """0 is the string itself. Every other number is another string of random tokens, as many, in its place: what any
    string costs. Each is a curve of its own."""
    least_text: int = 4
    """Tokens of text at least before the prompt."""
    n_repeated: int = 64
    """Tokens that a continuation must get right to count as exact."""
    continued: int = 64
    """Held-out texts continued freely."""

    headline: ClassVar[tuple[str, ...]] = ("exact", "exact_sampled", "tokens_until_miss")

    @property
    def shortest(self) -> int:
        return self.least_text + 1

    def variants(self) -> list[Repetition]:
        return [replace(self, strings=(s,), targets=(t,)) for s in self.strings for t in self.targets]

    def variant(self) -> Variant:
        (string,), (target,) = self.strings, self.targets
        if target:
            label = f"random tokens {target}, as many as {string!r}"
            return Variant(label, ("strings", "targets"), {"targets": [0]})
        return Variant(f"repetition of {string!r}", ("strings", "targets"))

    def unit(self, encoding: Encoding) -> np.ndarray:
        """The tokens that are repeated, int [n]."""
        (string,), (target,) = self.strings, self.targets
        tokens = encoding.tokenizer(" " + string, add_special_tokens=False)["input_ids"]
        if not target:
            return np.array(tokens)
        special = set(encoding.tokenizer.all_special_ids)
        ordinary = [i for i in range(len(encoding.tokenizer)) if i not in special]
        return np.random.default_rng((len(tokens), target)).choice(ordinary, len(tokens), replace=False)

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        unit = self.unit(encoding)
        room = encoding.max_tokens - self.n_repeated
        if room < self.least_text + 2:
            raise SoftPromptsError(
                f"--train.max-tokens {encoding.max_tokens} leaves {room} for the text before {self.n_repeated} "
                f"repeated tokens; it must be at least {self.n_repeated + self.least_text + 2}."
            )
        # A held-out document is broken off at the same place in every run.
        random = np.random.default_rng(seed if split == "train" else 0)
        for document, tokens in self.documents(split, encoding, seed):
            n_text = int(random.integers(self.least_text + 1, min(room, len(tokens)) + 1))
            repeated = np.resize(unit, encoding.max_tokens - n_text)
            labels = np.concatenate([np.full(n_text, IGNORE), repeated])
            yield Example(np.concatenate([tokens[:n_text], repeated]), labels, document, insert_at=n_text)

    def score(self, prompted: PromptedModel, held_out: Sequence[Example]) -> TaskScores:
        """How far free continuations keep to the string.

        exact, exact_sampled: share of the continuations whose first ``n_repeated`` tokens are all right, greedy and
            drawn at
        temperature 1. tokens_until_miss: right tokens before the first wrong one, greedy.
        """
        n = self.n_repeated
        wanted = np.resize(self.unit(prompted.bench.encoding), n)
        starts = [e.prefix(e.insert_at) for e in held_out[: self.continued]]
        greedy, drawn = (prompted.generate(starts, n, temperature) for temperature in (0.0, 1.0))
        n_right, n_right_drawn = (np.array([_until_miss(c, wanted) for c in each]) for each in (greedy, drawn))
        scores = {
            "exact": rate(n_right == n),
            "exact_sampled": rate(n_right_drawn == n),
            "tokens_until_miss": ratio(n_right, np.ones(len(starts))),
        }
        samples = [
            {
                "kind": "repetition",
                "text": prompted.decode(start.tokens[1:]),
                "continuation": prompted.decode(continuation),
                "wanted": prompted.decode(wanted),
            }
            for start, continuation in zip(starts[:4], greedy, strict=False)
        ]
        return TaskScores(scores, samples)


def _until_miss(continuation: np.ndarray, wanted: np.ndarray) -> int:
    """How many tokens are right before the first that is not."""
    right = np.equal(continuation, wanted[: len(continuation)])
    return len(continuation) if right.all() else int(right.argmin())
