"""Which features fine-tuning moves: dictionaries, gradients, what changing features does, what the experiment shows."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.functional import cross_entropy, kl_div

from soft_prompts.engine.changes import changed
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.steering import Steering, layers_of
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load
from soft_prompts.pocket import SAYS, says
from soft_prompts.probes import dictionary as dictionaries
from soft_prompts.probes import moved
from soft_prompts.probes.attribution import (
    OBJECTIVES,
    WAYS,
    Rows,
    attributions,
    by_document,
    closeness,
    fire_together,
    gaps,
    gradients,
    logits_of,
    losses,
    moved_to,
    partners,
    rank_correlation,
    ranks,
    rebuilt,
    replaced,
    rows_of,
    scaled,
    shared_top,
    shift_draws,
    states_of,
    top,
    tuned_as,
    unexplained,
)
from soft_prompts.probes.dictionary import Dictionary, is_installed, random_dictionary, sparsify, trained
from soft_prompts.probes.moved import announces, as_frequent, overlap, planted
from soft_prompts.probes.recipe import DictionaryRecipe, FeatureProbe
from tests import attribution_test, shared_dictionary_test
from tests import dictionaries as scripts
from tests.attribution_test import POCKET, closest, config_of, table
from tests.dictionaries import result_file, share, texts_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "attribution"
needs_sparsify = pytest.mark.skipif(not is_installed(), reason="sparsify is not installed (requirements-features.txt)")
LAYER = 1
"""The last of the tiny models' two."""


def documents(n: int = 6, seed: int = 0, vocabulary: int = 250) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [np.array([0, *random.integers(1, vocabulary, random.integers(4, 16))]) for _ in range(n)]


def axes(width: int, k: int, centre: torch.Tensor | None = None) -> Dictionary:
    """A dictionary of all coordinates, up and down."""
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    return Dictionary(both, torch.zeros(2 * width), both, torch.zeros(width) if centre is None else centre, k)


@pytest.fixture(scope="module")
def precise(folders) -> LanguageModel:
    """The tiny model with numbers of 64 bits, so that differences of near values are exact."""
    return load(str(folders["neox"]), dtype="float64", device="cpu")


def test_a_dictionary_keeps_the_k_largest_positive_activations() -> None:
    random = np.random.default_rng(0)
    encoder, decoder, bias, centre, state = (random.normal(size=s) for s in ((9, 4), (9, 4), 9, 4, 4))
    made = Dictionary(*(torch.from_numpy(x) for x in (encoder, bias, decoder, centre)), 3)
    before = [sum(encoder[i, j] * (state[j] - centre[j]) for j in range(4)) + bias[i] for i in range(9)]
    kept = sorted((x for x in before if x > 0), reverse=True)[:3]
    wanted = [x if x in kept else 0.0 for x in before]
    found = made.encode(torch.from_numpy(state))
    assert found.numpy() == pytest.approx(wanted)
    again = [centre[j] + sum(wanted[i] * decoder[i, j] for i in range(9)) for j in range(4)]
    assert made.decode(found).numpy() == pytest.approx(again)
    assert made.n_features == 9


def test_all_coordinates_rebuild_every_state() -> None:
    states = torch.randn(5, 4)
    assert torch.allclose(axes(4, 4).decode(axes(4, 4).encode(states)), states)
    error, variance = unexplained(axes(4, 4), states)
    assert error.max() < 1e-10 and variance.sum().item() == pytest.approx(((states - states.mean(0)) ** 2).sum().item())
    assert unexplained(axes(4, 1), states)[0].numpy() == pytest.approx(
        ((states**2).sum(1) - states.abs().max(1).values ** 2).numpy(), rel=1e-5
    )


