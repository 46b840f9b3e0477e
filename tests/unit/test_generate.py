"""Continuations with a key-value cache equal those of the whole model, token by token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import DynamicCache, MistralConfig, Olmo3Config, Phi3Config, Qwen2Config, Starcoder2Config
from transformers.cache_utils import DynamicLayer

from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import Example
from soft_prompts.engine.batch import insert
from soft_prompts.engine.generate import batches, generate
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models import language_model
from soft_prompts.models.language_model import Reader, Roomy
from soft_prompts.models.loading import load
from tests.unit.conftest import CONTEXT, TINY, make_examples, save_random_model

SLIDING = {**TINY, "num_key_value_heads": 2, "sliding_window": 8}
WINDOWS = {
    "mistral": MistralConfig(**SLIDING),
    "phi3": Phi3Config(**SLIDING, pad_token_id=0),
    "qwen2": Qwen2Config(**SLIDING, use_sliding_window=True, max_window_layers=1),
    "olmo3": Olmo3Config(**SLIDING, layer_types=["sliding_attention", "full_attention"]),
    "starcoder2": Starcoder2Config(**SLIDING),
}
"""Architectures with windows narrower than the texts."""


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


def test_a_row_ends_where_it_is_enough_and_its_neighbours_go_on(model) -> None:
    """Both with a token that is wanted and with a number of tokens."""
    behind, starts = prompted(model, 3).intervention, make_examples(5)

    def written(of, enough) -> list[list[int]]:
        return [row.tolist() for row in generate(model, behind, of, 12, 0.0, torch.Generator(), enough)]

    whole = written(starts, None)
    stop = next(row[2] for row in whole if len(row) > 4)
    for enough in (lambda row: row[-1] == stop, lambda row: len(row) == 3):
        lengths = [[enough(row[: n + 1]) for n in range(len(row))] for row in whole]
        wanted = [row[: 1 + at.index(True)] if any(at) else row for row, at in zip(whole, lengths, strict=True)]
        assert written(starts, enough) == wanted == [written([start], enough)[0] for start in starts]
        assert wanted != whole


def test_a_model_without_a_cache_continues_texts_as_one_with_a_cache(model) -> None:
    starts, behind = make_examples(5), prompted(model, 3)
    wanted = behind.generate(starts, 12)
    bench = replace(behind.bench, model=replace(model, has_cache=False))
    got = replace(behind, bench=bench).generate(starts, 12)
    assert [row.tolist() for row in got] == [row.tolist() for row in wanted]


@pytest.mark.parametrize("name", WINDOWS)
def test_behind_a_window_texts_continue_as_each_does_alone(name: str, tmp_path) -> None:
    """A short row must not be pushed out of its own window by a long one."""
    model = load(str(save_random_model(WINDOWS[name], tmp_path)))
    assert model.window == 8
    behind, starts = prompted(model, 3), [make_examples(40, longest=60)[i] for i in range(4)]
    assert min(map(len, starts)) < 8 and max(map(len, starts)) > 40
    wanted = [greedy_without_cache(model, behind.intervention, start, 16) for start in starts]
    assert [row.tolist() for row in behind.generate(starts, 16)] == wanted
    assert model.has_cache


def test_a_cache_that_is_wrong_only_in_long_texts_is_not_used(tmp_path, monkeypatch, capsys) -> None:
    config = MistralConfig(**TINY, num_key_value_heads=2, sliding_window=32)
    folder = save_random_model(config, tmp_path)
    forgets_early = MistralConfig(**TINY, num_key_value_heads=2, sliding_window=20)
    monkeypatch.setattr(language_model, "DynamicCache", lambda config: DynamicCache(config=forgets_early))
    model = load(str(folder))
    assert not model.has_cache
    said = " ".join(capsys.readouterr().err.split())
    assert "without its key-value cache, which is slow: reading 41 tokens through" in said
    behind, starts = prompted(model, 3), [make_examples(40, longest=60)[i] for i in range(4)]
    wanted = [greedy_without_cache(model, behind.intervention, start, 12) for start in starts]
    assert [row.tolist() for row in behind.generate(starts, 12)] == wanted


def test_batches_hold_all_texts_once_by_length_within_the_budget_and_within_the_steps_of_a_continuation() -> None:
    lengths = [3, 9, 4, 30, 3, 31, 8, 100]
    starts = [Example(np.zeros(n, int), np.full(n, -100), "d") for n in lengths]
    assert list(batches(starts, n_tokens=2, n_new=5, token_budget=10**6)) == [[0, 4, 2, 6], [1], [3, 5], [7]]
    assert list(batches(starts, n_tokens=2, n_new=5, token_budget=30)) == [[0, 4], [2, 6], [1], [3], [5], [7]]
    assert list(batches([], 2, 5, 10)) == []


def test_a_text_does_not_end_by_what_the_model_would_say_while_it_is_still_read(folders) -> None:
    model = load(str(folders["neox"]))
    behind, (short, long) = prompted(model, 0), make_examples(40, longest=60)[7:9]
    assert len(long) - len(short) in range(5, 30)
    with torch.no_grad():
        said = model.lm(torch.from_numpy(long.tokens)[None]).logits[0].argmax(-1)  # behind every token of the long text
    of_short, of_long = (greedy_without_cache(model, behind.intervention, start, 30) for start in (short, long))
    ends = [of_short[0], int(said[-3])]  # the short text ends at once
    assert not set(ends) & set(of_long[:3])
    model.lm.generation_config.eos_token_id = ends
    assert [len(row) >= 3 for row in behind.generate([short, long], 30)] == [False, True]


@pytest.mark.parametrize("where", ["tokenizer", "generation_config"])
def test_a_text_ends_before_any_end_token_of_tokenizer_and_generation_config(where: str, folders) -> None:
    """Chat models often name the end of a turn in the generation configuration only."""
    model, start = load(str(folders["neox"])), make_examples(1)
    (whole,) = prompted(model, 3).generate(start, 12)
    assert len(whole) == 12
    if where == "tokenizer":
        model.tokenizer.eos_token_id = int(whole[4])
    else:
        model.lm.generation_config.eos_token_id = [255, int(whole[4])]
    assert set(model.ends) >= {model.separator, whole[4]}
    (cut,) = prompted(model, 3).generate(start, 12)
    assert cut.tolist() == whole[: whole.tolist().index(whole[4])].tolist()


def test_rows_that_have_ended_are_dropped_and_the_others_go_on_as_before(model, monkeypatch) -> None:
    behind, starts = prompted(model, 3).intervention, make_examples(12)
    wanted = [greedy_without_cache(model, behind, start, 12) for start in starts]
    n_rows, ask = [], Reader.__call__
    monkeypatch.setattr(Reader, "__call__", lambda self, piece: (n_rows.append(len(piece)), ask(self, piece))[1])
    limits = {tuple(row[:1]): 1 + i % 5 for i, row in enumerate(wanted)}  # by its first token, each has its own end

    def enough(row: np.ndarray) -> bool:
        return len(row) >= limits[tuple(row[:1])]

    found = generate(model, behind, starts, 12, 0.0, torch.Generator(), enough)
    assert [row.tolist() for row in found] == [row[: limits[tuple(row[:1])]] for row in wanted]
    assert n_rows[0] == 12 and n_rows == sorted(n_rows, reverse=True) and 0 < n_rows[-1] <= 6


@torch.no_grad()
def test_a_cache_with_room_holds_what_the_librarys_own_holds() -> None:
    random = torch.Generator().manual_seed(0)
    roomy, own = Roomy(), DynamicLayer()
    places = []
    for n in (7, 1, 3, 1, 9, 1, 30, 1):
        keys, values = torch.randn(3, 2, n, 4, generator=random), torch.randn(3, 2, n, 6, generator=random)
        for found, wanted in zip(roomy.update(keys, values), own.update(keys, values), strict=True):
            torch.testing.assert_close(found, wanted, atol=0, rtol=0)
        places.append(roomy.keys.data_ptr())
        if n == 9:  # rows are picked out, as they are where all have one beginning
            for layer in (roomy, own):
                layer.batch_select_indices(torch.tensor([2, 0, 2]))
    assert places[1] == places[2] == places[3] != places[4]  # room for 16, then for more
    assert len({places[i] for i in (5, 6, 7)}) == 2


def test_a_cache_with_room_writes_over_nothing_that_a_gradient_needs() -> None:
    first = torch.randn(1, 1, 4, 2, requires_grad=True)
    with torch.no_grad():
        layer = Roomy()
        layer.update(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2))
        layer.update(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
    keys, _ = layer.update(first, first)
    needed = keys.square()  # whose gradient needs the keys as they are now
    with torch.no_grad():
        layer.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
        layer.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    needed.sum().backward()
    torch.testing.assert_close(first.grad, 2 * first.detach())


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
