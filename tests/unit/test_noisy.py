"""Prompts that are right on average under noise: their distribution, their cost, and that chance is the same again."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from soft_prompts.console import Interrupted
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.noisy import NoisyPrompt
from soft_prompts.probes.bits import rounded_sizes
from soft_prompts.results.snapshot import load_prompt, save_prompt
from soft_prompts.training.log import Logs
from soft_prompts.training.state import TrainingState, make_intervention
from tests.unit.test_checkpoint import bench_of, go, same
from tests.unit.test_train import Documents, run, train_all

NOTHING = torch.zeros(1, 0)


def vocabulary() -> torch.Tensor:
    """Rows whose dimensions hang together."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(5000, 4, generator=random) @ torch.randn(4, 4, generator=random) + 3


def prompt_of(n_tokens: int = 2, tokens: float = 100.0) -> NoisyPrompt:
    return NoisyPrompt(vocabulary()[:n_tokens], vocabulary(), tokens)


def test_without_noise_it_is_where_it_starts() -> None:
    torch.testing.assert_close(prompt_of()(torch.zeros(3, 0)), vocabulary()[:2].expand(3, -1, -1))


def test_its_cost_is_the_divergence_from_the_vocabulary_s_distribution() -> None:
    prompt = prompt_of()
    rows, covariance = vocabulary(), torch.cov(vocabulary().T)
    expected = MultivariateNormal(rows.mean(0), covariance)
    wanted = 0.0
    for p in range(2):  # the same distribution, written as mean and covariance of the tokens themselves
        widths = prompt.log_sigma[p].exp()[:, None] * prompt.basis
        own = MultivariateNormal(prompt(NOTHING)[0, p], widths.T @ widths)
        wanted += kl_divergence(own, expected).item()
    assert prompt.nats.item() == pytest.approx(wanted, rel=1e-3)
    assert prompt.penalty().item() == pytest.approx(wanted / 100, rel=1e-3)


def test_a_prompt_that_is_left_to_chance_costs_nothing_and_is_drawn_like_the_vocabulary() -> None:
    prompt = prompt_of()
    with torch.no_grad():
        prompt.w.zero_(), prompt.log_sigma.zero_()
    assert prompt.nats.item() == pytest.approx(0, abs=1e-5)
    drawn = []
    for seed in range(4000):
        prompt.draw(seed)
        drawn.append(prompt(NOTHING)[0])
    rows = torch.cat(drawn)
    torch.testing.assert_close(rows.mean(0), vocabulary().mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(torch.cov(rows.T), torch.cov(vocabulary().T), atol=0.3, rtol=0.05)


def test_the_same_draw_is_the_same_and_another_is_not() -> None:
    prompt, rows = prompt_of(), []
    for seed in (1, 2, 1):
        prompt.draw(seed)
        rows.append(prompt(NOTHING))
    assert torch.equal(rows[0], rows[2]) and not torch.allclose(rows[0], rows[1])


def test_bits_are_those_of_the_divergence(neox) -> None:
    bench = bench_of(neox, Documents())
    prompt = NoisyPrompt(neox.vocabulary[:2], neox.vocabulary, 100.0)
    (scores,) = evaluate(neox, [prompt], bench.held_out, 10**6)
    (size,) = rounded_sizes(bench, prompt, scores, 3.0)
    assert size.bits == math.ceil(prompt.nats.item() / math.log(2))
    assert (size.bits_per_number, size.validation_loss, size.loss) == (0, 3.0, scores.loss)


def test_it_is_trained_together_as_alone_interrupted_and_saved_as_it_was_measured(neox, tmp_path) -> None:
    runs = [run(2, steps=6, noise=1000), run(3, steps=6, seed=1, noise=10), run(0, steps=6, noise=10)]
    undisturbed = go(neox, runs, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        go(neox, runs, tmp_path / "stopped", 4)
    same(go(neox, runs, tmp_path / "stopped"), undisturbed)
    for state in undisturbed:
        (alone,) = train_all(neox, [state.run], tmp_path / "alone")
        assert alone.scores.loss == pytest.approx(state.scores.loss, abs=1e-4)
    state = undisturbed[0]
    save_prompt(state.intervention, neox, {}, tmp_path / "p.safetensors")
    held_out = bench_of(neox, Documents()).held_out
    (again,) = evaluate(neox, [load_prompt(tmp_path / "p.safetensors", neox)], held_out, 10**6)
    assert again.loss == pytest.approx(state.scores.loss, abs=1e-5)


def test_the_more_a_prompt_may_cost_the_lower_is_its_loss_and_the_more_it_costs(pocket, tmp_path) -> None:
    """On pocket's own random digits, which any prompt can lower."""
    cheap, dear = (
        train_all(pocket, [run(2, steps=80, lr=0.1, noise=tokens)], tmp_path / str(tokens))[0] for tokens in (100, 1e6)
    )
    assert cheap.intervention.nats < 0.5 * dear.intervention.nats
    assert dear.curve[-1]["loss"] < cheap.curve[-1]["loss"]


def test_every_evaluation_has_the_same_noise_and_every_step_its_own(neox, tmp_path) -> None:
    of = run(2, noise=10)
    state = TrainingState(of, make_intervention(neox, of, 0), Logs(tmp_path).of(of))
    drawn = []
    for step in (1, 2):
        state.begin(step)
        in_training = state.intervention(NOTHING)
        state.settle()
        drawn += [in_training, state.intervention(NOTHING)]
        state.curve.append({"step": step, "loss": 1.0})
    first, evaluated, second, again = drawn
    assert torch.equal(evaluated, again)
    assert not torch.allclose(first, second) and not torch.allclose(first, evaluated)


@pytest.mark.parametrize("other", [{"subspace": 3}, {"grow": True}])
def test_what_would_be_passed_over_in_silence_is_refused(other) -> None:
    with pytest.raises(SoftPromptsError, match="goes with neither"):
        run(8, noise=10, **other).train.check()


def test_a_prompt_with_conditions_is_refused(neox) -> None:
    with pytest.raises(SoftPromptsError, match="without conditions"):
        make_intervention(neox, run(2, noise=10), 2)