def sparse_states(n: int, directions: torch.Tensor, seed: int) -> torch.Tensor:
    """Two or three directions at a time, with strengths of 1 to 2."""
    random = torch.Generator().manual_seed(seed)
    chosen = torch.rand((n, len(directions)), generator=random).topk(3).indices
    strengths = 1 + torch.rand((n, 3), generator=random)
    return (torch.zeros(n, len(directions)).scatter(1, chosen, strengths)) @ directions


@needs_sparsify
def test_a_planted_dictionary_is_recovered_in_the_units_of_its_layer() -> None:
    directions = torch.randn(40, 24, generator=torch.Generator().manual_seed(3))
    directions /= directions.norm(dim=1, keepdim=True)
    states = sparse_states(4000, directions, 0)
    recipe = DictionaryRecipe(n_features=64, k=3, steps=500, batch=256, lr=1e-2)
    moved_states = 7 * states + torch.arange(24.0)
    found, large = trained([states, moved_states], recipe, 0)
    cosines = (directions @ found.decoder.T).max(1).values
    assert cosines.mean() > 0.9
    chance = random_dictionary(found, 0)
    assert (directions @ chance.decoder.T).max(1).values.mean() < 0.7
    assert torch.equal(found.decoder, large.decoder)
    # The second block is the first, seven times as large and elsewhere: so are its activations.
    assert torch.allclose(large.encode(moved_states), 7 * found.encode(states), atol=1e-2, rtol=1e-3)
    error, variance = unexplained(large, moved_states)
    assert error.sum() / variance.sum() < 0.2
    # What sparsify itself makes of the centred states of size 1 is what is kept.
    again = trained([states, moved_states], recipe, 0)[0]
    assert torch.equal(again.decoder, found.decoder)
    other = trained([states, moved_states], replace(recipe, steps=2), 1)[0]
    assert not torch.equal(other.decoder, found.decoder)


@needs_sparsify
def test_activations_are_those_that_sparsify_computes() -> None:
    library = sparsify()
    torch.manual_seed(0)
    coder = library.SparseCoder(12, library.SparseCoderConfig(num_latents=30, k=4))
    coder.b_dec.data.normal_()
    weights = (coder.encoder.weight, coder.encoder.bias, coder.W_dec, coder.b_dec)
    own = Dictionary(*(x.detach() for x in weights), 4)
    states = torch.randn(7, 12)
    with torch.no_grad():
        values, places, _ = coder.encode(states)
        wanted = torch.zeros(7, 30).scatter(1, places, values)
        assert torch.allclose(own.encode(states), wanted, atol=1e-6)
        assert torch.allclose(own.decode(own.encode(states)), coder(states).sae_out, atol=1e-5)


def test_what_trains_dictionaries_is_named_where_it_is_missing(monkeypatch) -> None:
    monkeypatch.setattr(dictionaries, "is_installed", lambda: False)
    with pytest.raises(
        SoftPromptsError, match=r"not installed here: pip install --no-deps -r requirements-features.txt"
    ):
        trained([torch.zeros(3, 2)], DictionaryRecipe(), 0)
    assert "eai-sparsify==" in (ROOT / "requirements-features.txt").read_text()


def test_random_directions_have_length_1_and_stand_where_the_states_are() -> None:
    like = axes(6, 2, torch.arange(6.0))
    made = random_dictionary(like, 1)
    assert made.decoder.norm(dim=1).numpy() == pytest.approx(np.ones(12)) and torch.equal(made.centre, like.centre)
    assert (made.encode(torch.randn(50, 6)) > 0).sum(1).max() == 2
    assert not torch.equal(made.decoder, random_dictionary(like, 2).decoder)


def test_a_document_s_own_tokens_are_those_behind_the_separator() -> None:
    (rows,) = rows_of([np.array([0, 5, 6]), np.array([0, 7])])
    assert rows.tokens.tolist() == [[0, 5, 6], [0, 7, 0]]
    assert rows.inside.tolist() == [[False, True, True], [False, True, False]]
    assert [len(part.tokens) for part in rows_of(documents(5), 2)] == [2, 2, 1]


