"""The study of searches: the default is the training loop's own, and each variant does what it says."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from exploratory_tests import searches_test
from exploratory_tests.searches_test import DEFAULT, SEARCHES, Search, Searcher, Settings, centroids, table
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.errors import SoftPromptsError
from soft_prompts.training.log import Logs
from soft_prompts.training.loop import train
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run
from soft_prompts.training.state import make_intervention
from tests.unit.test_anchors import Counting, bench_of

N_STEPS = 12


def run_of(n_tokens: int = 3, **recipe) -> Run:
    config = TrainConfig(**{"steps": N_STEPS, "batch_size": 4, "n_evaluations": 0, **recipe})
    return Run("e", Counting(), "m", n_tokens, 0, config, "float32")


def searched(bench, name: str, rate: float = 0.3, run: Run | None = None) -> tuple[Searcher, list[torch.Tensor]]:
    """A searcher after all steps, and the rows after each of them."""
    run = run or run_of()
    searcher, seen = Searcher(name, rate, run, bench), []
    step = searcher.step

    def watched(number: int) -> None:
        step(number)
        seen.append(searcher.prompt.rows.detach().clone())

    searcher.step = watched
    searches_test._train([searcher], run, bench, "")
    return searcher, seen


def test_the_default_is_what_the_training_loop_finds(neox, tmp_path) -> None:
    bench = bench_of(neox)
    (state,) = train(bench, [run_of()], Logs(tmp_path, ()))
    searcher, _ = searched(bench, "default")
    found = evaluate(neox, [searcher.finished()], bench.held_out, bench.token_budget)[0]
    assert found.loss == pytest.approx(state.scores.loss, abs=1e-6)
    assert (searcher.prompt.rows - state.intervention.rows).abs().max() < 1e-5
    other, _ = searched(bench, "default", 0.1)
    assert evaluate(neox, [other.finished()], bench.held_out, bench.token_budget)[0].loss != pytest.approx(found.loss)


def test_an_average_is_the_mean_of_the_last_rows(neox, monkeypatch) -> None:
    monkeypatch.setitem(SEARCHES, "mean", Search(schedule="constant", averaged=0.25))
    searcher, seen = searched(bench_of(neox), "mean")
    wanted = torch.stack(seen[-3:]).mean(0)
    assert (searcher.finished().rows - wanted).abs().max() < 1e-5 < (seen[-1] - wanted).abs().max()


def test_rows_stay_as_short_as_they_must(neox, monkeypatch) -> None:
    monkeypatch.setitem(SEARCHES, "short", Search(largest=0.5))
    bench = bench_of(neox)
    half = 0.5 * neox.vocabulary.shape[1] ** 0.5  # in units of a coordinate's root mean square
    _, seen = searched(bench, "short")
    assert torch.stack(seen).norm(dim=-1).max() <= half + 1e-4
    free = torch.stack(searched(bench, "default")[1])
    assert free.norm(dim=-1).max() > half + 0.1
    monkeypatch.setitem(SEARCHES, "roomy", Search(largest=100.0))
    assert torch.equal(torch.stack(searched(bench, "roomy")[1]), free)  # what is short enough stays as it is


def test_starts_at_centroids_are_the_middles_of_clusters(neox) -> None:
    of_two = (
        np.concatenate([np.full((5, 3), 1.0), np.full((5, 3), 9.0)]) + np.tile(np.linspace(-0.1, 0.1, 5), 2)[:, None]
    )
    assert sorted(centroids(of_two, 2, 0)[:, 0].tolist()) == pytest.approx([1.0, 9.0])
    searcher = Searcher("start at centroids", 0.3, run_of(1), bench_of(neox))
    middle = neox.vocabulary.float().mean(0)
    assert searcher.prompt(torch.zeros(1, 0))[0, 0].detach().numpy() == pytest.approx(middle.numpy(), abs=1e-5)


def test_a_network_beside_the_rows_begins_at_nothing_and_is_folded_away(neox) -> None:
    bench, run = bench_of(neox), run_of()
    plain = make_intervention(neox, run, 0)
    searcher = Searcher("rows and a network of them", 0.3, run, bench)
    assert torch.equal(searcher.prompt.rows, plain.rows) and len(searcher.parameters) > 1
    searches_test._train([searcher], run, bench, "")
    trained = searcher.prompt.rows.detach().clone()
    raw = searcher.prompt.parametrizations.rows.original
    assert (trained - raw).abs().max() > 1e-3  # the network does something
    found = searcher.finished()
    assert torch.equal(found.rows, trained) and [name for name, _ in found.named_parameters()] == ["rows"]


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_lowers_the_loss(neox, name: str) -> None:
    if name == "schedule-free":
        pytest.importorskip("schedulefree")
    bench, run = bench_of(neox), run_of(steps=40)
    before = evaluate(neox, [make_intervention(neox, run, 0)], bench.held_out, bench.token_budget)[0].loss
    searcher, _ = searched(bench, name, SEARCHES[name].rates[0], run)
    assert evaluate(neox, [searcher.finished()], bench.held_out, bench.token_budget)[0].loss < before - 0.1


def test_a_package_that_is_missing_is_named_with_the_command(neox, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(SoftPromptsError, match="pip install --no-deps -r requirements-features.txt"):
        Searcher("schedule-free", 0.3, run_of(), bench_of(neox))


def made_up(folder: Path) -> None:
    """Two seeds; the rate that is best on validation is worst held out."""
    config = {**searches_test.config_of(Settings(searches=("default", "Muon")), "keys"), "n_tokens": [4]}
    for seed in (0, 1):
        found = []
        for name, rate, validation, loss in (
            *(("default", rate, rate, loss) for rate, loss in ((0.1, 2.0), (0.3, 2.5), (1.0, 1.0))),
            *(("Muon", rate, 1.5 - rate, 1.25 + rate) for rate in (0.1, 0.3, 1.0)),
        ):
            losses = [loss * 10 + 0.1 * (i % 3) for i in range(40)]
            found.append({"search": name, "rate": rate, "n_tokens": 4, "validation": validation, "losses": losses})
        path = folder / f"searches-seed-{seed}.json"
        path.write_text(json.dumps({"config": config, "seed": seed, "found": found, "counts": [10] * 40}))


def test_the_table_shows_the_rate_that_validation_chose_and_paired_differences(tmp_path) -> None:
    made_up(tmp_path)
    said, head, _, default, usual, muon = table(tmp_path).replace("\n\n", "\n").splitlines()
    assert said == "keys, 100 steps, 2 seeds:" and head == "| search | rate | P=4 |"
    assert default == "| default | 0.1 | 2.010 |" and usual == "| default | 0.3 only | +0.500 [+0.500, +0.500] |"
    assert muon == "| Muon | 1 | +0.250 [+0.250, +0.250] |"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"behaviours": ("chess", "nothing")}, "no behaviour 'nothing'; known: chess"),
        ({"searches": ("SGD",)}, "no search 'SGD'; known: default"),
        ({"n_tokens": (0, 4)}, "--n-tokens"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(SoftPromptsError, match=message):
        searches_test.run(replace(DEFAULT, **wrong))
