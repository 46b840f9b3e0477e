"""Interventions share forward passes: each changes its own rows only, whatever stands beside it."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.generate import generate
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions import Intervention, PromptGenerator, SoftPrompt
from soft_prompts.interventions.rounding import round_rows
from soft_prompts.results.snapshot import load_prompt, save_prompt
from soft_prompts.tasks.base import Task
from soft_prompts.training.loop import accumulate_gradients
from tests.unit.conftest import make_examples


class Steering(Intervention):
    """The smallest rival of a soft prompt: P = 0, and a vector that is added behind the model's first layer."""

    n_tokens = 0

    def __init__(self, vector: torch.Tensor):
        super().__init__()
        self.vector = nn.Parameter(vector)

    @property
    def n_numbers(self) -> int:
        return self.vector.numel()

    def forward(self, condition: torch.Tensor) -> torch.Tensor:
        return self.vector.new_zeros(len(condition), 0, len(self.vector))

    def changes(self, lm):
        return {lm.base_model.layers[0]: lambda given, passed_on: passed_on + self.vector}


def steered_logits(model, vector: torch.Tensor, tokens: np.ndarray) -> torch.Tensor:
    """The reference: one text through the whole model, the vector added to every position behind the first layer."""

    def add(module, given, output):
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    handle = model.lm.base_model.layers[0].register_forward_hook(add)
    logits = model.lm(torch.from_numpy(tokens)[None]).logits[0]
    handle.remove()
    return logits


def steered_loss(model, vector: torch.Tensor, examples: list[Example]) -> torch.Tensor:
    total = torch.zeros(())
    for e in examples:
        losses = nn.functional.cross_entropy(
            steered_logits(model, vector, e.tokens)[:-1], torch.from_numpy(e.labels[1:]), reduction="sum"
        )
        total = total + losses
    return total / sum(e.n_scored for e in examples)


def rivals() -> list[Intervention]:
    """Two steering vectors and an empty prompt, which share passes, and a prompt of three tokens."""
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randn(32, generator=random) for _ in range(2))
    empty, longer = torch.zeros(0, 32), torch.randn(3, 32, generator=random)
    return [Steering(first), SoftPrompt(empty), Steering(second), SoftPrompt(longer)]


def test_rivals_in_one_pass_score_as_each_does_alone(model) -> None:
    examples = make_examples(5)
    together = evaluate(model, rivals(), examples, 10**6)
    for scores, rival in zip(together, rivals(), strict=True):
        (alone,) = evaluate(model, [rival], examples, 1)
        np.testing.assert_allclose(scores.sums, alone.sums, rtol=1e-5)
    with torch.no_grad():
        wanted = steered_loss(model, rivals()[0].vector, examples).item()
    assert together[0].loss == pytest.approx(wanted, rel=1e-5)
    assert abs(together[0].loss - together[1].loss) > 0.01  # the vector does something
    assert abs(together[0].loss - together[2].loss) > 0.01  # and not to its neighbour


def test_rivals_in_one_pass_get_the_gradients_that_each_gets_alone(model) -> None:
    examples, interventions = make_examples(4), rivals()
    losses = accumulate_gradients(model, Task(), interventions, [examples] * 4, 10**6)
    for steering, loss in ((interventions[0], losses[0]), (interventions[2], losses[2])):
        vector = steering.vector.detach().clone().requires_grad_()
        wanted = steered_loss(model, vector, examples)
        wanted.backward()
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
        torch.testing.assert_close(steering.vector.grad, vector.grad, atol=1e-5, rtol=1e-4)


def test_hooks_are_gone_when_the_pass_is_over_also_if_it_fails(neox) -> None:
    plain, (e, *_) = SoftPrompt(torch.zeros(0, 32)), make_examples(1)
    before = evaluate(neox, [plain], [e], 10**6)[0].loss
    evaluate(neox, rivals(), [e], 10**6)
    with pytest.raises(RuntimeError):
        evaluate(neox, [Steering(torch.zeros(31))], [e], 10**6)  # a vector of the wrong width
    assert evaluate(neox, [plain], [e], 10**6)[0].loss == before
    assert not neox.lm.base_model.layers[0]._forward_hooks