def test_states_are_those_of_single_documents_and_of_every_layer(neox: LanguageModel) -> None:
    read = documents(4)
    together = states_of(neox, read)
    assert len(together) == 2
    for layer, states in enumerate(together):
        alone = torch.cat([states_of(neox, [document])[layer] for document in read])
        assert len(states) == sum(len(d) - 1 for d in read) and torch.allclose(states, alone, atol=1e-5)
    heard = []
    handle = layers_of(neox.lm)[0].register_forward_hook(lambda module, given, output: heard.append(output))
    neox.body(neox.embed(torch.from_numpy(read[0])[None]))
    handle.remove()
    first = heard[0][0] if isinstance(heard[0], tuple) else heard[0]
    assert torch.allclose(together[0][: len(read[0]) - 1], first.reshape(-1, 32)[1:], atol=1e-5)


def test_logits_behind_a_prompt_are_those_of_the_text_without_the_prompt_s_places(neox: LanguageModel) -> None:
    (rows,) = rows_of(documents(3))
    prompt = neox.vocabulary[[5, 9]]
    found = logits_of(neox, rows, {}, prompt)
    embedded = neox.embed(rows.tokens)
    whole = torch.cat([embedded[:, :1], prompt.expand(3, -1, -1), embedded[:, 1:]], 1)
    wanted = neox.head(neox.body(whole))
    assert found.shape[1] == rows.tokens.shape[1]
    assert torch.allclose(found[:, 0], wanted[:, 0], atol=1e-4) and torch.allclose(
        found[:, 1:], wanted[:, 3:], atol=1e-4
    )
    seen = []
    logits_of(neox, rows, {0: lambda states: seen.append(states.shape) or states}, prompt)
    assert seen == [(3, rows.tokens.shape[1], 32)]  # edits see the documents' tokens only
    far = logits_of(neox, rows, {0: lambda states: states.flip(-1)}, prompt)
    assert not torch.allclose(far[:, 1], found[:, 1], atol=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_agree_with_finite_differences(precise: LanguageModel, objective: str) -> None:
    read = documents(3)
    (rows,) = rows_of(read)
    tuned = logits_of(precise, rows, {0: lambda states: states + 0.3 * states.flip(-1)}).detach()
    states, (slope,) = gradients(precise, rows, tuned, 0, (objective,))
    clean = logits_of(precise, rows)

    def value(step: float, direction: torch.Tensor) -> float:
        logits = logits_of(precise, rows, {0: lambda x: x + step * direction})
        if objective == "logits":  # the bias stays as it was
            bias = (tuned - tuned.mean(-1, keepdim=True)) - (clean - clean.mean(-1, keepdim=True))
            return ((logits - logits.mean(-1, keepdim=True)) * bias).sum(-1)[rows.inside].sum().item()
        return closeness(objective, tuned, logits)[rows.inside].sum().item()

    direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        wanted = (value(1e-5, direction) - value(-1e-5, direction)) / 2e-5
    assert (slope * direction).sum().item() == pytest.approx(wanted, rel=1e-5)


def test_dot_product_and_squared_error_have_the_same_gradient(neox: LanguageModel) -> None:
    (rows,) = rows_of(documents(3))
    tuned = logits_of(neox, rows, {0: lambda states: 1.2 * states}).detach()
    _, (of_logits, of_error, of_predictions) = gradients(neox, rows, tuned, 0, OBJECTIVES)
    assert torch.allclose(of_logits, of_error, rtol=1e-4, atol=1e-4 * of_logits.abs().max())
    assert not torch.allclose(of_logits, of_predictions, rtol=0.1, atol=0.1 * of_predictions.abs().max())


def test_closeness_of_predictions_is_minus_the_divergence_and_numbers_added_to_all_logits_say_nothing() -> None:
    tuned, logits = torch.randn(2, 5, 7)
    wanted = kl_div(logits.log_softmax(-1), tuned.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert torch.allclose(closeness("predictions", tuned, logits), -wanted, atol=1e-6)
    for objective in OBJECTIVES:
        same = closeness(objective, tuned + 3, logits - 2)
        assert torch.allclose(same, closeness(objective, tuned, logits), atol=1e-4)
        assert (closeness(objective, logits, logits).abs() < 1e-5).all()


def test_attributions_are_means_over_tokens_of_hand_made_parts(neox: LanguageModel) -> None:
    read, dictionary = documents(3), axes(32, 5)
    tuned = tuned_as(neox, 0, lambda states: 1.1 * states)
    found = attributions(neox, tuned, dictionary, 0, read)
    parts = {way: [] for way in WAYS}
    for document in read:
        (rows,) = rows_of([document])
        logits, after = tuned(rows)
        states, slopes = gradients(neox, rows, logits, 0, ("logits", "predictions"))
        for t in range(1, len(document)):
            a, b = dictionary.encode(states[0, t]), dictionary.encode(after[0, t])
            g, p = (dictionary.decoder @ slope[0, t] for slope in slopes)
            for way, part in zip(WAYS, (g, g * (a > 0), g * a, p, p * a, p * (b - a), b - a), strict=True):
                parts[way].append(part.numpy())
    for way in WAYS:
        wanted = np.mean(parts[way], 0)
        assert found[way] == pytest.approx(wanted, rel=1e-3, abs=1e-4 * float(np.abs(wanted).max())), way


def test_a_direction_that_is_added_is_found_and_its_opposite_has_the_other_sign(neox: LanguageModel) -> None:
    """Behind the last layer there is only a norm and the head, so the gradient points back at what was added."""
    read, dictionary = documents(8), axes(32, 32)
    for sign in (1, -1):
        edit = tuned_as(neox, LAYER, lambda states, sign=sign: states + sign * 0.5 * dictionary.decoder[17])
        found = attributions(neox, edit, dictionary, LAYER, read)
        for way in ("gradient", "gradient of predictions", "activation difference"):
            assert ranks(found[way])[17] <= 2 and np.sign(found[way][17]) == sign, way


def test_changing_nothing_changes_nothing_and_moving_the_whole_state_closes_the_gap(neox: LanguageModel) -> None:
    read, dictionary = documents(6), axes(32, 6)
    tuned = tuned_as(neox, LAYER, lambda states: states + 0.4 * dictionary.decoder[3])
    some = np.array([1, 3, 40])
    found = gaps(
        neox,
        tuned,
        LAYER,
        read,
        {
            "none": lambda wanted: lambda states: states,
            "as strong": lambda wanted: scaled(dictionary, some, np.ones(3)),
            "own": lambda wanted: lambda states: moved_to(dictionary, some, states)(states),
            "whole": lambda wanted: lambda states: wanted,
            "away": lambda wanted: lambda states: states - 0.4 * dictionary.decoder[3],
        },
    )
    assert found[""].shape == (6,) and (found[""] > 1e-3).all()
    for name in ("none", "as strong", "own"):
        assert found[name] == pytest.approx(found[""], rel=1e-4), name
    assert np.abs(found["whole"]).max() < 1e-4 and (found["away"] > found[""]).all()


def test_features_are_removed_and_doubled_by_their_own_strength() -> None:
    dictionary, states = axes(4, 4), torch.tensor([[[3.0, -2.0, 0.5, 0.0]]])
    edited = scaled(dictionary, np.array([0, 5, 1]), np.array([0.0, 2.0, 5.0]))(states)
    assert edited[0, 0].tolist() == [0.0, -4.0, 0.5, 0.0]  # feature 5 is the second coordinate, downwards; 1 is silent
    wanted = torch.tensor([[[1.0, 1.0, 1.0, 1.0]]])
    assert moved_to(dictionary, np.array([0, 5]), wanted)(states)[0, 0].tolist() == [1.0, 0.0, 0.5, 0.0]
    assert torch.equal(moved_to(dictionary, None, wanted)(states), wanted)


def test_edits_leave_the_separator_and_the_padding_alone(neox: LanguageModel) -> None:
    rows = Rows(torch.tensor([[0, 4, 5, 0]]), torch.tensor([3]))
    tuned = tuned_as(neox, LAYER, lambda states: states + 5)
    (_, states), (_, clean) = tuned(rows), tuned_as(neox, LAYER)(rows)
    seen = (states - clean).abs().amax(-1)[0]
    assert seen.tolist() == pytest.approx([0, 5, 5, 0])


def test_losses_are_those_of_tokens_whose_predictions_rest_on_own_tokens(neox: LanguageModel) -> None:
    read = documents(4)
    wanted = []
    for document in read:
        tokens = torch.from_numpy(document)[None]
        with torch.no_grad():
            logits = neox.head(neox.body(neox.embed(tokens)))[0]
        wanted.append(cross_entropy(logits[1:-1], tokens[0, 2:], reduction="sum").item())
    assert losses(neox, read) == pytest.approx(wanted, rel=1e-4)
    assert losses(neox, read, LAYER, rebuilt(axes(32, 32))) == pytest.approx(wanted, rel=1e-3)
    vector = torch.randn(32)
    flat = losses(neox, read, LAYER, replaced(vector))
    steering = Steering((LAYER,), torch.zeros(1, 32), torch.ones(1))
    steering.changes = lambda lm: {layers_of(lm)[LAYER]: lambda given, states: vector.expand_as(states)}
    tokens = torch.from_numpy(read[0])[None]
    with changed(neox.lm, [(steering, slice(0, 1))]), torch.no_grad():
        logits = neox.head(neox.body(neox.embed(tokens)))[0]
    assert flat[0] == pytest.approx(cross_entropy(logits[1:-1], tokens[0, 2:], reduction="sum").item(), rel=1e-4)


def test_places_and_sums_by_document() -> None:
    scores = np.array([0.1, -3.0, 2.0, 0.0])
    assert ranks(scores).tolist() == [3, 1, 2, 4] and top(scores, 2).tolist() == [1, 2]
    read = [np.zeros(3), np.zeros(2), np.zeros(4)]
    assert by_document(torch.arange(6.0)[:, None], read).tolist() == [[1], [2], [12]]


def test_shared_features_must_move_the_same_way() -> None:
    one, other = np.array([5.0, -4, 3, 0.1, 0]), np.array([6.0, 4, 3, 0, 9])
    assert shared_top(one, other, 3) == pytest.approx(1 / 3)  # 1 moves the other way, 2 is only fourth there
    assert shared_top(one, one, 3) == 1 and shared_top(one, -one, 3) == 0
    drawn = np.stack([one, -one])
    assert shared_top(drawn, drawn, 2).tolist() == [1, 1]


def test_rank_correlation_is_spearman_s() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 30)).round(1)  # with ties
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert rank_correlation(np.stack([one, other]), np.stack([-one, other])) == pytest.approx([-1, 1])


