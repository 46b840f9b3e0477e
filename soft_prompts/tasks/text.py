"""The base of the tasks that are made of texts: which documents are read, and how they are split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from soft_prompts.addresses import without_secrets
from soft_prompts.console import say
from soft_prompts.data.documents import Encoding, Split, document_id, split_of
from soft_prompts.data.texts import TextSplit, read_documents, source_identity, sources
from soft_prompts.errors import SoftPromptsError
from soft_prompts.options import added_later
from soft_prompts.tasks.base import Task

CHARACTERS_PER_TOKEN = 16
"""Documents are cut to this many characters for every token that is read of them. Only very long tokens notice."""


@dataclass(frozen=True)
class TextTask(Task):
    """A task made of texts. Documents are cut to the sequence length. Nothing is packed, so a document stays a
    document."""

    text: tuple[str, ...] = ("pile",)
    """Training texts: pile or redpajama (streamed), books or government (short public-domain prose, which ships),
    hub:NAME of another hub dataset, or paths or addresses of .txt, .jsonl and .parquet files, plain or compressed
    (.zst, .gz), in UTF-8. A .txt file holds documents between <|endoftext|> marks or, without such, between blank
    lines; see --text-split."""
    test_text: tuple[str, ...] = ()
    """Held-out texts, likewise. None: a tenth of the training texts, chosen by document hash."""
    text_field: str | None = None
    """The field or column of a document's text. None: that of the corpus (raw_content for redpajama), else text."""
    max_documents: int = 131_072
    """Documents read for training, from the start (131,072 = 4,096 steps of 32)."""
    max_test_documents: int = 4096
    """Held-out documents kept; those that are scored (--train.eval-documents) are the first of them by hash."""
    text_split: TextSplit = added_later("auto")
    """How a .txt file is split into documents. auto: as --text says. line: every line is one."""

    file_options: ClassVar[tuple[str, ...]] = ("text", "test_text")

    @property
    def shortest(self) -> int:
        """The shortest document that can be used, in tokens with the separator. Others are left out and counted."""
        return 2

    def identity(self) -> dict[str, str]:
        of_all = (*sources(self.text), *sources(self.test_text))
        return {f"text {i}": source_identity(source) for i, source in enumerate(of_all)}

    def documents(self, split: Split, encoding: Encoding, seed: int) -> Iterator[tuple[str, np.ndarray]]:
        """Documents of one split, tokenised.

        Args:
            split: "held_out" and "validation" yield every document once, "train" goes on without end, in another
                order every time round.
            encoding: Tokenizer, separator and the longest sequence.
            seed: Of the order of training documents.

        Yields:
            Identity and tokens of a document: the separator and what follows it, int64 [<= max_tokens].

        Raises:
            SoftPromptsError: All documents of a split are too short, or are cut too short.
        """
        documents = self._split(encoding)
        _too_short(documents, self.shortest, encoding)
        if split != "train":
            of_split = documents.held_out if split == "held_out" else documents.validation
            yield from _encode(of_split, self.shortest, encoding)
            return
        random = np.random.default_rng(seed)
        while True:
            order = random.permutation(len(documents.train))
            yield from _encode([documents.train[i] for i in order], self.shortest, encoding)

    def facts(self, encoding: Encoding) -> dict[str, Any]:
        documents = self._split(encoding)
        too_short = _too_short(documents, self.shortest, encoding)
        n_short = sum(too_short.values())
        return {
            "train_documents": len(documents.train) - too_short["training"],
            "validation_documents": len(documents.validation) - too_short["validation"],
            "held_out_documents": len(documents.held_out) - too_short["held-out"],
            "skipped": documents.skipped | ({"too short": n_short} if n_short else {}),
            "complete": not documents.notes,
            "notes": documents.notes,
        }

    def _split(self, encoding: Encoding) -> _SplitDocuments:
        counts = self.max_documents, self.max_test_documents
        wanted = _Wanted(self.text, self.test_text, self.text_field, self.text_split, *counts)
        return _split(wanted, tuple(self.identity().values()), encoding.max_tokens, encoding.cache)


