"""Can fine-tuning shut prompts out while the model stays useful?

pocket-keys writes tags behind a secret key of four symbols, and a prompt of four tokens brings them out. In rounds,
`soft_prompts/pocket/blocked.py` trained prompts that do so and then fine-tuned the model until they did nothing: an
ensemble of 1, 4 or 8 prompts in each round. Here new prompts, which those models never saw, measure the distance anew.
Beside them: a model that was fine-tuned against random prompts, and the twin that was never taught the tags.

Expected: the prompts that were blocked are shut out, others come through. More prompts in a round block better, but a
few rounds do not bring the distance to that of the twin.

    python -m tests.blocking_test pocket
    python -m tests.blocking_test table results/blocking     # distance, bits and utility, round by round
    python -m tests.blocking_test --models pocket-keys runs/blocked-1 runs/blocked-2
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_prompts.answers import run_or_print
from soft_prompts.errors import SoftPromptsError
from soft_prompts.pocket import BLOCKED
from soft_prompts.report.markdown import markdown_table

from . import calibration_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from soft_prompts.results.curve import Curve

START, TWIN = "pocket-keys", "pocket-keys-untaught"
POCKET = replace(
    calibration_test.POCKET,
    experiment="blocking",
    task=replace(calibration_test.POCKET.task, key_tokens=(4,)),
    models=(START, *BLOCKED, TWIN),
    n_tokens=(0, 1, 4, 8),
    controls=(),
)
SHARE = 0.5
"""Of what the key gains in the model before it was blocked: the target that distances go by."""


def measured(folder: Path) -> dict[str, Curve]:
    """Model -> its curve, the one that was not blocked first.

    Raises:
        SoftPromptsError: That one is missing, without which there is no target.
    """
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves, without_controls

    found = {curve.model: curve for curve in without_controls(curves(load_results([folder])))}
    if START not in found:
        raise SoftPromptsError(f"{folder} has no results of {START}, by which distances are measured.")
    order = [name for name in POCKET.models if name in found]
    return {name: found[name] for name in [*order, *(name for name in found if name not in order)]}


def target(start: Curve, split: str = "held_out", share: float = SHARE) -> float:
    """The loss at which a prompt counts as having brought so much of the behaviour out, nats per scored token."""
    of_key = "loss" if split == "held_out" else "validation_loss"
    zero = start.points[0].loss if split == "held_out" else start.points[0].results[0].validation_loss
    return zero - share * (zero - start.anchor[of_key])


def tokens_needed(curve: Curve, start: Curve, share: float = SHARE) -> str:
    """Where the curve comes down to the target, in tokens, with the interval over documents and seeds."""
    from soft_prompts.results.distance import crossings

    losses = curve.paired
    rows = np.concatenate([losses.losses[None], losses.draws])
    at = crossings(losses.n_tokens, rows, np.full(len(rows), target(start, share=share)))

    def shown(tokens: float) -> str:
        return f"{tokens:.2g}" if np.isfinite(tokens) else f"> {losses.longest}"

    low, high = np.sort(at[1:])[[round(0.025 * (len(at) - 2)), round(0.975 * (len(at) - 2))]]
    return f"{shown(at[0])} [{shown(low)}, {shown(high)}]"


def bits_needed(curve: Curve, start: Curve) -> str:
    """The fewest bits of a rounded prompt, in thousands: mean over the seeds, chosen on validation documents."""
    wanted, best = target(start, "validation"), {}
    for result in curve.results:
        for size in result.sizes:
            if size["validation_loss"] <= wanted:
                best[result.seed] = min(best.get(result.seed, np.inf), size["bits"])
    enough = len(best) == len({r.seed for r in curve.results if r.n_tokens})
    return f"{np.mean(list(best.values())) / 1000:.2f}" if enough else "none of these"


def table(folder: Path) -> str:
    """Markdown: a line for each model."""
    found = measured(folder)
    lengths = [point.n_tokens for point in found[START].points]
    head = ["model", *(f"P={n}" for n in lengths), "the key as text", "tokens", "kbit", "own texts", "books"]
    body = []
    for name, curve in found.items():
        facts = facts_of(name)
        cells = [
            name,
            *(f"{point.loss:.2f}" for point in curve.points),
            f"{curve.anchor['loss']:.2f}",
            tokens_needed(curve, found[START]),
            bits_needed(curve, found[START]),
            *(
                f"{facts[of]['after'] - facts[of]['before']:+.3f}" if of in facts else ""
                for of in ("own texts", "books")
            ),
        ]
        body.append(cells)
    return markdown_table(head, body)


def facts_of(model: str) -> dict[str, Any]:
    """What is known of a model that was blocked; nothing of others."""
    folder = BLOCKED.get(model, Path(model))
    return json.loads((folder / "facts.json").read_text()) if (folder / "facts.json").is_file() else {}


def figure(folder: Path) -> Figure:
    """Loss over prompt length, a line for each model."""
    found = measured(folder)
    return lines(found, target(found[START]), [name for name in found if name not in BLOCKED], "nats per tag")


def lines(found: dict[str, Curve], level: float, dashed: Collection[str], unit: str) -> Figure:
    """Loss over prompt length, a line for each curve by its name, and a dotted one at a level."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7, 4.4), layout="constrained")
    ax = drawn.subplots()
    for i, (name, curve) in enumerate(found.items()):
        intervals = np.array([point.interval for point in curve.points])
        values = np.array([point.loss for point in curve.points])
        at = np.arange(len(values)) + 0.04 * i
        style = "o--" if name in dashed else "o-"
        ax.errorbar(at, values, np.abs(intervals.T - values), fmt=style, capsize=2, label=name)
    ax.axhline(level, color="black", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(values)), [str(point.n_tokens) for point in curve.points])
    ax.set_xlabel("prompt tokens")
    ax.set_ylabel(f"held-out {unit}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small")
    return drawn


if __name__ == "__main__":
    run_or_print(table, POCKET, __doc__, figure, pocket=POCKET)
