"""Prompts made of the vocabulary's own tokens, trained by gradients."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from soft_prompts.console import Interrupted
from soft_prompts.data.documents import Encoding
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.interventions.words import Words
from soft_prompts.models.loading import load
from soft_prompts.probes.bits import rounded_sizes
from soft_prompts.results.snapshot import load_prompt, save_prompt
from soft_prompts.tasks.calibration import Secret
from soft_prompts.training.log import Logs
from soft_prompts.training.loop import train
from tests.calibration_test import POCKET
from tests.unit.test_checkpoint import bench_of, go, same
from tests.unit.test_train import Documents, run, train_all

NOTHING = torch.zeros(2, 0)
TOKENS = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.1]])


def test_the_model_reads_the_tokens_that_are_nearest_by_cosine() -> None:
    words = Words(torch.tensor([[9.0, 8.0], [0.1, 0.2], [-1.0, 0.9]]), 0.5, TOKENS)
    assert words.nearest().tolist() == [0, 1, 2]
    assert torch.equal(words(NOTHING), TOKENS.expand(2, 3, 2))  # to the bit: no trace of the free rows
    words.show(1)
    assert words(NOTHING).shape == (2, 1, 2)


def test_the_gradient_at_the_tokens_moves_the_rows() -> None:
    words, weights = Words(TOKENS[:2] * 1.3, 0.5, TOKENS), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    (words(NOTHING[:1])[0] * weights).sum().backward()
    torch.testing.assert_close(words.rows.grad, weights * 0.5)


def test_its_bits_say_which_tokens_they_are(neox) -> None:
    bench, words = bench_of(neox, Documents()), Words(neox.words[:3], neox.scale, neox.words)
    assert words.nats.item() == pytest.approx(3 * math.log(len(neox.words)))
    (scores,) = evaluate(neox, [words], bench.held_out, 10**6)
    (size,) = rounded_sizes(bench, words, scores, 3.0)
    assert size.bits == math.ceil(3 * math.log2(len(neox.words)))
    assert (size.bits_per_number, size.loss, size.increase["value"]) == (0, scores.loss, 0)


def test_special_tokens_are_no_words(neox) -> None:
    special = {i for i in neox.tokenizer.all_special_ids if i < len(neox.vocabulary)}
    assert special and len(neox.words) == len(neox.vocabulary) - len(special)
    assert not any((neox.words == neox.vocabulary[i]).all(1).any() for i in special)


def test_it_is_trained_together_as_alone_interrupted_and_saved_as_it_was_measured(neox, tmp_path) -> None:
    of_words = {"intervention": "words", "lr": 1.0, "steps": 6}
    runs = [run(2, **of_words), run(4, seed=1, grow=True, starts=2, **of_words), run(0, **of_words), run(2, steps=6)]
    undisturbed = go(neox, runs, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        go(neox, runs, tmp_path / "stopped", 4)
    same(go(neox, runs, tmp_path / "stopped"), undisturbed)
    (alone,) = train_all(neox, runs[:1], tmp_path / "alone")
    assert torch.equal(alone.intervention.nearest(), undisturbed[0].intervention.nearest())
    state = undisturbed[1]
    save_prompt(state.intervention, neox, {}, tmp_path / "p.safetensors")
    again = load_prompt(tmp_path / "p.safetensors", neox)
    assert isinstance(again, SoftPrompt) and len(again.rows) == 4
    assert all((neox.words == row).all(1).any() for row in again(NOTHING)[0])
    (scores,) = evaluate(neox, [again], bench_of(neox, Documents()).held_out, 10**6)
    assert scores.loss == pytest.approx(state.scores.loss, abs=1e-5)


def test_a_text_of_ones_own_is_measured_as_it_is(pocket, tmp_path) -> None:
    text = " the old house"
    ids = pocket.tokenizer(text, add_special_tokens=False)["input_ids"]
    own = {"intervention": "words", "init": "text", "init_text": text, "steps": 0}
    (state,) = train_all(pocket, [run(len(ids), **own)], tmp_path)
    (naive,) = evaluate(pocket, [SoftPrompt(pocket.vocabulary[ids])], bench_of(pocket, Documents()).held_out, 10**6)
    assert state.scores.loss == pytest.approx(naive.loss, abs=1e-5)


def test_a_key_of_one_token_is_found(tmp_path) -> None:
    """It is known which token switches the behaviour on."""
    model, task = load("pocket-keys"), replace(POCKET.task, key_tokens=(1,))
    encoding = Encoding(model.tokenizer, model.separator, 64)
    held_out, validation = (list(task.examples(split, encoding, 0))[:16] for split in ("held_out", "validation"))
    recipe = {"intervention": "words", "lr": 1.0, "steps": 40, "starts": 8, "n_evaluations": 0, "max_tokens": 64}
    runs = [run(0, task=task, **recipe), run(1, task=task, **recipe)]
    none, one = train(Bench(model, encoding, held_out, 10**5, validation), runs, Logs(tmp_path))
    (key,) = Secret.read(Path(task.secret)).symbols[task.key]
    assert model.words[one.intervention.nearest()[0]].equal(model.vocabulary[key])
    assert one.scores.loss < 0.3 * none.scores.loss


@pytest.mark.parametrize("other", [{"subspace": 3}, {"noise": 10}])
def test_what_would_be_passed_over_in_silence_is_refused(other) -> None:
    with pytest.raises(SoftPromptsError, match="words is told by its tokens"):
        run(8, intervention="words", **other).train.check()