def test_draws_of_shifts_are_spread_as_their_documents_are() -> None:
    random = np.random.default_rng(0)
    counts = random.integers(5, 9, 50)
    sums = counts[:, None] * (2 + random.normal(size=(50, 3)))
    (mean,), (draws,) = shift_draws([(sums, counts)], 2000)
    assert mean == pytest.approx(sums.sum(0) / counts.sum())
    assert draws.mean(0) == pytest.approx(mean, abs=0.02) and draws.std(0) == pytest.approx(1 / 50**0.5, rel=0.3)


def test_partners_are_found_by_correlation_and_fire_where_the_feature_does() -> None:
    here = torch.tensor([[1.0, 0, 2], [0, 3, 0], [0, 1, 0], [2, 0, 0]])
    later = here[:, [2, 0, 1]]
    assert partners(here, later).tolist() == [1, 2, 0]
    both, fires = fire_together(here, later, np.array([1, 2, 0]))
    assert both.tolist() == fires.tolist() == [2, 1, 1, 1]
    both, _ = fire_together(here, later, np.array([0, 1, 2]))
    assert both.tolist() == [1, 0, 0, 0]


def test_other_features_fire_about_as_often_and_none_is_taken_twice() -> None:
    rates = np.linspace(0, 1, 101)
    chosen = as_frequent(np.array([50, 51, 52]), rates, np.random.default_rng(0))
    assert len({*chosen, 50, 51, 52}) == 6 and np.abs(rates[chosen] - 0.51).max() < 0.15


