"""Task: what a behaviour is, as examples with labels, and how well it is met, as scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from soft_prompts.data.documents import Encoding, Split
from soft_prompts.data.example import Example
from soft_prompts.options import recorded, refuse_negative, settle
from soft_prompts.stats import ratio

if TYPE_CHECKING:
    from torch import Tensor

    from soft_prompts.engine.evaluate import TokenScores
    from soft_prompts.engine.prompted import Bench, PromptedModel
    from soft_prompts.models.language_model import Head


LONGEST_CONTINUATION = 48
"""New tokens of a sample to read."""


@dataclass(frozen=True)
class Variant:
    """Which of an experiment's several tasks this one is. It is recorded with every result."""

    label: str = ""
    """What tables and plots call it, such as "repetition of 'pee'". "": the experiment has one task only."""
    options: tuple[str, ...] = ()
    """Names of the options that the label stands for."""
    control_of: dict[str, Any] | None = None
    """For a control: the options in which the task that it controls differs, with that task's values. None: no
    control."""


@dataclass(frozen=True)
class TaskScores:
    """What a task measures of a trained prompt beside its loss."""

    scores: dict[str, Any]
    """Name -> {"value", "interval": [low, high], "n"}, or a dict of such (by bucket, by half-move)."""
    samples: list[dict[str, str]]
    """Readable samples: name of a part -> its text. The part "kind" says how a report draws it: text (the default),
    dialogue, board, path or repetition; report/pictures.py names the parts of each."""
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    """Name -> picture, uint8 [height, width, 3]."""


@dataclass(frozen=True)
class Anchor:
    """What is known to bring a behaviour out, measured."""

    name: str
    """Such as "the trigger text" or "the base model"."""
    scores: TokenScores
    """Of the documents behind it."""
    bits: float | None = None
    """Code length of a text, mean over the documents: tokens x log2(V). None: it is no text."""
    own_bits: float | None = None
    """The same in the model's own code: -log2 of the text's probability where the prompt would stand."""
    tried: dict[str, float] | None = None
    """If it is the best of several texts: each with its validation loss, by which it was chosen."""


@dataclass(frozen=True)
class Conditions:
    """What a conditional prompt depends on, and how people's numbers become those that it reads."""

    names: tuple[str, ...]
    """In order."""
    offset: float = 0.0
    scale: float = 1.0
    """What is read is (number - offset) / scale."""

    def __call__(self, numbers: Sequence[float]) -> np.ndarray:
        """Numbers as people know them -> float32 [C]."""
        return (np.array(numbers, np.float32) - self.offset) / self.scale


@dataclass(frozen=True)
class Task:
    """A behaviour. Subclasses are frozen dataclasses: their fields are their options and reach the result by
    themselves.

    A new behaviour is a class with ``examples``. What is scored is written in the examples' labels and weights, so a
    loss of its own is rarely needed.
    """

    headline: ClassVar[tuple[str, ...]] = ()
    """Names of the scores that the table at the end shows."""
    conditions: ClassVar[Conditions | None] = None
    """What prompts depend on; None: nothing. Snapshots hold it, so that they can be used without the task."""
    file_options: ClassVar[tuple[str, ...]] = ()
    """Options that may name a local file or folder. They are recorded without its path."""

    def __post_init__(self) -> None:
        settle(self)
        refuse_negative(self)

    def variants(self) -> Sequence[Task]:
        """The tasks of one experiment, a curve each. More than this one if an option lists several settings."""
        return [self]

    def variant(self) -> Variant:
        """Which of the experiment's tasks this one is."""
        return Variant()

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        """The documents of one split as examples of at most ``encoding.max_tokens`` tokens.

        Args:
            split: "train" is endless. "validation", on which choices are made, and "held_out", on which results are
                measured, are finite, hold every document once and ignore the seed, so all runs are scored on the same
                documents. No document is in two splits.
            encoding: Tokenizer, separator and the longest sequence.
            seed: The order depends on (split, seed) alone.
        """
        raise NotImplementedError

    def recorded(self) -> dict[str, Any]:
        """The options as plain JSON, as results record them."""
        return recorded(self, self.file_options)

    def identity(self) -> dict[str, str]:
        """Fingerprints of the data that the options point at, by option: a file may change under its name."""
        return {}

    def facts(self, encoding: Encoding) -> dict[str, Any]:
        """What the data turned out to be - counts, what was skipped and why - for the record.

        "complete": False says that not all of the data could be read; such a run is done again the next time.
        """
        return {}

    def loss(self, head: Head, hidden: Tensor, labels: Tensor) -> Tensor:
        """The training loss of every scored token, by default cross-entropy.

        Args:
            head: The frozen unembedding.
            hidden: [N, D], the hidden states that predict.
            labels: int64 [N], the tokens wanted.

        Returns:
            Nats [N], in float32 or finer.
        """
        from soft_prompts.engine.loss import cross_entropy  # brings torch, which takes a second to import

        return cross_entropy(head, hidden, labels)

    def anchor(self, bench: Bench) -> Anchor | None:
        """What is known to bring the behaviour out, such as a trigger text or a model made for it: distances go by it.

        Returns:
            It, scored on the bench's held-out documents; None if nothing is known.
        """
        return None

    def check(self, bench: Bench, n_tokens: int = 0) -> None:
        """Called before training.

        Args:
            bench: What the prompts will be measured on.
            n_tokens: The longest prompt.

        Raises:
            SoftPromptsError: ``score`` would refuse the trained prompts.
        """

    def score(self, prompted: PromptedModel, held_out: Sequence[Example]) -> TaskScores:
        """Behaviour on the held-out examples. By default there are no scores, but a few continuations to read.

        If it raises an error, the run is saved without scores, and its provenance says why.
        """
        return TaskScores({}, continuations(prompted, held_out))


def strangers(examples: Sequence[Example]) -> list[Example]:
    """The same documents, each with the condition of another one, which is never its own."""
    order = np.random.default_rng(0).permutation(len(examples))
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)  # in a ring of chance, each takes that of the one before it
    return [replace(e, condition=examples[i].condition) for e, i in zip(examples, others, strict=True)]


def effect_of_condition(true: TokenScores, of_others: TokenScores) -> dict[str, Any]:
    """The use that is made of a condition, as a score.

    Args:
        true: Scores of documents behind prompts that are told their own conditions.
        of_others: The same behind prompts that are told those of other documents.

    Returns:
        Nats per scored token that are lost by that, as ``stats.ratio`` gives them. "document_nats": nats that each
            document loses, so that effects can be compared in pairs.
    """
    lost = of_others.sums - true.sums
    return {**ratio(lost, true.counts), "document_nats": lost.round(4).tolist()}


def continuations(prompted: PromptedModel, held_out: Sequence[Example], n: int = 4) -> list[dict[str, str]]:
    """Samples to read: the first halves of ``n`` documents, continued by the most likely tokens, as far as the model's
    context allows."""
    starts = [e.prefix(max(e.insert_at, len(e) // 2)) for e in held_out[:n]]
    n_read = prompted.intervention.n_tokens + max((len(start) for start in starts), default=0)
    n_new = max(0, min(LONGEST_CONTINUATION, prompted.bench.model.context - n_read))
    return [
        {"kind": "text", "text": prompted.decode(start.tokens[1:]), "continuation": prompted.decode(new)}
        for start, new in zip(starts, prompted.generate(starts, n_new), strict=True)
    ]
