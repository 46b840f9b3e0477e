"""How far is saying one thing for ever from a language model?

Behind any text, and behind a prompt placed there, the model is to repeat a string without end, reading its own repetitions as it will when it
generates. Expected: a word takes a token or two and a sentence a few more, for a repetition once begun is easily kept up. A prompt can force
a model to say anything, so the strings have a control each: as many random tokens. What a natural string takes less than its control is what the
model contributed; what both take is the prompt's own doing.

    python -m tests.repetition_test pocket              # pocket, behind its own samples
    python -m tests.repetition_test                     # pythia behind RedPajama-V2, as published
    python -m tests.repetition_test pocket --strings "hello" "the sea"
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from soft_prompts import IGNORE, Encoding, Example, Scored, SoftPromptsError, Sweep, TrainConfig, main
from soft_prompts.evaluate import Prompted
from soft_prompts.pocket import SAMPLES, quick
from soft_prompts.stats import rate, ratio
from soft_prompts.task import Split
from soft_prompts.tasks.text import TextTask


@dataclass(frozen=True)
class Repetition(TextTask):
    """A text broken off at random, the prompt, and then the string over and over, all of which is wanted."""

    strings: tuple[str, ...] = ("pee", "meowster jones", "the great and terrible meowster jones")
    """What to repeat; every string is a curve of its own."""
    control: tuple[bool, ...] = (False, True)
    """Whether random tokens, as many, take the string's place; both makes two curves."""
    least_text: int = 4
    """Tokens of text at least before the prompt."""
    n_repeated: int = 64
    """Tokens that a continuation must get right to count as exact."""
    continued: int = 64
    """Held-out texts continued freely."""

    headline: ClassVar[tuple[str, ...]] = ("exact", "exact_sampled", "tokens_until_miss")

    def variants(self) -> list["Repetition"]:
        return [replace(self, strings=(s,), control=(c,)) for s in self.strings for c in self.control]

    def unit(self, encoding: Encoding) -> np.ndarray:
        """The tokens that are repeated."""
        (string,), (control,) = self.strings, self.control
        tokens = encoding.tokenizer(" " + string, add_special_tokens=False)["input_ids"]
        if not control:
            return np.array(tokens)
        special = set(encoding.tokenizer.all_special_ids)
        ordinary = [i for i in range(len(encoding.tokenizer)) if i not in special]
        return np.random.default_rng(len(tokens)).choice(ordinary, len(tokens), replace=False)

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        unit = self.unit(encoding)
        room = encoding.max_tokens - self.n_repeated
        if room < self.least_text + 2:
            raise SoftPromptsError(
                f"--train.max-tokens {encoding.max_tokens} leaves {room} for the text before {self.n_repeated} repeated tokens; "
                f"it must be at least {self.n_repeated + self.least_text + 2}."
            )
        # The same document is always broken off at the same place while it is held out.
        random = np.random.default_rng(0 if split == "held_out" else seed)
        for document, tokens in self.documents(split, encoding, seed):
            if len(tokens) > self.least_text:
                n_text = int(random.integers(self.least_text + 1, min(room, len(tokens)) + 1))
                repeated = np.resize(unit, encoding.max_tokens - n_text)
                labels = np.concatenate([np.full(n_text, IGNORE), repeated])
                yield Example(np.concatenate([tokens[:n_text], repeated]), labels, document, insert_at=n_text)

    def score(self, prompted: Prompted, held_out: Sequence[Example]) -> Scored:
        """How far free continuations, greedy and drawn at temperature 1, keep to the string."""
        n = self.n_repeated
        wanted = np.resize(self.unit(prompted.bench.encoding), n)
        starts = [e.prefix(e.insert_at) for e in held_out[: self.continued]]
        runs = {}
        for temperature in (0.0, 1.0):
            continuations = prompted.generate(starts, n, temperature)
            runs[temperature] = np.array([_until_miss(c, wanted) for c in continuations])
            if temperature == 0:
                samples = [
                    {"text": prompted.decode(start.tokens[1:]), "continuation": prompted.decode(c)}
                    for start, c in zip(starts[:4], continuations, strict=False)
                ]
        scores = {
            "exact": rate(runs[0.0] == n),
            "exact_sampled": rate(runs[1.0] == n),
            "tokens_until_miss": ratio(runs[0.0], np.ones(len(starts))),
        }
        return Scored(scores, samples)


def _until_miss(continuation: np.ndarray, wanted: np.ndarray) -> int:
    """How many tokens are right before the first that is not."""
    right = np.equal(continuation, wanted[: len(continuation)])
    return len(continuation) if right.all() else int(right.argmin())


DEFAULT = Sweep(  # models, lengths, strings, text, steps and batch of arXiv 2505.14943; the recipe is TrainConfig's own
    experiment="repetition",
    task=Repetition(text=("redpajama",)),
    models=tuple(f"EleutherAI/pythia-{size}-deduped" for size in ("70m", "160m", "410m")),
    n_tokens=(0, 1, 4, 16, 64),
    train=TrainConfig(steps=512, batch_size=256),
)
POCKET = quick(
    DEFAULT,
    Repetition(text=(str(SAMPLES),)),
    steps=80,
    batch_size=4,
    max_tokens=128,
    eval_documents=64,
    n_evaluations=0,
)

if __name__ == "__main__":
    main(DEFAULT, __doc__, pocket=POCKET)