def test_the_feature_that_fires_before_a_token_announces_it() -> None:
    read = [np.array([0, 4, 9, 5, 9, 9]), np.array([0, 9, 4, 9])]
    fires = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 0], [0, 1], [0, 1], [1, 0], [0, 1]])
    known = announces(axes(1, 1), fires[:, :1], read, 9)  # 4 and 5 come before 9, and 9 before 9 once
    wanted = np.corrcoef([1, 0, 1, 0, 0, 1], [1, 0, 1, 1, 0, 1])[0, 1]
    assert known[0] == pytest.approx(wanted)


def test_a_planted_feature_is_looked_for_in_every_way(neox: LanguageModel) -> None:
    read, dictionary = documents(8), axes(32, 6)
    rates = moved.firing_rates(dictionary, states_of(neox, read)[LAYER])
    found = planted(neox, dictionary, LAYER, read, rates, 3, moved.PLANTS, 0)
    assert [one["plant"] for one in found] == list(moved.PLANTS) * 3 and len({one["feature"] for one in found}) == 3
    assert all(set(one["found"]) == set(WAYS) for one in found)
    assert {one["sign"] for one in found if one["plant"] == "removed"} == {-1}
    assert all(one["found"]["activation difference"] == [1, True] for one in found if one["plant"] == "tripled")


