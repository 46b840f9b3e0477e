"""The report: what it says of a curve, the files it leaves, and its page in a real browser."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from soft_prompts.engine.evaluate import TokenScores
from soft_prompts.errors import SoftPromptsError
from soft_prompts.report.collection import Filter, collect
from soft_prompts.report.documents import filled
from soft_prompts.report.export import frame
from soft_prompts.report.page import page
from soft_prompts.report.reference import published, reference
from soft_prompts.report.tables import models_by_length, rows
from soft_prompts.results.curve import Point, curves, without_controls
from soft_prompts.results.record import HeldOut, Result
from soft_prompts.results.summary import seeds_disagree, summarise
from tests.unit.commands import ran
from tests.unit.test_results import baseline, result

LOSSES = {0: 5.0, 1: 2.7, 4: 1.1, 16: 1.05, 64: 1.046}
"""Prompt length -> held-out loss of a made-up curve."""


def scores(loss: float, seed: int = 0, n: int = 40) -> TokenScores:
    """Made-up scores of this mean loss on documents of ten tokens. Every seed has the same documents."""
    difficulty = np.random.default_rng(0).normal(0, 0.3, n)
    noise = np.random.default_rng(seed + 1).normal(0, 0.001, n)
    losses = loss + difficulty - difficulty.mean() + noise - noise.mean()
    return TokenScores([f"d{i}" for i in range(n)], [np.full(10, x) for x in losses], [np.ones(10, bool)] * n)


def measured(n_tokens: int, loss: float, seed: int = 0, **changes) -> Result:
    """A made-up result of this mean loss, whose prompt keeps its loss at one bit per number."""
    increase = {"value": 0.0, "interval": [-0.001, 0.001], "n": 40}
    size = {"bits_per_number": 1, "bits": 272 * n_tokens, "loss": loss, "increase": increase}
    known = {"held_out": HeldOut.of(scores(loss, seed)), "sizes": [size] if n_tokens else []}
    return result(n_tokens, seed, **{**known, **changes})


def save_curve(folder: Path, losses: dict[int, float] = LOSSES, **changes) -> None:
    """Save a made-up result of each length."""
    for n, loss in losses.items():
        measured(n, loss, **changes).save(folder / f"tokens-{n:04d}-seed-{changes.get('seed', 0)}.json")


def curve_of(*results: Result):
    """The only curve that the results make."""
    (curve,) = curves(results)
    return curve


def test_a_summary_is_the_line_at_the_end_of_an_experiment() -> None:
    summary = summarise(curve_of(*(measured(n, loss) for n, loss in LOSSES.items())))
    assert str(summary) == (
        "conditional distance (95 % of the gap to its own plateau): (1, 4], about 3.5 [3.5, 3.5]; "
        "saturation 4 (one seed: intervals over documents only)"
    )
    assert summary.bits is None  # neither an anchor nor anything that knows nothing
    assert summary.bits_saved["value"] == pytest.approx((5 - 1.046) * 10 / np.log(2), rel=1e-3)
    assert summary.flags == ["one seed: intervals over documents only"]


def test_a_summary_says_first_what_the_model_contributed() -> None:
    """Beside the curve stand its scrambled control, baselines by document and a known text."""
    config = {"task": {"name": "T"}, "train": {"steps": 5, "batch_size": 2}}
    counted = scores(1.5)
    beside = {
        "config": config,
        "baselines": {"uniform": baseline(8.0), "unigram": baseline(2.8), "bigram": baseline(1.5, *counted.sums)},
        "anchor": {"name": "a known text", "loss": 1.0, "document_losses": scores(1.0).sums.tolist()},
    }
    own = [measured(n, loss + 0.01 * s, s, **beside) for n, loss in LOSSES.items() for s in ((0, 1, 2) if n else (0,))]
    of_control = {**beside, "config": {**config, "control": "scrambled"}, "anchor": None, "sizes": []}
    control = [measured(n, 6.0 if n < 16 else 1.2, s, **of_control) for n in LOSSES for s in ((0, 1, 2) if n else (0,))]
    everything = curves([*own, *control])
    (curve,) = without_controls(everything)
    summary = summarise(curve, everything)
    assert [round(c["value"], 2) for c in curve.contribution] == [-3.5, -1.21, 0.39, 0.14, 0.14]
    assert [c["against"] for c in curve.contribution] == ["bigram", "bigram", "bigram", "scrambled", "scrambled"]
    assert all(c["interval"][0] <= c["value"] <= c["interval"][1] for c in curve.contribution)
    assert str(summary).startswith("contribution 0.390 [0.3")
    assert "nats at P=4 (against bigram); conditional distance (95 % of the gap to a known text): (1, 4]" in str(
        summary
    )
    header, *_, at_4, _, _ = rows(curve, [])[:6]
    assert header[4:6] == ["scrambled", "contribution"] and at_4[0] == "4"
    unknown = curves([replace_baselines(r) for r in own])[0]
    assert unknown.contribution == [] and "contribution" not in str(summarise(unknown))


def replace_baselines(r: Result) -> Result:
    """The result as an older version wrote it: baselines without documents, no control, no anchor."""
    return replace(r, baselines={"uniform": baseline(8.0), "unigram": baseline(2.8)}, anchor=None)


def test_a_point_of_a_curve_is_the_mean_of_its_seeds_and_its_interval_holds_their_luck() -> None:
    seeds = result(1, 0, losses=(1.0, 3.0)), result(1, 1, losses=(5.0, 3.0))
    np.testing.assert_allclose(curve_of(*seeds).point(1).sums, [30, 30])
    agreed = curve_of(result(1, 0, losses=(2.0, 2.0)), result(1, 1, losses=(4.0, 4.0))).point(1)
    assert agreed.loss == 3
    assert agreed.interval == pytest.approx([3 - 12.706, 3 + 12.706], abs=0.1)  # Student's, of two seeds


def test_the_baselines_of_a_curve_are_means_over_seeds_and_its_seeds_those_of_the_length_that_has_fewest() -> None:
    one, other = ({"uniform": baseline(5.0), "unigram": baseline(loss)} for loss in (2.0, 3.0))
    two = result(1, 0, baselines=one), result(1, 1, baselines=other)
    curve = curve_of(result(0, baselines=one), *two, result(4, baselines=one))
    assert curve.baselines == {"uniform": 5.0, "unigram": 2.5}
    assert (curve_of(result(0), *two).n_seeds, curve.n_seeds) == (2, 1)


def test_a_curve_is_measured_against_its_scrambled_control_on_the_same_documents() -> None:
    config = {"task": {"name": "T"}, "train": {"steps": 5, "batch_size": 2}}
    own = [result(n, config=config) for n in (0, 1)]
    untrained, scrambled, elsewhere = (
        [result(n, config={**config, "control": control}) for n in (0, 1)]
        for control in ("untrained", "scrambled", "scrambled")
    )
    (curve,) = without_controls(curves([*own, *untrained, *scrambled]))
    assert curve.knows_nothing.control == "scrambled" and len(curve.paired.control) == 2
    (curve,) = without_controls(curves([*own, *untrained]))
    assert curve.knows_nothing.control == "untrained"
    elsewhere[1].held_out.documents[0] = "z"
    (curve,) = without_controls(curves([*own, *elsewhere]))
    assert curve.paired.control == ()


def test_a_summary_needs_the_loss_without_a_prompt() -> None:
    assert summarise(curve_of(measured(1, 3.0), measured(4, 2.0))) is None
    assert summarise(curve_of(measured(0, 3.0))) is None


def test_the_bits_that_a_summary_says_are_saved_are_those_of_the_best_length() -> None:
    summary = summarise(curve_of(*(measured(n, loss) for n, loss in {0: 5.0, 1: 2.0, 4: 3.0}.items())))
    assert summary.bits_saved["value"] == pytest.approx((5 - 2) * 10 / np.log(2), rel=1e-3)


def test_the_distance_to_a_score_needs_the_mean_over_seeds_beyond_the_goal_by_half_the_widest_interval() -> None:
    def exact(n: int, *values: float) -> list[Result]:
        halves = (0.01, 0.03)
        known = [{"value": v, "interval": [v - h, v + h], "n": 9} for v, h in zip(values, halves, strict=False)]
        return [measured(n, 3.0 - n / 10, seed, scores={"exact": score}) for seed, score in enumerate(known)]

    enough = summarise(curve_of(*exact(0, 0.1), *exact(1, 0.99, 0.95), *exact(4, 0.99, 0.98)))
    assert {goal: str(distance) for goal, distance in enough.behaviour.items()} == {"exact of 0.95": "4"}
    assert enough.behaviour["exact of 0.95"].low == 1  # one token has 0.97 +- 0.03
    assert "to exact of 0.95: 4;" in str(enough)
    missed = summarise(curve_of(*exact(0, 0.1), *exact(1, 0.98, 0.95), *exact(4, 0.99, 0.96)))
    assert str(missed.behaviour["exact of 0.95"]) == "> 4"
    assert summarise(curve_of(measured(0, 5.0), measured(1, 3.0))).behaviour == {}


def test_seeds_that_disagree_and_lengths_that_got_worse_are_said() -> None:
    one, four = ([measured(1, 2.0 + seed, seed) for seed in (0, 1)], [measured(4, 2.9, seed) for seed in (0, 1)])
    flags = summarise(curve_of(measured(0, 5.0), *one, *four)).flags
    assert any("P=1 seeds disagree (2.000 to 3.000)" in flag for flag in flags)
    # Two seeds that differ by a nat say little of which length is better.
    assert not any("worse than P" in flag for flag in flags)
    close = [measured(1, 2.0 + 0.01 * seed, seed) for seed in (0, 1)]
    flags = summarise(curve_of(measured(0, 5.0), *close, *four)).flags
    assert flags == ["P=4 worse than P=1", "P=4 worse than unigram"]


def halves(n_tokens: int, first: float, second: float, seed: int = 0, **changes) -> Result:
    """A made-up result on 100 documents of one token, half of them with the first loss, half with the second."""
    losses = [np.array([loss]) for loss in (first, second) for _ in range(50)]
    own = TokenScores([f"d{i}" for i in range(100)], losses, [np.ones(1, bool)] * 100)
    return result(n_tokens, seed, held_out=HeldOut.of(own), **changes)


@pytest.mark.parametrize(("apart", "disagree"), [(0.165, False), (0.19, True)])
def test_seeds_are_said_to_disagree_where_they_vary_more_than_documents_explain(apart: float, disagree: bool) -> None:
    """Documents differ by a nat either way, so the mean of 100 has a standard error of 0.1. Its interval is two whole
    tokens in a hundred wide either way, so 0.2 / 1.96 = 0.102 is found. Chi-squared of two degrees of freedom is below
    5.99 in 95 % of the cases: three seeds must vary by more than 0.102 (5.99 / 2)^(1/2) = 0.177."""
    seeds = tuple(halves(1, 2 + apart * seed, 4 + apart * seed, seed) for seed in range(3))
    assert seeds_disagree(Point(seeds)) == disagree
    assert not seeds_disagree(Point(seeds[:1]))


def test_random_targets_that_are_met_as_well_are_said() -> None:
    def target(number: int, *losses: float):
        config = {"task": {"name": "T", "targets": [number]}, "train": {"steps": 5, "batch_size": 2}}
        variant = {"label": "", "options": ["targets"], "control_of": {"targets": [0]} if number else None}
        return curve_of(*(measured(n, loss, config=config, variant=variant) for n, loss in enumerate(losses)))

    natural = target(0, 6.0, 3.0, 1.5)
    random = [target(1, 12.0, 2.9, 2.0), target(2, 12.0, 3.1, 2.0), target(3, 5.0, 7.0, 2.0)]
    flags = summarise(natural, [natural, *random]).flags
    assert "P=1 1 of 3 random targets have as low a loss" in flags
    assert not any("P=2" in flag and "random" in flag for flag in flags)
    assert not any("P=0" in flag for flag in flags)  # there no prompt does anything
    assert not any("random" in f for f in summarise(random[0], [natural, *random]).flags)  # a control has none


def test_published_curves_are_found_by_experiment_model_text_and_variant() -> None:
    def of(experiment: str, model: str, label: str = "", **task):
        variant = {"label": label, "options": [], "control_of": None}
        config = {"task": {"name": "T", **task}, "train": {}}
        return curve_of(result(experiment=experiment, model=model, config=config, variant=variant))

    chess = published(of("chess", "EleutherAI/pythia-70m-deduped"))
    assert chess[0] == pytest.approx(2.99108) and list(chess) == sorted(chess) and 1024 in chess
    skip = published(of("skip_tokens", "EleutherAI/pythia-70m-deduped", "skip 2", text=["redpajama"]))
    assert skip[16] == pytest.approx(10.44585)
    assert published(of("skip_tokens", "EleutherAI/pythia-70m-deduped", "skip 3", text=["redpajama"])) is None
    assert published(of("autoregressive", "EleutherAI/pythia-70m-deduped", text=["my.jsonl"])) is None
    assert published(of("autoregressive", "EleutherAI/pythia-70m-deduped", text=["pile"]))[0] == pytest.approx(3.41466)
    assert published(of("chess", "pocket")) is None
    assert "2505.14943" in reference()["source"]


def test_the_overview_has_models_as_rows_and_lengths_as_columns() -> None:
    results = [measured(n, loss, model=model) for model in ("a", "b") for n, loss in LOSSES.items()]
    ((name, (header, *body)),) = models_by_length(curves(results))
    assert header == ["model", "P=0", "P=1", "P=4", "P=16", "P=64", "flags"]
    assert [row[0] for row in body] == ["a", "b"]
    assert body[0][1].startswith("5.000 ±") and not body[0][-1]
    worse = models_by_length(curves([measured(0, 5.0), measured(1, 2.0), measured(4, 2.5)]))[0][1][1]
    assert worse[3].endswith("!") and worse[-1] == "P=4 worse than P=1"


def test_a_page_shows_the_results_of_several_folders_as_one_table(tmp_path) -> None:
    """A curve and, in another folder, its control."""
    for name, more in {"own": {}, "other": {"control": "scrambled"}}.items():
        config = {"train": {"steps": 5, "batch_size": 2}, "task": {"name": "T"}, **more}
        save_curve(tmp_path / "results" / name, config=config)
    alone, both = (f"<!-- {names}: -->\n<!-- end -->" for names in ("results/own", "results/own results/other"))
    assert "| seeds | gain over 0 |" in filled(alone, tmp_path)
    page = filled(f"before\n{both}\nbetween\n{alone}\nbehind", tmp_path)
    assert "| P | held-out loss | paired | seeds | scrambled |" in page and page.count("| P | held-out loss") == 2
    assert page.startswith("before\n<!-- results/own results/other: -->") and page.endswith("behind")
    with pytest.raises(SoftPromptsError, match="no results in .*none or .*/nothing"):
        filled("<!-- results/none results/nothing: -->\n<!-- end -->", tmp_path)


def test_what_is_missing_is_said_and_the_rest_is_shown(tmp_path) -> None:
    save_curve(tmp_path)
    measured(4, 1.1, seed=1).save(tmp_path / "tokens-0004-seed-1.json")
    (tmp_path / "tokens-broken.json").write_text("{")
    old = json.loads((tmp_path / "tokens-0001-seed-0.json").read_text())
    del old["checksum"]
    old |= {"schema": 1, "model": "older"}
    del old["sizes"]
    (tmp_path / "tokens-old.json").write_text(json.dumps(old))
    collection = collect([tmp_path, tmp_path / "none"], Filter())
    said = " ".join(collection.missing)
    assert "broken.json is not JSON" in said and "none does not exist" in said
    assert "no result at 64 tokens, seed 1" in said
    assert "no result at 0 tokens, so nothing can be said of distances: e on older" in said
    assert "an older version, without sizes" in said
    assert len(collection.shown) == 2


def test_results_are_filtered_by_experiment_model_and_length(tmp_path) -> None:
    save_curve(tmp_path / "a", model="a")
    save_curve(tmp_path / "b", model="b", experiment="f")
    shown = collect([tmp_path], Filter(model=("b",), n_tokens=(0, 4))).shown
    assert [(s.curve.model, [p.n_tokens for p in s.curve.points]) for s in shown] == [("b", [0, 4])]
    (whole,) = collect([tmp_path], Filter(experiment=("e",))).shown
    assert whole.curve.model == "a"
    assert str(shown[0].summary) == str(whole.summary)  # a summary counts all lengths, also those not shown


def test_a_frame_has_a_row_for_every_result_and_survives_both_formats(tmp_path) -> None:
    save_curve(tmp_path / "r")
    table = frame([r for curve in collect([tmp_path / "r"], Filter()).curves for r in curve.results])
    assert list(table["n_tokens"]) == list(LOSSES)
    assert table["loss"].tolist() == pytest.approx(list(LOSSES.values()))
    assert table["score.hits.low"].tolist() == [0.4] * 5 and table["train.lr"].tolist() == [0.1] * 5
    for kind, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        report(tmp_path / "r", "--export", kind, "--out", str(tmp_path / "out"))
        assert read(tmp_path / "out" / f"results.{kind}")["loss"].tolist() == pytest.approx(list(LOSSES.values()))


def report(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Run the report's command line in a process of its own."""
    command = [sys.executable, "-m", "soft_prompts.report", str(folder), *options]
    return ran(command, {**os.environ, "COLUMNS": "200"})


