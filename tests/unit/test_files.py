"""Files: names from outside stay one part of a path, and what a kill left is cleared."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from soft_prompts import files
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import Fingerprints, check_writable, fingerprint, safe_name, write_atomically
from soft_prompts.pocket import MODELS
from soft_prompts.tasks.chat_detuning import ChatDetuning
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run


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


def test_two_machines_with_one_process_number_do_not_write_into_one_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)
    names, replace_file = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (names.append(self.name), replace_file(self, to)))
    write_atomically(tmp_path / "a.json", b"of one")
    write_atomically(tmp_path / "a.json", b"of the other")
    assert len(set(names)) == 2 and (tmp_path / "a.json").read_bytes() == b"of the other"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_any_changed_byte_of_a_large_file_changes_its_fingerprint(tmp_path) -> None:
    content = bytearray(os.urandom(5 * 2**20))
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    first = fingerprint(file)
    assert first == fingerprint(file) and len(first) == 16
    for at in (0, 2**20, len(content) // 2, len(content) - 2**20, len(content) - 1):
        changed = bytearray(content)
        changed[at] ^= 1
        changed_file = tmp_path / f"{at}.safetensors"
        changed_file.write_bytes(changed)
        assert fingerprint(changed_file) != first
    file.write_bytes(changed)  # in place, of the same size
    assert fingerprint(file) == fingerprint(changed_file)


def test_a_large_file_is_read_once_while_its_size_and_time_stay(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "_LARGE", 10)
    file = tmp_path / "secret-place" / "a.bin"
    write_atomically(file, b"a" * 20)

    def of_new_process() -> str:
        known = Fingerprints()
        known.folder = tmp_path / "cache"
        return known.of(file)

    true = of_new_process()
    (kept,) = (tmp_path / "cache").iterdir()
    assert true == fingerprint(file) == kept.read_text() and "secret" not in kept.name
    kept.write_text("0123456789abcdef")
    assert of_new_process() == "0123456789abcdef"  # it is looked up
    kept.write_text("damaged")
    assert of_new_process() == true
    kept.write_text("0123456789abcdef")
    os.utime(file, ns=(1, 1))
    assert of_new_process() == true  # another time: read again
    file.write_bytes(b"a" * 19)
    os.utime(file, ns=(1, 1))
    assert of_new_process() == fingerprint(file) != true  # another size
    monkeypatch.setattr(files, "_LARGE", 21)
    assert len({of_new_process(), fingerprint(file)}) == 1


def run_of(**changes) -> Run:
    task = ChatDetuning(text=(str(MODELS["pocket"] / "README.md"),), base="pocket")
    return replace(Run("e", task, "pocket-chat", 0, 0, TrainConfig(), "float32"), **changes)


def test_two_base_or_anchor_models_of_one_name_are_two_settings(tmp_path) -> None:
    folders = [tmp_path / place / "base" for place in "ab"]
    for folder in folders:
        write_atomically(folder / "config.json", folder.parent.name.encode())
    by_base = [run_of(task=replace(run_of().task, base=str(folder))) for folder in folders]
    by_anchor = [run_of(anchor=f"model:{folder}") for folder in folders]
    for one, two in (by_base, by_anchor):
        assert one.path != two.path
        assert str(tmp_path) not in str(one.config)
    assert by_anchor[0].config["anchor"] == "model:base"
    assert run_of(anchor="model:pocket").config["anchor_files"] == fingerprint(MODELS["pocket"])
    assert "anchor_files" not in run_of(anchor="text:a:b").config and "anchor_files" not in run_of().config


def test_a_change_to_pocket_depends_on_pocket_too() -> None:
    of_change, of_pocket = (run_of(model=name).config["model_files"] for name in ("pocket-keys", "pocket"))
    assert of_change.split("+")[1] == of_pocket and of_change.split("+")[0] != of_pocket


@pytest.mark.parametrize("what", ["a file", "a dangling link", "a long name", "read-only"])
def test_a_folder_that_cannot_be_written_is_a_sentence_before_anything_is_done(what: str, tmp_path) -> None:
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("x")
    elif what == "a dangling link":
        out.symlink_to(tmp_path / "nowhere" / "x")
        (tmp_path / "nowhere").write_text("in the way")
    elif what == "a long name":
        out = tmp_path / ("x" * 300)
    else:
        out = Path("/proc/soft-prompts")  # not even root may make it
        if not Path("/proc").is_dir():
            pytest.skip("this system has no /proc")
    with pytest.raises(SoftPromptsError, match=r"could not write .*\(.*\): free some space or choose another folder"):
        check_writable([out / "results"])


def test_a_writable_folder_is_left_as_it_was(tmp_path) -> None:
    check_writable([tmp_path / "results", tmp_path / "runs"])
    assert [list(folder.iterdir()) for folder in sorted(tmp_path.iterdir())] == [[], []]