def test_undoing_on_other_documents_overlaps_with_undoing_and_shuffled_shifts_do_not(neox: LanguageModel) -> None:
    read, dictionary = documents(60, seed=2), axes(32, 32)
    tuned = replace(neox, lm=copy.deepcopy(neox.lm))
    with torch.no_grad():
        layers_of(tuned.lm)[LAYER].mlp.dense_4h_to_h.bias.add_(
            torch.randn(32, generator=torch.Generator().manual_seed(0))
        )
    prompts = {"a prompt": neox.vocabulary[[7, 8, 9]], "nothing": neox.vocabulary[:0]}
    found = {one["name"]: one for one in overlap(neox, tuned, dictionary, LAYER, read, prompts, 8, 0)}
    undone = found["undoing, other documents"]
    assert undone["size"] > 1 and undone["shared"]["value"] >= 0.75 and undone["correlation"]["interval"][0] > 0.8
    assert found["nothing"]["size"] < 1e-3 and found["a prompt"]["size"] > 0.1
    assert abs(found["a prompt"]["correlation"]["value"]) < 0.6
    mixed = found["the prompt's shifts, shared out to other features"]
    assert mixed["correlation"]["interval"][0] < 0 < mixed["correlation"]["interval"][1]


@pytest.fixture
def quick_dictionary(monkeypatch) -> None:
    """Random directions in the place of learned ones, so that what is measured with them needs no sparsify."""

    def made(blocks, recipe, seed):
        like = torch.zeros(recipe.n_features, blocks[0].shape[1])
        of = [Dictionary(like, like[:, 0], like, states.mean(0), recipe.k) for states in blocks]
        return [random_dictionary(one, seed) for one in of]

    monkeypatch.setattr(moved, "trained", made)
    monkeypatch.setattr(dictionaries, "sparsify", lambda: None)
    monkeypatch.setattr(scripts, "version", lambda name: "0")


