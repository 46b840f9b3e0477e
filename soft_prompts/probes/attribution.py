"""Which features of a dictionary does fine-tuning move? Gradients of a frozen difference between two models, and what
changing features does to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from soft_prompts.engine.changes import changed
from soft_prompts.interventions.base import Change, Intervention
from soft_prompts.interventions.steering import layers_of
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.probes.dictionary import Dictionary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Edit = Callable[[Tensor], Tensor]
"""What a layer passes on, [B, T, D] -> what it passes on instead."""
OBJECTIVES = ("logits", "squared error", "predictions")
"""What the gradient is taken of: see ``closeness``."""
PASS = 32
"""Documents in one forward pass."""


@dataclass(frozen=True)
class Rows:
    """Some documents as they are read together."""

    tokens: Tensor
    """int64 [B, T], padded on the right."""
    lengths: Tensor
    """int64 [B]"""

    @property
    def inside(self) -> Tensor:
        """bool [B, T]: the document's own tokens, without the separator, whose state is like no other."""
        at = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (at > 0) & (at < self.lengths[:, None])


def rows_of(documents: Sequence[np.ndarray], size: int = PASS) -> Iterator[Rows]:
    """Documents, separator first, some at a time and in their order."""
    for start in range(0, len(documents), size):
        part = documents[start : start + size]
        tokens = np.zeros((len(part), max(map(len, part))), np.int64)
        for row, document in zip(tokens, part, strict=True):
            row[: len(document)] = document
        yield Rows(torch.from_numpy(tokens), torch.tensor([len(document) for document in part]))


class _Edited(Intervention):
    """Changes of what layers pass on: what ``changed`` needs to know of them."""

    def __init__(self, edits: Mapping[int, Edit]):
        super().__init__()
        self.edits = dict(edits)

    def changes(self, lm: PreTrainedModel) -> dict[nn.Module, Change]:
        layers = layers_of(lm)

        def of(edit: Edit) -> Change:
            return lambda given, passed_on: edit(passed_on)

        return {layers[number]: of(edit) for number, edit in self.edits.items()}


def logits_of(
    model: LanguageModel, rows: Rows, edits: Mapping[int, Edit] | None = None, prompt: Tensor | None = None
) -> Tensor:
    """The logits [B, T, V] at every token of some documents, from ``hidden_of``."""
    return model.head(hidden_of(model, rows, edits, prompt))


def hidden_of(
    model: LanguageModel, rows: Rows, edits: Mapping[int, Edit] | None = None, prompt: Tensor | None = None
) -> Tensor:
    """The hidden states [B, T, D] at every token of some documents.

    Args:
        model: The frozen model.
        rows: The documents.
        edits: Number of a layer, from 0 -> what is made of its output.
        prompt: [P, D], stands behind the separator. Edits see only the documents' tokens.
    """
    embedded = model.embed(rows.tokens)
    n_tokens = 0 if prompt is None else len(prompt)
    if n_tokens:
        block = prompt.expand(len(embedded), -1, -1).to(embedded)
        embedded = torch.cat([embedded[:, :1], block, embedded[:, 1:]], 1)

    def beside(edit: Edit) -> Edit:
        def around(passed_on: Tensor) -> Tensor:
            own = edit(torch.cat([passed_on[:, :1], passed_on[:, 1 + n_tokens :]], 1))
            return torch.cat([own[:, :1], passed_on[:, 1 : 1 + n_tokens], own[:, 1:]], 1)

        return around if n_tokens else edit

    around = {number: beside(edit) for number, edit in (edits or {}).items()}
    with changed(model.lm, [(_Edited(around), slice(0, len(embedded)))]):
        hidden = model.body(embedded)
    return torch.cat([hidden[:, :1], hidden[:, 1 + n_tokens :]], 1)


def listening(to: list[Tensor]) -> Edit:
    """An edit that changes nothing and notes what is passed on."""

    def note(passed_on: Tensor) -> Tensor:
        to.append(passed_on)
        return passed_on

    return note


