"""Disks that are full, and folders that cannot be used: a sentence, nothing half written, and the same command goes
on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from soft_prompts.results import load_results
from tests.unit.commands import ran
from tests.unit.made_up import write_games
from tests.unit.test_checkpoint import command


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of its own; yields its folder and what changes its size. Mounting takes a superuser."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(place)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield place, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)
    subprocess.run(["umount", str(place)], check=True)


def outcome(words: list[str]) -> tuple[int, str]:
    environment = {**os.environ, "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
    done = ran(words, environment)
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join(done.stderr.split())


def test_a_full_disk_ends_in_a_sentence_and_with_room_the_same_command_goes_on(folders, tmp_path, small_disk) -> None:
    place, resized = small_disk
    words = command(folders, write_games(tmp_path / "games.pgn", 60), place / "out", 3)
    code, said = outcome(words)
    assert code == 2
    assert "(No space left on device): free some space or choose another folder with --out, then run again" in said
    assert not list(place.rglob("*.tmp"))
    resized("50m")
    code, said = outcome(words)
    assert code == 0, said
    assert len(load_results([place / "out" / "results"])) == 2


def test_a_folder_whose_name_is_no_text_is_used_like_any_other(folders, tmp_path) -> None:
    out = os.fsencode(tmp_path) + b"/o\xffut"
    words = command(folders, write_games(tmp_path / "games.pgn", 60), tmp_path / "placeholder", 2)
    words = [out if word == str(tmp_path / "placeholder") else word for word in words]
    code, said = outcome(words)
    assert code == 0 and os.path.isdir(out + b"/results/chess"), said
