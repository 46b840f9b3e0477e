"""Texts: every kind of file gives the same documents, the splits share none, and a bad source is refused by name."""

import gzip
import itertools
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from soft_prompts.data import sources, texts
from soft_prompts.data.documents import document_id, split_of
from soft_prompts.data.texts import CORPORA, read_documents, read_texts
from soft_prompts.errors import SoftPromptsError
from soft_prompts.tasks.autoregressive import Autoregressive
from soft_prompts.tasks.repetition import Repetition
from soft_prompts.tasks.skip_tokens import SkipTokens
from soft_prompts.tasks.text import CHARACTERS_PER_TOKEN, TextTask, _split
from tests.unit.made_up import byte_tokenizer, encoding, tar, write
from tests.unit.serving import serving, stall_silently, status, whole

DOCUMENTS = tuple(f"Document {i} tells of {'very ' * (i % 7)}many things.\nIt has two lines." for i in range(60))
SPLITS = ("train", "validation", "held_out")
LINES = "".join(json.dumps({"text": d, "other": 1}) + "\n" for d in DOCUMENTS).encode()


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """The same documents in every kind of file."""
    pq.write_table(pa.table({"text": DOCUMENTS, "other": range(60)}), tmp_path / "a.parquet", row_group_size=7)
    return {
        "jsonl": write(tmp_path / "a.jsonl", LINES),
        "jsonl.zst": write(tmp_path / "a.jsonl.zst", zstandard.compress(LINES)),
        "json.gz": write(tmp_path / "a.json.gz", gzip.compress(LINES)),
        "txt": write(tmp_path / "a.txt", "\n \n".join(DOCUMENTS).encode()),
        "marked.txt.gz": write(tmp_path / "b.txt.gz", gzip.compress("<|endoftext|>".join(DOCUMENTS).encode())),
        "parquet": str(tmp_path / "a.parquet"),
    }


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.zst", "json.gz", "txt", "marked.txt.gz", "parquet"])
def test_every_kind_of_file_gives_the_same_documents(files, kind: str) -> None:
    assert read_texts([files[kind]], None, 1000, 10_000).documents == DOCUMENTS
    assert read_texts([files[kind]], None, 7, 10_000).documents == DOCUMENTS[:7]


def test_several_files_are_read_in_order_and_duplicates_and_empty_documents_counted(tmp_path) -> None:
    one = write(tmp_path / "1.jsonl", b'{"text": "b"}\n\n{"text": "  "}\n{"text": "a"}\n')
    two = write(tmp_path / "2.jsonl", b'{"text": "a "}\n{broken\n{"text": ""}\n{"text": "c"}\n')
    read = read_texts([one, two], None, 100, 100)
    assert read.documents == ("b", "a", "c")
    assert read.skipped == {"empty": 2, "duplicates": 1, "not JSON": 1}


def test_the_splits_share_no_document_and_only_train_depends_on_the_seed(files) -> None:
    task = TextTask(text=(files["jsonl"],))
    held_out = [d for d, _ in task.documents("held_out", encoding(), 0)]
    assert held_out == [d for d, _ in task.documents("held_out", encoding(), 1)]
    validation = [d for d, _ in task.documents("validation", encoding(), 0)]
    assert validation == [d for d, _ in task.documents("validation", encoding(), 1)]
    n_train = task.facts(encoding())["train_documents"]
    assert len(held_out) + len(validation) + n_train == 60 and 0 < len(held_out) < 20 and 0 < len(validation) < 10
    assert {split_of(d) for d in held_out} == {"held_out"} and {split_of(d) for d in validation} == {"validation"}
    epochs = [[d for d, _ in itertools.islice(task.documents("train", encoding(), s), 2 * n_train)] for s in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]
    for epoch in epochs:
        assert set(epoch[:n_train]) == set(epoch[n_train:])
        assert len(set(epoch)) == n_train and not set(epoch) & {*held_out, *validation}


def test_a_test_file_is_held_out_whole_and_taken_out_of_training(tmp_path, files) -> None:
    test = write(tmp_path / "test.jsonl", b"".join(line + b"\n" for line in LINES.splitlines()[:5]))
    task = TextTask(text=(files["parquet"],), test_text=(test,))
    assert task.facts(encoding())["held_out_documents"] == 5
    facts = task.facts(encoding())
    assert facts["train_documents"] + facts["validation_documents"] == 55 and facts["validation_documents"] > 0


def test_documents_are_cut_to_the_length_and_short_ones_left_short(files) -> None:
    task = TextTask(text=(files["txt"],))
    for _, tokens in task.documents("held_out", encoding(40), 0):
        decoded = byte_tokenizer().decode(tokens[1:])
        (document,) = [d for d in DOCUMENTS if d.startswith(decoded) and len(decoded) == min(len(d), 39)]
        assert tokens[0] == 0 and len(tokens) == min(40, 1 + len(document))


