"""Texts: documents from the hub, from files and from addresses.

Files of any size are read in parts, in less than 1 GiB of memory beside the documents that are kept: no document may be
longer than MAX_DOCUMENT. The exception is parquet, whose own reader unpacks a page, of at most 2 GiB, in one go.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import reprlib
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from soft_prompts.addresses import is_url, text_without_secrets, without_secrets
from soft_prompts.console import progress_bar, say, warn
from soft_prompts.data.cache import cache_path, load_cached, save_cached
from soft_prompts.data.sources import (
    FREE_BYTES,
    MAX_GROWTH,
    Bytes,
    Damaged,
    Dropped,
    blocks,
    fingerprint,
    open_source,
)
from soft_prompts.errors import SoftPromptsError
from soft_prompts.texts import BOOKS, GOVERNMENT

REDPAJAMA = "https://huggingface.co/datasets/togethercomputer/RedPajama-Data-V2/resolve/main/sample/documents/2023-06"
CORPORA = {
    "pile": (("hub:EleutherAI/the_pile_deduplicated",), "text"),
    # Its loading script no longer runs, so its files are read: the English head part of its own sample.
    "redpajama": (tuple(f"{REDPAJAMA}/000{i}/en_head.json.gz" for i in range(1, 5)), "raw_content"),
    "books": ((str(BOOKS),), "text"),
    "government": ((str(GOVERNMENT),), "text"),
}
"""Corpora known by name: (sources, text field)."""
HUB = "hub:"
"""What a source begins with that names a dataset of the hub."""
END_OF_TEXT = "<|endoftext|>"
"""Stands between the documents of a .txt file."""
TextSplit = Literal["auto", "line"]
"""How a .txt file is split into documents. auto: at END_OF_TEXT or, if there is none, at blank lines. line: at every
line end."""
MAX_DOCUMENT = 16 << 20
"""A longer document, or line of JSON, is refused. Bytes of JSON Lines, else characters. A line of JSON can take thirty
times its length in memory."""
MAX_FETCHED_PARQUET = 512 << 20
"""Bytes of a parquet file at an address, which must be read whole, because its index is at its end."""
BLANK_LINES = re.compile(r"\n\s*\n")
NOT_BLANK = re.compile(rb"\S[^\n]*")
"""A line that is not blank, from its first letter on."""
LINE_OR_DOCUMENT_END = re.compile(rf"\r\n?|\n|{re.escape(END_OF_TEXT)}")
BYTE_ORDER_MARKS = {  # UTF-32 first: its marks begin with those of UTF-16
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""First bytes of texts in other encodings."""
FORMAT = 3
"""Raised when the same sources give other documents than before, or the cache file another layout: old cache files are
then not used."""


@dataclass(frozen=True)
class Texts:
    """Documents in the order of their sources, each once."""

    documents: tuple[str, ...]
    """The documents, stripped and cut to a number of characters."""
    skipped: dict[str, int]
    """How many were left out, by reason."""
    note: str = ""
    """Says where reading broke off before everything that was wanted had come. Empty if it did not."""


def sources(names: Sequence[str]) -> tuple[str, ...]:
    """The sources behind names.

    Args:
        names: Corpora of CORPORA, "hub:NAME" of other hub datasets, paths and addresses.

    Returns:
        All sources in order. Each is "hub:NAME", a path or an address.
    """
    return tuple(chain.from_iterable(CORPORA[name][0] if name in CORPORA else (name,) for name in names))


def source_identity(source: str) -> str:
    """The identity of a source.

    Args:
        source: "hub:NAME", a path or an address.

    Returns:
        The source itself for the hub; an address without user name, password and query; for a local file 16 hex digits
        of its content.

    Raises:
        SoftPromptsError: If a local file is missing or unreadable.
    """
    return source if source.startswith(HUB) else fingerprint(source)


