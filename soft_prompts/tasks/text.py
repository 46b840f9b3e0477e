"""Texts: documents from the hub, from files and from addresses, and the base of the tasks that are made of them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from soft_prompts.console import progress_bar, say, warn
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically
from soft_prompts.task import Encoding, Split, Task, document_id, is_held_out
from soft_prompts.tasks.sources import Damaged, Dropped, blocks, fingerprint, is_url, open_source

REDPAJAMA = "https://huggingface.co/datasets/togethercomputer/RedPajama-Data-V2/resolve/main/sample/documents/2023-06"
CORPORA = {
    "pile": (("hub:EleutherAI/the_pile_deduplicated",), "text"),
    # Its loading script no longer runs, so its files are read: the English head part of its own sample.
    "redpajama": (tuple(f"{REDPAJAMA}/000{i}/en_head.json.gz" for i in range(1, 5)), "raw_content"),
}
"""Corpora known by name: (sources, text field)."""
CHARACTERS_PER_TOKEN = 16
"""Documents are cut to this many characters for every token that is read of them, which only very long tokens notice."""
END_OF_TEXT = "<|endoftext|>"
FORMAT = 1  # raised when the same sources give other documents than before: old cache files are then not used


@dataclass(frozen=True)
class Texts:
    """Documents in the order of their sources, each once.

    skipped: how many were left out, by reason.
    note: says where reading broke off before all that was wanted had come; empty if it did not.
    """

    documents: tuple[str, ...]
    skipped: dict[str, int]
    note: str = ""


@dataclass(frozen=True)
class TextTask(Task):
    """A task made of texts. Documents are cut to the sequence length; nothing is packed, so that a document is a document."""

    text: tuple[str, ...] = ("pile",)
    """Training texts: pile or redpajama (streamed), hub:NAME of another hub dataset, or paths or addresses of .txt, .jsonl
    and .parquet files, plain or compressed (.zst, .gz). A .txt file holds documents between <|endoftext|> marks or, without such,
    between blank lines."""
    test_text: tuple[str, ...] = ()
    """Held-out texts, likewise. None: a tenth of the training texts, chosen by document hash."""
    text_field: str | None = None
    """The field or column of a document's text. None: that of the corpus (raw_content for redpajama), else text."""
    max_documents: int = 131_072
    """Documents read for training, from the start (131,072 = 4,096 steps of 32)."""
    max_test_documents: int = 4096
    """Held-out documents kept; those that are scored (--train.eval-documents) are the first of them by hash."""

    def identity(self) -> dict[str, str]:
        sources = enumerate((*_sources(self.text), *_sources(self.test_text)))
        return {f"text {i}": source if source.startswith("hub:") else fingerprint(source) for i, source in sources}

    def documents(self, split: Split, encoding: Encoding, seed: int) -> Iterator[tuple[str, np.ndarray]]:
        """(identity, tokens behind the separator, int64 [<= max_tokens]) of documents: all held-out ones once, or training ones
        without end, in another order every time round."""
        found = self._split(encoding)
        if split == "held_out":
            yield from _encode(found.held_out, encoding)
            return
        random = np.random.default_rng(seed)
        while True:
            yield from _encode([found.train[i] for i in random.permutation(len(found.train))], encoding)

    def facts(self, encoding: Encoding) -> dict[str, Any]:
        found = self._split(encoding)
        return {
            "train_documents": len(found.train),
            "held_out_documents": len(found.held_out),
            "skipped": found.skipped,
            "complete": not found.notes,
            "notes": found.notes,
        }

    def _split(self, encoding: Encoding) -> _Split:
        sources = TextTask(self.text, self.test_text, self.text_field, self.max_documents, self.max_test_documents)
        return _split(sources, tuple(self.identity().values()), encoding.max_tokens, encoding.cache)


@dataclass(frozen=True)
class _Split:
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    skipped: dict[str, int]
    notes: list[str]


