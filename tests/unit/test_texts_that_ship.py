"""The prose that ships: what the files hold, and how passages are made."""

import json
from collections import Counter

import pytest
import zstandard

from soft_prompts.texts import BOOKS, GOVERNMENT
from soft_prompts.texts.make import LENGTH, articles, chosen, passages


@pytest.mark.parametrize("path", [BOOKS, GOVERNMENT])
def test_each_file_has_1500_passages_all_different_and_of_one_size(path) -> None:
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()).decode().splitlines()
    found = [json.loads(line) for line in lines]
    assert len({p["text"] for p in found}) == len(found) == 1500
    assert all(LENGTH / 2 < len(p["text"]) <= LENGTH for p in found)
    n_sources = len({p["source"] for p in found})
    assert n_sources == (41 if path == BOOKS else 1500)


def test_a_passage_opens_with_a_paragraph_and_is_cut_between_words() -> None:
    first, second = "ab " * 400, "One line.\n" + "cde " * 300
    found = list(passages(f"{first}\n\n{second}\nThe end."))
    assert found[0] == " ".join(["ab"] * 333)  # 333 x 3 - 1 = 998 characters; the rest of the paragraph is left out
    assert found[1].startswith("One line.\ncde") and found[1].endswith("cde") and len(found[1]) <= LENGTH
    assert found[2:] == ["The end."]


def test_a_word_longer_than_a_passage_is_cut() -> None:
    assert [len(p) for p in passages("x" * 2500)] == [1000]


def test_passages_are_taken_from_all_sources_in_turn() -> None:
    of_each = {"long": [f"l{i}" for i in range(10)], "short": ["s0", "s1"], "one": ["o0"]}
    found = chosen(of_each, 6, seed=0)
    assert Counter(p["source"] for p in found) == {"long": 3, "short": 2, "one": 1}
    assert len({p["text"] for p in found}) == 6
    assert found == chosen(of_each, 6, seed=0) != chosen(of_each, 6, seed=1)


def test_articles_that_open_with_anything_but_prose_are_left_out(tmp_path) -> None:
    texts = ["Prose " * 200, "---\nslug: x\n" + "word " * 200, "Short.", "Other " * 100]
    lines = "\n".join(json.dumps({"text": t, "src": f"{i}.md"}) for i, t in enumerate(texts))
    path = tmp_path / "site.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(lines.encode()))
    assert list(articles((path,))) == ["site/0.md", "site/3.md"]
