"""Whether a search was exhausted, on results made by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from soft_prompts.report.plots import position, saturation_figure
from soft_prompts.report.tables import title
from soft_prompts.results import record
from soft_prompts.results.curve import CONTROLS, Curve, curves, without_controls
from soft_prompts.results.record import Result
from soft_prompts.results.summary import summarise
from soft_prompts.sweep import Sweep
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run
from tests.unit.test_results import baseline, result
from tests.unit.test_train import Documents

CONFIG = {"splits": 2, "train": {"steps": 8, "batch_size": 2}, "task": {"name": "T"}}


def trained(n_tokens: int, loss: float, seed: int = 0, validation: float = 0.0, **more) -> Result:
    curve = [{"step": 0, "loss": 9.0}, {"step": 8, "loss": validation or loss}]
    return result(n_tokens, seed, (loss - 0.5, loss + 0.5), curve=curve, config={**CONFIG, **more})


def only_curve(results: list[Result]) -> Curve:
    (curve,) = without_controls(curves(results))
    return curve


def halves(*losses: tuple[int, float]) -> list[Result]:
    return [trained(n, loss, control="half") for n, loss in losses]


def test_twice_the_steps_are_compared_with_half_of_them_by_the_first_seed() -> None:
    own = [trained(0, 4.0), trained(1, 2.0), trained(1, 3.0, seed=1), trained(4, 2.0), trained(4, 2.1, seed=1)]
    search = only_curve([*own, *halves((1, 2.03), (4, 2.5))]).exhaustion
    assert search.second_half == pytest.approx({1: 0.03, 4: 0.5})  # seed 1 has no part in it
    assert search.tolerance == pytest.approx(0.02 * (4.0 - 2.05))  # 0.039: between the two
    assert search.flags[4][0] == "search not exhausted: twice the steps gained 0.500"
    assert 1 not in search.flags
    assert str(search).startswith("search not exhausted: twice the steps gained at most 0.500 nats (P=4)")
    of_seed_1 = trained(1, 3.2, seed=1, control="half")
    assert only_curve([*own, of_seed_1]).exhaustion.second_half == pytest.approx({1: 0.2})


def test_the_best_start_is_chosen_on_validation_and_told_on_held_out_documents() -> None:
    # The seed that is best on the held-out documents, 1.0, is not the one that validation would choose.
    seeds = [
        trained(4, 1.0, 0, 3.0),
        trained(4, 1.5, 1, 2.0),
        trained(4, 2.0, 2, 2.5),
        trained(1, 3.0),
        trained(0, 4.0),
    ]
    shorter = [trained(1, 1.1, seed=1), trained(1, 3.1, seed=2)]
    search = only_curve([*seeds, *shorter, *halves((4, 1.0))]).exhaustion
    assert (search.longest, search.n_starts) == (4, 3)
    assert search.best_start == pytest.approx(0.0)
    assert search.flags == {}
    assert str(search) == (
        "search exhausted: twice the steps gained at most 0.000 nats (P=4), the best of 3 starts 0.000 (P=4)"
    )
    seeds[1] = trained(4, 1.2, 1, 2.0)  # the mean is 1.4
    search = only_curve([*seeds, *halves((4, 1.0))]).exhaustion
    assert search.best_start == pytest.approx(0.2)
    assert search.flags == {4: ["search not exhausted: the best of 3 starts is 0.200 lower"]}


def test_a_small_gain_has_the_smallest_tolerance_and_more_is_flagged() -> None:
    own = [trained(0, 2.1), trained(4, 2.0)]
    assert only_curve([*own, *halves((4, 2.0049))]).exhaustion.flags == {}
    assert only_curve([*own, *halves((4, 2.0051))]).exhaustion.flags != {}


def test_prompts_that_were_trained_until_flat_say_where_and_whether_they_were_cut_off() -> None:
    def until(n_tokens: int, loss: float, step: int, seed: int = 0) -> Result:
        train = {"steps": 80, "batch_size": 2, "schedule": "until_flat"}
        curve = [{"step": 0, "loss": 9.0}, {"step": step, "loss": loss}]
        return result(n_tokens, seed, (loss, loss), curve=curve, config={**CONFIG, "train": train})

    flat = [until(0, 4.0, 0), until(1, 3.0, 20), until(4, 2.0, 50)]
    search = only_curve(flat).exhaustion
    assert (search.steps, search.cut_off, search.flags) == (50, {}, {})
    assert str(search) == "search exhausted: flat after at most 50 steps"
    assert "20 to 50 steps of 2 documents" in title(only_curve(flat))
    curve = only_curve([*flat[:2], until(4, 2.0, 50), until(4, 2.0, 80, seed=1)])
    assert curve.exhaustion.cut_off == {4: 80}
    assert curve.flags[2] == ["search not exhausted: still falling after 80 steps"]
    assert str(curve.exhaustion).startswith("search not exhausted: still falling, the best of 2 starts")


def test_a_small_contribution_makes_the_tolerance_small_whatever_the_gain() -> None:
    counted = {"uniform": baseline(9.0, 90.0, 90.0), "unigram": baseline(2.5, 20.0, 30.0)}
    own = [replace(r, baselines=counted) for r in (trained(0, 9.0), trained(4, 2.0), *halves((4, 2.05)))]
    search = only_curve(own).exhaustion
    assert search.tolerance == pytest.approx(0.02 * 0.5)  # 2.5 - 2.0, and not of the gain of 7
    assert search.flags[4] == ["search not exhausted: twice the steps gained 0.050"]
    none = [replace(r, baselines={**counted, "unigram": baseline(1.5, 10.0, 20.0)}) for r in own]
    assert only_curve(none).exhaustion.tolerance == 0.005  # counting does better


def test_without_half_the_steps_no_verdict_is_given() -> None:
    curve = only_curve([trained(0, 4.0), trained(4, 2.0)])
    assert (curve.exhaustion.best_start, str(curve.exhaustion), curve.exhaustion.flags) == (None, "", {})
    assert "exhausted" not in str(summarise(curve))


def test_the_verdict_stands_in_summary_and_flags_and_half_the_steps_are_no_rival() -> None:
    curve = only_curve([trained(0, 4.0), trained(4, 2.0), *halves((4, 2.5))])
    assert "; search not exhausted: twice the steps gained at most 0.500 nats (P=4)" in str(summarise(curve))
    assert not [flag for flag in summarise(curve).flags if "search" in flag]  # it is said once
    assert curve.flags[1] == ["search not exhausted: twice the steps gained 0.500"]
    assert curve.knows_nothing is None  # what the model contributes is not measured against itself


def test_the_plot_circles_what_more_steps_would_lower() -> None:
    own = [trained(0, 4.0), trained(1, 3.0), trained(4, 2.0)]
    (ax, *_) = saturation_figure([only_curve([*own, *halves((1, 3.0), (4, 2.5))])]).axes
    (circles,) = [line for line in ax.lines if line.get_label() == "search not exhausted"]
    assert circles.get_xydata().tolist() == [[position(4), 2.0]]
    (ax, *_) = saturation_figure([only_curve([*own, *halves((1, 3.0), (4, 2.0))])]).axes
    assert not [line for line in ax.lines if line.get_label() == "search not exhausted"]


def test_all_who_name_controls_name_the_same() -> None:
    schema = json.loads((Path(record.__file__).parent / "result.schema.json").read_text())
    assert schema["properties"]["config"]["properties"]["control"]["enum"] == ["", *CONTROLS]
    offered, _ = get_args(get_type_hints(Sweep)["controls"])
    assert get_args(offered) == CONTROLS


def test_half_the_steps_are_the_same_recipe_with_a_schedule_of_its_own() -> None:
    run = Run("e", Documents(), "pocket", 4, 0, TrainConfig(steps=9), "float32", "half")
    assert (run.recipe.steps, run.config["train"]["steps"], run.config["control"]) == (4, 9, "half")
    assert run.recipe.lr_share(3) < 0.2  # nearly over


def test_no_band_or_bar_reaches_below_a_loss_of_0() -> None:
    """Three seeds that differ by nats leave everything open, but not that."""
    curve = only_curve([trained(0, 4.0), *(trained(1, loss, seed) for seed, loss in enumerate((0.6, 0.7, 6.0)))])
    assert curve.band[0][1] == 0 < curve.band[1][1] and curve.point(1).loss < curve.widths[1]
    (ax, *_) = saturation_figure([curve]).axes
    lowest = [path.vertices[:, 1].min() for collection in ax.collections for path in collection.get_paths()]
    assert len(lowest) >= 2 and min(lowest) >= 0
