"""Input of any kind is read, or refused in a sentence: random bytes, and good files that were damaged."""

import gzip
import io
import json
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from soft_prompts.data.boards import walk
from soft_prompts.data.pgn import GameFilter, read_games
from soft_prompts.data.texts import read_texts
from soft_prompts.errors import SoftPromptsError

N_QUICK, N_SLOW = 500, 25_000
"""Inputs of each of the four tests below: without the mark ``slow`` and with it."""
MOST_SECONDS = 5
"""An input that takes longer hangs."""


def parquet(table: pa.Table, **options: object) -> bytes:
    """A parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


HEADERS = '[Event "Rated Blitz game"]\n[Site "?"]\n[WhiteElo "2000"]\n[BlackElo "1900"]\n\n'
GAMES = (
    HEADERS + "1. e4 {[%eval 0.1]} e5 $1 2. Nf3 (2. Bc4 Nc6 (2... d6)) Nc6 3. Bb5 a6 1-0\n\n"
    "% a line\n" + HEADERS + "1. f4 e5 2. fxe5 d5 3. exd6 e.p. ; rest\nBd6 *\n\n1. d4 *\n\n"
    '[Event "?"]\n[FEN "x"]\n[Variant "Atomic"]\n\n1-0\n\n' + HEADERS + "1. e4 e5 1/2-1/2\n"
).encode()
TEXTS = ("first\nline", "zwölf \U0001f600", "", "x" * 300, "a\n\nb", "first\nline")
JSON = "".join(json.dumps({"text": text, "n": i, "of": [{"a": None}]}) + "\n" for i, text in enumerate(TEXTS)).encode()
TABLE = pa.table({"text": TEXTS, "n": range(len(TEXTS)), "of": [[i] for i in range(len(TEXTS))]})
GOOD_GAMES = {
    "a.pgn": [GAMES, GAMES.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + GAMES * 3],
    "a.pgn.zst": [zstandard.compress(GAMES), zstandard.compress(GAMES) * 2],
    "a.pgn.gz": [gzip.compress(GAMES, mtime=0)],
}
GOOD_TEXTS = {
    "a.jsonl": [JSON],
    "a.txt": ["\n\n".join(TEXTS).encode(), "<|endoftext|>".join(TEXTS).encode(), "ä".encode("utf-16")],
    "a.jsonl.zst": [zstandard.compress(JSON), zstandard.ZstdCompressor(write_checksum=True).compress(JSON)],
    "a.txt.gz": [gzip.compress("\n\n".join(TEXTS).encode(), mtime=0)],
    "a.parquet": [
        parquet(TABLE),
        parquet(TABLE, compression="zstd", use_dictionary=False, row_group_size=2),
        parquet(TABLE, compression="none", data_page_version="2.0", write_page_index=True),
        parquet(pa.table({"text": pa.array([b"\xff", b"a"]).view(pa.string())})),
    ],
}
LETTERS = b'{}[]();%"\\\n\r\t *+.$0\xff\x1a'
TOKENS = [*LETTERS, b"1-0", b'\n[A "', b"\n\n", b"e4 ", b"\\ud800", b"NaN", b'{"text":', b"\0"]
TOKENS += [HEADERS.encode(), b'[A "x', b"1-0 ;", b"\n\n;", b"{\n", b"<|endoftext|>"]


ONCE_FAULTS = (
    ("a.pgn", HEADERS.encode() + b"1-0 " + b";" * 40 + b"x\nx\n\nx\n"),
    ("a.pgn", HEADERS.encode() + b"{a " * 100_000),
    ("a.pgn", HEADERS.encode() + b"\r" * 300_000 + b"x"),
    ("a.pgn", HEADERS.encode() + b"{" + b'\n[A "x' * 50_000),
    ("a.pgn", b"".join(b'[A%d "x" \n' % i for i in range(30_000))),
    ("a.jsonl", b'{"text": "a", "' + b"b" * 300_000 + b'": 1}\n{"' + b"c" * 300_000 + b'": 1}'),
)
"""Each took for ever, or longer than MOST_SECONDS, or ended in an error that was none of ours or a message of any
length."""


def with_a_flip(content: bytes, place: int, bits: int) -> bytes:
    """The content with some bits of one byte flipped."""
    flipped = bytearray(content)
    flipped[place] ^= bits
    return bytes(flipped)


# A description of a column that is damaged: reading it ended the process.
ONCE_FAULTS += tuple(
    ("a.parquet", with_a_flip(GOOD_TEXTS["a.parquet"][0], place, bits))
    for place, bits in ((-822, 1), (-821, 1), (-821, 16), (-805, 1))
)


def pieces() -> st.SearchStrategy[bytes]:
    """Short pieces that mean something to some format, many times over, and random ones."""
    known = st.sampled_from([token if isinstance(token, bytes) else bytes([token]) for token in TOKENS])
    return st.builds(bytes.__mul__, known | st.binary(max_size=8), st.sampled_from([1, 1, 1, 2, 40, 1000]))


@st.composite
def damaged(draw: st.DrawFn, good: dict[str, list[bytes]]) -> tuple[str, bytes]:
    """A file's name, and what a good file of its kind becomes by a few flips, cuts, repetitions and insertions."""
    name = draw(st.sampled_from(sorted(good)))
    content = draw(st.sampled_from(good[name]))
    for _ in range(draw(st.integers(0, 4))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        how = draw(st.sampled_from(["flip", "flip", "cut", "end", "repeat", "insert", "splice"]))
        if how == "flip" and start < len(content):
            flipped = bytes([content[start] ^ draw(st.integers(1, 255))])
            content = content[:start] + flipped + content[start + 1 :]
        elif how == "cut":
            content = content[:start] + content[end:]
        elif how == "end":
            content = content[:start]
        elif how == "repeat":
            content = content[:end] + content[start:end] * draw(st.sampled_from([1, 2, 30])) + content[end:]
        elif how == "insert":
            content = content[:start] + draw(pieces()) + content[start:]
        else:
            other = draw(st.sampled_from(good[draw(st.sampled_from(sorted(good)))]))
            content = content[:start] + other[draw(st.integers(0, len(other))) :]
    return name, content[: 1 << 16]


def made_up(good: dict[str, list[bytes]]) -> st.SearchStrategy[tuple[str, bytes]]:
    """A file's name, and pieces in any order."""
    return st.tuples(st.sampled_from(sorted(good)), st.lists(pieces(), max_size=40).map(b"".join))


@contextmanager
def no_hang() -> Iterator[None]:
    """Raises an error after MOST_SECONDS, so that the input is shown."""

    def stop(*_: object) -> None:
        raise AssertionError(f"no end within {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


TEMPORARY = tempfile.TemporaryDirectory()
FOLDER = Path(TEMPORARY.name)


def check_games(file: tuple[str, bytes]) -> None:
    """A file of games is read, and all that is taken are games; or it is refused by name."""
    path = FOLDER / file[0]
    path.write_bytes(file[1])
    with no_hang():
        try:
            games = read_games(str(path), GameFilter(), None, None)
        except SoftPromptsError as error:
            assert file[0] in str(error) and len(str(error)) < 2000
            return
    assert len(games) == len(games.elos) > 0
    for i in range(len(games)):
        assert games.moves(i) and all(len(move) in (4, 5) for move in games.moves(i).split(" "))


def check_texts(file: tuple[str, bytes]) -> None:
    """A file of texts is read, and all documents are texts; or it is refused by name."""
    path = FOLDER / file[0]
    path.write_bytes(file[1])
    for split in ("auto", "line"):
        with no_hang():
            try:
                read = read_texts([str(path)], None, 1000, 100, split)
            except SoftPromptsError as error:
                assert file[0] in str(error) and len(str(error)) < 2000
                str(error).encode()
                continue
        assert read.documents and all(0 < len(text.encode()) <= 400 for text in read.documents)


def inputs(n: int) -> settings:
    """So many inputs, the same ones every time, each for as long as ``no_hang`` lets it."""
    return settings(
        max_examples=n, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


def test_games_of_any_kind_are_read_or_refused() -> None:
    fuzz(check_games, GOOD_GAMES, N_QUICK)


def test_texts_of_any_kind_are_read_or_refused() -> None:
    fuzz(check_texts, GOOD_TEXTS, N_QUICK)


@pytest.mark.slow
def test_games_of_very_many_kinds_are_read_or_refused() -> None:
    fuzz(check_games, GOOD_GAMES, N_SLOW)


@pytest.mark.slow
def test_texts_of_very_many_kinds_are_read_or_refused() -> None:
    fuzz(check_texts, GOOD_TEXTS, N_SLOW)


def fuzz(check, good: dict[str, list[bytes]], n: int) -> None:
    """Check ``n`` damaged files and as many made-up ones, and first those that were once faults."""
    for name, content in ONCE_FAULTS:
        if name in good:
            check((name, content))
    for files in (damaged(good), made_up(good)):
        inputs(n)(given(files)(check))()


@given(st.text(alphabet="NESWDUX \n\u00e9", max_size=60), st.integers(0, 2**16 - 1), st.integers(0, 15))
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@example("N" * 100_000, 0, 0)
def test_any_text_can_be_walked(text: str, walls: int, start: int) -> None:
    blocked = np.array([walls >> i & 1 for i in range(16)], bool).reshape(4, 4)
    walked = walk(blocked, start, 5, text)
    assert all(0 <= cell < 16 for cell in walked.cells) and walked.bumps <= walked.n_moves <= len(text)
    assert not any(blocked.flat[cell] for cell in walked.cells[1:] if cell != start)
