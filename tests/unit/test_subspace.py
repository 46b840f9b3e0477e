"""Prompts of which few numbers are trained: the same mathematics as written down by hand, and bits that count them."""

import copy

import pytest
import torch

from soft_prompts.console import Interrupted
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.interventions.base import SCALE_BITS
from soft_prompts.interventions.rounding import round_rows
from soft_prompts.interventions.soft_prompt import PromptGenerator, SoftPrompt
from soft_prompts.interventions.subspace import Subspace
from soft_prompts.probes.bits import rounded_sizes
from soft_prompts.results.snapshot import load_prompt, save_prompt
from soft_prompts.training.state import make_intervention
from tests.unit.conftest import make_examples
from tests.unit.test_checkpoint import bench_of, go, same
from tests.unit.test_train import Documents, run, train_all


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(prompt: Subspace) -> Subspace:
    prompt.theta.data[:] = torch.randn(len(prompt.theta), generator=seeded(5))
    return prompt


def test_a_prompt_is_its_start_plus_a_sum_of_directions() -> None:
    inner = SoftPrompt(torch.randn(3, 4, generator=seeded(1)), 0.5)
    prompt = Subspace(inner, 2, seed=7)
    condition = torch.zeros(5, 0)
    torch.testing.assert_close(prompt(condition), inner(condition))  # it starts where the inner one does
    directions = torch.randn(2, 12, generator=seeded(7))
    by_hand = inner.rows + sum(moved(prompt).theta[i] * directions[i].view(3, 4) for i in range(2)) / 2**0.5
    torch.testing.assert_close(prompt(condition), (0.5 * by_hand).expand(5, 3, 4))
    assert (prompt.n_tokens, prompt.n_numbers, prompt.n_scales, inner.n_scales) == (3, 2, 1, 3)
    assert [name for name, _ in prompt.named_parameters()] == ["theta"]


def test_only_the_few_numbers_get_a_gradient_that_is_right() -> None:
    inner = PromptGenerator(torch.randn(3, 4, generator=seeded(1)), 0.5, (2, 6), seeded(2))
    prompt = moved(Subspace(inner, 3, seed=1))
    condition = torch.randn(5, 2, generator=seeded(3))
    prompt(condition).square().sum().backward()
    assert all(parameter.grad is None for parameter in inner.parameters())
    for i in range(3):
        values = []
        for step in (-1e-3, 1e-3):
            nudged = copy.copy(prompt)
            nudged._parameters = {"theta": prompt.theta.detach() + step * torch.eye(3)[i]}
            values.append(nudged(condition).square().sum().item())
        assert prompt.theta.grad[i].item() == pytest.approx((values[1] - values[0]) / 2e-3, rel=1e-2, abs=1e-2)


def test_another_seed_has_other_directions() -> None:
    inner = SoftPrompt(torch.zeros(2, 4))
    one, same_one, other = (moved(Subspace(inner, 2, seed))(torch.zeros(1, 0)) for seed in (1, 1, 2))
    assert torch.equal(one, same_one) and not torch.allclose(one, other)


def test_a_subspace_of_no_tokens_has_nothing_to_train() -> None:
    prompt = Subspace(SoftPrompt(torch.zeros(0, 4)), 8, seed=0)
    assert not prompt.trainable and prompt(torch.zeros(3, 0)).shape == (3, 0, 4)


def test_rounding_and_bits_count_the_few_numbers_and_one_scale(neox) -> None:
    bench = bench_of(neox, Documents())
    prompt = moved(Subspace(SoftPrompt(neox.vocabulary[:3], neox.scale), 5, seed=0))
    torch.testing.assert_close(prompt.rounded(2).theta, round_rows(prompt.theta[None], 2)[0])
    assert not torch.allclose(prompt.rounded(2).theta, prompt.theta)
    (scores,) = evaluate(neox, [prompt], bench.held_out, 10**6)
    (validated,) = evaluate(neox, [prompt], bench.validation, 10**6)
    for size in rounded_sizes(bench, prompt, scores, validated.loss):
        assert size.bits == 5 * size.bits_per_number + SCALE_BITS
        assert (size.numbers, size.trained_numbers) == (5, 5)
        (rounded,) = evaluate(neox, [prompt.rounded(size.bits_per_number)], bench.validation, 10**6)
        assert size.validation_loss == pytest.approx(rounded.loss, abs=1e-6)


@pytest.mark.parametrize("n_conditions", [0, 2])
def test_it_is_trained_interrupted_and_saved_like_any_prompt(neox, tmp_path, n_conditions: int) -> None:
    runs = [run(3, task=Documents(n_conditions), steps=6, subspace=4), run(0, task=Documents(n_conditions), subspace=4)]
    undisturbed = go(neox, runs, tmp_path / "undisturbed")
    state = undisturbed[0]
    assert state.intervention.theta.abs().max() > 0.05  # it moved
    with pytest.raises(Interrupted):
        go(neox, runs, tmp_path / "stopped", 4)
    same(go(neox, runs, tmp_path / "stopped"), undisturbed)

    save_prompt(state.intervention, neox, {}, tmp_path / "p.safetensors")
    loaded = load_prompt(tmp_path / "p.safetensors", neox)
    assert type(loaded) is (PromptGenerator if n_conditions else SoftPrompt)
    examples = make_examples(5, n_conditions=n_conditions)
    own, again = (evaluate(neox, [prompt], examples, 10**6)[0].loss for prompt in (state.intervention, loaded))
    assert own == pytest.approx(again, abs=1e-6)


def test_with_as_many_directions_as_numbers_nearly_as_much_is_reached_as_without(pocket, tmp_path) -> None:
    """A loss that a prompt can always lower: that of pocket on random digits."""
    few, many, all_of_them = (
        train_all(pocket, [run(1, steps=60, subspace=d)], tmp_path / str(d))[0].curve for d in (1, 200, 0)
    )
    gains = [curve[0]["loss"] - curve[-1]["loss"] for curve in (few, many, all_of_them)]
    assert gains[0] < gains[1] / 2 and gains[1] > 0.5 * gains[2]


def test_the_recipe_makes_it_with_the_run_s_seed(neox) -> None:
    one, other = (make_intervention(neox, run(2, seed=seed, subspace=3), 0) for seed in (0, 1))
    assert isinstance(one, Subspace) and not torch.equal(one.directions_0, other.directions_0)
