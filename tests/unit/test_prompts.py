"""Prompts: how they are inserted, where they start, and how they depend on the condition."""

import numpy as np
import pytest
import torch

from soft_prompts.engine.batch import insert
from soft_prompts.interventions.soft_prompt import (
    INITIALISERS,
    PromptGenerator,
    SoftPrompt,
    TokenwiseGenerator,
    initial_rows,
)


def seeded(seed: int = 0) -> torch.Generator:
    """A source of chance that gives the same numbers every time."""
    return torch.Generator().manual_seed(seed)


def insert_by_loop(rows: torch.Tensor, block: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """The reference for ``insert``: cut and join row by row."""
    return torch.stack([torch.cat([row[:i], b, row[i:]]) for row, b, i in zip(rows, block, at.tolist(), strict=True)])


@pytest.mark.parametrize("n_tokens", [0, 1, 3, 16])
@pytest.mark.parametrize("tail", [(), (5,), (2, 3)])
def test_insert_equals_cutting_and_joining_row_by_row(n_tokens: int, tail: tuple[int, ...]) -> None:
    rows, block = torch.randn(8, 7, *tail, generator=seeded()), torch.randn(8, n_tokens, *tail, generator=seeded(1))
    at = torch.tensor([0, 7, 1, 3, 3, 6, 5, 2])
    assert torch.equal(insert(rows, block, at), insert_by_loop(rows, block, at))


def test_the_gradient_of_what_is_inserted_is_that_of_its_places() -> None:
    block, at = torch.randn(3, 2, 4, requires_grad=True), torch.tensor([0, 2, 5])
    upstream = torch.randn(3, 7, 4)
    insert(torch.randn(3, 5, 4), block, at).backward(upstream)
    assert torch.equal(block.grad, torch.stack([upstream[i, n : n + 2] for i, n in enumerate(at)]))


def test_insert_carries_labels_and_masks_in_their_own_dtype() -> None:
    labels = torch.arange(6).reshape(2, 3)
    got = insert(labels, torch.full((2, 2), -100), torch.tensor([0, 2]))
    assert got.tolist() == [[-100, -100, 0, 1, 2], [3, 4, -100, -100, 5]]
    mask = insert(torch.tensor([[True, False]]), torch.ones(1, 1), torch.tensor([1]))
    assert mask.tolist() == [[True, True, False]]


def test_insert_passes_gradients_to_rows_and_block_alike() -> None:
    rows, block = torch.randn(3, 4, 2, requires_grad=True), torch.randn(3, 2, 2, requires_grad=True)
    weight = torch.randn(3, 6, 2)
    at = torch.tensor([0, 2, 4])
    fast = torch.autograd.grad((insert(rows, block, at) * weight).sum(), (rows, block))
    naive = torch.autograd.grad((insert_by_loop(rows, block, at) * weight).sum(), (rows, block))
    assert all(torch.equal(a, b) for a, b in zip(fast, naive, strict=True))


@pytest.mark.parametrize("init", INITIALISERS)
@pytest.mark.parametrize("n_tokens", [0, 1, 5])
def test_every_initialiser_gives_p_rows_and_the_same_ones_for_the_same_seed(init: str, n_tokens: int) -> None:
    vocabulary, text = torch.randn(50, 4, generator=seeded()), torch.tensor([3, 1, 4])
    first, second = (initial_rows(init, n_tokens, vocabulary, text, seeded(7)) for _ in range(2))
    assert first.shape == (n_tokens, 4)
    assert torch.equal(first, second)


def test_initial_rows_are_what_they_are_called() -> None:
    vocabulary, text = torch.randn(50, 4, generator=seeded()) * 3 + 1, torch.tensor([3, 1, 4])
    sampled = initial_rows("vocabulary", 20, vocabulary, text, seeded())
    assert all((vocabulary == row).all(1).any() for row in sampled)
    assert torch.equal(initial_rows("text", 5, vocabulary, text, seeded()), vocabulary[[3, 1, 4, 3, 1]])
    assert not initial_rows("zeros", 5, vocabulary, text, seeded()).any()
    normal = initial_rows("normal", 20_000, vocabulary, text, seeded())
    torch.testing.assert_close(normal.mean(0), vocabulary.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(normal.std(0), vocabulary.std(0), atol=0.1, rtol=0)


def test_an_unknown_initialiser_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'magic'.*vocabulary, normal, unit_normal, text, zeros"):
        initial_rows("magic", 1, torch.zeros(2, 2), torch.tensor([0]), seeded())


def test_a_soft_prompt_starts_exactly_at_its_initial_rows_whatever_its_unit() -> None:
    initial = torch.randn(3, 4)
    for scale in (1.0, 0.02):
        torch.testing.assert_close(SoftPrompt(initial, scale)(torch.zeros(2, 0)), initial.expand(2, -1, -1))


def test_one_step_moves_a_prompt_by_the_same_share_of_an_embedding_in_every_unit() -> None:
    for scale in (1.0, 0.02):
        prompt = SoftPrompt(torch.zeros(3, 4), scale)
        optimizer = torch.optim.AdamW(prompt.parameters(), lr=0.1)
        prompt(torch.zeros(1, 0)).sum().backward()
        optimizer.step()
        torch.testing.assert_close(prompt(torch.zeros(1, 0)), torch.full((1, 3, 4), -0.1 * scale))


def generator(n_tokens: int, width: int = 16, depth: int = 2, scale: float = 0.5) -> PromptGenerator:
    """A conditional prompt for two conditions and embeddings of width 6."""
    initial = torch.randn(n_tokens, 6, generator=seeded()) * scale
    return PromptGenerator(initial, scale, (2, *[width] * depth), seeded())


@pytest.mark.parametrize("n_tokens", [0, 1, 4, 1024])
def test_a_generated_prompt_is_its_rows_plus_a_little_that_depends_on_the_condition(n_tokens: int) -> None:
    prompt = generator(n_tokens)
    condition = torch.rand(64, 2, generator=seeded()) * 2 - 1
    got = prompt(condition)
    assert got.shape == (64, n_tokens, 6)
    if n_tokens:
        dependent = (got - prompt.rows * 0.5).std().item() / 0.5  # in units of an embedding
        assert 0.01 < dependent < 0.3
        assert not torch.allclose(got[0], got[1])


def test_a_generated_prompt_equals_the_mlp_token_by_token() -> None:
    prompt = generator(5, width=8, depth=3)
    condition = torch.randn(4, 2)
    got = prompt(condition)
    for b in range(4):
        hidden = condition[b]
        for layer in prompt.hidden:
            hidden = torch.nn.functional.gelu(layer.weight @ hidden + layer.bias)
        for p in range(5):
            row = prompt.rows[p] + sum(hidden[h] / 8 * prompt.out[h, p] for h in range(8))
            torch.testing.assert_close(got[b, p], row * 0.5)


@pytest.mark.parametrize("n_tokens", [0, 1, 5])
def test_the_published_generator_is_a_network_of_torch_s_own_layers_for_every_token(n_tokens: int) -> None:
    prompt = TokenwiseGenerator((n_tokens, 6), 2, 8, seeded(), scale=0.5)
    condition = torch.randn(4, 2, generator=seeded())
    got = prompt(condition)
    assert got.shape == (4, n_tokens, 6) and prompt.trainable == bool(n_tokens)
    for p in range(n_tokens):
        inner, last = torch.nn.Linear(2, 8), torch.nn.Linear(8, 6)
        with torch.no_grad():
            inner.weight.copy_(prompt.hidden[:, p].T), inner.bias.copy_(prompt.hidden_bias[p])
            last.weight.copy_(prompt.out[p].T), last.bias.copy_(prompt.rows[p])
        torch.testing.assert_close(got[:, p], 0.5 * last(torch.nn.Mish()(inner(condition))))


def test_the_published_generator_starts_as_torch_s_layers_do() -> None:
    prompt, layer = TokenwiseGenerator((200, 6), 2, 128, seeded()), torch.nn.Linear(128, 2000)
    for own, torch_s in ((prompt.out, layer.weight), (prompt.rows, layer.bias)):
        assert own.abs().max().item() == pytest.approx(128**-0.5, rel=0.01)
        assert own.std().item() == pytest.approx(torch_s.std().item(), rel=0.05)
    assert prompt.hidden.abs().max().item() == pytest.approx(2**-0.5, rel=0.01)


def test_depth_and_width_are_as_asked_and_checked() -> None:
    shapes = [tuple(layer.weight.shape) for layer in generator(3, width=10, depth=3).hidden]
    assert shapes == [(10, 2), (10, 10), (10, 10)]
    with pytest.raises(ValueError, match="at least one unit"):
        PromptGenerator(torch.zeros(1, 2), 1.0, (2,), seeded())


def test_gradients_reach_every_part_of_a_generator() -> None:
    prompt = generator(3)
    prompt(torch.tensor(np.float32([[0.1, 0.4]]))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in prompt.parameters())
