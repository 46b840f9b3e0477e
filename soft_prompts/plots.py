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

from soft_prompts.files import write_atomically
from soft_prompts.reference import published
from soft_prompts.results import Result
from soft_prompts.stats import band
from soft_prompts.tables import Point, curves, difference, paired_widths, title

COLORS = matplotlib.colormaps["tab10"].colors
INK = "#010203"
"""Colour of text and axes in SVGs, which becomes the page's own text colour."""


def saturation_figure(results: Sequence[Result], headline: Sequence[str] = ()) -> Figure:
    """Held-out loss, and below it the scores named in ``headline``, against the prompt's length."""
    found = curves(results)
    scores = [name for name in headline if any(name in r.scores for r in results)]
    heights = [3.6, *[1.0] * len(scores)]
    figure = Figure(figsize=(7, 0.8 + sum(heights)), layout="constrained")
    loss, *below = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True, squeeze=False)[:, 0]
    for curve, color in zip(found, COLORS * len(found), strict=False):
        draw_losses(loss, curve, color, difference(curve, found) or "held-out loss")
        for ax, name in zip(below, scores, strict=True):
            draw_score(ax, curve, name, color)
    if len(found) == 1:
        if reference := published(found[0][0].results[0]):
            x = [position(n) for n in reference]
            loss.plot(x, list(reference.values()), "x--", color="gray", label="published (other documents and recipe)")
        draw_baselines(loss, found[0])
    loss.set_ylabel("nats per scored token")
    loss.set_title(title(found[0]) if len(found) == 1 else title(found[0]).split(" (")[0], fontsize=9, wrap=True)
    loss.legend(loc="best", frameon=False, fontsize=8)
    lengths = sorted({r.n_tokens for r in results})
    for ax in (loss, *below):
        ax.set_xticks([position(n) for n in lengths], [str(n) for n in lengths])
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.3)
    (below[-1] if below else loss).set_xlabel("prompt length P (tokens)")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, by the path's ending. Raises SoftPromptsError if it cannot be written."""
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.removeprefix("."), dpi=150)
    write_atomically(path, picture.getvalue())


def save_picture(pixels: np.ndarray, path: Path) -> None:
    """Write uint8 [height, width, 3] as a PNG. Raises SoftPromptsError if it cannot be written."""
    picture = io.BytesIO()
    image.imsave(picture, pixels, format="png")
    write_atomically(path, picture.getvalue())


def inline_svg(results: Sequence[Result], headline: Sequence[str], salt: str) -> str:
    """The figure as SVG to put into a page: its text takes the page's colour, its ids are made unique by ``salt``."""
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor")
    with matplotlib.rc_context({**dict.fromkeys(names, INK), "svg.fonttype": "none", "svg.hashsalt": salt}):
        picture = io.StringIO()
        saturation_figure(results, headline).savefig(picture, format="svg", transparent=True)
    svg = picture.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def position(n_tokens: int) -> float:
    """Where a length stands on the axis: doubling is a step, and 0 stands one step before 1."""
    return float(np.log2(n_tokens)) if n_tokens else -1.0


def draw_losses(ax: Axes, curve: Sequence[Point], color: tuple, label: str) -> None:
    """The mean over seeds, a band that holds all lengths at once over documents, bars to compare lengths by, and every seed as a dot."""
    x, losses = [position(p.n_tokens) for p in curve], [np.mean(p.losses) for p in curve]
    ax.plot(x, losses, color=color, label=label)
    if (widths := paired_widths(curve)) is not None:
        low, high = band(np.stack([p.sums for p in curve]), curve[0].counts)
        ax.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0)
        ax.errorbar(x, losses, widths, fmt="none", ecolor=color, elinewidth=1.2, capsize=4)
    ax.plot(np.repeat(x, [len(p.losses) for p in curve]), np.concatenate([p.losses for p in curve]), ".", color=color)


def draw_baselines(ax: Axes, curve: Sequence[Point]) -> None:
    """Trivial predictors as lines where they lie near the curve; far ones are only named, as they would press it flat."""
    losses = np.concatenate([p.losses for p in curve])
    limit = losses.max() + 1.5 * np.ptp(losses)
    for name, value in curve[0].results[0].baselines.items():
        if value <= limit:
            ax.axhline(value, color="gray", linestyle=":" if name == "uniform" else "--", linewidth=1)
            ax.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="gray")
        else:
            ax.plot([], [], " ", label=f"{name}: {value:.2f}, above")


def draw_score(ax: Axes, curve: Sequence[Point], name: str, color: tuple) -> None:
    """A score's mean over seeds, and every seed with its interval."""
    known = [(position(p.n_tokens), r.scores[name]) for p in curve for r in p.results if r.scores.get(name)]
    known = [(x, score) for x, score in known if score["value"] is not None]
    if known:
        x, value = np.array([(x, score["value"]) for x, score in known]).T
        spread = np.abs(np.array([score["interval"] for _, score in known]).T - value)
        ax.errorbar(x, value, spread, fmt=".", color=color, elinewidth=1)
        places = np.unique(x)
        ax.plot(places, [value[x == place].mean() for place in places], color=color)
    ax.set_ylabel(name.replace("_", "\n"), fontsize=7)
