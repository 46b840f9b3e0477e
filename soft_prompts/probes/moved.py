"""What fine-tuning moves, told by a dictionary's features: which are found, what they do, and whether planted ones are
found. And what is gained by one dictionary for all blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soft_prompts.models.language_model import LanguageModel
from soft_prompts.probes.attribution import (
    WAYS,
    Edit,
    EditFor,
    attributions,
    by_document,
    fire_together,
    gaps,
    losses,
    moved_to,
    n_inside,
    partners,
    rank_correlation,
    ranks,
    rebuilt,
    replaced,
    scaled,
    shared_top,
    shift_draws,
    states_of,
    top,
    tuned_as,
    unexplained,
)
from soft_prompts.probes.dictionary import Dictionary, random_dictionary, trained
from soft_prompts.probes.recipe import DictionaryRecipe, FeatureProbe
from soft_prompts.stats import CONFIDENCE

MAIN = "gradient x activation, of predictions"
"""The ranking beside which random features are drawn."""
RANKINGS = (
    "gradient",
    "gradient of predictions",
    MAIN,
    "gradient x change, of predictions",
    "activation difference",
)
"""Whose top features are changed."""
ALIKE, UNKNOWN = "random features that fire as often", "random dictionary"
ALL, STATE, VECTOR = "all features", "the whole state", "one vector, the mean difference of the states"
PLANTS = ("added", "removed", "tripled")
"""What a planted fine-tune does to one feature: its direction is added everywhere, it never fires, it is three times as
strong."""
PLANTED_ROWS = 12
"""Documents on which a planted feature is looked for."""
OFTEN = (0.005, 0.2)
"""A feature that is planted fires at so many of the tokens, at least and at most."""
SHOWN, CONTEXTS, BEFORE = 10, 4, 10
"""Top features whose contexts and directions are kept, contexts of each, tokens of a context."""
N_DRAWS = 1000
"""Of an overlap's interval."""
ARRANGED = ("one for all blocks", "one each, together as large", "one each, each as large")


@dataclass(frozen=True)
class Texts:
    """Documents of three splits as token ids, separator first: dictionaries are trained on the first, features ranked
    on the second, all that is reported measured on the third."""

    train: Sequence[np.ndarray]
    validation: Sequence[np.ndarray]
    held_out: Sequence[np.ndarray]
    kinds: Sequence[str]
    """Of each held-out document."""


@dataclass(frozen=True)
class Pair:
    """A model before and after fine-tuning, and what both read."""

    model: LanguageModel
    tuned: LanguageModel
    texts: Texts

    @cached_property
    def states(self) -> list[Tensor]:
        """What each layer of the model passes on in the training texts, [N, D] each."""
        return states_of(self.model, self.texts.train)


def short(values: Any) -> list:
    """Numbers with five digits, as a record keeps them."""
    array = np.asarray(values, np.float64)
    return [short(row) for row in array] if array.ndim > 1 else [float(f"{x:.5g}") for x in array]