def test_a_continuation_is_steered_at_every_token(model) -> None:
    vector = 3 * torch.randn(32, generator=torch.Generator().manual_seed(2))
    start = Example(np.array([0, 7, 9]), np.full(3, IGNORE), "start")
    with torch.no_grad():
        tokens = start.tokens
        for _ in range(6):
            tokens = np.append(tokens, steered_logits(model, vector, tokens)[-1].argmax().item())
        (new,) = generate(model, Steering(vector), [start], 6, 0.0, torch.Generator())
        (plain,) = generate(model, SoftPrompt(torch.zeros(0, 32)), [start], 6, 0.0, torch.Generator())
    wanted = tokens[3:]
    ends = np.flatnonzero(wanted == 0)  # the separator ends a text
    wanted = wanted[: ends[0]] if len(ends) else wanted
    assert new.tolist() == wanted.tolist() != plain.tolist()


def test_what_has_no_parameters_is_not_trainable() -> None:
    random = torch.Generator()
    empty, three = torch.zeros(0, 4), torch.zeros(3, 4)
    assert not SoftPrompt(empty).trainable and SoftPrompt(three).trainable
    assert not PromptGenerator(empty, 1.0, (2, 8), random).trainable
    assert PromptGenerator(three, 1.0, (2, 8), random).trainable
    assert Steering(torch.zeros(4)).trainable


def test_the_numbers_of_a_prompt_are_those_that_the_model_is_told_in_one_condition() -> None:
    assert SoftPrompt(torch.zeros(3, 4)).n_numbers == 12
    assert PromptGenerator(torch.zeros(3, 4), 1.0, (2, 8), torch.Generator()).n_numbers == 12


def test_a_rounded_prompt_is_rounded_under_every_condition() -> None:
    random = torch.Generator().manual_seed(0)
    prompt = PromptGenerator(torch.randn(3, 64, generator=random), 0.5, (2, 8), random)
    conditions = torch.randn(5, 2, generator=random)
    rounded = prompt.rounded(2)
    assert (rounded.n_tokens, rounded.n_numbers) == (3, 3 * 64)
    torch.testing.assert_close(rounded(conditions), round_rows(prompt(conditions), 2))
    assert max(len(row.unique()) for row in rounded(conditions).reshape(-1, 64)) == 4


# --- snapshots ---


def generator(n_tokens: int) -> PromptGenerator:
    return PromptGenerator(torch.randn(n_tokens, 32), 0.02, (2, 8, 5), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prompt", [SoftPrompt(torch.randn(3, 32), 0.02), generator(3), generator(0)])
def test_a_snapshot_stores_its_own_configuration(neox, tmp_path, prompt: Intervention) -> None:
    path = tmp_path / "p.safetensors"
    save_prompt(prompt, neox, {}, path)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["config"]) == prompt.config()
    read = load_prompt(path, neox)
    assert type(read) is type(prompt) and read.config() == prompt.config()
    torch.testing.assert_close(read(torch.ones(2, 2)), prompt(torch.ones(2, 2)), rtol=0, atol=0)


@pytest.mark.parametrize("n_tokens", [0, 3])
@pytest.mark.parametrize("make", [lambda: SoftPrompt(torch.randn(3, 32), 0.02), lambda: generator(3)])
def test_a_snapshot_of_version_1_is_read_as_well(neox, tmp_path, make, n_tokens: int) -> None:
    """It has no configuration, and the generator of an empty prompt still had hidden layers."""
    path, prompt = tmp_path / "p.safetensors", make()
    save_prompt(prompt, neox, {}, path)
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del metadata["config"], metadata["checksum"]
    tensors["rows"] = tensors["rows"][:n_tokens].clone()
    if "out" in tensors:
        tensors["out"] = tensors["out"][:, :n_tokens].clone()
    save_file(tensors, path, {**metadata, "schema": "1"})
    read = load_prompt(path, neox)
    assert type(read) is type(prompt) and read.n_tokens == n_tokens
    torch.testing.assert_close(read(torch.ones(2, 2)), prompt(torch.ones(2, 2))[:, :n_tokens], rtol=0, atol=0)


@pytest.mark.parametrize("change", [{"schema": "9"}, {"kind": "Spell"}])
def test_a_snapshot_of_another_version_or_kind_is_one_sentence(neox, tmp_path, change: dict) -> None:
    path = tmp_path / "p.safetensors"
    save_prompt(SoftPrompt(torch.zeros(1, 32)), neox, {}, path)
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {"rows": file.get_tensor("rows"), "scale": file.get_tensor("scale")}
    save_file(tensors, path, metadata | change)
    with pytest.raises(SoftPromptsError, match="no snapshot of schema version 1 to 3.*train the prompt again"):
        load_prompt(path, neox)
