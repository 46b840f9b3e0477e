"""How far is ordinary text from a language model?

Plain next-token prediction behind a soft prompt. Expected: no gain where the model was trained on this very distribution (a model on
its own samples cannot gain at all: a prompt that seems to is a fault of the measurement), and a gain where text and model differ,
for the prompt can say what kind of text is coming: it falls within a few tokens and saturates early.

    python -m tests.autoregressive_test pocket          # pocket and pocket-chat on samples of pocket: no gain, and a gain
    python -m tests.autoregressive_test                 # pythia on the Pile, as published
    python -m tests.autoregressive_test redpajama       # pythia on RedPajama-V2, as published
    python -m tests.autoregressive_test pocket --text my_texts/*.txt
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
class Autoregressive(TextTask):
    """Every token of a document is wanted where it stands."""

    headline: ClassVar[tuple[str, ...]] = ("accuracy",)

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        for document, tokens in self.documents(split, encoding, seed):
            yield Example(tokens, np.array([IGNORE, *tokens[1:]]), document)

    def score(self, prompted: Prompted, held_out: Sequence[Example]) -> Scored:
        """Share of tokens whose most likely prediction is right."""
        found = prompted.scores(held_out)
        correct = np.array([x.sum() for x in found.correct])
        return Scored({"accuracy": ratio(correct, found.counts)}, super().score(prompted, held_out).samples)


DEFAULT = (
    Sweep(  # models, lengths, texts, steps of 32 documents as in arXiv 2505.14943; the recipe is TrainConfig's own
        experiment="autoregressive",
        task=Autoregressive(),
        models=tuple(f"EleutherAI/pythia-{size}-deduped" for size in ("70m", "160m", "410m", "1b")),
        n_tokens=(0, 1, 4, 16, 64),
        train=TrainConfig(steps=2048),
    )
)
REDPAJAMA = replace(DEFAULT, task=Autoregressive(text=("redpajama",)))
POCKET = replace(quick(DEFAULT, Autoregressive(text=(str(SAMPLES),))), models=("pocket", "pocket-chat"))

if __name__ == "__main__":
    main(DEFAULT, __doc__, pocket=POCKET, redpajama=REDPAJAMA)
