"""The estimates of docs/cost.md: what is counted is what torch does, and speeds are those of the source."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from exploratory_tests import cost
from exploratory_tests.contenders import Size
from soft_prompts.report.reference import reference

WIDTH, LAYERS, INNER, VOCABULARY, ROW = 64, 3, 256, 300, 10


@pytest.mark.parametrize("trained", [False, True])
def test_operations_are_those_that_torch_counts(trained: bool) -> None:
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=INNER,
        attn_implementation="eager",
    )
    lm = GPTNeoXForCausalLM(config).requires_grad_(trained)
    row = torch.randn(1, ROW, WIDTH, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        lm(inputs_embeds=row).logits.sum().backward()
    weights = LAYERS * (4 * WIDTH**2 + 2 * WIDTH * INNER)
    masked_half = LAYERS * ROW * ROW * WIDTH * 6  # eager attention computes it, the others do not
    counted = Size(LAYERS, WIDTH, VOCABULARY, weights).operations(ROW, ROW, trained=trained)
    assert counter.get_total_flops() == counted + masked_half


def test_sizes_are_those_of_the_published_models() -> None:
    """Parameters in all and without embeddings, from the table of arXiv 2304.01373."""
    size = cost.size_of("EleutherAI/pythia-70m-deduped")
    assert cost.n_parameters("EleutherAI/pythia-70m-deduped") == 70_426_624
    assert size.weights == pytest.approx(18_915_328, rel=0.003)  # which also has biases and norms
    assert cost.n_parameters("TinyLlama/TinyLlama-1.1B-Chat-v1.0") == 1_100_048_384


def test_a_layer_keeps_what_its_backward_pass_needs() -> None:
    """The input of norms (shared by both), queries, keys, values, attention's output, and the MLP's inner states."""
    model = "EleutherAI/pythia-70m-deduped"
    kept = cost.kept_bytes(model, torch.float32) / (4 * 512)
    assert 1 + 3 + 1 + 4 <= kept < 16
    assert cost.kept_bytes(model, torch.bfloat16) == pytest.approx(cost.kept_bytes(model, torch.float32) / 2, rel=0.01)


def test_hours_follow_from_speeds_and_operations(monkeypatch) -> None:
    """At a speed of the operations of one step a second, a run takes as many seconds as it has steps."""
    sweep, model = cost.chess_test.DEFAULT, "EleutherAI/pythia-70m-deduped"
    batch, length = cost.documents("chess")
    assert (batch, length) == (32, pytest.approx(28_138_602 / 4096 / 32))
    row = round(length)
    steps = [cost.size_of(model).operations(row + n, row - 1) for n in (1, 4, 16, 64, 256, 512, 1024)]
    monkeypatch.setattr(cost, "speeds", lambda: {model: batch * sum(steps)})
    assert cost.hours(sweep, model, False) == (7, pytest.approx(4096 / 3600))
    n, by_default = cost.hours(sweep, model, True)  # 3 seeds, as many of the scrambled model, and half a run
    assert (n, by_default) == (49, pytest.approx(6.5 * 4096 / 3600))


def test_published_hours_are_those_of_the_published_speeds() -> None:
    speeds = (6.356, 6.238, 5.991, 4.847, 2.251, 0.917, 0.46)
    expected = sum(4096 / s for s in speeds) / 3600
    assert cost.published_hours("chess", "EleutherAI/pythia-70m-deduped", "") == pytest.approx(expected)
    for curve in reference()["curves"]:
        assert set(curve["steps_per_second"]) == set(curve["losses"]) - {"0"}


def test_the_table_of_costs_is_what_its_script_prints() -> None:
    assert cost.table() in (Path(cost.__file__).parents[1] / "docs" / "cost.md").read_text()
