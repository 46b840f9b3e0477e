"""The picture of all findings: every mark stands where the summary's number is."""

import math

import pytest

from soft_prompts.report.collection import Filter, collect
from soft_prompts.report.findings import ZERO, behaviour, findings, findings_figure
from tests.unit.test_page import LOSSES, measured, scores
from tests.unit.test_results import baseline

CONFIG = {"task": {"name": "T", "target": 0}, "train": {"steps": 5, "batch_size": 2}}


def save(folder, losses, counted, name, **changes) -> None:
    """A curve of two seeds with a bigram of the loss ``counted`` beside it."""
    beside = {"uniform": baseline(8.0), "unigram": baseline(4.0), "bigram": baseline(counted, *scores(counted).sums)}
    for n, loss in losses.items():
        for seed in (0, 1) if n else (0,):
            r = measured(n, loss + 0.001 * seed, seed, **{"config": CONFIG, "baselines": beside, **changes})
            r.save(folder / name / f"tokens-{n:04d}-seed-{seed}.json")


def shown(folder):
    return findings(collect([folder], Filter()).shown)


def dots(ax) -> list[tuple[float, str, str]]:
    """x, marker and fill of every single mark, from the top down."""
    marks = [(line, *line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 1]
    return [(x, line.get_marker(), line.get_fillstyle()) for line, x in marks]


def test_every_curve_has_its_contribution_and_its_distance_with_their_intervals(tmp_path) -> None:
    save(tmp_path, {0: 5.0, 1: 2.7, 4: 1.05, 16: 1.05, 64: 1.05}, 1.5, "near", model="a")
    save(tmp_path, {0: 5.0, 1: 4.9, 4: 4.0, 16: 3.0}, 1.5, "none", model="b")
    save(tmp_path, {0: 5.0, 1: 4.0, 4: 3.0, 16: 2.0}, 2.5, "far", model="c")
    found = shown(tmp_path)
    assert [s.curve.model for s in found] == ["a", "b", "c"]
    nats, tokens = findings_figure(found).axes
    near, none, far = (s.summary for s in found)
    assert dots(nats)[:3] == [
        (near.contribution.value, "o", "full"),
        (none.contribution.value, "o", "none"),
        (far.contribution.value, "o", "full"),
    ]
    assert near.contribution.value == pytest.approx(1.5 - 1.0505, abs=1e-3)
    assert none.contribution.value == pytest.approx(1.5 - 3.0005, abs=1e-3)
    bars = [list(line.get_xdata()) for line in nats.lines if len(line.get_xdata()) == 2 and line.get_color() != "gray"]
    assert bars == [near.contribution.interval, none.contribution.interval, far.contribution.interval]
    distance = next(iter(near.distances.values()))
    assert dots(tokens) == [(distance.at, "o", "full"), (16.0, ">", "full")]
    assert [text.get_text() for text in tokens.texts] == ["no contribution seen", "> 16"]


def test_a_distance_of_no_tokens_stands_at_zero(tmp_path) -> None:
    save(tmp_path, {0: 1.0, 1: 1.0, 4: 1.0}, 3.0, "at once")
    (found,) = shown(tmp_path)
    assert next(iter(found.summary.distances.values())).at == 0
    _, tokens = findings_figure([found]).axes
    assert [x for x, _, _ in dots(tokens)] == [ZERO]
    assert tokens.xaxis.get_major_formatter()(ZERO, 0) == "0"


def test_a_distance_below_one_token_stands_between_zero_and_one_by_its_size(tmp_path) -> None:
    save(tmp_path, {0: 1.2, 1: 1.0, 4: 1.0}, 3.0, "nearly at once")
    (found,) = shown(tmp_path)
    at = next(iter(found.summary.distances.values())).at
    assert 0.3 < at < 0.9
    _, tokens = findings_figure([found]).axes
    ((x, _, _),) = dots(tokens)
    left, right = math.log(ZERO), math.log(1)
    assert math.log(x) == pytest.approx(left + at * (right - left))


def test_controls_random_targets_and_curves_that_say_nothing_of_the_model_have_no_row(tmp_path) -> None:
    save(tmp_path, LOSSES, 1.5, "own")
    save(tmp_path, LOSSES, 1.5, "control", config={**CONFIG, "control": "permuted"})
    save(tmp_path, LOSSES, 1.5, "orphan", config={**CONFIG, "control": "scrambled"}, model="not there itself")
    random = {"label": "r", "options": [], "control_of": {"target": 0}}
    save(tmp_path, LOSSES, 1.5, "random", config={**CONFIG, "task": {"name": "T", "target": 1}}, variant=random)
    for n in (0, 1):
        measured(n, 5.0 - n, model="unknown").save(tmp_path / "unknown" / f"tokens-{n:04d}-seed-0.json")
    assert len(collect([tmp_path], Filter()).shown) == 4
    assert [s.curve.config for s in shown(tmp_path)] == [CONFIG]


def test_a_row_is_called_by_its_experiment_and_by_which_of_several_tasks_it_is(tmp_path) -> None:
    for skip in (1, 2):
        config = {**CONFIG, "task": {"name": "T", "skip": skip}}
        variant = {"label": f"skip {skip}", "options": ["skip"], "control_of": None}
        save(tmp_path, LOSSES, 1.5, f"skip {skip}", config=config, variant=variant)
    save(tmp_path, LOSSES, 1.5, "other", experiment="other")
    assert [behaviour(s) for s in shown(tmp_path)] == ["e\nskip 1", "e\nskip 2", "other"]
