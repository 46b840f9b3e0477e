"""Continuations with a key-value cache equal those of the whole model, token by token."""

import numpy as np
import pytest
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import Example
from soft_prompts.engine.batch import insert
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from tests.unit.conftest import CONTEXT, make_examples


def prompted(model, n_tokens: int, token_budget: int = 10**6) -> PromptedModel:
    """The model behind a random prompt, the same every time."""
    prompt = SoftPrompt(torch.randn(n_tokens, 32, generator=torch.Generator().manual_seed(1)))
    return PromptedModel(Bench(model, Encoding(model.tokenizer, model.separator, 24), [], token_budget), prompt)


def greedy_without_cache(model, prompt: SoftPrompt, start: Example, n_new: int) -> list[int]:
    """The reference: the whole row through the whole model for every new token."""
    tokens: list[int] = start.tokens.tolist()
    for _ in range(n_new):
        row = model.embed(torch.tensor([tokens]))
        row = insert(row, prompt(torch.zeros(1, 0)), torch.tensor([start.insert_at]))
        token = int(model.lm(inputs_embeds=row).logits[0, -1].argmax())
        if token == model.separator:
            break
        tokens.append(token)
    return tokens[len(start) :]


@pytest.mark.parametrize("n_tokens", [0, 1, 3, 17])
@pytest.mark.parametrize("token_budget", [1, 10**6])
def test_cached_generation_in_padded_batches_is_the_teacher_forced_argmax(
    model, n_tokens: int, token_budget: int
) -> None:
    behind = prompted(model, n_tokens, token_budget)
    starts = make_examples(5)
    wanted = [greedy_without_cache(model, behind.intervention, start, 12) for start in starts]
    assert [row.tolist() for row in behind.generate(starts, 12)] == wanted
    assert any(wanted)


def test_sampling_follows_its_seed(neox) -> None:
    behind, starts = prompted(neox, 2), make_examples(3)
    first, again, other = (behind.generate(starts, 8, temperature=1.0, seed=seed) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any(a.tolist() != b.tolist() for a, b in zip(first, other, strict=True))


def test_sampling_draws_tokens_as_often_as_the_model_says(neox) -> None:
    start = Example(np.array([0, 5]), np.array([-100, 5]), "d")
    with torch.no_grad():
        wanted = neox.lm(torch.tensor([[0, 5]])).logits[0, -1].softmax(0)
    drawn = prompted(neox, 0).generate([start] * 4000, 1, temperature=1.0)
    counts = np.bincount([row[0] if len(row) else 0 for row in drawn], minlength=len(wanted))
    assert np.abs(counts / 4000 - wanted.numpy()).max() < 5 * np.sqrt(wanted.max().item() / 4000)


def test_a_text_that_outgrows_the_context_is_refused_with_the_numbers(neox) -> None:
    with pytest.raises(SoftPromptsError, match=f"prompt of 100 tokens.*need .* has {CONTEXT}"):
        prompted(neox, 100).generate(make_examples(1), 40)
