"""Rivals at equal bits: what is shown is chosen on validation among what the bits allow."""

from dataclasses import replace
from pathlib import Path

import pytest

from soft_prompts.errors import SoftPromptsError
from soft_prompts.results.curve import curves
from soft_prompts.results.record import HeldOut
from soft_prompts.training.recipe import TrainConfig
from tests import rivals_test
from tests.rivals_test import BUDGETS, FEW, KINDS, POCKET, best_within, kind_of, sizes, table
from tests.unit.test_page import scores
from tests.unit.test_results import result


def tried(n_tokens: int, seed: int, recipe: dict, losses: dict[int, tuple[int, float, float]], loss: float):
    """A made-up result. ``losses``: bits a number -> bits in all, validation and held-out loss."""
    of_size = {"value": 0.0, "interval": [0.0, 0.0], "n": 40}
    return result(
        n_tokens,
        seed,
        config={"splits": 2, "task": {"name": "T"}, "train": {"steps": 5, "batch_size": 2, **recipe}},
        held_out=HeldOut.of(scores(loss, seed)),
        curve=[{"step": 5, "loss": loss}],
        sizes=[
            {"bits_per_number": b, "bits": bits, "validation_loss": v, "loss": held_out, "increase": of_size}
            for b, (bits, v, held_out) in losses.items()
        ],
    )


def test_the_best_within_a_budget_is_that_of_the_lowest_validation_loss() -> None:
    of_kind = [(64, 3.0, 2.0, "a"), (128, 2.5, 2.6, "b"), (129, 1.0, 1.0, "c")]
    assert best_within(of_kind, 128) == (128, 2.5, 2.6, "b")  # held out, a is better; c takes a bit too many
    assert best_within(of_kind, 129)[3] == "c"
    assert best_within(of_kind, 63) is None


def test_losses_at_equal_bits_are_means_over_the_seeds(tmp_path) -> None:
    text = {"name": "a text", "loss": 1.25, "document_losses": [12.5] * 40, "bits": 48.0, "own_bits": 7.0}
    made = [replace(tried(0, 0, {}, {}, 5.0), anchor=text)]
    for seed, more in ((0, 0.0), (1, 0.2)):
        of_prompt = {1: (60, 3.0 + more, 3.1 + more), 4: (240, 2.0 + more, 2.1 + more)}
        made.append(tried(1, seed, {}, of_prompt, 2.0))
        of_few = {2: (48, 2.5 + more, 2.7 + more)}
        made.append(tried(1, seed, {**KINDS["LoRA"][0], "subspace": 16}, of_few, 1.5))
    # One seed's steering was given up rounding at 2 bits: there is no mean of it.
    for seed, of_steering in ((0, {1: (70, 4.0, 4.0), 2: (140, 1.0, 1.0)}), (1, {1: (70, 4.0, 4.0)})):
        made.append(tried(2, seed, KINDS["steering"][0], of_steering, 3.0))
        made.append(tried(2, seed, KINDS["words"][0], {0: (24, 4.1, 4.2)}, 4.2))
    for i, r in enumerate(made):
        r.save(tmp_path / str(i) / f"tokens-{r.n_tokens:04d}-seed-{r.seed}.json")
    found = sizes(curves(made))
    assert {
        kind: [(n, pytest.approx(v), pytest.approx(x), what) for n, v, x, what in of] for kind, of in found.items()
    } == {
        "prompt": [(60, 3.1, 3.2, "1, 1 bits each"), (240, 2.1, 2.2, "1, 4 bits each")],
        "LoRA": [(48, 2.6, 2.8, "1 in 16 directions, 2 bits each")],
        "steering": [(70, 4.0, 4.0, "2, 1 bits each")],
        "words": [(24, 4.1, 4.2, "2")],
    }
    lines = table(tmp_path).splitlines()
    assert lines[0] == "| at most | prompt | LoRA | steering | words |"
    assert lines[2] == "| 0 bits | 5.000 | 5.000 | 5.000 | 5.000 |"
    assert (
        lines[3 + BUDGETS.index(64)]
        == "| 64 bits | 3.200 (1, 1 bits each) | 2.800 (1 in 16 directions, 2 bits each) |  | 4.200 (2) |"
    )
    assert lines[3 + BUDGETS.index(256)].startswith("| 256 bits | 2.200 (1, 4 bits each) | 2.800 ")
    assert lines[-4] == "Text: a text has 1.250 nats and 48 bits, 7 in the model's own code."
    assert lines[-3].startswith("LoRA: the best, of 1, is below the best prompt, of 1, by 0.500 [")
    assert lines[-2].startswith("steering: the best, of 2, is below the best prompt, of 1, by -1.000 [")
    assert lines[-1].startswith("words: the best, of 2, is below the best prompt, of 1, by -2.200 [")


def test_results_of_two_models_are_not_put_into_one_table(tmp_path) -> None:
    for model in ("a", "b"):
        replace(tried(0, 0, {}, {}, 5.0), model=model).save(tmp_path / model / "tokens-0000-seed-0.json")
    with pytest.raises(SoftPromptsError, match="holds results of a, b; name the folder of one model"):
        table(tmp_path)
    assert table(tmp_path / "a").splitlines()[2].startswith("| 0 bits | 5.000 |")


@pytest.mark.parametrize("name", ["rivals_key", "rivals_taught"])
def test_the_committed_tables_are_those_of_the_results(name: str) -> None:
    root = Path(__file__).parents[2]
    page = (root / "results" / "README.md").read_text()
    assert all(part in page for part in table(root / "results" / name).split("\n\n"))


def test_every_kind_is_trained_whole_and_in_few_directions() -> None:
    recipes = [TrainConfig(**{**POCKET.train.__dict__, **recipe}) for recipe in POCKET.recipes]
    assert len(set(recipes)) == len(KINDS) * 2 + (len(KINDS) - 1) * len(FEW) == len(recipes)
    for recipe in recipes:
        recipe.check()
    for sweep in (POCKET, *rivals_test.OTHERS.values()):
        sweep.check()
        assert sweep.controls == () and len(sweep.seeds) >= 1
    kinds = [kind_of(curves([tried(1, 0, kind, {}, 1.0)])[0]) for kind, _ in KINDS.values()]
    assert kinds == list(KINDS)