def read_documents(
    names: Sequence[str],
    field: str | None,
    wanted: int,
    characters: int,
    cache: Path | None,
    split: TextSplit = "auto",
) -> Texts:
    """Read the first different documents of some sources, from the cache if they were read before.

    Says on the screen how many there are, and warns if reading broke off.

    Args:
        names: Corpora of CORPORA, "hub:NAME" of other hub datasets, paths and addresses.
        field: The field or column of a document's text. None: the corpus' own, else "text".
        wanted: How many documents at most.
        characters: The longest document in characters; longer ones are cut.
        cache: Folder where a complete result is kept and read from the next time. None: nothing is kept.
        split: How .txt files are split into documents.

    Returns:
        The documents. If a connection breaks for good after some of them, these, with a note.

    Raises:
        SoftPromptsError: If a source is missing, unreachable or damaged, lacks the field, or there is no text at all.
    """
    texts = _read_cached(names, field, wanted, characters, cache, split)
    skipped = ", ".join(f"{n:,} {reason}" for reason, n in texts.skipped.items())
    named = ", ".join(map(without_secrets, names))
    say(f"{len(texts.documents):,} documents from {named}" + (f"; skipped: {skipped}" if skipped else ""))
    if texts.note:
        warn(texts.note)
    return texts


def _read_cached(
    names: Sequence[str], field: str | None, wanted: int, characters: int, cache: Path | None, split: TextSplit
) -> Texts:
    if cache is None:
        return read_texts(names, field, wanted, characters, split)
    identities = [source_identity(source) for source in sources(names)]
    path = cache_path(cache, "texts", [identities, list(names), field, wanted, characters, split, FORMAT])
    kept = load_cached(path)
    if kept is not None:
        arrays, facts = kept
        return Texts(_unpack(arrays["documents"]), facts["skipped"])
    texts = read_texts(names, field, wanted, characters, split)
    if not texts.note:
        save_cached(path, {"documents": _pack(texts.documents)}, {"skipped": texts.skipped})
    return texts


def _pack(documents: Sequence[str]) -> np.ndarray:
    """Documents as JSON, compressed with zstd: uint8 [bytes]."""
    import zstandard

    return np.frombuffer(zstandard.ZstdCompressor().compress(json.dumps(documents).encode()), np.uint8)


def _unpack(packed: np.ndarray) -> tuple[str, ...]:
    """The documents that ``_pack`` was given."""
    import zstandard

    return tuple(json.loads(zstandard.ZstdDecompressor().decompress(packed.tobytes())))