def test_cutting_characters_before_tokens_changes_no_token(files) -> None:
    long = " ".join(DOCUMENTS)
    tokens = encoding(50).tokens([long])[0][0][:50]
    cut = encoding(50).tokens([long[: CHARACTERS_PER_TOKEN * 50]])[0][0][:50]
    np.testing.assert_array_equal(tokens, cut)


def test_texts_come_from_the_cache_until_the_file_changes(tmp_path, files, monkeypatch) -> None:
    task = TextTask(text=(files["jsonl"],))
    cached = encoding(cache=tmp_path / "cache")
    first = task.facts(cached)
    _split.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(texts, "read_texts", None)  # a call of it would raise an error
        assert task.facts(cached) == first
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:50])
    _split.cache_clear()
    assert task.facts(cached) == first
    write(tmp_path / "a.jsonl", LINES + b'{"text": "one more"}\n')
    assert task.facts(cached)["train_documents"] >= first["train_documents"]
    splits = ("train_documents", "validation_documents", "held_out_documents")
    assert sum(task.facts(cached)[k] for k in splits) == 61


OTHER_FIELD = "has no text in a field 'text'; its fields are content: name one with --text-field"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "does not exist; check the path"),
        ("empty.txt", b"", r"is empty \(0 bytes\)"),
        ("blank.txt", b" \n\n \n", "no document could be read"),
        ("a.docx", b"x", r"is of no known kind; text is read from \.txt"),
        ("a.jsonl", b"one\ntwo\nthree\nfour", "does not hold a JSON object a line"),
        ("b.jsonl", b'{"content": "x"}\n', OTHER_FIELD),
        (
            "c.jsonl",
            b'{"text": "x"}\n{"text": 3}\n',
            "line 2 of .* has the int 3 and no text in its field 'text'; name",
        ),
        ("list.jsonl", b'{"text": ["x"]}\n', r"line 1 of .* has the list \['x'\] and no text in its field 'text'"),
        (
            "array.json",
            b'[{"text": "x"}]\n',
            "line 1 of .* is the list .* and not a JSON object with a text in a field",
        ),
        ("deep.jsonl", b"[" * 100_000, "no document could be read from .*'not JSON': 1"),
        (
            "half.jsonl",
            b'{"text": "\\ud800 x"}\n',
            "no document could be read from .*'half of a surrogate pair in it': 1",
        ),
        (
            "utf16.txt",
            "Größe".encode("utf-16"),
            r"is not UTF-8 \(UTF-16\); convert it, such as with iconv -f ENCODING -t UTF-8",
        ),
        ("utf16.jsonl", '{"text": "x"}\n'.encode("utf-16"), r"line 1 of .* is not UTF-8 \(UTF-16\); convert"),
        ("utf32.txt", "Größe".encode("utf-32"), r"is not UTF-8 \(UTF-32\); convert"),
        ("little.txt", "Größe".encode("utf-16-le"), r"is not UTF-8 \(UTF-16 without a mark, or no text at all\)"),
        ("ascii16.txt", "Groesse".encode("utf-16-be"), r"is not UTF-8 \(UTF-16 without a mark, or no text at all\)"),
        ("latin.txt", "Größe".encode("latin-1"), r"perhaps Latin-1 .*: behind b'Gr' stands b'.xf6'\); convert"),
        (
            "latin.jsonl",
            '{"text": "x"}\n{"text": "ß"}'.encode("latin-1"),
            r"line 2 of .* is not UTF-8 \(perhaps Latin-1",
        ),
        ("tar.txt", tar(b"x"), "is tar data; unpack it and give a file inside"),
        ("d.jsonl.zst", zstandard.compress(LINES)[:-20], "is truncated or corrupt"),
        ("e.parquet", b"PAR1 and then nothing", "is truncated or corrupt: it is no whole parquet file"),
        ("f.jsonl.gz", b'{"text": "x"}\n', "is not gzip data although"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(tmp_path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(SoftPromptsError, match=message):
        read_texts([str(tmp_path / name)], None, 10, 100)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1, 2], "a.parquet has int64 and no text in its column 'text'; name another one with --text-field"),
        ([None, ["a", "b"]], "has list<.*> and no text in its column"),
        ([{"text": "a"}], "has struct<text: string> and no text"),
        ([b"bytes"], "has binary and no text"),
        (pa.array([2**62], pa.timestamp("ns", "Nowhere/At all")), "has timestamp.* and no text"),
        (pa.array([b"a"]).dictionary_encode(), "has binary and no text"),
    ],
)
def test_a_parquet_column_of_something_else_is_refused(tmp_path, column: list | pa.Array, message: str) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(SoftPromptsError, match=message):
        read_texts([str(tmp_path / "a.parquet")], None, 10, 100)