@lru_cache(maxsize=4)
def _split(task: TextTask, identity: tuple[str, ...], max_tokens: int, cache: Path | None) -> _Split:
    """Read a task's texts and part them; ``identity`` is that of the files, so that none is mistaken for an older one."""
    characters = CHARACTERS_PER_TOKEN * max_tokens
    read = [_read(task.text, task.text_field, task.max_documents, characters, cache)]
    if task.test_text:
        read.append(_read(task.test_text, task.text_field, task.max_test_documents, characters, cache))
        held_out = set(read[1].documents)
    else:
        held_out = {text for text in read[0].documents if is_held_out(document_id(text))}
    train = tuple(text for text in read[0].documents if text not in held_out)
    for what, n, remedy in (("training", len(train), "--text"), ("held-out", len(held_out), "--test-text")):
        if not n:
            raise SoftPromptsError(
                f"no {what} documents are left of the {len(read[0].documents)} in {', '.join(task.text)} once the splits are kept "
                f"apart; give more with {remedy}."
            )
    chosen = tuple(sorted(held_out, key=document_id)[: task.max_test_documents])
    skipped = sum((Counter(texts.skipped) for texts in read), Counter())
    return _Split(train, chosen, dict(skipped), [texts.note for texts in read if texts.note])


def _encode(texts: Sequence[str], encoding: Encoding) -> Iterator[tuple[str, np.ndarray]]:
    for start in range(0, len(texts), 64):  # the tokenizer is several times faster on many texts than on one
        part = texts[start : start + 64]
        for text, tokens in zip(part, encoding.tokens(part)[0], strict=True):
            if len(tokens) > 1:
                yield document_id(text), tokens[: encoding.max_tokens]


# --- reading ---


