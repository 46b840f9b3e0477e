"""Task: what a behaviour is, as examples with labels, and how well it is met, as scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from soft_prompts.batch import Example
from soft_prompts.loss import cross_entropy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from soft_prompts.evaluate import Bench, Prompted

Split = Literal["train", "held_out"]

HELD_OUT_SHARE = 0.1
"""Share of the documents, by hash, that is held out where training and testing read the same data."""


def document_id(text: str) -> str:
    """16 hex digits that are the same for the same text: train and held out are kept apart by it."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def is_held_out(document: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether the document of this id is among the ``share`` of all that is never trained on."""
    return int(document, 16) < share * 2**64


@dataclass(frozen=True)
class Encoding:
    """How documents become tokens: fixed for one model within one sweep."""

    tokenizer: PreTrainedTokenizerBase
    separator: int
    """Token id that opens every sequence and is never scored: BOS, or EOS where there is none."""
    max_tokens: int
    """Longest sequence, separator included, prompt not."""
    cache: Path | None = None
    """Folder for parsed data (None: none is kept)."""

    def tokens(self, texts: Sequence[str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Token ids of each text behind the separator, int64 [T], and the character each token starts at, int64 [T].

        Nothing is cut: the caller knows where a cut does no harm. The separator's character is -1.
        """
        coded = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        ids = [np.array([self.separator, *row], np.int64) for row in coded["input_ids"]]
        starts = [np.array([-1, *(start for start, _ in row)], np.int64) for row in coded["offset_mapping"]]
        return ids, starts


@dataclass(frozen=True)
class Scored:
    """What a task measures of a trained prompt beside its loss."""

    scores: dict[str, Any]
    """name -> {"value", "interval": [low, high], "n"}, or a dict of such (by bucket, by ply)."""
    samples: list[dict[str, str]]
    """Readable samples: name of a part -> its text."""
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    """Name -> picture, uint8 [height, width, 3]."""


@dataclass(frozen=True)
class Task:
    """A behaviour. Subclasses are frozen dataclasses: their fields are their options and reach the result by themselves.

    A new behaviour is a class with ``examples``; what is scored is written in the examples' labels and weights, so a loss of
    its own is rarely needed.
    """

    def variants(self) -> list[Task]:
        """The tasks of one experiment, a curve each; more than this one where an option lists several settings."""
        return [self]

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        """Examples in an order that depends on (split, seed) alone, at most ``encoding.max_tokens`` long.

        "train" is endless (and never yields a document of "held_out"); "held_out" is finite, holds every document once
        and ignores the seed, so that all runs are scored on the same documents.
        """
        raise NotImplementedError

    def identity(self) -> dict[str, str]:
        """Fingerprints of the data that the options point at (option -> fingerprint): a file may change under its name."""
        return {}

    def facts(self, encoding: Encoding) -> dict[str, Any]:
        """What the data turned out to be - counts, what was skipped and why - for the record.

        "complete": False says that not all of the data could be read; such a run is done again the next time.
        """
        return {}

    def loss(self, head: nn.Linear, hidden: Tensor, labels: Tensor) -> Tensor:
        """The training loss of every scored token, [N], from the hidden states [N, D] that predict ``labels`` [N]."""
        return cross_entropy(head, hidden, labels)

    def check(self, bench: Bench) -> None:
        """Called before training. Raises SoftPromptsError for what ``score`` would refuse once the prompts are trained."""

    def score(self, prompted: Prompted, held_out: Sequence[Example]) -> Scored:
        """Behaviour on the held-out examples; by default none, and a few continuations to read."""
        starts = [e.prefix(max(e.insert_at, len(e) // 2)) for e in held_out[:4]]
        return Scored({}, [
            {"text": prompted.decode(start.tokens[1:]), "continuation": prompted.decode(new)}
            for start, new in zip(starts, prompted.generate(starts, 48), strict=True)
        ])  # fmt: skip

    headline: ClassVar[tuple[str, ...]] = ()
    """Names of the scores that the table at the end shows."""