def test_a_parquet_text_that_is_not_utf8_is_refused(tmp_path) -> None:
    latin = pa.array([b"good", b"Gr\xf6"]).view(pa.string())
    pq.write_table(pa.table({"text": latin}), tmp_path / "a.parquet")
    with pytest.raises(SoftPromptsError, match="a.parquet is truncated or corrupt: the text of row 2 is not UTF-8"):
        read_texts([str(tmp_path / "a.parquet")], None, 10, 100)


def test_a_null_text_is_an_empty_document(tmp_path) -> None:
    lines = write(
        tmp_path / "a.jsonl", b'{"text": "a"}\n{"text": null}\n{"text": "b \\ud83d"}\n{"text": "\\ud83d\\ude00"}'
    )
    read = read_texts([lines], None, 100, 100)
    assert read.documents == ("a", "\U0001f600")
    assert read.skipped == {"empty": 1, "half of a surrogate pair in it": 1}
    pq.write_table(pa.table({"text": ["a", None, "b"]}), tmp_path / "a.parquet")
    read = read_texts([str(tmp_path / "a.parquet")], None, 100, 100)
    assert (read.documents, read.skipped) == (("a", "b"), {"empty": 1})


def test_a_byte_order_mark_of_utf8_is_no_part_of_a_document(tmp_path) -> None:
    for name, content in [("a.txt", "one"), ("a.jsonl", '{"text": "one"}')]:
        file = write(tmp_path / name, content.encode("utf-8-sig"))
        assert read_texts([file], None, 10, 100).documents == ("one",)


def test_three_bad_lines_are_an_error_at_the_start_of_each_file_only(tmp_path) -> None:
    one = write(tmp_path / "1.jsonl", b'{"text": "a"}\n{\n{')
    two = write(tmp_path / "2.jsonl", b'{\n{\n{"text": "b"}')
    read = read_texts([one, two], None, 10, 100)
    assert (read.documents, read.skipped) == (("a", "b"), {"not JSON": 4})


LINE_BY_LINE = "\ufefffirst\nsecond <|endoftext|> third\r\n\n  \rfourth\n"


def test_a_text_can_be_split_at_every_line(tmp_path, capsys) -> None:
    file = write(tmp_path / "a.txt", LINE_BY_LINE)
    read = read_texts([file], None, 10, 100, "line")
    assert (read.documents, read.skipped) == (("first", "second", "third", "fourth"), {})
    assert "warning" not in capsys.readouterr().err


def test_a_text_of_one_document_a_line_says_how_to_split_it(tmp_path, capsys) -> None:
    file = write(tmp_path / "a.txt", "".join(f"Line {i}.\n" for i in range(300)))
    assert len(read_texts([file], None, 10, 10_000).documents) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "has no blank lines, so its 300 lines are one document" in said and "give --text-split line" in said
    for content in ("one line", "a\nb\n\nc", "a\nb<|endoftext|>c"):
        read_texts([write(tmp_path / "b.txt", content)], None, 10, 10_000)
        assert "warning" not in capsys.readouterr().err
    task = TextTask(text=(file,), text_split="line")
    assert sum(task.facts(encoding())[f"{name}_documents"] for name in ("train", "validation", "held_out")) == 300
    with pytest.raises(SoftPromptsError, match="no .* documents are left of the 1"):
        replace(task, text_split="auto").facts(encoding())


def test_how_a_text_is_split_is_recorded_only_if_it_is_not_as_before(tmp_path) -> None:
    file = write(tmp_path / "a.txt", LINE_BY_LINE)
    assert "text_split" not in TextTask(text=(file,)).recorded()
    assert TextTask(text=(file,), text_split="line").recorded()["text_split"] == "line"


def test_documents_split_otherwise_do_not_come_from_the_cache(tmp_path) -> None:
    file = write(tmp_path / "a.txt", LINE_BY_LINE)
    of_split = [read_documents([file], None, 10, 100, tmp_path / "cache", split) for split in ("auto", "line", "auto")]
    assert [len(read.documents) for read in of_split] == [2, 4, 2]


def test_a_parquet_file_without_the_column_names_those_it_has(files) -> None:
    with pytest.raises(SoftPromptsError, match="no text in a field 'body'; its fields are text, other"):
        read_texts([files["parquet"]], "body", 10, 100)


def test_too_few_documents_for_a_split_are_refused(tmp_path) -> None:
    task = TextTask(text=(write(tmp_path / "one.txt", b"only one"),))
    with pytest.raises(SoftPromptsError, match="no .* documents are left of the 1"):
        task.facts(encoding())


