"""Controls know nothing: what they keep of the model, what they lose, and that the model itself stays as it is."""

import copy
from dataclasses import replace

import torch

from soft_prompts.models.controls import control_of
from soft_prompts.models.loading import load
from tests.unit.test_model import bits


def weights(model) -> dict[str, torch.Tensor]:
    return dict(model.lm.named_parameters())


def kept(model) -> set[str]:
    """Names of the embedding and unembedding matrices."""
    ends = {id(model.lm.get_input_embeddings().weight), id(model.head.weight)}
    return {name for name, weight in weights(model).items() if id(weight) in ends}


def test_scrambling_permutes_within_each_matrix_of_the_body_and_keeps_the_rest(model) -> None:
    model = replace(model, lm=copy.deepcopy(model.lm))
    for weight in weights(model).values():
        if weight.dim() == 1:  # biases and norms of a new model are all alike, so that their order could not be seen
            weight.copy_(torch.arange(len(weight)))
    before = bits(model)
    scrambled = control_of(model, "scrambled")
    n_permuted = 0
    for name, weight in weights(model).items():
        other = weights(scrambled)[name]
        if weight.dim() > 1 and name not in kept(model):
            assert torch.equal(weight.flatten().sort().values, other.flatten().sort().values)
            assert (weight != other).float().mean() > 0.9
            n_permuted += 1
        else:
            assert torch.equal(weight, other)
    assert n_permuted >= 8 and kept(model)
    assert bits(model) == before
    assert not any(p.requires_grad for p in weights(scrambled).values()) and not scrambled.lm.training
    assert scrambled.name == f"{model.name} (scrambled)"


def test_an_untrained_model_has_new_weights_of_the_same_shapes(model) -> None:
    before, untrained = bits(model), control_of(model, "untrained")
    assert bits(model) == before
    assert not any(p.requires_grad for p in weights(untrained).values()) and not untrained.lm.training
    for name, weight in weights(model).items():
        other = weights(untrained)[name]
        assert other.shape == weight.shape and other.dtype == weight.dtype
        if weight.dim() > 1:
            assert not torch.equal(other, weight)


def test_an_untrained_model_in_bfloat16_computes_its_positions_as_the_trained_one_does(folders) -> None:
    model = load(str(folders["llama"]), dtype="bfloat16", device="cpu")
    untrained = control_of(model, "untrained")
    buffers, others = dict(model.lm.named_buffers()), dict(untrained.lm.named_buffers())
    assert any(name.endswith("inv_freq") for name in buffers) and set(buffers) == set(others)
    for name, buffer in buffers.items():
        assert others[name].dtype == buffer.dtype and torch.equal(others[name], buffer), name
    assert {weight.dtype for weight in untrained.lm.parameters()} == {torch.bfloat16}


def test_a_control_is_the_same_for_the_same_seed_and_leaves_the_global_generator_alone(neox) -> None:
    state = torch.random.get_rng_state()
    for control in ("scrambled", "untrained"):
        first, again, other = (control_of(neox, control, seed) for seed in (0, 0, 1))
        assert bits(first) == bits(again) != bits(other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_tied_embeddings_are_kept_and_stay_tied() -> None:
    """pocket's unembedding is its embedding: scrambling must not touch it through the other name."""
    pocket = load("pocket")
    scrambled = control_of(pocket, "scrambled")
    assert torch.equal(scrambled.vocabulary, pocket.vocabulary)
    assert scrambled.head.weight.data_ptr() == scrambled.lm.get_input_embeddings().weight.data_ptr()
