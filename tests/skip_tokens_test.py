"""How far is looking ahead from a language model?

At every place the model is asked, not for the next token, but for the one k places behind that (k = 0 would be ordinary prediction).
A model is trained to say the next token alone, yet much of what it computes bears on later ones; the question is whether a prompt can turn its
output to them. Expected: hard. A prompt shifts a whole distribution far more easily than it moves a position, so the first thing it learns is the
unigram distribution; only a loss below the unigram baseline, and an accuracy above it, show that anything was looked ahead.

    python -m tests.skip_tokens_test pocket             # pocket on its own samples
    python -m tests.skip_tokens_test                    # pythia on RedPajama-V2, as published
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from soft_prompts import IGNORE, Encoding, Example, Scored, Sweep, TrainConfig, main
from soft_prompts.evaluate import Prompted
from soft_prompts.pocket import SAMPLES, quick
from soft_prompts.stats import ratio
from soft_prompts.task import Split
from soft_prompts.tasks.text import TextTask


@dataclass(frozen=True)
class SkipTokens(TextTask):
    """The token behind the next k ones is wanted at every place."""

    skip: tuple[int, ...] = (1, 2, 4, 8)
    """k: how many tokens are passed over; every k is a curve of its own."""

    headline: ClassVar[tuple[str, ...]] = ("accuracy", "unigram_accuracy")

    def variants(self) -> list["SkipTokens"]:
        return [replace(self, skip=(k,)) for k in self.skip]

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        (k,) = self.skip
        for document, tokens in self.documents(split, encoding, seed):
            if len(tokens) > k + 1:
                labels = np.full(len(tokens), IGNORE)
                labels[1 : len(tokens) - k] = tokens[1 + k :]
                yield Example(tokens, labels, document)

    def score(self, prompted: Prompted, held_out: Sequence[Example]) -> Scored:
        """Share of the wanted tokens that are the model's first choice, beside what always saying the commonest one gets right."""
        found = prompted.scores(held_out)
        wanted = [e.labels[e.labels != IGNORE] for e in held_out]
        commonest = np.bincount(np.concatenate(wanted)).argmax()
        scores = {
            "accuracy": ratio(np.array([x.sum() for x in found.correct]), found.counts),
            "unigram_accuracy": ratio(np.array([(x == commonest).sum() for x in wanted]), found.counts),
        }
        return Scored(scores, super().score(prompted, held_out).samples)


DEFAULT = Sweep(  # models, lengths, text, steps of 32 documents as in arXiv 2505.14943; the recipe is TrainConfig's own
    experiment="skip_tokens",
    task=SkipTokens(text=("redpajama",)),
    models=tuple(f"EleutherAI/pythia-{size}-deduped" for size in ("70m", "160m", "410m")),
    n_tokens=(0, 1, 4, 16, 64),
    train=TrainConfig(steps=1536),
)
POCKET = quick(DEFAULT, SkipTokens(text=(str(SAMPLES),), skip=(1, 2)), steps=300, max_tokens=96)

if __name__ == "__main__":
    main(DEFAULT, __doc__, pocket=POCKET)