@torch.no_grad()
def states_of(model: LanguageModel, documents: Sequence[np.ndarray], prompt: Tensor | None = None) -> list[Tensor]:
    """What every layer passes on at the documents' own tokens, [N, D] for each layer."""
    heard: list[list[Tensor]] = [[] for _ in layers_of(model.lm)]
    for rows in rows_of(documents):
        passed_on: list[list[Tensor]] = [[] for _ in heard]
        hidden_of(model, rows, {number: listening(to) for number, to in enumerate(passed_on)}, prompt)
        for to, (states,) in zip(heard, passed_on, strict=True):
            to.append(states[rows.inside])
    return [torch.cat(to) for to in heard]


def closeness(objective: str, tuned: Tensor, logits: Tensor) -> Tensor:
    """What grows when a model comes closer to its fine-tune, at each position.

    The gradients of the first two are the same: with the bias b = tuned - logits held fixed, that of <logits, b> is
    J b, and so is that of -|tuned - logits|^2 / 2.

    Args:
        objective: logits: <logits, bias>, with the bias tuned - logits held fixed. squared error: minus half of its
            square. predictions: minus the divergence of the model's predictions from the fine-tune's, nats.
        tuned: [..., V], the fine-tune's logits.
        logits: [..., V], the model's.

    Returns:
        [...]
    """
    if objective == "predictions":
        return -divergence(tuned, logits)
    # A number that is added to all logits says nothing.
    tuned, logits = (x - x.mean(-1, keepdim=True) for x in (tuned, logits))
    if objective == "logits":
        return (logits * (tuned - logits).detach()).sum(-1)
    return -(tuned - logits).square().sum(-1) / 2


