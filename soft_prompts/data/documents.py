"""Documents: their identity, which of them are held out, and how they become tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Split = Literal["train", "validation", "held_out"]

HELD_OUT_SHARE = 0.1
"""Share of the documents, by hash, that is held out if training and testing read the same data."""
VALIDATION_SHARE = 0.05
"""Share of the documents, by hash, on which choices are made: how long to train, how coarsely to round."""


def document_id(text: str) -> str:
    """16 hex digits that are the same for the same text. Train and held-out documents are kept apart by it."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def is_held_out(document: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether the document of this id is among the ``share`` of all documents that is never trained on."""
    return int(document, 16) < share * 2**64


def split_of(document: str) -> Split:
    """The split of the document of this id, if all splits come from the same data: a tenth is held out, a twentieth for
    validation, the rest for training."""
    if is_held_out(document):
        return "held_out"
    return "validation" if is_held_out(document, HELD_OUT_SHARE + VALIDATION_SHARE) else "train"


@dataclass(frozen=True)
class Encoding:
    """How documents become tokens: fixed for one model within one sweep."""

    tokenizer: PreTrainedTokenizerBase
    separator: int
    """Token id that opens every sequence and is never scored: BOS, or EOS if there is none."""
    max_tokens: int
    """Longest sequence in tokens, separator included, prompt not."""
    cache: Path | None = None
    """Folder for parsed data. None: nothing is kept."""

    def tokens(self, texts: Sequence[str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Tokenise texts behind the separator. Nothing is cut: the caller knows where a cut does no harm.

        Args:
            texts: The texts; many at once are several times faster than one by one.

        Returns:
            For each text its token ids, int64 [T], and the character at which each token starts, int64 [T]. The
            separator comes first, with character -1.
        """
        coded = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        ids = [np.array([self.separator, *row], np.int64) for row in coded["input_ids"]]
        starts = [np.array([-1, *(start for start, _ in row)], np.int64) for row in coded["offset_mapping"]]
        return ids, starts
