"""Does a prompt bring a behaviour out with fewer bits than a LoRA, a steering vector or words?

The same documents, seeds and steps train prompts of P tokens, LoRAs of rank P on every matrix, vectors on P
neighbouring layers (the place is chosen on validation), and prompts of P words: tokens of the vocabulary, of which the
nearest to trained rows are read. All but the words are trained whole and in few random directions, and rounded to ever
fewer bits a number. So every kind has a loss for every number of bits that may be spent on it.

Expected: at few bits a prompt is ahead where the model has the behaviour already, since it only has to be named. A LoRA
can teach what the model lacks, and is ahead at many bits. One vector does what one token does, or less: it cannot say
several things at once. Words are the cheapest by far where the search finds the right ones, which it does not.

    python -m tests.rivals_test pocket                     # tags behind a key of four symbols, known to be there
    python -m tests.rivals_test taught                     # the same tags, never taught
    python -m tests.rivals_test text                       # ordinary text on the chat model; or chess, smollm2
    python -m tests.rivals_test table results/rivals_key   # held-out loss at equal bits
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_prompts import Sweep
from soft_prompts.answers import run_or_print
from soft_prompts.errors import SoftPromptsError
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.training.recipe import RECIPES

from . import autoregressive_test, calibration_test, chess_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from soft_prompts.results.curve import Curve

KINDS = {
    "prompt": ({}, (0.3, 1.0)),
    "LoRA": (RECIPES["lora"], (0.01, 0.03)),
    "steering": (RECIPES["steering"], (0.1, 0.3)),
    "words": (RECIPES["words"], (0.3, 1.0)),
}
"""Name -> recipe, and the learning rates that are tried: which is best depends on the behaviour."""
FEW = (16, 128)
"""Directions of which few are trained, at the larger rate, beside all numbers."""
BUDGETS = tuple(4**k for k in range(3, 10))
"""Bits that may be spent."""


def rivals(sweep: Sweep, **changes: object) -> Sweep:
    """An experiment in which all kinds are trained. What is compared is the kinds, so there are no controls."""
    recipes = []
    for kind, rates in KINDS.values():
        recipes += [{**kind, "lr": rate} for rate in rates]
        if kind.get("intervention") != "words":
            recipes += [{**kind, "lr": rates[-1], "subspace": few} for few in FEW]
    return replace(sweep, n_tokens=(0, 1, 4), controls=(), recipes=tuple(recipes), **changes)


OF_KEY = replace(calibration_test.POCKET, task=replace(calibration_test.POCKET.task, key_tokens=(4,)))
POCKET = rivals(OF_KEY, experiment="rivals_key", models=("pocket-keys",))
OTHERS = {
    "taught": rivals(OF_KEY, experiment="rivals_taught", models=("pocket-keys-untaught",)),
    "text": rivals(autoregressive_test.POCKET, experiment="rivals_text", models=("pocket-chat",)),
    "chess": rivals(chess_test.POCKET, experiment="rivals_chess"),
    "smollm2": rivals(chess_test.SMOLLM2, experiment="rivals_chess"),
}


def kind_of(curve: Curve) -> str:
    """Which of KINDS a curve trained."""
    names = {recipe.get("intervention", "prompt"): name for name, (recipe, _) in KINDS.items()}
    return names[curve.recipe.get("intervention", "prompt")]


def sizes(curves: list[Curve]) -> dict[str, list[tuple[int, float, float, str]]]:
    """Kind -> all that were tried: bits, validation and held-out loss (means over the seeds), and what it is."""
    found: dict[str, list[tuple[int, float, float, str]]] = {name: [] for name in KINDS}
    for curve in curves:
        few = curve.recipe.get("subspace", 0)
        for point in curve.points:
            tried: dict[int, list[dict]] = {}
            for result in point.results:
                for size in result.sizes:
                    tried.setdefault(size["bits_per_number"], []).append(size)
            for b, of_seeds in tried.items():
                if len(of_seeds) == len(point.results):
                    validation, loss = (float(np.mean([s[x] for s in of_seeds])) for x in ("validation_loss", "loss"))
                    what = (
                        f"{point.n_tokens}"
                        + (f" in {few} directions" if few else "")
                        + (f", {b} bits each" if b else "")
                    )
                    found[kind_of(curve)].append((of_seeds[0]["bits"], validation, loss, what))
    return found


def best_within(tried: list[tuple[int, float, float, str]], budget: int) -> tuple[int, float, float, str] | None:
    """Of what costs at most so many bits, the one with the lowest validation loss."""
    return min((one for one in tried if one[0] <= budget), key=lambda one: one[1], default=None)


def table(folder: Path) -> str:
    """Markdown: the held-out loss of each kind at equal bits, and what reached it."""
    found = _measured(folder)
    zero = next(point for curve in found for point in curve.points if not point.n_tokens)
    by_kind = sizes(found)
    body = [["0 bits", *[f"{zero.loss:.3f}"] * len(by_kind)]]
    for budget in BUDGETS:
        best = [best_within(tried, budget) for tried in by_kind.values()]
        body.append([f"{budget:,} bits", *(f"{one[2]:.3f} ({one[3]})" if one else "" for one in best)])
    shown = markdown_table(["at most", *by_kind], body, texts=())
    return "\n".join([shown, "", *_of_text(found), *_paired(found)])


def _measured(folder: Path) -> list[Curve]:
    """All curves of a folder.

    Raises:
        SoftPromptsError: They are of several models, whose losses do not compare.
    """
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves

    found = curves(load_results([folder]))
    if len(models := {curve.model for curve in found}) > 1:
        raise SoftPromptsError(f"{folder} holds results of {', '.join(sorted(models))}; name the folder of one model.")
    return found


def _of_text(found: list[Curve]) -> list[str]:
    """What a text is known to reach, if one is."""
    anchor = _anchored(found)
    if not anchor:
        return []
    own = f", {anchor['own_bits']:.0f} in the model's own code" if anchor.get("own_bits") is not None else ""
    return [f"Text: {anchor['name']} has {anchor['loss']:.3f} nats and {anchor['bits']:.0f} bits{own}."]


def _anchored(found: list[Curve]) -> dict[str, Any] | None:
    """The text that is known to bring the behaviour out."""
    return next((curve.anchor for curve in found if curve.anchor and curve.anchor.get("bits")), None)


def _paired(found: list[Curve]) -> list[str]:
    """The best of each kind, unrounded, against the best prompt: chosen on validation, paired on held-out documents."""
    best = {}
    for curve in found:
        for point in curve.points:
            if point.n_tokens:
                validation = float(np.mean([r.validation_loss for r in point.results]))
                kind = kind_of(curve)
                best[kind] = min(best.get(kind, (np.inf, None)), (validation, point), key=lambda one: one[0])
    lines = []
    for kind in [kind for kind in KINDS if kind in best and kind != "prompt"]:
        point = best[kind][1]
        if gain := point.gain_over(best["prompt"][1]):
            lines.append(
                f"{kind}: the best, of {point.n_tokens}, is below the best prompt, of {best['prompt'][1].n_tokens}, by "
                f"{with_interval(gain, '.3f')} nats."
            )
    return lines


def figure(folder: Path) -> Figure:
    """Held-out loss over bits: all that was tried, and the best within each number of bits."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7, 4.4), layout="constrained")
    ax = drawn.subplots()
    found = _measured(folder)
    for i, (name, tried) in enumerate(sizes(found).items()):
        bits = sorted({one[0] for one in tried})
        best = [best_within(tried, n) for n in bits]
        ax.plot([one[0] for one in tried], [one[2] for one in tried], ".", color=f"C{i}", alpha=0.3)
        ax.step(bits, [one[2] for one in best], where="post", color=f"C{i}", label=name)
    if text := _anchored(found):
        ax.plot(text["bits"], text["loss"], "x", color="black", label=text["name"])
    ax.set_xscale("log", base=2)
    ax.set_xticks(BUDGETS, [f"{budget:,}" for budget in BUDGETS])
    ax.set_xlabel("bits that are spent")
    ax.set_ylabel("held-out nats per scored token")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return drawn


if __name__ == "__main__":
    run_or_print(table, POCKET, __doc__, figure, pocket=POCKET, **OTHERS)