def features_moved(
    pair: Pair,
    probe: FeatureProbe,
    seed: int,
    prompts: Mapping[str, Tensor],
    others: Sequence[tuple[LanguageModel, int]],
) -> dict[str, Any]:
    """All that is asked with one dictionary of one layer.

    Args:
        pair: The model and its fine-tune.
        probe: Which layer, and how it is looked at.
        seed: Of the dictionary and what is drawn.
        prompts: Soft prompts [P, D] before the fine-tune, by name: do they move the features back?
        others: Fine-tunes that say one token more often, and its id.

    Returns:
        Plain JSON.
    """
    model, tuned, texts, layer, n_top = pair.model, pair.tuned, pair.texts, probe.layer, probe.top
    states = pair.states[layer]
    (dictionary,) = trained([states], probe.dictionary, seed)
    beside = random_dictionary(dictionary, seed)
    fine_tune = tuned_as(tuned, layer)
    by_way = attributions(model, fine_tune, dictionary, layer, texts.validation)
    random = np.random.default_rng(seed)
    rates = firing_rates(dictionary, states_of(model, texts.validation)[layer])
    alike = as_frequent(top(by_way[MAIN], n_top), rates, random)
    edits: dict[str, EditFor] = {}
    for name in RANKINGS:
        edits |= _edits(name, dictionary, top(by_way[name], n_top), by_way[name])
    edits |= _edits(ALIKE, dictionary, alike, by_way[MAIN])
    by_chance = attributions(model, fine_tune, beside, layer, texts.validation)[MAIN]
    edits |= _edits(UNKNOWN, beside, top(by_chance, n_top), by_chance)
    difference = states_of(tuned, texts.validation)[layer].mean(0) - states_of(model, texts.validation)[layer].mean(0)
    edits[f"{ALL}: moved"] = lambda wanted: moved_to(dictionary, None, wanted)
    edits[f"{STATE}: moved"] = lambda wanted: lambda states: wanted
    edits[f"{VECTOR}: moved"] = lambda wanted: lambda states: states + difference
    found = gaps(model, fine_tune, layer, texts.held_out, edits)
    tops = {way: top(by_way[way], n_top) for way in WAYS}
    main = tops["gradient"]
    return {
        "tokens": n_inside(texts.held_out).tolist(),
        "kinds": list(texts.kinds),
        "dictionary": quality(model, dictionary, layer, texts, states.mean(0)),
        "gaps": {name: short(sums) for name, sums in found.items()},
        "tops": {
            way: [
                {"feature": int(i), "score": float(f"{by_way[way][i]:.4g}"), "rate": round(float(rates[i]), 5)}
                for i in tops[way]
            ]
            for way in WAYS
        },
        "directions": _directions(dictionary, main[:SHOWN]),
        "other directions": _directions(dictionary, as_frequent(main, rates, random)[:SHOWN]),
        "contexts": contexts(model, dictionary, states, texts.train, main[:SHOWN]),
        "planted": [
            *planted(model, dictionary, layer, texts.validation, rates, probe.planted, PLANTS, seed),
            *planted(model, beside, layer, texts.validation, None, probe.planted, PLANTS[:1], seed),
        ],
        "words": [said_more(model, other, token, dictionary, layer, texts, states) for other, token in others],
        "overlap": overlap(model, tuned, dictionary, layer, texts.held_out, prompts, n_top, seed),
    }


def _directions(dictionary: Dictionary, features: np.ndarray) -> list[list[float]]:
    return [[round(x, 3) for x in row] for row in dictionary.decoder[torch.from_numpy(features)].tolist()]


def _edits(name: str, dictionary: Dictionary, features: np.ndarray, scores: np.ndarray) -> dict[str, EditFor]:
    """With the attribution: features whose score is positive are doubled, the others removed. Against it: the reverse.
    Moved: each is as strong as in the fine-tune."""
    signs = np.sign(scores[features])
    edit = scaled(dictionary, features, 1 + signs), scaled(dictionary, features, 1 - signs)
    return {
        f"{name}: with": lambda wanted: edit[0],
        f"{name}: against": lambda wanted: edit[1],
        f"{name}: moved": lambda wanted: moved_to(dictionary, features, wanted),
    }


@torch.no_grad()
def firing_rates(dictionary: Dictionary, states: Tensor) -> np.ndarray:
    """Share of the states [N, D] in which each feature fires, [F]."""
    return sum((dictionary.encode(part) > 0).sum(0) for part in states.split(8192)).numpy() / len(states)


