"""Several processes at work on one sweep: each run is trained once, and all show the same."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from soft_prompts import measure
from soft_prompts.errors import SoftPromptsError
from soft_prompts.locks import Locks
from soft_prompts.results import load_results
from soft_prompts.sweep import Sweep, plan
from soft_prompts.tasks.autoregressive import Autoregressive
from soft_prompts.training import loop
from soft_prompts.training.checkpoint import Checkpoints
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run
from tests.unit.commands import Started, start
from tests.unit.made_up import write, write_games
from tests.unit.test_checkpoint import command
from tests.unit.test_train import run

ENVIRONMENT = {**os.environ, "COLUMNS": "300", "OMP_NUM_THREADS": "1"}


def begun(words: list[str], **more: str) -> Started:
    return start(words, {**ENVIRONMENT, **more})


def ended(process: Started) -> tuple[str, str]:
    """What it said on stdout and on stderr, where it must not have failed."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out, " ".join(err.split())


def until(there) -> None:
    deadline = time.monotonic() + 120
    while not there() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert there()


def logs(out: Path) -> dict[str, int]:
    """Run -> how often its TensorBoard log was begun."""
    found = [path.parent.name for path in out.glob("runs/**/events.out.*")]
    return {name: found.count(name) for name in found}


def test_of_two_commands_on_one_sweep_each_run_is_trained_once_and_both_show_all(folders, tmp_path) -> None:
    games, out = write_games(tmp_path / "games.pgn", 60), tmp_path / "shared"
    words = [*command(folders, games, out, 150), "--n-tokens", "0", "2", "3", "--runs-at-once", "1"]
    both = [begun(words), begun(words)]
    (shown, said), (shown_too, said_too) = (ended(process) for process in both)
    assert shown == shown_too and "gain over 0" in shown
    assert logs(out) == {f"tokens-000{n}-seed-0": 1 for n in (0, 2, 3)}
    trained = [text.count("step 0/") for text in (said, said_too)]
    assert sum(trained) == 3 and min(trained) > 0
    assert any(f"1 run is being trained by process {p.pid} on" in said + said_too for p in both)
    with Locks(out / "runs" / "locks") as locks:
        names = [path.parent.relative_to(locks.folder) for path in locks.folder.rglob("[0-9]")]
        assert len(names) == 3 and locks.holders(names) == {}
    ended(begun(command(folders, games, tmp_path / "alone", 150)))
    losses = {r.n_tokens: r.held_out.loss for r in load_results([out / "results"])}
    for result in load_results([tmp_path / "alone" / "results"]):
        assert losses[result.n_tokens] == pytest.approx(result.held_out.loss, abs=1e-5)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_who_waits_for_a_process_that_ends_goes_on_from_its_checkpoint(folders, tmp_path, number: int) -> None:
    words = command(folders, write_games(tmp_path / "games.pgn", 60), tmp_path, 2000)
    first = begun(words)
    until(lambda: list(tmp_path.glob("runs/checkpoints/**/*.safetensors")))
    second = begun(words)
    heard = ""
    while "waiting for them" not in heard and second.poll() is None:
        heard += " " + second.stderr.readline().strip()
    assert f"2 runs are being trained by process {first.pid} on" in heard
    assert first.poll() is None  # or nobody would take over
    first.send_signal(number)
    first.communicate(timeout=60)
    _, said = ended(second)
    assert "going on from step" in said
    assert (f"process {first.pid} on" in said and "2 of its runs are taken over" in said) == (number == signal.SIGKILL)
    assert len(load_results([tmp_path / "results"])) == 2
    assert not list(tmp_path.glob("runs/checkpoints/**/*.safetensors"))


# --- within one process ---


@pytest.fixture
def sweep(folders, tmp_path) -> Sweep:
    lines = "".join(f'{{"text": "Document {i} of many."}}\n' for i in range(60))
    task = Autoregressive(text=(write(tmp_path / "a.jsonl", lines),))
    few = {"n_evaluations": 0, "eval_documents": 3, "validation_documents": 2}
    recipe = TrainConfig(steps=2, batch_size=2, max_tokens=24, **few)
    models = (str(folders["neox"]),)
    return Sweep("shared", task, models, (0, 1, 2), (0,), (), recipe, out=tmp_path, dtype="float32")


def held_by_another(sweep: Sweep, runs: list[Run], monkeypatch, then) -> measure.Measured:
    """Measure while another process holds the locks of some runs. While this one waits, ``then`` happens, once."""
    with Locks(sweep.out / "runs" / "locks") as other:
        for held in runs:
            other.take(held.path)
        once = iter([then])
        monkeypatch.setattr(measure.time, "sleep", lambda seconds: next(once)(other))
        return measure.measure(sweep, plan(sweep, sweep.models[0]))