def test_the_report_leaves_a_page_a_table_and_curves(tmp_path) -> None:
    save_curve(tmp_path / "r")
    done = report(tmp_path / "r", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "conditional distance (95 % of" in done.stderr and "P=64" in done.stdout
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {re.sub("[0-9a-f]{8}", "", name) for name in names} == {
        *("report.html", "table.md", ".computed.json", "curve-e-m-.png", "curve-e-m-.svg")
    }
    html = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)  # nothing is fetched
    nothing = report(tmp_path / "r", "--model", "other")
    assert nothing.returncode == 2 and "no results in" in nothing.stderr


SAMPLES = {
    "board": [{"elos": "1500 1600", "start": "e2e4 e7e5", "continuation": "g1f3 b8c6 a1a8", "played": "g1f3"}],
    "repetition": [{"text": "Once", "continuation": " hello hello ha", "wanted": " hello hello hello hello"}],
    "path": [{"board": "A O B\nMoves:\n", "walked": "2 moves", "shortest": "2"}],
    "dialogue": [{"system": "Be <b>kind</b>.", "user": "Hi", "before": "Hello!", "after": "and then"}],
    "text": [{"text": "a <script>alert(1)</script>", "continuation": "b"}],
}


def test_samples_are_drawn_by_their_kind_in_any_experiment_and_no_text_is_taken_for_html(tmp_path) -> None:
    for kind, samples in SAMPLES.items():
        of_kind = [{"kind": kind, **sample} for sample in samples]
        save_curve(tmp_path / kind, experiment=f"my own {kind}", samples=of_kind)
    html = page(collect([tmp_path], Filter()))
    assert html.count('class="board"') == len(LOSSES)
    assert '<b class="good">g1f3 b8c6</b> <b class="bad">a1a8</b>' in html
    assert '<b class="good"> hello hello h</b>a' in html
    assert "<pre>A O B\nMoves:</pre>" in html
    assert "Be &lt;b&gt;kind&lt;/b&gt;." in html and "<script>alert" not in html
