"""Locks between real processes: each is held by one, whoever dies and however late somebody looks."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from soft_prompts import locks
from soft_prompts.errors import SoftPromptsError
from soft_prompts.locks import STALE, Holder, Locks

NAME = Path("a", "run")
PROCESSES = multiprocessing.get_context("fork")


def left_by(holder: Holder, folder: Path, age: float = 0.0, name: Path = NAME, number: int = 1) -> Path:
    """The file of a lock that a process left, last heard of some seconds ago."""
    path = folder / name / str(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - age,) * 2)
    return path


def dead() -> Holder:
    """A process of this machine that has ended."""
    process = PROCESSES.Process(target=int)
    process.start()
    holder = replace(Holder.this_process(), pid=process.pid, started=locks._started(process.pid))
    process.join()
    return holder


def elsewhere() -> Holder:
    return replace(dead(), host="far", machine="far away")


def take_all(folder: Path, names: list[Path], begin, answers) -> None:
    with Locks(folder) as mine:
        begin.wait()
        taken = [name for name in names if mine.take(name)]
        answers.put(taken)
        begin.wait()  # nobody lets go before all have tried


@pytest.mark.parametrize("before", ["nothing", "dead", "stale", "released"])
def test_of_many_processes_that_want_the_same_locks_one_gets_each(tmp_path, before: str) -> None:
    names = [Path("a", str(i)) for i in range(60)]
    of_dead = dead()
    for name in names:
        if before == "dead":
            left_by(of_dead, tmp_path, name=name)
        elif before == "stale":
            left_by(elsewhere(), tmp_path, 2 * STALE, name)
    if before == "released":
        with Locks(tmp_path) as other:
            assert all(other.take(name) for name in names)
    n = 6
    begin, answers = PROCESSES.Barrier(n), PROCESSES.Queue()
    processes = [PROCESSES.Process(target=take_all, args=(tmp_path, names, begin, answers)) for _ in range(n)]
    for process in processes:
        process.start()
    taken = Counter(name for _ in processes for name in answers.get(timeout=60))
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert taken == {name: 1 for name in names}


def test_whoever_looked_before_another_took_over_gets_nothing(tmp_path, monkeypatch) -> None:
    """The slow one reads the number of the dead holder's file; meanwhile another takes over, ends, and a third takes
    the lock."""
    left_by(dead(), tmp_path)
    late = locks._latest(tmp_path / NAME)
    with Locks(tmp_path) as quick:
        assert quick.take(NAME)
        with Locks(tmp_path) as slow, monkeypatch.context() as patch:
            patch.setattr(locks, "_latest", lambda folder: late)
            assert not slow.take(NAME)
    with Locks(tmp_path) as third, Locks(tmp_path) as slow, monkeypatch.context() as patch:
        assert third.take(NAME)
        patch.setattr(locks, "_latest", lambda folder: late + 1)
        assert not slow.take(NAME)
        patch.undo()
        assert third.is_held(NAME) and not slow.is_held(NAME)
        assert len(list((tmp_path / NAME).iterdir())) == 1


@pytest.mark.parametrize(
    ("age", "where", "taken"),
    [
        (0, "dead", True),
        (0, "here", False),
        (2 * STALE, "here", True),
        (STALE / 2, "elsewhere", False),
        (2 * STALE, "elsewhere", True),
        (0, "the number of another", True),
    ],
)
def test_a_lock_is_taken_over_when_its_holder_is_gone_or_was_not_heard_of(tmp_path, age, where, taken: bool) -> None:
    here = Holder.this_process()
    another = replace(here, started="1")  # the process that had this number before
    holder = {"dead": dead, "here": lambda: here, "elsewhere": elsewhere, "the number of another": lambda: another}
    left = holder[where]()
    left_by(left, tmp_path, age)
    with Locks(tmp_path) as mine:
        assert mine.holders([NAME]) == ({} if taken else {f"process {left.pid} on {left.host}": 1})
        assert mine.take(NAME) == taken
        assert mine.holders([NAME]) == ({} if taken else {f"process {left.pid} on {left.host}": 1})
        assert mine.taken_over == ({str(left): 1} if taken else {})


def test_the_highest_number_counts_if_the_one_before_was_not_removed(tmp_path) -> None:
    left_by(dead(), tmp_path)
    left_by(elsewhere(), tmp_path, number=12)
    left_by(dead(), tmp_path, number=9)
    with Locks(tmp_path) as mine:
        assert not mine.take(NAME)


def test_a_file_that_says_nothing_yet_is_held_until_it_is_stale(tmp_path) -> None:
    path = left_by(elsewhere(), tmp_path)
    path.write_text("")
    with Locks(tmp_path) as mine:
        assert not mine.take(NAME) and mine.holders([NAME]) == {"a process": 1}
        os.utime(path, (time.time() - 2 * STALE,) * 2)
        assert mine.take(NAME)


def test_a_killed_holder_is_gone_at_once_and_a_stopped_one_is_not(tmp_path) -> None:
    begin, answers = PROCESSES.Barrier(2), PROCESSES.Queue()
    process = PROCESSES.Process(target=take_all, args=(tmp_path, [NAME], begin, answers))
    process.start()
    begin.wait()
    assert answers.get(timeout=60) == [NAME]
    with Locks(tmp_path) as mine:
        os.kill(process.pid, signal.SIGSTOP)
        assert not mine.take(NAME)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert mine.take(NAME)


def test_signs_of_life_come_by_themselves_and_end_with_the_block(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.01)
    with Locks(tmp_path) as mine:
        mine.take(NAME)
        (path,) = (tmp_path / NAME).iterdir()
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 60
        while path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1
    os.utime(path, (1, 1))
    time.sleep(0.1)
    assert path.stat().st_mtime == 1


def test_one_that_stood_still_notices_that_its_lock_is_anothers_and_leaves_it(tmp_path) -> None:
    with Locks(tmp_path) as other:
        with Locks(tmp_path) as still:
            still.take(NAME)
            (path,) = (tmp_path / NAME).iterdir()
            os.utime(path, (1, 1))
            assert other.take(NAME)
            assert not still.is_held(NAME)
        assert other.is_held(NAME)
        assert [path.name for path in (tmp_path / NAME).iterdir()] == ["2"]


def test_an_error_releases_all_locks(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), Locks(tmp_path) as mine:
        mine.take(NAME)
        _ = 1 / 0
    with Locks(tmp_path) as other:
        assert other.take(NAME) and not other.taken_over


def test_a_failure_is_known_to_those_who_were_there_and_later_ones_try_again(tmp_path) -> None:
    with Locks(tmp_path) as there:
        with Locks(tmp_path) as mine:
            mine.take(NAME)
            mine.release(NAME, "it diverged.")
        assert there.failure(NAME) == "it diverged."
        assert not there.take(NAME)
    path = tmp_path / NAME / "1"
    os.utime(path, (time.time() - 5,) * 2)
    with Locks(tmp_path) as later:
        assert later.failure(NAME) == "" and later.take(NAME)


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SoftPromptsError, match="could not write to .*choose another folder"), Locks(tmp_path / "file"):
        pass
    (tmp_path / "a").write_text("")
    with Locks(tmp_path) as mine, pytest.raises(SoftPromptsError, match="could not lock .*choose another folder"):
        mine.take(NAME)