def _sources(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(chain.from_iterable(CORPORA[name][0] if name in CORPORA else (name,) for name in names))


def _read(names: tuple[str, ...], field: str | None, wanted: int, characters: int, cache: Path | None) -> Texts:
    """The first ``wanted`` different documents of some sources, from the cache if they were read before."""
    sources = _sources(names)
    path = None
    if cache is not None:
        identity = [s if s.startswith("hub:") else fingerprint(s) for s in sources]
        key = json.dumps([identity, names, field, wanted, characters, FORMAT])
        path = cache / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.texts.zst"
    texts = _load(path) if path else None
    if texts is None:
        texts = read_texts(names, field, wanted, characters)
        if path and not texts.note:
            _save(texts, path)
    skipped = ", ".join(f"{n:,} {reason}" for reason, n in texts.skipped.items())
    say(f"{len(texts.documents):,} documents from {', '.join(names)}" + (f"; skipped: {skipped}" if skipped else ""))
    if texts.note:
        warn(texts.note)
    return texts


def read_texts(names: Sequence[str], field: str | None, wanted: int, characters: int) -> Texts:
    """The first ``wanted`` different documents, each stripped and cut to ``characters``.

    Where a connection breaks off for good after some documents, these are returned with a note. Raises SoftPromptsError
    where a source is missing, unreachable or damaged, lacks the field, or holds no text at all.
    """
    found: dict[str, None] = {}
    skipped: Counter[str] = Counter()
    notes: list[str] = []
    with progress_bar("reading documents, 100 a step", -(-wanted // 100)) as advance:
        for text in _all_documents(names, field, skipped, notes):
            text = text.strip()[:characters].strip()
            if not text:
                skipped["empty"] += 1
            elif text in found:
                skipped["duplicates"] += 1
            else:
                found[text] = None
                if len(found) % 100 == 0:
                    advance()
            if len(found) == wanted:
                break
    note = " ".join(notes)
    if not found:
        raise SoftPromptsError(
            f"no document could be read from {', '.join(names)}"
            + (f": {note}" if note else f" (skipped: {dict(skipped)})" if skipped else ": no text in it")
            + " Give another source with --text, or try the preset pocket, which needs none."
        )
    return Texts(tuple(found), dict(skipped), note)


def _all_documents(names: Sequence[str], field: str | None, skipped: Counter[str], notes: list[str]) -> Iterator[str]:
    """The documents of all sources in order; a connection that is lost for good ends its source with a note."""
    for name in names:
        of_corpus, own_field = CORPORA.get(name, ((name,), "text"))
        for source in of_corpus:
            try:
                yield from _documents(source, field or own_field, skipped)
            except SoftPromptsError as error:
                if not is_url(source):
                    raise
                raise SoftPromptsError(
                    f"{error} Texts of your own are given with --text FILE; the preset pocket needs no network at all."
                ) from error
            except Dropped as error:
                notes.append(
                    f"the connection to {source} was lost ({error}); the documents read until then are kept. For the rest run "
                    f"again, or download the file and give its path with --text."
                )


def _documents(source: str, field: str, skipped: Counter[str]) -> Iterator[str]:
    """The documents of one source; raises Dropped where a connection is lost for good."""
    if source.startswith("hub:"):
        yield from _hub(source.removeprefix("hub:"), field)
        return
    path = Path(urllib.parse.urlsplit(source).path if is_url(source) else source)
    kinds = [suffix.lower() for suffix in path.suffixes[-2:]]
    kind = kinds[-2] if len(kinds) > 1 and kinds[-1] in (".zst", ".gz") else kinds[-1] if kinds else ""
    try:
        with contextlib.closing(open_source(source)) as raw:
            if kind == ".parquet":
                yield from _parquet(source, raw, field)
            elif kind in (".jsonl", ".json", ".ndjson"):
                yield from _json_lines(source, blocks(source, raw), field, skipped)
            elif kind == ".txt":
                yield from _plain(blocks(source, raw))
            else:
                raise SoftPromptsError(
                    f"{source} is of no known kind; text is read from .txt, .jsonl and .parquet files, the first two also as .zst or .gz."
                )
    except Damaged as error:
        raise SoftPromptsError(
            f"{source} is truncated or corrupt: {error}. Download or copy the file again."
        ) from error
    except OSError as error:
        raise SoftPromptsError(f"{source} could not be read: {error}; check the disk or copy it again.") from error


def _hub(name: str, field: str) -> Iterator[str]:
    """A hub dataset's train split, streamed."""
    import datasets  # slow to import, and only needed here

    try:
        for row in datasets.load_dataset(name, split="train", streaming=True):
            if field not in row:
                raise SoftPromptsError(_no_field(f"the dataset {name}", field, row))
            yield row[field] or ""
    except (OSError, ValueError, RuntimeError) as error:  # what datasets and the hub raise derives from these
        cause = " ".join(str(error).split())[:300]
        raise SoftPromptsError(
            f"the dataset {name!r} could not be read from the hub ({cause}); check its name and the network, give files of your own "
            f"with --text FILE, or try the preset pocket, which needs no network."
        ) from error


def _lines(parts: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        yield from whole
    yield rest


def _json_lines(source: str, parts: Iterator[bytes], field: str, skipped: Counter[str]) -> Iterator[str]:
    n_good = 0
    for i, line in enumerate(_lines(parts), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            skipped["not JSON"] += 1
            if not n_good and skipped["not JSON"] >= 3:
                raise SoftPromptsError(
                    f"{source} does not hold a JSON object a line (line {i} is {line[:60]!r}); give JSON Lines, .txt or .parquet."
                ) from None
            continue
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            raise SoftPromptsError(_no_field(f"line {i} of {source}", field, row if isinstance(row, dict) else {}))
        n_good += 1
        yield row[field]


def _parquet(source: str, raw: Any, field: str) -> Iterator[str]:
    """A local file is read a part at a time; an address must be read whole, as a parquet file's index is at its end."""
    whole = io.BytesIO(b"".join(iter(lambda: raw.read(1 << 20), b""))) if is_url(source) else source
    try:
        file = pq.ParquetFile(whole)
        if field not in file.schema_arrow.names:
            raise SoftPromptsError(_no_field(source, field, file.schema_arrow.names))
        for batch in file.iter_batches(1024, columns=[field]):
            yield from (text or "" for text in batch.column(0).to_pylist())
    except pa.ArrowException as error:
        raise Damaged(f"it is no whole parquet file ({error})") from error


def _plain(parts: Iterator[bytes]) -> Iterator[str]:
    text = b"".join(parts).decode("utf-8", errors="replace")
    yield from text.split(END_OF_TEXT) if END_OF_TEXT in text else re.split(r"\n\s*\n", text)


def _no_field(where: str, field: str, known: Any) -> str:
    return f"{where} has no text in a field {field!r}; its fields are {', '.join(map(str, known)) or 'none'}: name one with --text-field."


def _load(path: Path) -> Texts | None:
    """The texts of a cache file, or None where it is missing or damaged: they are then read anew."""
    try:
        kept = json.loads(zstandard.ZstdDecompressor().decompress(path.read_bytes()))
        return Texts(tuple(kept["documents"]), kept["skipped"])
    except (OSError, zstandard.ZstdError, ValueError, KeyError, TypeError):
        return None


def _save(texts: Texts, path: Path) -> None:
    """Keep texts for the next time; a failure costs the cache and not the texts."""
    content = json.dumps({"documents": texts.documents, "skipped": texts.skipped}).encode()
    try:
        write_atomically(path, zstandard.ZstdCompressor().compress(content))
    except SoftPromptsError as error:
        warn(f"the texts could not be kept in the cache: {error}")
