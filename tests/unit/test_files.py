"""Files: names from outside stay one part of a path, and what a kill left is cleared."""

import os
import time
from pathlib import Path

import pytest

from soft_prompts.files import safe_name, write_atomically


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pocket", "pocket"),
        ("EleutherAI/pythia-70m-deduped@step3000", "EleutherAI--pythia-70m-deduped@step3000"),
        ("../../x", "--..--x"),
        ("..", "-"),
        ("", "-"),
        ("a\0b", "a--b"),
        ("x" * 500, "x" * 100),
    ],
)
def test_a_name_from_outside_is_one_part_of_a_path(text: str, name: str) -> None:
    assert safe_name(text) == name
    assert Path("folder", name).parent == Path("folder")
    assert (Path("/a") / name).resolve().parent == Path("/a")


def test_what_a_kill_left_of_a_write_is_cleared_by_the_next_one_but_not_that_of_another_process(tmp_path) -> None:
    path = tmp_path / "a[1].json"
    old, young, other = (tmp_path / name for name in (".a[1].json.1.tmp", ".a[1].json.2.tmp", ".a1.json.1.tmp"))
    for left in (old, young, other):
        left.write_text("half")
    long_ago = time.time() - 7200
    for left in (old, other):
        os.utime(left, (long_ago, long_ago))
    write_atomically(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert [left.exists() for left in (old, young, other)] == [False, True, True]
