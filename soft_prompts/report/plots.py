"""Results as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from soft_prompts.console import shown_only
from soft_prompts.files import write_atomically
from soft_prompts.report.reference import published
from soft_prompts.report.tables import title
from soft_prompts.results.curve import Curve, without_random_targets

COLORS = matplotlib.colormaps["tab10"].colors
CONTROL_LINES = {"scrambled": ":", "untrained": "-.", "permuted": "--"}
CONTROL_OF = {"scrambled": "weights", "untrained": "weights", "permuted": "labels"}
matplotlib.rcParams["text.parse_math"] = False  # a name may hold a dollar
LONGEST = 200
"""Characters of a name in a picture."""


def saturation_figure(curves: Sequence[Curve], headline: Sequence[str] = ()) -> Figure:
    """Held-out loss, and below it behavioural scores, against the prompt's length.

    Args:
        curves: Curves of one experiment, at least one.
        headline: Names of the scores.
    """
    asked_for = without_random_targets(curves)
    first = asked_for[0]
    scores = [name for name in headline if any(name in r.scores for curve in asked_for for r in curve.results)]
    heights = [3.6, *[1.0] * len(scores)]
    figure = Figure(figsize=(7, 0.8 + sum(heights)), layout="constrained")
    loss, *below = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True, squeeze=False)[:, 0]
    draw_random_targets(loss, [curve for curve in curves if curve not in asked_for])
    for curve, color in zip(asked_for, COLORS * len(curves), strict=False):
        draw_losses(loss, curve, color, _label(curve.difference) if len(asked_for) > 1 else "held-out loss")
        for control in (c for c in curve.controls if c.control in CONTROL_LINES):
            draw_control(loss, control, color)
        draw_search(loss, curve, color)
        for ax, name in zip(below, scores, strict=True):
            draw_score(ax, curve, name, color)
    if len(asked_for) == 1:
        if reference := published(first):
            x = [position(n) for n in reference]
            loss.plot(x, list(reference.values()), "x--", color="gray", label="published (other documents and recipe)")
        draw_baselines(loss, first)
    loss.set_ylabel("nats per scored token")
    name = title(first) if len(asked_for) == 1 else f"{first.experiment} on {first.model}"
    loss.set_title(_label(name), fontsize=9, wrap=True)
    loss.legend(loc="best", frameon=False, fontsize=8)
    lengths = sorted({point.n_tokens for curve in curves for point in curve.points})
    for ax in (loss, *below):
        ax.set_xticks([position(n) for n in lengths], [str(n) for n in lengths])
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.3)
    (below[-1] if below else loss).set_xlabel("prompt length P (tokens)")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, by the path's ending.

    Raises:
        SoftPromptsError: It cannot be written.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.removeprefix("."), dpi=150)
    write_atomically(path, picture.getvalue())


def save_picture(pixels: np.ndarray, path: Path) -> None:
    """Write uint8 [height, width, 3] as a PNG.

    Raises:
        SoftPromptsError: It cannot be written.
    """
    picture = io.BytesIO()
    image.imsave(picture, pixels, format="png")
    write_atomically(path, picture.getvalue())


def _label(name: str) -> str:
    """A name that fits into a picture. matplotlib leaves a leading "_" out of legends."""
    short = shown_only(name[:LONGEST] + ("..." if len(name) > LONGEST else ""))
    return "\u200b" + short if short.startswith("_") else short


def position(n_tokens: int) -> float:
    """Where a length stands on the axis: doubling is a step, and 0 stands one step before 1."""
    return float(np.log2(n_tokens)) if n_tokens else -1.0


def draw_losses(ax: Axes, curve: Curve, color: tuple, label: str) -> None:
    """The mean over seeds, a band over documents that holds all lengths at once, bars to compare lengths by, and the
    seeds."""
    x, losses = [position(p.n_tokens) for p in curve.points], [p.loss for p in curve.points]
    ax.plot(x, losses, color=color, label=label)
    if curve.widths is not None:
        below = np.minimum(losses, curve.widths)  # bars end at 0, too
        ax.fill_between(x, *curve.band, color=color, alpha=0.25, linewidth=0)
        ax.errorbar(x, losses, [below, curve.widths], fmt="none", ecolor=color, elinewidth=1.2, capsize=4)
    dots = [(position(p.n_tokens), loss) for p in curve.points for loss in p.losses]
    ax.plot(*zip(*dots, strict=True), ".", color=color)


def draw_search(ax: Axes, curve: Curve, color: tuple) -> None:
    """An open circle around every loss that more steps or another start would lower."""
    found = [p for p in curve.points if p.n_tokens in curve.exhaustion.flags]
    if found:
        x, losses = [position(p.n_tokens) for p in found], [p.loss for p in found]
        known = {line.get_label() for line in ax.lines}
        label = "search not exhausted"
        ax.plot(x, losses, "o", color=color, markersize=11, fillstyle="none", label=None if label in known else label)


def draw_random_targets(ax: Axes, random: Sequence[Curve]) -> None:
    """What any target costs: a thin line for each random one."""
    for i, curve in enumerate(random):
        label = f"{len(random)} random targets" if i == 0 else None
        x, losses = [position(p.n_tokens) for p in curve.points], [p.loss for p in curve.points]
        ax.plot(x, losses, color="gray", linewidth=0.7, label=label)


def draw_control(ax: Axes, control: Curve, color: tuple) -> None:
    """The same prompts on a model that knows nothing: what a prompt alone can teach."""
    x, losses = [position(p.n_tokens) for p in control.points], [p.loss for p in control.points]
    label = f"{control.control} {CONTROL_OF[control.control]}"
    ax.plot(x, losses, color=color, linestyle=CONTROL_LINES[control.control], marker=".", label=label)


def draw_baselines(ax: Axes, curve: Curve) -> None:
    """Trivial predictors as lines if they lie near the curve. Far ones are only named: they would press the curve
    flat."""
    losses = np.concatenate([p.losses for c in (curve, *curve.controls) for p in c.points])
    limit = losses.max() + 1.5 * np.ptp(losses)
    shown = {name: curve.baselines[name] for name in dict.fromkeys(["unigram", curve.best_baseline])}
    if curve.anchor:
        shown[curve.anchor["name"]] = curve.anchor["loss"]
    for name, value in shown.items():
        if value <= limit:
            ax.axhline(value, color="gray", linestyle="--", linewidth=1)
            ax.annotate(
                _label(name), (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="gray"
            )
        else:
            ax.plot([], [], " ", label=f"{_label(name)}: {value:.2f}, above")


def draw_score(ax: Axes, curve: Curve, name: str, color: tuple) -> None:
    """A score's mean over seeds, and every seed with its interval."""
    known = [(position(p.n_tokens), score) for p in curve.points for score in p.scores(name)]
    if known:
        x, value = np.array([(x, score["value"]) for x, score in known]).T
        spread = np.abs(np.array([score["interval"] for _, score in known]).T - value)
        ax.errorbar(x, value, spread, fmt=".", color=color, elinewidth=1)
        places = np.unique(x)
        ax.plot(places, [value[x == place].mean() for place in places], color=color)
    ax.set_ylabel(_label(name).replace("_", "\n"), fontsize=7)