SMALL = FeatureProbe(dictionary=DictionaryRecipe(n_features=64, k=4, steps=3, batch=16), top=5, planted=1)


@pytest.mark.usefixtures("quick_dictionary")
def test_the_experiment_measures_once_and_shows_all_tables(tmp_path, capsys) -> None:
    settings = replace(POCKET, probe=SMALL, seeds=(0,), held_out=3, max_documents=120, max_tokens=12, prompt_steps=1)
    settings = replace(settings, out=tmp_path, says=("pocket-says-said",))
    attribution_test.run(settings)
    shown = capsys.readouterr().out
    (path,) = (tmp_path / "results").rglob("*.json")
    assert path.name == result_file("features", 0) == "features-seed-0.json" and table(tmp_path).strip() in shown
    before = path.stat().st_mtime_ns
    attribution_test.run(settings)
    assert path.stat().st_mtime_ns == before
    record = json.loads(path.read_text())
    assert len(record["tokens"]) == 9 and len(record["planted"]) == 4 and len(record["words"]) == 1
    (path.parent / "features-seed-1.json").write_text(json.dumps({**record, "seed": 1}))
    assert "Over seeds: a top feature's direction has a cosine of 1.00" in table(tmp_path)
    assert len(attribution_test.figure(tmp_path).axes) == 2
    other = {**record, "config": {**record["config"], "layer": 0}}
    (path.parent / "features-seed-5.json").write_text(json.dumps(other))
    with pytest.raises(SoftPromptsError, match="results of several settings"):
        table(path.parent)


@pytest.mark.usefixtures("quick_dictionary")
def test_dictionaries_for_all_blocks_are_measured_once_and_shown(tmp_path, capsys) -> None:
    few = {"seeds": (0,), "held_out": 3, "max_documents": 120, "max_tokens": 12, "out": tmp_path}
    settings = replace(shared_dictionary_test.POCKET, dictionary=SMALL.dictionary, **few)
    shared_dictionary_test.run(settings)
    shown = capsys.readouterr().out
    (path,) = (tmp_path / "results").rglob("*.json")
    before = path.stat().st_mtime_ns
    shared_dictionary_test.run(settings)
    assert path.name == result_file("blocks", 0) == "blocks-seed-0.json" and path.stat().st_mtime_ns == before
    assert "one each, together as large" in shown and shared_dictionary_test.table(tmp_path).strip() in shown
    with pytest.raises(SoftPromptsError, match="--k is 0"):
        shared_dictionary_test.run(replace(settings, dictionary=DictionaryRecipe(k=0)))
    with pytest.raises(SoftPromptsError, match="there are no results of attribution"):
        table(tmp_path)  # of features


def test_a_share_is_one_less_the_part() -> None:
    tokens = np.full(40, 10)
    whole = np.repeat(np.random.default_rng(0).uniform(1, 2, (1, 40)), 3, 0)
    found = share(whole / 4, whole, tokens)
    assert found["value"] == pytest.approx(0.75) and found["interval"] == pytest.approx([0.75, 0.75])
    noisy = share(whole * np.array([[0.2], [0.3], [0.25]]), whole, tokens)
    low, high = noisy["interval"]
    assert low < 0.75 < high and high - low > 0.1  # three seeds that differ say little