@pytest.mark.parametrize(
    ("task", "shortest"),
    [(Autoregressive(), 2), (Repetition(strings=("a",), targets=(0,), n_repeated=8), 5), (SkipTokens(skip=(18,)), 20)],
)
def test_documents_that_are_too_short_are_counted_by_split_and_said(tmp_path, task, shortest: int, capsys) -> None:
    documents = [f"{i:03}" + "x" * (i % 20) for i in range(400)]  # 4 to 23 tokens with the separator
    of_splits = {name: [d for d in documents if split_of(document_id(d)) == name] for name in SPLITS}
    task = replace(task, text=(write(tmp_path / "a.txt", "\n\n".join(documents)),))
    facts = task.facts(encoding())
    capsys.readouterr()
    n_short = 0
    for name, of_split in of_splits.items():
        usable = {document_id(d) for d in of_split if len(d) + 1 >= shortest}
        read = [e.document for e in itertools.islice(task.examples(name, encoding(), 0), len(usable))]
        assert set(read) == usable and len(read) == len(usable) == facts[f"{name}_documents"] > 0
        n_short += len(of_split) - len(usable)
    assert facts["skipped"] == ({"too short": n_short} if n_short else {})
    assert (n_short > 0) == (shortest > 4)


def test_too_short_documents_are_said_once_and_refused_if_a_split_has_no_others(tmp_path, capsys) -> None:
    documents = "\n\n".join([f"{i:03}" for i in range(99)] + [f"a longer one {i}" for i in range(99)])
    task = SkipTokens(text=(write(tmp_path / "a.txt", documents),), skip=(8,))
    same = encoding()
    for _ in range(2):
        task.facts(same)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("documents of fewer than 10 tokens, the separator included, are skipped:") == 1
    short = write(tmp_path / "b.txt", "\n\n".join(f"{i:03}" for i in range(99)))
    for of_short in (replace(task, text=(short,)), replace(task, test_text=(short,))):
        with pytest.raises(SoftPromptsError, match=r"all \d+ (training|held-out) documents are shorter than 10 tokens"):
            next(of_short.examples("held_out", same, 0))


def test_the_hub_out_of_reach_names_the_alternatives(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SoftPromptsError, match="could not be read from the hub.*--text FILE.*preset pocket"):
        read_texts(["hub:nobody/nothing-of-this-name"], None, 10, 100)


def test_known_corpora_name_sources_and_fields() -> None:
    assert CORPORA["pile"] == (("hub:EleutherAI/the_pile_deduplicated",), "text")
    assert all(source.startswith("https://") and source.endswith(".json.gz") for source in CORPORA["redpajama"][0])
    assert TextTask(text=("pile",)).identity() == {"text 0": "hub:EleutherAI/the_pile_deduplicated"}


# --- over a connection ---


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet"])
def test_an_address_gives_what_the_file_gives(files, quick, name: str) -> None:
    content = Path(files[name.removeprefix("a.")]).read_bytes()
    with serving(whole(content), name=name) as server:
        assert read_texts([server.url], None, 1000, 10_000).documents == DOCUMENTS


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.parquet"])
def test_dropped_stalled_and_failing_connections_are_taken_up_again(files, quick, name: str, monkeypatch) -> None:
    monkeypatch.setattr(sources, "TIMEOUT_S", 0.3)
    content = Path(files[name.removeprefix("a.")]).read_bytes()
    released = threading.Event()
    answers = [status(500), whole(content, upto=100), status(503), stall_silently(released), whole(content)]
    try:
        with serving(*answers, name=name) as server:
            assert read_texts([server.url], None, 1000, 10_000).documents == DOCUMENTS
    finally:
        released.set()


def test_a_connection_lost_for_good_keeps_what_came_and_says_so(quick) -> None:
    with serving(whole(LINES, upto=2000), *[status(500)] * 4, name="a.jsonl") as server:
        read = read_texts([server.url], None, 1000, 10_000)
    assert 0 < len(read.documents) < 60
    assert read.documents == DOCUMENTS[: len(read.documents)]
    assert "was lost" in read.note and "--text" in read.note
    message = "no document could be read.*HTTP status 500.*preset pocket"
    with serving(*[status(500)] * 4, name="a.jsonl") as server, pytest.raises(SoftPromptsError, match=message):
        read_texts([server.url], None, 1000, 10_000)


def test_an_address_out_of_reach_names_the_local_and_the_pocket_alternative(quick) -> None:
    with serving(status(200), name="a.jsonl") as server:
        pass
    with pytest.raises(SoftPromptsError, match="could not be reached.*--text FILE.*preset pocket"):
        read_texts([server.url], None, 10, 100)