def divergence(tuned: Tensor, logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a model's predictions from those of its fine-tune, nats, from logits [..., V]."""
    wanted = tuned.log_softmax(-1)
    return (wanted.exp() * (wanted - logits.log_softmax(-1))).sum(-1)


def gradients(
    model: LanguageModel, rows: Rows, tuned: Tensor, layer: int, objectives: Sequence[str]
) -> tuple[Tensor, list[Tensor]]:
    """How what a layer passes on must change for the model to come closer to its fine-tune.

    Args:
        model: The frozen model.
        rows: Documents.
        tuned: [B, T, V], the fine-tune's logits.
        layer: Number of the layer, from 0.
        objectives: As ``closeness`` says.

    Returns:
        What the layer passes on, and the gradient of each objective's sum over the documents' tokens: [B, T, D] each.
    """
    leaves: list[Tensor] = []

    def cut(passed_on: Tensor) -> Tensor:
        leaves.append(passed_on.detach().requires_grad_())
        return leaves[0]

    with torch.enable_grad():
        logits = logits_of(model, rows, {layer: cut})
        sums = [closeness(objective, tuned, logits)[rows.inside].sum() for objective in objectives]
        slopes = [torch.autograd.grad(of_one, leaves, retain_graph=True)[0] for of_one in sums]
    return leaves[0].detach(), slopes


Tuned = Callable[[Rows], tuple[Tensor, Tensor]]
"""A fine-tune: documents -> its logits [B, T, V] and what its layer passes on [B, T, D]."""


def tuned_as(model: LanguageModel, layer: int, edit: Edit | None = None) -> Tuned:
    """A model as a fine-tune: another one, or the same with a change of what the layer passes on at the documents' own
    tokens."""

    @torch.no_grad()
    def read(rows: Rows) -> tuple[Tensor, Tensor]:
        heard: list[Tensor] = []
        note, own = listening(heard), only_inside(rows, edit) if edit else None
        logits = logits_of(model, rows, {layer: lambda states: note(own(states) if own else states)})
        return logits, heard[0]

    return read


WAYS = (
    "gradient",
    "gradient where it fires",
    "gradient x activation",
    "gradient of predictions",
    "gradient x activation, of predictions",
    "gradient x change, of predictions",
    "activation difference",
)
"""By which features are ranked. The first three are of the objective logits. Change: the fine-tune's activation less
the model's."""


def attributions(
    model: LanguageModel, tuned: Tuned, dictionary: Dictionary, layer: int, documents: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """How much each feature is held responsible for the difference between a model and its fine-tune.

    Positive: more of the feature brings the model closer to the fine-tune.

    Args:
        model: The frozen model.
        tuned: The fine-tune.
        dictionary: Of what the layer passes on.
        layer: Number of the layer, from 0.
        documents: What both read.

    Returns:
        For each of WAYS the mean over tokens, float64 [F].
    """
    sums = {way: torch.zeros(dictionary.n_features, dtype=torch.float64) for way in WAYS}
    n = 0
    for rows in rows_of(documents):
        logits, moved = tuned(rows)
        inside = rows.inside
        states, (of_logits, of_predictions) = gradients(model, rows, logits, layer, ("logits", "predictions"))
        active = dictionary.encode(states[inside])
        change = dictionary.encode(moved[inside]) - active
        slopes, steeper = (g[inside] @ dictionary.decoder.T for g in (of_logits, of_predictions))
        fires = active > 0
        parts = (slopes, slopes * fires, slopes * active, steeper, steeper * active, steeper * change, change)
        for way, part in zip(WAYS, parts, strict=True):
            sums[way] += part.double().sum(0)
        n += len(active)
    return {way: (of_way / n).numpy() for way, of_way in sums.items()}


def ranks(scores: np.ndarray) -> np.ndarray:
    """The place of every feature by the size of its score, from 1, int [F]."""
    order = np.argsort(-np.abs(scores), kind="stable")
    places = np.empty(len(scores), np.int64)
    places[order] = np.arange(1, len(scores) + 1)
    return places


def top(scores: np.ndarray, n: int) -> np.ndarray:
    """The n features with the largest scores in size, int [n], the largest first."""
    return np.argsort(-np.abs(scores), kind="stable")[:n]


def only_inside(rows: Rows, edit: Edit) -> Edit:
    """An edit of the documents' own tokens; the separator and the padding stay as they are."""
    return lambda states: torch.where(rows.inside[..., None], edit(states), states)


def scaled(dictionary: Dictionary, features: np.ndarray, factors: np.ndarray) -> Edit:
    """States in which some features are so many times as strong: 0 removes them, 1 changes nothing, 2 doubles them."""
    chosen = torch.from_numpy(features)
    more = torch.from_numpy(np.asarray(factors, np.float32) - 1)
    return lambda states: states + (dictionary.encode(states)[..., chosen] * more) @ dictionary.decoder[chosen]


def moved_to(dictionary: Dictionary, features: np.ndarray | None, wanted: Tensor) -> Edit:
    """States whose features are as strong as in the states of the fine-tune.

    Args:
        dictionary: The dictionary.
        features: Which. None: all of them.
        wanted: What the fine-tune's layer passes on, [B, T, D].
    """
    chosen = torch.arange(dictionary.n_features) if features is None else torch.from_numpy(features)

    def edit(states: Tensor) -> Tensor:
        change = dictionary.encode(wanted)[..., chosen] - dictionary.encode(states)[..., chosen]
        return states + change @ dictionary.decoder[chosen]

    return edit


EditFor = Callable[[Tensor], Edit]
"""What the fine-tune's layer passes on, [B, T, D] -> an edit of the model."""


@torch.no_grad()
def gaps(
    model: LanguageModel, tuned: Tuned, layer: int, documents: Sequence[np.ndarray], edits: Mapping[str, EditFor]
) -> dict[str, np.ndarray]:
    """How far a model is from its fine-tune while what a layer passes on is changed.

    Args:
        model: The frozen model.
        tuned: The fine-tune.
        layer: Number of the layer, from 0.
        documents: What is read.
        edits: The changes, by name.

    Returns:
        For each of the edits, and under "" without any, the divergence of each document: nats, summed over its tokens,
        float64 [documents].
    """
    found: dict[str, list[float]] = {name: [] for name in ("", *edits)}
    for rows in rows_of(documents):
        wanted, states = tuned(rows)
        inside = rows.inside
        for name, into in found.items():
            changes = {layer: only_inside(rows, edits[name](states))} if name else {}
            apart = divergence(wanted, logits_of(model, rows, changes))
            into += torch.where(inside, apart, 0).double().sum(1).tolist()
    return {name: np.array(of_name) for name, of_name in found.items()}


def n_inside(documents: Sequence[np.ndarray]) -> np.ndarray:
    """Tokens of each document, without the separator, int [documents]."""
    return np.array([len(document) - 1 for document in documents])


def by_document(values: Tensor, documents: Sequence[np.ndarray]) -> np.ndarray:
    """Sums over the tokens of each document, float64 [documents, ...], of values [N, ...] in the order of
    ``states_of``."""
    return np.stack([part.double().sum(0).numpy() for part in values.split(n_inside(documents).tolist())])


@torch.no_grad()
def losses(
    model: LanguageModel, documents: Sequence[np.ndarray], layer: int = 0, edit: Edit | None = None
) -> np.ndarray:
    """Nats of each document's tokens behind the first two, whose predictions rest on what may be edited.

    Args:
        model: The frozen model.
        documents: The documents.
        layer: Number of the layer, from 0.
        edit: Of what it passes on at the documents' own tokens. None: nothing is changed.

    Returns:
        float64 [documents]
    """
    found: list[float] = []
    for rows in rows_of(documents):
        logits = logits_of(model, rows, {layer: only_inside(rows, edit)} if edit else {})
        nats = nn.functional.cross_entropy(logits[:, 1:-1].transpose(1, 2), rows.tokens[:, 2:], reduction="none")
        found += torch.where(rows.inside[:, 2:], nats, 0).double().sum(1).tolist()
    return np.array(found)


def rebuilt(dictionary: Dictionary) -> Edit:
    """States as the dictionary puts them together again."""
    return lambda states: dictionary.decode(dictionary.encode(states))


def replaced(by: Tensor) -> Edit:
    """One state [D] in the place of all."""
    return lambda states: by.expand_as(states)


def unexplained(dictionary: Dictionary, states: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error of every state's reconstruction, and its squared distance from the mean state, [N] each."""
    error = (states - dictionary.decode(dictionary.encode(states))).square().sum(-1)
    return error, (states - states.mean(0)).square().sum(-1)


def partners(activations: Tensor, later: Tensor) -> np.ndarray:
    """For each feature the one that goes with it most closely in the next block, by correlation over tokens, int [F].

    Args:
        activations: [N, F]
        later: [N, F'], of the same tokens in the next block.
    """

    def even(x: Tensor) -> Tensor:
        centred = x - x.mean(0)
        return centred / centred.norm(dim=0).clamp(min=1e-12)

    return (even(activations).T @ even(later)).argmax(1).numpy()


def fire_together(activations: Tensor, later: Tensor, partner: np.ndarray) -> tuple[Tensor, Tensor]:
    """How many of the features that fire at a token have a partner that fires there in the next block, and how many
    fire, [N] each."""
    fires = activations > 0
    return (fires & (later > 0)[:, partner]).sum(1), fires.sum(1)


def shift_draws(
    shifts: Sequence[tuple[np.ndarray, np.ndarray]], n_draws: int, seed: int = 0
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Mean shifts of all features, and bootstrap draws of them over documents, each of the shifts on its own.

    Args:
        shifts: For each shift the sums by document [documents, F] and the documents' tokens [documents].
        n_draws: How many draws.
        seed: Of the draws.

    Returns:
        Means [shifts, F], and draws [n_draws, F] for each shift.
    """
    random = np.random.default_rng(seed)
    means, draws = [], []
    for sums, counts in shifts:
        times = random.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=n_draws)
        means.append(sums.sum(0) / counts.sum())
        draws.append((times @ sums) / (times @ counts)[:, None])
    return np.stack(means), draws


def shared_top(one: np.ndarray, other: np.ndarray, n: int) -> np.ndarray:
    """Of the n features with the largest shifts in ``one``, the share that is among those of ``other`` and moves the
    same way; shifts [..., F] each."""
    signs = []
    for shifts in (one, other):
        place = np.argsort(np.argsort(-np.abs(shifts), -1, kind="stable"), -1, kind="stable")
        signs.append(np.where(place < n, np.sign(shifts), 0))
    return (signs[0] * signs[1] > 0).sum(-1) / n


def rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's correlation over features of shifts [..., F]; pairs in which both are 0 are features that never fire
    and count like others."""
    from scipy.stats import rankdata

    placed = [rankdata(x, axis=-1) for x in (one, other)]
    even = [x - x.mean(-1, keepdims=True) for x in placed]
    sizes = [np.linalg.norm(x, axis=-1) for x in even]
    return (even[0] * even[1]).sum(-1) / np.maximum(sizes[0] * sizes[1], 1e-12)
