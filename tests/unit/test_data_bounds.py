"""Whatever a file holds, reading it takes bounded memory, and a file that is fair is read whole and in parts."""

import contextlib
import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from soft_prompts.data import sources, texts
from soft_prompts.data.texts import read_texts
from soft_prompts.errors import SoftPromptsError
from tests.unit.made_up import write
from tests.unit.serving import serving, whole

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
READ = """
import resource, sys
import pyarrow.parquet, rust_pgn_reader_python_binding, rich.progress, zstandard
from soft_prompts.data.pgn import GameFilter, read_games
from soft_prompts.data.texts import read_texts
from soft_prompts.errors import SoftPromptsError

pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for path in sys.argv[1:]:
    try:
        read = read_games(path, GameFilter(), None, None) if ".pgn" in path else read_texts([path], None, 1000, 100)
        print(f"{len(getattr(read, 'documents', read))} read")
    except SoftPromptsError as error:
        print(error)
"""
"""Reads files with 1 GiB of memory more than there is at the start."""


def zstd_of_one_letter(letter: bytes, size: int) -> bytes:
    """A zstd frame that becomes ``size`` bytes, all the same: 4 bytes become 128 KiB."""
    block = 1 << 17
    header = (block << 3 | 1 << 1).to_bytes(3, "little")
    last = (block << 3 | 1 << 1 | 1).to_bytes(3, "little")
    frame = b"\x28\xb5\x2f\xfd\x00\x38"  # no content size, a window of 128 KiB
    return frame + (header + letter) * (size // block - 1) + last + letter


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit memory in this way")
def test_no_file_takes_more_than_a_gibibyte(tmp_path: Path) -> None:
    headers = '[Event "x"]\n[WhiteElo "1000"]\n[BlackElo "1000"]\n\n'
    repeated = pa.array(["a" * (15 * MIB), "b"]).dictionary_encode()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 200 + [1], pa.int32()), repeated.dictionary)
    pq.write_table(pa.table({"text": column}), tmp_path / "repeated.parquet")
    grown = pa.table({"text": ["a" * (200 * MIB)]})
    pq.write_table(grown, tmp_path / "grown.parquet", compression="zstd", use_dictionary=False, write_statistics=False)
    files = {
        "a.txt.zst": (zstd_of_one_letter(b"a", 20 << 30), "a document of .* is longer than 16 MiB"),
        "lines.txt.zst": (zstd_of_one_letter(b"\n", 20 << 30), "is longer than 16 MiB"),
        "a.jsonl.zst": (zstd_of_one_letter(b"a", 20 << 30), "line 1 of .* is longer than 16 MiB"),
        "lines.jsonl.zst": (zstd_of_one_letter(b"\n", 20 << 30), r"is no text: its first \S+ bytes become"),
        "a.jsonl.gz": (gzip.compress(b'{"text": "' + b"a" * (60 * MIB), 1), "line 1 of .* is longer than 16 MiB"),
        "hollow.jsonl": (b'{"text": "a", "b": [' + b"{}," * (5 * MIB) + b"1]}", "^1 read"),
        "a.pgn.zst": (zstd_of_one_letter(b"a", 20 << 30), "holds 1. MiB of text in which no game begins"),
        "knights.pgn": (headers.encode() + b"Nf3 Nf6 Ng1 Ng8 " * (MIB // 2), "^1 read"),
        "repeated.parquet": (None, "^2 read"),
        "grown.parquet": (None, r"is no text: its \S+ bytes become"),
    }
    for name, (content, _) in files.items():
        if content is not None:
            write(tmp_path / name, content)
    command = [sys.executable, "-c", READ, *(str(tmp_path / name) for name in files)]
    read = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    for (name, (_, message)), said in zip(files.items(), read.stdout.splitlines(), strict=True):
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(said)
        assert name in said or message.endswith("read")


@pytest.mark.parametrize(
    ("name", "split", "content"),
    [
        ("a.txt", "line", "b\n{}\nc"),
        ("a.txt", "auto", "b\n\n{}\n\nc"),
        ("a.txt", "auto", "b<|endoftext|>{}<|endoftext|>c"),
        ("a.txt", "auto", "b\n\n{}"),
        ("a.jsonl", "auto", '{{"text": "b"}}\n"{}"\n{{"text": "c"}}'),
    ],
)
@pytest.mark.parametrize("block", [7000, 3 * MIB])
def test_the_longest_document_is_read_and_a_longer_one_refused(
    tmp_path: Path, monkeypatch, name: str, split: str, content: str, block: int
) -> None:
    longest = 50_000
    monkeypatch.setattr(texts, "MAX_DOCUMENT", longest)
    monkeypatch.setattr(sources, "BLOCK_BYTES", block)
    quotes = 2 * (name == "a.jsonl")
    source = write(tmp_path / name, content.format("a" * (longest - quotes)))
    if quotes:  # the longest line was read: it is JSON, if no object
        with pytest.raises(SoftPromptsError, match="line 2 of .* is the str"):
            read_texts([source], None, 10, 100, split)
    else:
        assert len(read_texts([source], None, 10, 100, split).documents) == content.count("b") + content.count("c") + 1
    write(tmp_path / name, content.format("a" * (longest - quotes + 1)))
    with pytest.raises(SoftPromptsError, match=f"{name}.* is longer than .* MiB, which no document may be"):
        read_texts([source], None, 10, 100, split)


PARTS = ("a", "é", "\U0001f600", "\n", "\n\n", " ", "\r\n", "\r", "<|endoftext|>", "<|endof", "\u2028", "\x1c", "\n \n")


@pytest.mark.parametrize("split", ["auto", "line"])
def test_a_text_is_split_alike_whatever_its_parts_are(tmp_path: Path, monkeypatch, split: str) -> None:
    dice = random.Random(0)
    for _ in range(150):
        content = "x" + "".join(dice.choices(PARTS[: dice.choice((8, 13))], k=dice.randint(1, 60)))
        source = write(tmp_path / "a.txt", content)
        monkeypatch.setattr(sources, "BLOCK_BYTES", MIB)
        expected = read_texts([source], None, 1000, 1000, split)
        for size in (1, 2, 7):
            monkeypatch.setattr(sources, "BLOCK_BYTES", size)
            assert read_texts([source], None, 1000, 1000, split) == expected
        if split == "auto" and "<|endoftext|>" not in content:
            monkeypatch.setattr(texts, "MAX_DOCUMENT", 60)  # its head is then not all of it
            assert read_texts([source], None, 1000, 1000) == expected
            monkeypatch.undo()


def test_a_mark_behind_a_text_that_is_too_long_for_a_document_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(texts, "MAX_DOCUMENT", MIB)
    monkeypatch.setattr(sources, "BLOCK_BYTES", MIB // 4)
    source = write(tmp_path / "a.txt", "a b c\n\n" * (2 * MIB // 7) + "d<|endoftext|>e")
    assert len(read_texts([source], None, 1, 100).documents) == 1
    with pytest.raises(SoftPromptsError, match=r"the first <\|endoftext\|> of .* stands behind more than 1 MiB"):
        read_texts([source], None, 10, 100)


@pytest.mark.parametrize(("name", "line"), [("a.jsonl", '{{"text": "{}"}}\n'), ("a.txt", "{}<|endoftext|>")])
def test_few_documents_do_not_take_the_whole_file(tmp_path: Path, monkeypatch, name: str, line: str) -> None:
    opened = []
    monkeypatch.setattr(texts, "open_source", lambda source: opened.append(sources.open_source(source)) or opened[-1])
    monkeypatch.setattr(texts.contextlib, "closing", contextlib.nullcontext)  # so that its place can be asked
    source = write(tmp_path / name, "".join(line.format(f"{i} " + "a" * 1000) for i in range(20_000)))
    assert len(read_texts([source], None, 5, 100).documents) == 5
    assert opened[0].tell() < 6 * MIB < Path(source).stat().st_size
    opened[0].close()


def test_text_that_compresses_well_is_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sources, "FREE_BYTES", MIB)
    lines = "".join(json.dumps({"text": f"{i} {i * 7} " + "a" * 500}) + "\n" for i in range(10_000)).encode()
    for name, content in (("a.jsonl.gz", gzip.compress(lines, 1)), ("a.jsonl.zst", zstandard.compress(lines))):
        assert 30 * len(content) < len(lines)
        assert len(read_texts([write(tmp_path / name, content)], None, 20_000, 600).documents) == 10_000


def test_a_parquet_file_at_an_address_has_a_bound_as_well(tmp_path: Path, quick, monkeypatch) -> None:
    monkeypatch.setattr(texts, "MAX_FETCHED_PARQUET", 1000)
    pq.write_table(pa.table({"text": [f"a{i}" for i in range(1000)]}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    refused = pytest.raises(SoftPromptsError, match="must be fetched whole")
    with serving(whole(content), name="a.parquet") as server, refused:
        read_texts([server.url], None, 10, 100)
    assert len(read_texts([str(tmp_path / "a.parquet")], None, 10, 100).documents) == 10
