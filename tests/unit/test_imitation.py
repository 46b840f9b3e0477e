"""Imitation of a steered model: its own scores are those of a perfect imitation, those without a prompt are of none."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.engine.prompted import Bench, PromptedModel, unprompted
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.interventions.steering import Steering
from soft_prompts.pocket import STEERED
from soft_prompts.tasks.imitation import Imitation, load_vector, passed_on, save_vector


@pytest.fixture(scope="module")
def bench(pocket) -> Bench:
    encoding = Encoding(pocket.tokenizer, pocket.separator, 24)
    held_out = list(Imitation().examples("held_out", encoding, 0))[:10]
    return Bench(pocket, encoding, held_out, 4096)


def test_a_vector_moves_its_own_layer_by_itself_and_none_before(pocket, bench) -> None:
    e, plain = bench.held_out[0], unprompted(bench).intervention
    steering = Steering.on(pocket.lm, [1])
    steering.vectors.data[:] = torch.randn(steering.vectors.shape, generator=torch.Generator().manual_seed(0))
    before, after = passed_on(pocket, plain, e), passed_on(pocket, steering, e)
    assert before.shape == (4, len(e), 256)
    np.testing.assert_array_equal(before[0], after[0])
    moved = (steering.vectors[0] * steering.scales[0]).detach().numpy()
    np.testing.assert_allclose(after[1] - before[1], np.broadcast_to(moved, before[1].shape), atol=1e-4)
    assert np.abs(after[2] - before[2]).max() > 0.1


def test_what_is_passed_on_is_the_models_own_and_the_prompts_places_are_left_out(pocket, bench) -> None:
    e = bench.held_out[0]
    with torch.no_grad():
        states = pocket.lm(torch.from_numpy(e.tokens)[None], output_hidden_states=True).hidden_states
    plain = passed_on(pocket, unprompted(bench).intervention, e)
    np.testing.assert_allclose(plain[:3], torch.stack(states[1:4])[:, 0].numpy(), atol=1e-4)
    prompt = SoftPrompt(pocket.vocabulary[[5, 6]].float())
    behind = passed_on(pocket, prompt, e)
    assert behind.shape == plain.shape
    np.testing.assert_allclose(behind[:, 0], plain[:, 0], atol=1e-4)  # the separator stands before the prompt
    rows = pocket.embed(torch.from_numpy(e.tokens)[None])[0]
    whole = torch.cat([rows[:1], prompt(torch.zeros(1, 0))[0], rows[1:]])
    with torch.no_grad():
        states = pocket.lm(inputs_embeds=whole[None], output_hidden_states=True).hidden_states
    at_the_text = [0, *range(3, len(whole))]  # the prompt stands at 1 and 2
    np.testing.assert_allclose(behind[:3], torch.stack(states[1:4])[:, 0, at_the_text].numpy(), atol=1e-4)


def test_shares_are_of_the_steered_models_own_places(pocket, bench) -> None:
    prompted = PromptedModel(bench, SoftPrompt(pocket.vocabulary[[5, 6]].float()))
    vector, plain = load_vector(STEERED), unprompted(bench).intervention
    early = early_before = late = late_before = 0.0
    for e in bench.held_out:
        own, wanted, without = (passed_on(pocket, i, e) for i in (prompted.intervention, vector, plain))
        apart, before = ((own - wanted) ** 2).sum((0, 2)), ((without - wanted) ** 2).sum((0, 2))
        early, early_before = early + apart[1:9].sum(), early_before + before[1:9].sum()
        late, late_before = late + apart[9:].sum(), late_before + before[9:].sum()
    shares = Imitation().score(prompted, bench.held_out).scores["activations_by_place"]
    assert shares["first 8"]["value"] == pytest.approx(early / early_before, rel=1e-4)
    assert shares["others"]["value"] == pytest.approx(late / late_before, rel=1e-4)


def test_the_steered_model_imitates_itself_and_no_prompt_does_not(bench) -> None:
    task = Imitation()
    steered = PromptedModel(bench, load_vector(STEERED))
    perfect = task.score(steered, bench.held_out).scores
    assert perfect["divergence"]["value"] == perfect["activations"]["value"] == 0.0
    plain = unprompted(bench)
    none = task.score(plain, bench.held_out).scores
    gap = plain.held_out_scores.loss - task.anchor(bench).scores.loss
    assert none["divergence"]["value"] == pytest.approx(gap) and gap > 0.2
    assert none["activations"]["value"] == 1.0
    assert {s["value"] for s in none["activations_by_place"].values()} == {1.0}
    # Before the vector's layer nothing is apart: there is no share of nothing.
    by_layer = none["activations_by_layer"]
    assert by_layer["layer 1"]["value"] is None and by_layer["layer 2"]["value"] == 1.0


def test_a_vector_comes_back_from_its_file_and_a_damaged_one_is_refused(tmp_path, pocket) -> None:
    made = Steering([2, 3], torch.randn(2, 256), torch.tensor([0.5, 2.0]))
    save_vector(made, tmp_path / "v.safetensors")
    found = load_vector(tmp_path / "v.safetensors")
    assert (
        found.layers == (2, 3) and torch.equal(found.vectors, made.vectors) and torch.equal(found.scales, made.scales)
    )
    (tmp_path / "v.safetensors").write_bytes(b"nothing")
    with pytest.raises(SoftPromptsError, match="holds no steering vector"):
        load_vector(tmp_path / "v.safetensors")
    with pytest.raises(SoftPromptsError, match="there is no file.*--steering"):
        replace(Imitation(), steering=str(tmp_path / "none")).identity()