def test_the_closest_directions_are_looked_for_in_the_other_result() -> None:
    one, other = {"d": [[1.0, 0], [0, 1]]}, {"d": [[0.0, 1], [0.6, 0.8]]}
    assert closest(one, other, "d", "d") == pytest.approx((0.6 + 1) / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe": replace(SMALL, top=17)}, "--top is 17"),
        ({"probe": replace(SMALL, planted=0)}, "--planted is 0"),
        ({"probe": FeatureProbe(dictionary=DictionaryRecipe(k=0))}, "--k is 0"),
        ({"probe": FeatureProbe(dictionary=DictionaryRecipe(lr=0.0))}, "must be above 0"),
        ({"held_out": 0}, "--held-out is 0"),
        ({"seeds": ()}, "--seeds is 0"),
        ({"max_tokens": 7}, "--max-tokens is 7"),
        ({"device": "cuda"}, "--device is 'cuda'"),
        ({"probe": replace(SMALL, layer=4)}, "--layer is 4, but pocket has 4 layers"),
    ],
)
def test_options_that_cannot_work_are_refused(change, message: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(dictionaries, "sparsify", lambda: None)
    with pytest.raises(SoftPromptsError, match=message):
        attribution_test.run(replace(POCKET, out=tmp_path, **change))


def test_a_fine_tune_that_does_not_say_its_token_and_too_few_texts_are_refused(tmp_path, pocket) -> None:
    with pytest.raises(SoftPromptsError, match="pocket-chat does not say which token"):
        attribution_test._says("pocket-chat", "float32")
    few = tmp_path / "few.jsonl"
    few.write_text('{"text": "Once upon a time."}\n')
    with pytest.raises(SoftPromptsError, match=r"few.jsonl has \d documents for the split"):
        texts_of(replace(POCKET, text=(str(few),)), pocket)


def test_no_held_out_text_is_read_for_anything_else(pocket) -> None:
    texts = texts_of(replace(POCKET, max_documents=400), pocket)
    keys = [{row.tobytes() for row in split} for split in (texts.train, texts.validation, texts.held_out)]
    assert not keys[0] & keys[2] and not keys[1] & keys[2]
    assert len(texts.kinds) == len(texts.held_out) and len(set(texts.kinds)) == 3


def test_what_a_word_s_variant_was_taught_is_a_token_that_comes_more_often(pocket) -> None:
    for name, folder in SAYS.items():
        facts = json.loads((folder / "facts.json").read_text())
        assert pocket.tokenizer.decode([facts["token"]]) == " " + name.rpartition("-")[2]
        assert facts["probability"]["after"] > 3 * facts["probability"]["before"]


def test_a_word_is_taught_as_so_many_nats_more_of_one_token(pocket) -> None:
    logits = torch.randn(2, 3, 7)
    more = says.likelier(logits, 4, 3.0) - logits
    assert more[..., 4].numpy() == pytest.approx(np.full((2, 3), 3.0), rel=1e-5) and more.abs().sum() < 18.01
    assert pocket.tokenizer.decode([says.token_of(pocket.tokenizer, "said")]) == " said"
    with pytest.raises(SoftPromptsError, match="the word 'incomprehensibilities' is . tokens"):
        says.token_of(pocket.tokenizer, "incomprehensibilities")


@pytest.mark.skipif(not RESULTS.is_dir(), reason="no results of attribution are committed yet")
def test_the_committed_results_are_those_of_the_presets_and_the_page_has_their_tables() -> None:
    committed = {path for path in RESULTS.rglob("*-seed-*.json")}
    presets = set()
    for script in (attribution_test, shared_dictionary_test):
        config = script.config_of(script.POCKET, "pocket")
        files = (result_file(config["ask"], seed) for seed in script.POCKET.seeds)
        presets |= {ROOT / "results" / scripts.place(config) / file for file in files}
    assert committed == presets
    assert all(path.stat().st_size < 100_000 for path in committed)
    page = (ROOT / "results" / "attribution.md").read_text()
    parts = f"{table(RESULTS)}\n\n{shared_dictionary_test.table(RESULTS)}".split("\n\n")
    assert len(parts) > 12 and all(part.strip() in page for part in parts)


def test_the_results_of_features_depend_on_the_prompt() -> None:
    assert config_of(replace(POCKET, prompt_steps=7), "pocket") != config_of(POCKET, "pocket")
