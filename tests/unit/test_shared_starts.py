"""Rows that begin alike read their beginning once: the same states, losses and gradients, for fewer positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPTNeoXConfig, LlamaConfig, MistralConfig

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.batch import collate
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.forward import WORTH_SHARING, forward_pass, shared_start
from soft_prompts.interventions.base import Intervention
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models import fitness
from soft_prompts.models.language_model import Reader
from soft_prompts.models.loading import load
from soft_prompts.tasks.base import Task
from soft_prompts.training.loop import accumulate_gradients
from tests.unit.conftest import TINY, save_random_model


def texts(n: int, seed: int = 0, at: int = 1, condition: tuple[float, ...] = ()) -> list[Example]:
    """Texts of 5 to 11 tokens that open with token 0."""
    random, made = np.random.default_rng(seed), []
    for i in range(n):
        tokens = np.array([0, *random.integers(1, 60, random.integers(4, 11))])
        labels = np.where(np.arange(len(tokens)) < at, IGNORE, tokens)
        made.append(Example(tokens, labels, f"{seed} {i}", at, condition=np.array(condition, np.float32)))
    return made


def prompts(n: int, n_tokens: int) -> list[SoftPrompt]:
    random = torch.Generator().manual_seed(n_tokens)
    return [SoftPrompt(torch.randn(n_tokens, 32, generator=random)) for _ in range(n)]


class Louder(SoftPrompt):
    """A prompt that also doubles what the first layer passes on."""

    def changes(self, lm):
        layer = next(m for m in lm.modules() if isinstance(m, nn.ModuleList))[0]
        return {layer: lambda given, passed_on: passed_on * 2}


@pytest.mark.parametrize("n_tokens", [1, 6])
def test_states_losses_and_gradients_are_those_of_whole_rows(model, n_tokens: int) -> None:
    assert model.shares_starts
    whole = replace(model, shares_starts=False)
    behind: list[Intervention] = [*prompts(2, n_tokens), Louder(prompts(1, n_tokens)[0].rows.detach())]
    examples = [texts(5, seed=1), texts(3, seed=2), texts(4, seed=3)]
    rows = [(r, i) for r in range(3) for i in range(len(examples[r]))]
    read, alone = (forward_pass(m, behind, examples, rows) for m in (model, whole))
    torch.testing.assert_close(read.hidden, alone.hidden, atol=1e-5, rtol=1e-4)
    assert read.counts == alone.counts and read.labels.tolist() == alone.labels.tolist()
    found = []
    for m in (model, whole):
        losses = accumulate_gradients(m, Task(), behind, examples, 10**6)
        found.append((losses, [p.rows.grad.clone() for p in behind]))
        for p in behind:
            p.zero_grad()
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    for shared, naive in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(shared, naive, atol=1e-6, rtol=1e-4)
        assert naive.abs().max() > 1e-4


def test_a_start_is_read_once_for_each_run(model, monkeypatch) -> None:
    read = []
    as_it_is = Reader.__call__
    monkeypatch.setattr(Reader, "__call__", lambda self, piece: (read.append(piece.shape), as_it_is(self, piece))[1])
    behind, examples = prompts(2, 6), [texts(5, seed=1), texts(3, seed=2)]
    longest = max(len(e) for of in examples for e in of)
    evaluate(model, behind, examples[0], 10**6)
    assert [shape[:2] for shape in read] == [(2, 1 + 6), (10, max(map(len, examples[0])) - 1)]
    read.clear()
    accumulate_gradients(model, Task(), behind, examples, 10**6)
    assert [shape[:2] for shape in read] == [(2, 1 + 6), (8, longest - 1)]


def test_what_differs_before_the_prompts_end_is_not_shared(model) -> None:
    def start(examples: list[Example], n_runs: int = 1, n_tokens: int = 6, first: int = 6, of=model) -> int:
        return shared_start(of, collate(examples), n_tokens, n_runs, torch.tensor([first, 9]))

    assert start(texts(4)) == 7
    assert start(texts(4), of=replace(model, shares_starts=False)) == 0
    assert start(texts(4, condition=(1.0,))) == 0  # the prompt may differ
    assert start([*texts(3), *texts(1, at=2)]) == 0  # it stands elsewhere
    assert start(texts(4, at=3)) == 0  # behind different texts
    same = [replace(e, tokens=np.array([0, 7, 7, *e.tokens[3:]])) for e in texts(4, at=3)]
    assert start(same, first=8) == 9
    assert start(same, first=7) == 0  # a token within the start is scored
    assert start([replace(e, insert_at=len(e)) for e in texts(1)] * 4) == 0  # nothing stands behind it
    # It must pay: with as many runs as rows, nothing is saved.
    assert start(texts(4), n_runs=4) == 0
    n_text = max(map(len, texts(40)))
    saved = 39 * 2 / (40 * (n_text + 1))
    assert (start(texts(40), n_tokens=1, first=1) == 2) == (saved >= WORTH_SHARING)


def test_models_whose_rows_depend_on_their_length_or_on_a_window_do_not_share(tmp_path, monkeypatch) -> None:
    long = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    configs = {
        "plain": LlamaConfig(**TINY),
        "dynamic": LlamaConfig(**TINY, rope_parameters=long),
        "window": MistralConfig(**TINY, num_key_value_heads=2, sliding_window=8),
        "neox": GPTNeoXConfig(**TINY),
    }
    models = {name: load(str(save_random_model(config, tmp_path / name))) for name, config in configs.items()}
    assert {name: m.shares_starts for name, m in models.items()} == {
        "plain": True,
        "dynamic": False,
        "window": False,
        "neox": True,
    }
    # Shares of rows that are handed out wrongly are noticed, and so is code that raises.
    as_it_is = Reader.hand_out
    monkeypatch.setattr(Reader, "hand_out", lambda self, row_of: as_it_is(self, row_of.flip(0) * 0))
    assert not fitness.shares_starts(models["plain"])

    def backwards(self, row_of) -> None:
        as_it_is(self, row_of)
        for layer in self._cache.layers:
            layer.values = 2 * layer.values.detach() - layer.values

    monkeypatch.setattr(Reader, "hand_out", backwards)  # the states are right, and the prompt learns the opposite
    assert not fitness.shares_starts(models["plain"])
    monkeypatch.setattr(Reader, "hand_out", lambda self, row_of: 1 / 0)
    assert not fitness.shares_starts(models["plain"])


def test_rows_are_handed_out_without_a_cache_too(model) -> None:
    tokens = torch.tensor([[0, 5, 9, 3], [0, 8, 2, 7]])
    row_of, behind = torch.tensor([1, 0, 1]), torch.tensor([[4, 6], [4, 6], [11, 12]])
    wanted = model.body(model.embed(torch.cat([tokens[row_of], behind], 1)))[:, 4:]
    for of in (model, replace(model, has_cache=False)):
        read = of.reader()
        read(of.embed(tokens))
        read.hand_out(row_of)
        torch.testing.assert_close(read(of.embed(behind)), wanted, atol=1e-5, rtol=1e-4)