@dataclass(frozen=True)
class _Wanted:
    """Which documents are read; see TextTask for the fields."""

    text: tuple[str, ...]
    test_text: tuple[str, ...]
    text_field: str | None
    text_split: TextSplit
    max_documents: int
    max_test_documents: int


@dataclass(frozen=True, eq=False)  # ``_split`` makes one of each, so it is equal to itself alone
class _SplitDocuments:
    train: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: tuple[str, ...]
    skipped: dict[str, int]
    notes: list[str]


@lru_cache(maxsize=4)
def _split(wanted: _Wanted, identity: tuple[str, ...], max_tokens: int, cache: Path | None) -> _SplitDocuments:
    """Read texts and keep the splits apart.

    ``identity`` is that of the files. It is only a part of the key under which the result is remembered: a file that
    changes under its name is read again.
    """
    n_characters = CHARACTERS_PER_TOKEN * max_tokens
    how = n_characters, cache, wanted.text_split
    own = read_documents(wanted.text, wanted.text_field, wanted.max_documents, *how)
    read = [own]
    if wanted.test_text:
        test = read_documents(wanted.test_text, wanted.text_field, wanted.max_test_documents, *how)
        read.append(test)
        held_out = set(test.documents)
    else:
        held_out = {text for text in own.documents if split_of(document_id(text)) == "held_out"}
    # With test texts of their own, documents whose hash would hold them out are trained on.
    validation = {text for text in own.documents if split_of(document_id(text)) == "validation"} - held_out
    train = tuple(text for text in own.documents if text not in held_out | validation)
    needed = (
        ("training", len(train), "--text"),
        ("validation", len(validation), "--text"),
        ("held-out", len(held_out), "--test-text"),
    )
    for what, n, remedy in needed:
        if not n:
            raise SoftPromptsError(
                f"no {what} documents are left of the {len(own.documents)} in "
                f"{', '.join(map(without_secrets, wanted.text))} once the splits are kept apart; give more with "
                f"{remedy}."
            )
    first = wanted.max_test_documents
    chosen, validated = (tuple(sorted(documents, key=document_id)[:first]) for documents in (held_out, validation))
    skipped = sum((Counter(texts.skipped) for texts in read), Counter())
    return _SplitDocuments(train, validated, chosen, dict(skipped), [texts.note for texts in read if texts.note])


@lru_cache(maxsize=16)
def _too_short(documents: _SplitDocuments, shortest: int, encoding: Encoding) -> dict[str, int]:
    """How many documents of each split have fewer tokens than ``shortest``. Says it, too.

    Raises:
        SoftPromptsError: All of one split have, or would have after they are cut.
    """
    if encoding.max_tokens < shortest:
        raise SoftPromptsError(f"--train.max-tokens is {encoding.max_tokens}; it must be at least {shortest}.")
    # A document of more characters than so many of the longest tokens has enough of them, so few are tokenised here.
    longest = max(map(len, encoding.tokenizer.get_vocab()))
    of_split = {"training": documents.train, "validation": documents.validation, "held-out": documents.held_out}
    counts = {}
    for split, texts in of_split.items():
        doubtful = [text for text in texts if len(text) <= longest * (shortest - 1)]
        long_enough = sum(1 for _ in _encode(doubtful, shortest, encoding))
        counts[split] = len(doubtful) - long_enough
        if counts[split] == len(texts):
            raise SoftPromptsError(
                f"all {len(texts)} {split} documents are shorter than {shortest} tokens, the separator included; give "
                f"longer ones with --text or --test-text."
            )
    if any(counts.values()):
        parts = ", ".join(f"{n:,} of {split}" for split, n in counts.items() if n)
        say(f"documents of fewer than {shortest} tokens, the separator included, are skipped: {parts}")
    return counts


def _encode(texts: Sequence[str], shortest: int, encoding: Encoding) -> Iterator[tuple[str, np.ndarray]]:
    """Identity and tokens of the documents that have at least ``shortest`` tokens."""
    for start in range(0, len(texts), 64):  # the tokenizer is several times faster on many texts than on one
        part = texts[start : start + 64]
        for text, tokens in zip(part, encoding.tokens(part)[0], strict=True):
            if len(tokens) >= shortest:
                yield document_id(text), tokens[: encoding.max_tokens]
