"""Prompts under small changes: a quadratic has its closed form, and real prompts are moved as they should be."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from soft_prompts.engine.evaluate import TokenScores, evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.perturbed import Perturbed
from soft_prompts.interventions.soft_prompt import PromptGenerator, SoftPrompt
from soft_prompts.probes.fragility import DRAWS, SIZES, Change, fragility, under_changes
from soft_prompts.report.tables import tables
from soft_prompts.report.tables import under_changes as under_changes_table
from soft_prompts.results.curve import curves
from soft_prompts.results.fragility import half_noises, rank_correlation, shares_kept
from soft_prompts.results.record import HeldOut, Result
from soft_prompts.results.summary import far_and_fragile, summarise
from tests.unit.conftest import make_examples
from tests.unit.test_results import result

SHAPE = P, D = 4, 4096
"""So wide that the norm of noise is nearly what is expected of it."""


def scores_of(loss: float, documents: int = 2) -> TokenScores:
    return TokenScores(
        [f"d{i}" for i in range(documents)], [np.full(10, loss)] * documents, [np.ones(10, bool)] * documents
    )


def quadratic(curvatures: torch.Tensor, slope: torch.Tensor, lowest: float = 1.0):
    """Loss and gradient of lowest + slope . x + x . (curvatures * x) / 2, where x is the offset."""

    def scores(changes: list[Change]) -> list[TokenScores]:
        x = [c.offset.double() for c in changes]
        return [scores_of(lowest + float((slope * o).sum() + (curvatures * o * o).sum() / 2)) for o in x]

    def gradients(changes: list[Change]) -> list[torch.Tensor]:
        return [slope + curvatures * c.offset for c in changes]

    return scores, gradients


def test_a_quadratic_has_its_closed_form() -> None:
    """E L(s x) = L + s^2 / 2 trace, |gradient| = s |a x|, and every second difference along random directions is the
    trace."""
    a = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)).double() / (P * D)
    found = under_changes(SHAPE, *quadratic(a, torch.zeros(SHAPE).double()))
    trace = float(a.sum())
    assert [level["size"] for level in found["noise"]] == list(SIZES)
    for level in found["noise"]:
        assert level["loss"] - 1 == pytest.approx(level["size"] ** 2 / 2 * trace, rel=0.02)
        expected = level["size"] * float((a * a).sum().sqrt()) * (P * D) ** 0.5
        assert level["slope"] == pytest.approx(expected, rel=0.02)
    assert found["unmoved"]["loss"] == 1 and found["unmoved"]["slope"] == 0
    assert found["curvature"]["random"] == pytest.approx(trace, rel=0.02)


def test_along_the_gradient_the_curvature_is_that_direction_s_own() -> None:
    a, slope = torch.full(SHAPE, 1e-6).double(), torch.zeros(SHAPE).double()
    a[1, 7], slope[1, 7] = 0.5, -0.1
    found = under_changes(SHAPE, *quadratic(a, slope))
    assert found["curvature"]["gradient"] == pytest.approx(0.5 * P * D, rel=1e-3)
    assert found["unmoved"]["slope"] == pytest.approx(0.1 * (P * D) ** 0.5)


def test_tokens_are_left_out_by_share_and_shuffled_whole() -> None:
    asked: list[Change] = []

    def scores(changes: list[Change]) -> list[TokenScores]:
        asked.extend(changes)
        return [scores_of(float(len(c.order))) for c in changes]

    found = under_changes((8, 3), scores, lambda changes: [torch.ones(8, 3) for _ in changes])
    assert [(part["share"], part["loss"]) for part in found["left_out"]] == [(0.25, 6), (0.5, 4), (0.75, 2)]
    assert found["shuffled"]["loss"] == 8
    orders = {c.order for c in asked if len(c.order) == 8}
    assert len(orders) == 1 + DRAWS and all(sorted(order) == list(range(8)) for order in orders)
    kept = [c.order for c in asked if len(c.order) < 8]
    assert all(list(order) == sorted(order) for order in kept) and len(set(kept)) > len(kept) / 2


def test_one_token_can_neither_be_shuffled_nor_half_left_out() -> None:
    found = under_changes((1, 8), lambda c: [scores_of(1.0) for _ in c], lambda c: [torch.ones(1, 8) for _ in c])
    assert found["left_out"] == [] and found["shuffled"] is None


# --- on a real model ---


@pytest.fixture
def bench(neox) -> Bench:
    return Bench(neox, None, make_examples(6), 4096)


def prompts(model) -> list:
    generator = PromptGenerator(model.vocabulary[3:6].float(), 0.1, (2, 8), torch.Generator().manual_seed(0))
    return [SoftPrompt(model.vocabulary[3:6].float(), 0.1), generator]


@pytest.mark.parametrize("kind", [0, 1])
def test_an_offset_moves_each_row_in_units_of_its_own_norm(neox, kind: int) -> None:
    prompt = prompts(neox)[kind]
    condition = torch.randn(2, 2)
    rows, offset = prompt(condition).detach(), torch.randn(3, rows_width(neox))
    moved = Perturbed(prompt, offset)(condition)
    norms = rows.pow(2).mean(-1, keepdim=True).sqrt()
    assert torch.allclose(moved, rows + norms * offset, atol=1e-6)
    assert torch.equal(Perturbed(prompt, 0 * offset, [2, 0])(condition), rows[:, [2, 0]])
    assert Perturbed(prompt, offset, [2, 0]).n_tokens == 2
    assert [name for name, _ in Perturbed(prompt, offset).named_parameters()] == ["offset"]


def rows_width(model) -> int:
    return model.vocabulary.shape[1]


def test_a_prompt_with_all_its_tokens_left_out_is_no_prompt(neox) -> None:
    examples, prompt = make_examples(4), prompts(neox)[0]
    nothing = Perturbed(prompt, torch.zeros(3, rows_width(neox)), [])
    without = SoftPrompt(neox.vocabulary[:0].float(), 0.1)
    left, none = evaluate(neox, [nothing, without], examples, 4096)
    assert left.loss == pytest.approx(none.loss, rel=1e-5)


def test_unmoved_is_the_prompt_itself_and_gradients_are_the_slope_of_the_loss(bench) -> None:
    """The slope is compared with differences of the loss along the gradient."""
    prompt, model = prompts(bench.model)[0], bench.model

    def give_gradients(moved, documents) -> None:
        for one in moved:
            total = sum(e.n_scored for e in documents)
            loss = losses_with_gradient(model, one, documents) / total
            loss.backward()

    found = fragility(bench, prompt, give_gradients)
    (own,) = evaluate(model, [prompt], bench.held_out, 4096)
    assert found["unmoved"]["loss"] == pytest.approx(own.loss, rel=1e-5)
    assert found["unmoved"]["document_losses"] == pytest.approx(own.sums.tolist(), abs=1e-3)
    assert found["documents"] == own.documents
    still = Perturbed(prompt, torch.zeros(3, rows_width(model)))
    give_gradients([still], bench.held_out)
    norm = still.offset.grad.norm().item()
    along = [Perturbed(prompt, sign * 0.01 / norm * still.offset.grad) for sign in (1, -1)]
    up, down = (scores.loss for scores in evaluate(model, along, bench.held_out, 4096))
    assert (up - down) / 0.02 == pytest.approx(norm, rel=0.02)
    assert found["unmoved"]["slope"] == pytest.approx(norm * still.offset.numel() ** 0.5, rel=1e-4)
    assert found["noise"][-1]["loss"] != found["noise"][0]["loss"]
    assert all(parameter.grad is None for parameter in prompt.parameters())  # it stays as it is
    assert fragility(bench, SoftPrompt(model.vocabulary[:0].float(), 0.1), give_gradients) is None


def losses_with_gradient(model, intervention, documents) -> torch.Tensor:
    from soft_prompts.engine.forward import forward_pass, pack
    from soft_prompts.engine.loss import cross_entropy

    total = torch.zeros(())
    for rows in pack([intervention], [documents], 4096):
        states = forward_pass(model, [intervention], [documents], rows)
        total = total + cross_entropy(model.head, states.hidden, states.labels).sum()
    return total


# --- in numbers ---


def noisy(loss_by_size: dict[float, float], own: float, documents=("a", "b")) -> dict:
    """What a result records, with the same loss on every document of ten tokens."""

    def level(loss: float) -> dict:
        return {"loss": loss, "accuracy": 0.5, "document_losses": [10 * loss] * len(documents), "slope": 0.1}

    noise = [{"size": size, **level(loss)} for size, loss in loss_by_size.items()]
    parts = {"unmoved": level(own), "noise": noise, "left_out": [], "shuffled": None}
    return {"draws": 4, "documents": list(documents), **parts, "curvature": {"random": 1.0, "gradient": 2.0}}


def probed(loss_by_size: dict[float, float], own: float = 1.0, without: float = 3.0, n_tokens: int = 4):
    known = [result(0, losses=(without,) * 2), result(n_tokens, losses=(own,) * 2, fragility=noisy(loss_by_size, own))]
    return curves(known)[0]


@pytest.mark.parametrize(
    ("losses", "at"),
    [
        ({0.5: 1.2, 1.0: 2.0, 2.0: 2.8}, 1.0),
        ({0.5: 1.0, 1.0: 1.5, 2.0: 2.5}, 2**0.5),  # half of the way between 1 and 2 in the logarithm
        ({0.5: 3.0, 1.0: 3.0, 2.0: 3.0}, 0.25),  # below the smallest size, linear from no noise on
        ({0.5: 1.0, 1.0: 1.5, 2.0: 1.9}, math.inf),
    ],
)
def test_half_of_the_gain_is_gone_where_the_loss_is_half_way_back(losses: dict[float, float], at: float) -> None:
    (half,) = half_noises(probed(losses))
    assert (half.n_tokens, half.at) == (4, pytest.approx(at))
    assert half.low <= half.at <= half.high
    assert ("> 2" in str(half)) == math.isinf(at)


def test_where_nothing_gains_or_nothing_was_measured_there_is_no_half() -> None:
    assert half_noises(probed({1.0: 2.0}, own=3.0, without=3.0)) == []
    assert half_noises(probed({1.0: 2.0}, own=3.1, without=3.0)) == []
    assert half_noises(curves([result(0), result(4, losses=(1.0, 1.0))])[0]) == []
    luck = result(4, losses=(1.0, 4.9), fragility=noisy({1.0: 2.0}, 2.95))
    luck.fragility["unmoved"]["document_losses"] = [10.0, 49.0]  # better on one document, worse on the other
    assert half_noises(curves([result(0, losses=(3.0, 3.0)), luck])[0]) == []


def test_only_the_documents_that_were_probed_count() -> None:
    """On a, which was not probed, the prompt gains nothing; on c and b it gains 2 nats."""

    def known(*losses: float) -> HeldOut:
        return HeldOut.of(TokenScores(list("abc"), [np.full(10, x) for x in losses], [np.ones(10, bool)] * 3))

    probed = result(4, held_out=known(9.0, 1.0, 1.0), fragility=noisy({0.5: 1.5, 1.0: 2.0, 2.0: 2.5}, 1.0, ("c", "b")))
    (half,) = half_noises(curves([result(0, held_out=known(9.0, 3.0, 3.0)), probed])[0])
    assert half.at == pytest.approx(1)


def test_the_interval_holds_training_luck() -> None:
    """Two seeds that bear different noise: the interval is wider than that of each alone."""
    bears = {0: {0.5: 1.0, 1.0: 1.5, 2.0: 2.5}, 1: {0.5: 1.5, 1.0: 2.5, 2.0: 3.0}}
    own = [result(4, seed, losses=(1.0, 1.0), fragility=noisy(losses, 1.0)) for seed, losses in bears.items()]
    (both,) = half_noises(curves([result(0, losses=(3.0, 3.0)), *own])[0])
    assert both.low < 0.8 < both.at < 1.2 < both.high


def test_a_seed_that_was_probed_otherwise_is_left_out() -> None:
    """Of two seeds, the second was tried under other noise: the first alone counts."""
    own = [
        result(4, seed, losses=(1.0, 1.0), fragility=noisy(x, 1.0)) for seed, x in enumerate([{1.0: 2.0}, {2.0: 3.0}])
    ]
    zero, point = curves([result(0, losses=(3.0, 3.0)), *own])[0].points
    assert half_noises(curves([result(0, losses=(3.0, 3.0)), *own])[0])[0].at == pytest.approx(1)
    assert shares_kept(point, zero)["noise 1"].value == pytest.approx(0.5)


def test_summaries_tell_it_and_compare_behaviours() -> None:
    summary = summarise(probed({0.5: 1.2, 1.0: 2.0, 2.0: 2.8}))
    assert "half of the gain is gone under noise, in units of each row's norm, of 1 [1, 1] (P=4)" in str(summary)
    assert far_and_fragile([summary] * 3) == ""


def test_what_is_far_is_compared_with_what_is_fragile() -> None:
    """The nearer the plateau, the more noise these curves bear."""

    def summary(near: bool, half: float):
        """Four tokens reach the plateau, or sixteen; half of the gain is gone at ``half``."""
        bears = {size: 1.0 if size < half else 2.0 if size == half else 3.0 for size in (0.5, 1.0, 2.0, 4.0)}
        known = [result(0, losses=(3.0, 3.0))]
        for n, loss in ((4, 1.0 if near else 2.0), (16, 1.0)):
            known.append(result(n, losses=(loss, loss), fragility=noisy(bears, loss)))
        return summarise(curves(known)[0])

    said = far_and_fragile([summary(True, 4.0), summary(True, 2.0), summary(False, 1.0), summary(False, 0.5)])
    assert "rank correlation -0.89" in said and "over 4 curves" in said


def test_a_table_shows_what_of_the_gain_is_left() -> None:
    """From 3 nats without a prompt to 1 with it: at 1.5 nats, three quarters of the gain are left."""
    known = noisy({0.25: 1.5, 1.0: 2.0, 2.0: 3.5}, 1.0)
    shuffled, left_out = noisy({1.0: 2.5}, 1.0)["noise"][0], noisy({1.0: 2.0}, 1.0)["noise"][0]
    known |= {"shuffled": shuffled, "left_out": [{**left_out, "share": 0.5}]}
    one = result(1, losses=(1.0, 1.0), fragility=noisy({0.25: 1.0, 1.0: 3.0, 2.0: 3.0}, 1.0))
    curve = curves([result(0, losses=(3.0, 3.0)), one, result(4, losses=(1.0, 1.0), fragility=known)])[0]
    header = ["P", "half noise", "noise 0.25", "noise 1", "50% left out", "shuffled", "slope", "curvature"]
    first = ["1", "0.5 [0.5, 0.5]", "100% [100, 100]", "0% [0, 0]", "", "", "0.1", "1", "2"]
    kept = ["75% [75, 75]", "50% [50, 50]", "50% [50, 50]", "25% [25, 25]"]
    second = ["4", "1 [1, 1]", *kept, "0.1", "1", "2"]
    assert under_changes_table(curve) == [[*header, "along the gradient"], first, second]
    names = [name for name, _ in tables([curve])]
    assert names[1].endswith("share of the gain that is left if the prompt is changed")
    assert len(tables(curves([result(0), result(4)]))) == 1


def test_a_share_has_an_interval_over_documents_and_seeds_where_a_gain_is_certain() -> None:
    """On both documents of one seed noise takes half of the gain of 2 nats, of the other a quarter: 62.5 % are left."""
    seeds = [result(4, seed, losses=(1.0, 1.0), fragility=noisy({1.0: x}, 1.0)) for seed, x in ((0, 2.0), (1, 1.5))]
    zero, point = curves([result(0, losses=(3.0, 3.0)), *seeds])[0].points
    share = shares_kept(point, zero)["noise 1"]
    assert share.value == pytest.approx(0.625)
    # The mean of two seeds has 1 degree of freedom: 12.7 times its standard error of 12.5 %.
    assert share.interval == pytest.approx([0.625 - 12.7 * 0.125, 0.625 + 12.7 * 0.125], rel=0.02)
    luck = result(4, losses=(1.0, 4.9), fragility=noisy({1.0: 2.975}, 2.95))
    luck.fragility["unmoved"]["document_losses"] = [10.0, 49.0]  # better on one document, worse on the other
    uncertain = shares_kept(*reversed(curves([result(0, losses=(3.0, 3.0)), luck])[0].points))["noise 1"]
    assert uncertain.interval is None and str(uncertain) == "50%"


def test_rank_correlation() -> None:
    up = [(1.0, 0.1), (2.0, 0.2), (4.0, 0.5), (math.inf, math.inf), (8.0, 0.9)]
    value, (low, high) = rank_correlation(up)
    assert value == pytest.approx(1) and low <= value <= high + 1e-9
    assert rank_correlation([(-x if math.isfinite(x) else -math.inf, y) for x, y in up])[0] == pytest.approx(-1)
    bent = [(x, math.exp(x)) for x in (1.0, 2.0, 3.0, 9.0)]  # no line, but all in order
    assert rank_correlation(bent)[0] == pytest.approx(1)
    assert rank_correlation(up[:3]) is None
    assert rank_correlation([(1.0, y) for _, y in up]) is None
    random = np.random.default_rng(0)
    _, (low, high) = rank_correlation(list(zip(random.random(12), random.random(12), strict=True)))
    assert low < 0 < high


def test_a_result_whose_fragility_fits_no_document_is_refused(tmp_path) -> None:
    good = result(4, fragility=noisy({1.0: 2.0}, 1.0))
    good.save(tmp_path / "good.json")
    assert Result.load(tmp_path / "good.json") == good
    short = {"loss": 2.0, "accuracy": 0.5, "document_losses": [20.0]}
    wrong_lengths = [{"documents": ["a"]}, {"shuffled": short}, {"left_out": [{**short, "share": 0.5}]}]
    known = noisy({1.0: 2.0}, 1.0)
    for wrong in (noisy({1.0: 2.0}, 1.0, ("a", "c")), *({**known, **of} for of in wrong_lengths)):
        with pytest.raises(SoftPromptsError, match="fragility"):
            replace(good, fragility=wrong).save(tmp_path / "bad.json")