def test_what_is_free_is_trained_before_the_rest_is_waited_for(sweep, monkeypatch, capsys) -> None:
    runs = plan(sweep, sweep.models[0])

    def others_finish(locks: Locks) -> None:
        assert runs[0].result_path(sweep.out).exists() and runs[2].result_path(sweep.out).exists()
        assert not runs[1].result_path(sweep.out).exists()
        locks.release(runs[1].path)

    measured = held_by_another(sweep, runs[1:2], monkeypatch, others_finish)
    assert len(measured.results) == 3 and not measured.failures
    said = " ".join(capsys.readouterr().err.split())
    assert f"1 run is being trained by process {os.getpid()} on" in said
    assert said.index("trained by") < said.index("step 0/2") < said.index("waiting for")


def test_what_another_process_finished_is_not_trained_again_not_even_with_force(sweep, monkeypatch) -> None:
    runs = plan(sweep, sweep.models[0])
    before = measure.measure(sweep, runs)
    stamps = [run.result_path(sweep.out).stat().st_mtime_ns for run in runs]
    forced = replace(sweep, force=True)

    def others_finish(locks: Locks) -> None:
        before.results[1].save(runs[1].result_path(sweep.out))
        stamps[1] = runs[1].result_path(sweep.out).stat().st_mtime_ns
        locks.release(runs[1].path)

    held_by_another(forced, runs[1:2], monkeypatch, others_finish)
    now = [run.result_path(sweep.out).stat().st_mtime_ns for run in runs]
    assert now[1] == stamps[1] and now[0] > stamps[0] and now[2] > stamps[2]


def test_a_run_that_another_process_gave_up_is_not_tried_again(sweep, monkeypatch) -> None:
    runs = plan(sweep, sweep.models[0])
    measured = held_by_another(
        sweep, runs[1:2], monkeypatch, lambda locks: locks.release(runs[1].path, "it stopped being finite.")
    )
    assert measured.failures == ["it stopped being finite."]
    assert [r.n_tokens for r in measured.results] == [0, 2]


def test_a_run_that_diverges_is_noted_for_those_who_wait_for_it(sweep) -> None:
    sweep = replace(sweep, train=replace(sweep.train, lr=1e38, steps=30), n_tokens=(2,))
    (diverges,) = plan(sweep, sweep.models[0])
    with Locks(sweep.out / "runs" / "locks") as waits:
        measured = measure.measure(sweep, [diverges])
        assert measured.failures == [waits.failure(diverges.path)] and "stopped being finite" in measured.failures[0]


def test_a_result_of_a_run_that_was_taken_over_is_left_to_the_other_process(sweep, monkeypatch, capsys) -> None:
    """This process stands still while it trains; meanwhile another one takes the run over and finishes it."""
    sweep = replace(sweep, n_tokens=(2,))
    (of,) = plan(sweep, sweep.models[0])
    finished_before = measure.measure(sweep, [of]).results[0]
    of.result_path(sweep.out).unlink()
    train, folder = loop.train, sweep.out / "runs" / "locks"

    def stands_still(*arguments) -> list:
        states = train(*arguments)
        for path in (folder / of.path).iterdir():
            os.utime(path, (1, 1))
        with Locks(folder) as other:
            assert other.take(of.path)
            finished_before.save(of.result_path(sweep.out))
            stamps.append(of.result_path(sweep.out).stat().st_mtime_ns)
        return states

    stamps = []
    monkeypatch.setattr(loop, "train", stands_still)
    (result,) = measure.measure(sweep, [of]).results
    assert of.result_path(sweep.out).stat().st_mtime_ns == stamps[0]
    assert "was taken over by another process" in " ".join(capsys.readouterr().err.split())


def test_locks_are_released_when_something_cannot_be_loaded(sweep, tmp_path) -> None:
    runs = plan(sweep, str(tmp_path / "no-model"))
    for _ in range(2):
        with pytest.raises(SoftPromptsError, match="no-model"):
            measure.measure(sweep, runs)
        with Locks(sweep.out / "runs" / "locks") as other:
            assert all(other.take(r.path) for r in runs)


def test_runs_of_one_step_go_on_together_and_others_apart(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path, 5)
    runs = [run(n) for n in range(5)]
    for of, steps in zip(runs, [(4, 8), (), (8, 12), (2,), ()], strict=True):
        for step in steps:
            path = tmp_path / of.path / f"start-0-step-{step:08d}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert checkpoints.in_step(runs) == [[runs[0], runs[2]], [runs[1], runs[4]], [runs[3]]]