def read_texts(
    names: Sequence[str], field: str | None, wanted: int, characters: int, split: TextSplit = "auto"
) -> Texts:
    """Read the first different documents of some sources, each stripped and cut.

    Args:
        names: Corpora of CORPORA, "hub:NAME" of other hub datasets, paths and addresses.
        field: The field or column of a document's text. None: the corpus' own, else "text".
        wanted: How many documents at most.
        characters: The longest document in characters; longer ones are cut.
        split: How .txt files are split into documents.

    Returns:
        The documents. If a connection breaks for good after some of them, these, with a note.

    Raises:
        SoftPromptsError: If a source is missing, unreachable or damaged, lacks the field, or there is no text at all.
    """
    documents: dict[str, None] = {}
    skipped: Counter[str] = Counter()
    notes: list[str] = []
    with progress_bar("reading documents, 100 a step", -(-wanted // 100)) as advance:
        for text in _all_documents(names, field, split, skipped, notes):
            text = text.strip()[:characters].strip()
            if not text:
                skipped["empty"] += 1
            elif not _is_unicode(text):
                skipped["half of a surrogate pair in it"] += 1
            elif text in documents:
                skipped["duplicates"] += 1
            else:
                documents[text] = None
                if len(documents) % 100 == 0:
                    advance()
            if len(documents) == wanted:
                break
    note = " ".join(notes)
    if not documents:
        reason = f": {note}" if note else f" (skipped: {dict(skipped)})." if skipped else ": no text in it."
        raise SoftPromptsError(
            f"no document could be read from {', '.join(map(without_secrets, names))}{reason} "
            f"Give another source with --text, or try the preset pocket, which needs none."
        )
    return Texts(tuple(documents), dict(skipped), note)


def _is_unicode(text: str) -> bool:
    """Whether a text can be encoded. JSON can hold half of a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _all_documents(
    names: Sequence[str], field: str | None, split: TextSplit, skipped: Counter[str], notes: list[str]
) -> Iterator[str]:
    """The documents of all sources in order.

    Counts those left out in ``skipped``. If a connection is lost for good, its source ends there, a sentence about it
    goes into ``notes``, and the next source follows.
    """
    for name in names:
        of_name, own_field = CORPORA.get(name, ((name,), "text"))
        for source in of_name:
            try:
                yield from _documents(source, field or own_field, split, skipped)
            except SoftPromptsError as error:
                if not is_url(source):
                    raise
                raise SoftPromptsError(
                    f"{error} Texts of your own are given with --text FILE; the preset pocket needs no network at all."
                ) from error
            except Dropped as error:
                notes.append(
                    f"the connection to {without_secrets(source)} was lost ({error}); the documents read until then "
                    f"are kept. For the rest run again, or download the file and give its path with --text."
                )


def _documents(source: str, field: str, split: TextSplit, skipped: Counter[str]) -> Iterator[str]:
    """The documents of one source. Raises Dropped if a connection is lost for good."""
    if source.startswith(HUB):
        yield from _hub(source.removeprefix(HUB), field)
        return
    name = without_secrets(source)
    kind = _kind(name)
    try:
        with contextlib.closing(open_source(source)) as raw:
            if kind == ".parquet":
                yield from _parquet(name, raw, field)
            elif kind in (".jsonl", ".json", ".ndjson"):
                yield from _json_lines(name, blocks(name, raw), field, skipped)
            elif kind == ".txt":
                yield from _plain(name, blocks(name, raw), split)
            else:
                raise SoftPromptsError(
                    f"{name} is of no known kind; text is read from .txt, .jsonl and .parquet files, "
                    f"the first two also as .zst or .gz."
                )
    except Damaged as error:
        raise SoftPromptsError(f"{name} is truncated or corrupt: {error}. Download or copy the file again.") from error
    except OSError as error:
        raise SoftPromptsError(f"{name} could not be read: {error}; check the disk or copy it again.") from error


def _kind(source: str) -> str:
    """The ending of a path or address in lower case, without .zst or .gz: ".jsonl" of "a.jsonl.zst"."""
    path = Path(urllib.parse.urlsplit(source).path if is_url(source) else source)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in (".zst", ".gz"):
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


def _hub(name: str, field: str) -> Iterator[str]:
    """The documents of a hub dataset's train split, streamed."""
    import datasets  # slow to import, and only needed here

    try:
        for i, row in enumerate(datasets.load_dataset(name, split="train", streaming=True), 1):
            yield _text(row, field, f"row {i} of the dataset {name}")
    except (OSError, ValueError, RuntimeError) as error:  # what datasets and the hub raise derives from these
        cause = text_without_secrets(" ".join(str(error).split()))[:300]
        raise SoftPromptsError(
            f"the dataset {name!r} could not be read from the hub ({cause}); check its name and the network, "
            f"give files of your own with --text FILE, or try the preset pocket, which needs no network."
        ) from error


def _lines(name: str, parts: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, without their ends and the white space before them, from text that comes in parts.

    Yields:
        The number of a line, from 1 on, and the line.

    Raises:
        SoftPromptsError: If a line is too long for a document.
    """
    rest, number = b"", 1
    for part in chain(parts, (b"\n",)):
        text = rest + part
        end = text.rfind(b"\n") + 1
        counted = 0
        for line in NOT_BLANK.finditer(text, 0, end):
            number += text.count(b"\n", counted, line.start())
            counted = line.start()
            _check_length(f"line {number} of {name}", line.end() - line.start())
            yield number, line[0]
        number += text.count(b"\n", counted, end)
        rest = text[end:]
        _check_length(f"line {number} of {name}", len(rest))


def _check_length(what: str, length: int) -> None:
    """Raise SoftPromptsError if this is more than a document may have."""
    if length > MAX_DOCUMENT:
        raise SoftPromptsError(
            f"{what} is longer than {MAX_DOCUMENT >> 20} MiB, which no document may be; cut it into several, or give "
            f"another file."
        )


def _json_lines(source: str, parts: Iterator[bytes], field: str, skipped: Counter[str]) -> Iterator[str]:
    """The documents of JSON Lines. Lines that are not JSON are counted; three of them at the start are an error."""
    n_good = n_bad = 0
    for i, line in _lines(source, parts):
        text = _decoded(line, f"line {i} of {source}").removeprefix("\ufeff")
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            skipped["not JSON"] += 1
            n_bad += 1
            if not n_good and n_bad == 3:
                raise SoftPromptsError(
                    f"{source} does not hold a JSON object a line (line {i} is {text[:60]!r}); "
                    f"give JSON Lines, .txt or .parquet."
                ) from None
            continue
        n_good += 1
        yield _text(row, field, f"line {i} of {source}")


def _parquet(source: str, raw: Bytes, field: str) -> Iterator[str]:
    """The documents of a parquet file: of a local one a part at a time, of an address when all of it has come."""
    import pyarrow as pa  # both are slow to import, and only needed here
    import pyarrow.parquet as pq

    n_read = 0
    try:
        content = _fetched(source, raw) if is_url(source) else raw
        file = pq.ParquetFile(content)
        if field not in file.schema_arrow.names:
            raise SoftPromptsError(_no_field(source, field, file.schema_arrow.names))
        _check_is_text(source, field, file.schema_arrow.types[file.schema_arrow.names.index(field)])
        _check_growth(source, content.seek(0, 2), file.metadata)
        # A text that is repeated may be stored once. It is then also read once, not once for every row of a batch.
        file = pq.ParquetFile(content, metadata=file.metadata, read_dictionary=[field])
        for batch in file.iter_batches(64, columns=[field]):
            for value in batch.column(0):
                n_read += 1
                text = value.as_py() or ""
                _check_length(f"row {n_read} of {source}", len(text))
                yield text
    except UnicodeDecodeError as error:
        raise Damaged(f"the text of row {n_read} is not UTF-8 ({error})") from error
    except pa.ArrowException as error:
        raise Damaged(f"it is no whole parquet file ({str(error)[:300]})") from error


def _fetched(source: str, raw: Bytes) -> Any:
    """All of a parquet file at an address, as pyarrow reads it from memory."""
    import pyarrow as pa

    whole = bytearray()
    while data := raw.read(1 << 20):
        whole += data
        if len(whole) > MAX_FETCHED_PARQUET:
            raise SoftPromptsError(
                f"{source} is larger than {MAX_FETCHED_PARQUET >> 20} MiB, and a parquet file must be fetched whole; "
                f"download it and give its path."
            )
    return pa.BufferReader(pa.py_buffer(whole))


def _check_is_text(source: str, field: str, kind: Any) -> None:
    """Raise SoftPromptsError if a column of this pyarrow type holds something else than text."""
    import pyarrow.types as types

    stored = kind.value_type if types.is_dictionary(kind) else kind
    known = types.is_string, types.is_large_string, types.is_string_view, types.is_null
    if not any(is_kind(stored) for is_kind in known):
        raise SoftPromptsError(
            f"{source} has {str(stored)[:60]} and no text in its column {field!r}; name another one with --text-field."
        )


def _check_growth(source: str, size: int, metadata: Any) -> None:
    """Raise SoftPromptsError if a parquet file of this size in bytes grows by more than any text when decompressed."""
    # What pyarrow says of single columns is not asked for: it ends the process if a damaged file has none of them.
    made = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if made > FREE_BYTES + MAX_GROWTH * size:
        raise SoftPromptsError(
            f"{source} is no text: its {size:,} bytes become {made:,} when they are decompressed; give another file."
        )


def _plain(source: str, parts: Iterator[bytes], split: TextSplit) -> Iterator[str]:
    """The documents of a .txt file."""
    texts = _decoded_parts(source, parts)
    if split == "line":
        yield from (line for line in _parts(source, texts, LINE_OR_DOCUMENT_END) if line.strip())
        return
    # The first document ends within so much, or it is too long. So this tells how the file is split.
    head, is_whole = "", True
    for text in texts:
        head += text
        if END_OF_TEXT in head or len(head) > MAX_DOCUMENT:
            is_whole = False
            break
    if END_OF_TEXT in head:
        yield from _parts(source, chain((head,), texts), re.compile(re.escape(END_OF_TEXT)))
        return
    if is_whole and not BLANK_LINES.search(head):
        n_lines = sum(bool(line.strip()) for line in LINE_OR_DOCUMENT_END.split(head))
        if n_lines > 1:
            warn(
                f"{source} has no blank lines, so its {n_lines:,} lines are one document; if every line is a document "
                f"of its own, give --text-split line."
            )
    for document in _parts(source, chain((head,), texts), BLANK_LINES):
        if END_OF_TEXT in document:
            raise SoftPromptsError(
                f"the first {END_OF_TEXT} of {source} stands behind more than {MAX_DOCUMENT >> 20} MiB, which no "
                f"document may be longer than; put more of them in, or none."
            )
        yield document


def _parts(source: str, texts: Iterable[str], end: re.Pattern[str]) -> Iterator[str]:
    """Documents from a text that comes in parts.

    Args:
        source: What the text is of.
        texts: The text.
        end: What stands between documents: white space, or anything that neither begins nor ends with it.

    Raises:
        SoftPromptsError: If a document is too long.
    """
    rest = ""
    what = f"a document of {source} (--text-split says where documents end)"
    for part in texts:
        text = rest + part
        known = text.rstrip()  # the white space behind it may go on in the next part
        *documents, rest = end.split(known)
        rest += text[len(known) :]
        for document in documents:
            _check_length(what, len(document))
            yield document
        _check_length(what, len(rest))
    yield from end.split(rest)


def _decoded_parts(source: str, parts: Iterable[bytes]) -> Iterator[str]:
    """Text from UTF-8 that comes in parts, without the mark that may stand before it. Raises SoftPromptsError."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    before = b""
    for part in parts:
        text = _decoded(part, source, decoder.decode, is_start=not before)
        yield text if before else text.removeprefix("\ufeff")
        before = before or part
    yield _decoded(b"", source, lambda data: decoder.decode(data, True), is_start=False)


def _decoded(data: bytes, where: str, decode: Callable[[bytes], str] = bytes.decode, is_start: bool = True) -> str:
    """Text from UTF-8. Raises SoftPromptsError if it is something else: it is not guessed what it would mean."""
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if is_start and data.startswith(mark)), None)
    if encoding is None and b"\0" in data:
        encoding = "UTF-16 without a mark, or no text at all"
    if encoding is None:
        try:
            return decode(data)
        except UnicodeDecodeError as error:
            wrong = error.object[max(0, error.start - 20) : error.start + 1]
            encoding = f"perhaps Latin-1 or Windows-1252: behind {wrong[:-1]!r} stands {wrong[-1:]!r}"
    raise SoftPromptsError(f"{where} is not UTF-8 ({encoding}); convert it, such as with iconv -f ENCODING -t UTF-8.")


def _text(row: Any, field: str, where: str) -> str:
    """The text of a row; empty if it is null. Raises SoftPromptsError if there is none."""
    if not isinstance(row, dict):
        raise SoftPromptsError(f"{where} is {_shown(row)} and not a JSON object with a text in a field {field!r}.")
    if field not in row:
        raise SoftPromptsError(_no_field(where, field, row))
    text = row[field]
    if text is not None and not isinstance(text, str):
        raise SoftPromptsError(
            f"{where} has {_shown(text)} and no text in its field {field!r}; name another one with --text-field."
        )
    return text or ""


def _shown(value: Any) -> str:
    return f"the {type(value).__name__} {reprlib.repr(value)[:40]}"


def _no_field(where: str, field: str, known: Iterable[str]) -> str:
    """What an error says if ``field`` is not among the ``known`` fields, or holds no text."""
    names = ", ".join(islice((name[:40].encode(errors="replace").decode() for name in known), 20)) or "none"
    return f"{where} has no text in a field {field!r}; its fields are {names}: name one with --text-field."
