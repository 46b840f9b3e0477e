"""The progress bar: what is left is reckoned from the work, which is made up here; no test waits for a time."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from soft_prompts import console, measure
from soft_prompts.console import LAST, Ahead, in_time, progress_bar, time_left
from soft_prompts.shares import cost, times
from soft_prompts.sweep import Sweep, plan
from soft_prompts.training import loop
from tests.unit.test_processes import sweep
from tests.unit.test_train import run, train_all

__all__ = ["sweep"]  # a fixture


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (599, "10.0 min"),
        (601, "10 min"),
        (5400, "1.5 h"),
        (86_400, "24 h"),
    ],
)
def test_durations_have_two_digits(seconds: float, words: str) -> None:
    assert in_time(seconds) == words
    assert in_time(10 * 86_400) == "10 days"


def test_what_is_left_lasts_as_long_as_what_was_done() -> None:
    """30 steps took 60 s. 70 are left, 140 s; and behind them 4 times 100 steps, another 800 s."""
    assert time_left(60.0, 30, 70, 100, LAST) == "about 2.3 min left, 0.50 steps/s"
    expected = "about 2.3 min left, about 16 min with the other runs, then 2 more models, 0.50 steps/s"
    assert time_left(60.0, 30, 70, 100, Ahead(4.0, "2 more models")) == expected
    assert time_left(0.0, 0, 100, 100, Ahead(4.0)) == ""  # nothing was done yet
    # Of 100 steps an earlier process took 60: the speed is that of the 10 of this one.
    assert (
        time_left(20.0, 10, 30, 100, Ahead(1.0)) == "about 60 s left, about 4.3 min with the other runs, 0.50 steps/s"
    )


def test_other_runs_are_counted_by_the_positions_that_they_compute() -> None:
    sizes = {"steps": 10, "batch_size": 4, "max_tokens": 20, "validation_documents": 8, "eval_documents": 6}
    short, long, half = (run(n, n_evaluations=3, **sizes, **more) for n, more in ((0, {}), (20, {}), (20, {"seed": 1})))
    assert (cost(short), cost(long)) == (20 * 14, 40 * 126)
    assert times([long], [short, half]) == pytest.approx((20 * 14 + 40 * 126) / (40 * 126))
    assert times([short, long], []) == 0


@pytest.fixture
def terminal(monkeypatch):
    """Bars are drawn although no terminal is there."""
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "100", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    console._console.cache_clear()
    yield
    console._console.cache_clear()


def shown(capfd) -> str:
    """What was drawn, without what moves the cursor."""
    return re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", capfd.readouterr().err)


def test_the_bar_says_what_is_known_and_what_is_left(terminal, capfd) -> None:
    with progress_bar("e on m, 3 prompts", 40, 10, Ahead(2.0)) as advance:
        for _ in range(4):
            advance("best 1.5000 nats at P=2")
    drawn = shown(capfd)
    assert "e on m, 3 prompts" in drawn and "14/40" in drawn
    line = next(line for line in drawn.splitlines()[::-1] if "best" in line)
    assert re.search(r"best 1\.5000 nats at P=2, about [\d.]+ \w+ left, about [\d.]+ \w+ with the other runs, ", line)


def test_training_shows_the_best_validation_loss_so_far(neox, tmp_path, terminal, capfd) -> None:
    states = train_all(neox, [run(1, steps=20), run(4, steps=20)], tmp_path)
    points = [(point["loss"], s.run.n_tokens, point["step"]) for s in states for point in s.curve]
    drawn = shown(capfd)
    assert f"plumbing on {neox.name}, 2 prompts" in drawn
    # The last bar is drawn before the last look.
    best, n_tokens, _ = min(point for point in points if point[2] < 20)
    assert f"best {best:.4f} nats at P={n_tokens}, about" in drawn
    assert "with the other runs" not in drawn


def test_a_sweep_knows_what_is_trained_behind_each_group(sweep: Sweep, monkeypatch) -> None:
    """Two runs of two tokens and one of none, one after another; then another model."""
    sweep = replace(sweep, n_tokens=(0, 2), seeds=(0, 1), runs_at_once=1, models=(*sweep.models, "another", "third"))
    none, first, second = runs = plan(sweep, sweep.models[0])
    train, found = loop.train, {}

    def trained(*arguments) -> list:
        found[arguments[1][0]] = arguments[5]
        return train(*arguments)

    monkeypatch.setattr(loop, "train", trained)
    assert len(measure.measure(sweep, runs).results) == 3
    prompts = cost(first) + cost(second)
    assert found == {
        none: Ahead(pytest.approx(prompts / cost(none)), "2 more models"),
        first: Ahead(1.0, "2 more models"),
        second: Ahead(0.0, "2 more models"),
    }