def as_frequent(features: np.ndarray, rates: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """For each feature another one that fires about as often, drawn from the twenty nearest; none twice."""
    taken = set(features.tolist())
    chosen = []
    for feature in features:
        near = [i for i in np.argsort(np.abs(rates - rates[feature]), kind="stable") if int(i) not in taken][:20]
        chosen.append(int(random.choice(near)))
        taken.add(chosen[-1])
    return np.array(chosen)


@torch.no_grad()
def quality(model: LanguageModel, dictionary: Dictionary, layer: int, texts: Texts, mean: Tensor) -> dict[str, Any]:
    """What a dictionary keeps of what a layer passes on, by held-out document."""
    states = states_of(model, texts.held_out)[layer]
    error, variance = (by_document(x, texts.held_out) for x in unexplained(dictionary, states))
    rates = firing_rates(dictionary, states)
    return {
        "error": short(error),
        "variance": short(variance),
        "rebuilt": short(losses(model, texts.held_out, layer, rebuilt(dictionary))),
        "mean state": short(losses(model, texts.held_out, layer, replaced(mean))),
        "clean": short(losses(model, texts.held_out)),
        "never fires": float((rates == 0).mean()),
        "median rate": float(np.median(rates)),
    }


@torch.no_grad()
def contexts(
    model: LanguageModel, dictionary: Dictionary, states: Tensor, documents: Sequence[np.ndarray], features: np.ndarray
) -> list[list[str]]:
    """For each feature the texts up to the tokens where it is strongest, one of a document. ``states`` [N, D] are what
    the layer passes on in the documents."""
    chosen = torch.from_numpy(features)
    of_tokens = torch.cat([dictionary.encode(part)[:, chosen] for part in states.split(8192)])
    parts = of_tokens.split(n_inside(documents).tolist())
    largest = torch.stack([part.max(0).values for part in parts])  # [documents, features]
    said = []
    for k in range(len(features)):
        best = largest[:, k].topk(min(CONTEXTS, len(documents))).indices.tolist()
        said.append([_context(model, documents[i], 1 + int(parts[i][:, k].argmax())) for i in best])
    return said


def _context(model: LanguageModel, document: np.ndarray, at: int) -> str:
    before, token = (
        model.tokenizer.decode(document[part]) for part in (slice(max(1, at - BEFORE), at), slice(at, at + 1))
    )
    return f"{before}«{token}»"


def planted(
    model: LanguageModel,
    dictionary: Dictionary,
    layer: int,
    documents: Sequence[np.ndarray],
    rates: np.ndarray | None,
    n: int,
    plants: Sequence[str],
    seed: int,
) -> list[dict[str, Any]]:
    """Change one feature of the model and look for it as if the changed model were a fine-tune.

    Args:
        model: The model.
        dictionary: Whose features are planted.
        layer: Number of the layer, from 0.
        documents: What is read, of which some are drawn.
        rates: How often each feature fires. None: of a random dictionary, and nobody asks.
        n: Features that are planted, each in every way of ``plants``.
        plants: Some of PLANTS.
        seed: Of what is drawn.

    Returns:
        For each plant "plant", "feature", the "sign" of what was done, and under "found" for each of WAYS the
        feature's place and whether the score's sign is right.
    """
    random = np.random.default_rng(seed)
    read = [documents[i] for i in sorted(random.choice(len(documents), min(PLANTED_ROWS, len(documents)), False))]
    activations = dictionary.encode(states_of(model, read)[layer])
    strengths = (activations.sum(0) / (activations > 0).sum(0).clamp(min=1)).numpy()
    here = firing_rates(dictionary, states_of(model, read)[layer])
    known = here if rates is None else rates
    able = np.flatnonzero((known >= OFTEN[0]) & (known <= OFTEN[1]) & (here > 0))
    features = random.choice(able, min(n, len(able)), replace=False)
    records = []
    for feature in features.tolist():
        for plant in plants:
            sign = int(random.choice([-1, 1])) if plant == "added" else {"removed": -1, "tripled": 1}[plant]
            edit = _plant(dictionary, feature, plant, sign * float(strengths[feature]))
            by_way = attributions(model, tuned_as(model, layer, edit), dictionary, layer, read)
            found = {
                way: [int(ranks(scores)[feature]), bool(np.sign(scores[feature]) == sign)]
                for way, scores in by_way.items()
            }
            name = plant if rates is not None else f"{plant}, random dictionary"
            records.append({"plant": name, "feature": feature, "sign": sign, "found": found})
    return records


def _plant(dictionary: Dictionary, feature: int, plant: str, step: float) -> Edit:
    if plant == "added":
        return lambda states: states + step * dictionary.decoder[feature]
    return scaled(dictionary, np.array([feature]), np.array([0.0 if plant == "removed" else 3.0]))


@torch.no_grad()
def announces(dictionary: Dictionary, states: Tensor, documents: Sequence[np.ndarray], token: int) -> np.ndarray:
    """How well each feature says that a token comes next: the correlation of its activation with that, [F]."""
    lengths = n_inside(documents)
    comes = np.concatenate([np.append(document[2:] == token, False) for document in documents if len(document) > 1])
    last = np.cumsum(lengths[lengths > 0]) - 1  # what stands behind a document's last token is not known
    known = torch.ones(len(states), dtype=torch.bool)
    known[torch.from_numpy(last)] = False
    wanted = torch.from_numpy(comes)[known].double()
    wanted -= wanted.mean()
    sums = torch.zeros(3, dictionary.n_features, dtype=torch.float64)
    at = 0
    for part in states[known].split(8192):
        active = dictionary.encode(part).double()
        sums += torch.stack([active.sum(0), active.square().sum(0), active.T @ wanted[at : at + len(part)]])
        at += len(part)
    spread = (sums[1] - sums[0].square() / at).clamp(min=0).sqrt()
    return (sums[2] / (spread * wanted.norm()).clamp(min=1e-12)).numpy()


def said_more(
    model: LanguageModel,
    other: LanguageModel,
    token: int,
    dictionary: Dictionary,
    layer: int,
    texts: Texts,
    states: Tensor,
) -> dict[str, Any]:
    """Where the feature that announces a token stands among those of a fine-tune that says it more often.

    ``states`` [N, D] are what the layer passes on in the training texts.
    """
    known = announces(dictionary, states, texts.train, token)
    feature = int(known.argmax())
    by_way = attributions(model, tuned_as(other, layer), dictionary, layer, texts.validation)
    return {
        "model": other.name,
        "feature": feature,
        "correlation": round(float(known[feature]), 4),
        "found": {way: [int(ranks(s)[feature]), bool(s[feature] > 0)] for way, s in by_way.items()},
        # Of the ten that announce it best, how many are among the ten that are found: chance is a tenth of a feature.
        "of ten": {way: len({*top(s, 10)} & {*np.argsort(-known)[:10]}) for way, s in by_way.items()},
    }


@torch.no_grad()
def overlap(
    model: LanguageModel,
    tuned: LanguageModel,
    dictionary: Dictionary,
    layer: int,
    documents: Sequence[np.ndarray],
    prompts: Mapping[str, Tensor],
    n_top: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Do prompts move the fine-tune's features as undoing the fine-tune does?

    Undoing is measured on every other document, the prompts on the rest: what the documents themselves do to a mean is
    then in one of the two only.

    Args:
        model: The model before fine-tuning.
        tuned: And after it.
        dictionary: Whose features.
        layer: Number of the layer, from 0.
        documents: What is read.
        prompts: [P, D] each, by name.
        n_top: Features that are compared.
        seed: Of what is drawn.

    Returns:
        For each prompt, for undoing on the rest of the documents (the most that can be reached), and for the first
        prompt's shifts shared out to other features: "name", and "shared" and "correlation", each with "value" and
        "interval".
    """
    half, rest = documents[::2], documents[1::2]

    def sums(of: LanguageModel, read: Sequence[np.ndarray], prompt: Tensor | None = None) -> np.ndarray:
        return by_document(dictionary.encode(states_of(of, read, prompt)[layer]), read)

    before = sums(tuned, rest)
    shifts = {name: sums(tuned, rest, prompt) - before for name, prompt in prompts.items()}
    shifts["undoing, other documents"] = sums(model, rest) - before
    undone = sums(model, half) - sums(tuned, half)
    counts = n_inside(rest)
    (reference,), (reference_draws,) = shift_draws([(undone, n_inside(half))], N_DRAWS, seed)
    means, draws = shift_draws([(x, counts) for x in shifts.values()], N_DRAWS, seed + 1)
    found = {name: (mean, drawn) for name, mean, drawn in zip(shifts, means, draws, strict=True)}
    first, random = next(iter(found.values()))[0], np.random.default_rng(seed)
    mixed = np.stack([random.permutation(first) for _ in range(N_DRAWS)])
    records = []
    for name, (mean, drawn) in found.items():
        records.append({"name": name, "size": float(f"{np.linalg.norm(mean):.4g}")})
        for what, of in (("shared", lambda a, b: shared_top(a, b, n_top)), ("correlation", rank_correlation)):
            records[-1][what] = {
                "value": round(float(of(reference, mean)), 4),
                "interval": _ends(of(reference_draws, drawn)),
            }
    records.append({"name": "the prompt's shifts, shared out to other features", "size": records[0]["size"]})
    for what, of in (("shared", lambda a, b: shared_top(a, b, n_top)), ("correlation", rank_correlation)):
        by_chance = of(np.broadcast_to(reference, mixed.shape), mixed)
        records[-1][what] = {"value": round(float(by_chance.mean()), 4), "interval": _ends(by_chance)}
    return records


def _ends(draws: np.ndarray) -> list[float]:
    return [round(float(x), 4) for x in np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])]


@torch.no_grad()
def _measured_blocks(
    model: LanguageModel,
    dictionaries: Sequence[Dictionary],
    texts: Texts,
    held_out: Sequence[Tensor],
    matching: Sequence[Tensor],
    is_shared: bool,
    seed: int,
) -> dict[str, Any]:
    blocks, pairs = [], []
    for number, (dictionary, states) in enumerate(zip(dictionaries, held_out, strict=True)):
        error, variance = (by_document(x, texts.held_out) for x in unexplained(dictionary, states))
        nats = losses(model, texts.held_out, number, rebuilt(dictionary))
        dead = float((firing_rates(dictionary, states) == 0).mean())
        blocks.append({"error": short(error), "variance": short(variance), "rebuilt": short(nats), "never fires": dead})
    mixed = torch.randperm(len(held_out[0]), generator=torch.Generator().manual_seed(seed))
    for number in range(len(dictionaries) - 1):
        two = dictionaries[number : number + 2]
        here, later = (d.encode(x) for d, x in zip(two, held_out[number : number + 2], strict=True))
        matched = partners(*(d.encode(x) for d, x in zip(two, matching[number : number + 2], strict=True)))
        ways = {"partner": matched} | ({"the same": np.arange(two[0].n_features)} if is_shared else {})
        pairs.append({})
        for name, partner in ways.items():
            both, fires = (by_document(x, texts.held_out) for x in fire_together(here, later, partner))
            chance, _ = fire_together(here, later[mixed], partner)
            pairs[-1][name] = {"both": both.tolist(), "fires": fires.tolist(), "chance": int(chance.sum())}
    return {"blocks": blocks, "pairs": pairs}


def blocks_shared(pair: Pair, recipe: DictionaryRecipe, seed: int) -> dict[str, Any]:
    """One dictionary for what all blocks pass on, against one for each block: as large together, and each as large.

    Args:
        pair: The model; its fine-tune plays no part.
        recipe: Of the shared dictionary.
        seed: Of the dictionaries.

    Returns:
        Plain JSON.
    """
    model, texts, states = pair.model, pair.texts, pair.states
    matching, held_out = (states_of(model, x) for x in (texts.validation, texts.held_out))
    small = replace(recipe, n_features=recipe.n_features // len(states))
    made = (
        trained(states, recipe, seed),
        [trained([of_block], small, seed)[0] for of_block in states],
        [trained([of_block], recipe, seed)[0] for of_block in states],
    )
    return {
        "tokens": n_inside(texts.held_out).tolist(),
        "clean": short(losses(model, texts.held_out)),
        "mean state": [short(losses(model, texts.held_out, i, replaced(x.mean(0)))) for i, x in enumerate(states)],
        "arranged": {
            name: _measured_blocks(model, dictionaries, texts, held_out, matching, name == ARRANGED[0], seed)
            for name, dictionaries in zip(ARRANGED, made, strict=True)
        },
    }
