"""The token that opens texts is measured: a tokenizer whose BOS is not how the model's texts began is found out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tests.autoregressive_test
from soft_prompts.cli import run
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.separator import best_separator, losses_behind, token_of
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.loading import load
from soft_prompts.results import load_results
from soft_prompts.results.record import Result

OWN, WRONG = "<|endoftext|>", "#"
"""What pocket's texts began with, and a token of its mazes, which says that a maze follows."""


@pytest.fixture(scope="module")
def misled(tmp_path_factory):
    """pocket with a tokenizer that calls the wrong token BOS."""
    pocket, folder = load("pocket", dtype="float32", device="cpu"), tmp_path_factory.mktemp("models") / "misled"
    pocket.tokenizer.bos_token = WRONG
    pocket.tokenizer.save_pretrained(folder)
    pocket.lm.save_pretrained(folder)
    return folder


def test_losses_behind_special_tokens_are_those_of_one_row_at_a_time(misled) -> None:
    model = load(str(misled), dtype="float32", device="cpu")
    words = [model.tokenizer(text)["input_ids"] for text in ("The man went home.", "She looked at the sea and")]

    def examples_behind(token: int) -> list[Example]:
        return [Example(np.array([token, *w]), np.array([IGNORE, *w]), f"d{len(w)}") for w in words]

    losses = losses_behind(model, examples_behind, 4096)
    assert {model.tokenizer.decode([i]) for i in losses} == {OWN, WRONG}
    for token, loss in losses.items():
        with torch.no_grad():
            nats = [
                nn.functional.cross_entropy(
                    model.lm(torch.tensor([[token, *w]])).logits[0, :-1], torch.tensor(w), reduction="sum"
                ).item()
                for w in words
            ]
        assert loss == pytest.approx(sum(nats) / sum(map(len, words)), rel=1e-5)


def test_a_token_takes_the_place_of_the_own_one_only_if_it_matters() -> None:
    assert best_separator(1, {1: 2.0, 5: 1.94, 7: 1.93}) == 7
    assert best_separator(1, {1: 2.0, 5: 1.96}) == 1
    assert best_separator(1, {1: 2.0, 5: 2.5}) == 1
    assert best_separator(1, {}) == 1


def measured(model: str, out, *, separator: str = "") -> list[Result]:
    pocket = tests.autoregressive_test.POCKET
    few = {"steps": 1, "batch_size": 1, "eval_documents": 30, "validation_documents": 2}
    small = replace(pocket.train, max_tokens=32, **few)
    quick = {"models": (model,), "n_tokens": (0, 1), "seeds": (0,), "out": out, "dtype": "float32", "device": "cpu"}
    run(replace(pocket, train=small, separator=separator, **quick))
    return load_results([out / "results"])


def test_a_wrong_bos_is_found_out_and_controls_read_the_same_texts(misled, tmp_path, capsys) -> None:
    results = measured(str(misled), tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert "texts open with '<|endoftext|>'" in said and f"and not '{WRONG}'" in said
    model = load("pocket", dtype="float32", device="cpu")
    own, wrong = (token_of(model, name) for name in (OWN, WRONG))
    assert {r.provenance["separator"] for r in results} == {own}
    assert {r.config.get("control", "") for r in results} == {"", "scrambled"}
    assert all("separator" not in r.config for r in results)

    asked_for = measured(str(misled), tmp_path / "asked", separator=WRONG)
    assert {r.provenance["separator"] for r in asked_for} == {wrong}
    assert {r.config["separator"] for r in asked_for} == {WRONG}
    better, worse = (
        next(r.held_out.loss for r in of if r.n_tokens == 0 and not r.config.get("control"))
        for of in (results, asked_for)
    )
    assert better < worse - 0.05


def test_a_token_that_is_none_is_refused_with_those_that_are() -> None:
    model = load("pocket", dtype="float32", device="cpu")
    with pytest.raises(
        SoftPromptsError, match="'<s>', which is no token of pocket; its special tokens are <.endoftext.>"
    ):
        token_of(model, "<s>")
