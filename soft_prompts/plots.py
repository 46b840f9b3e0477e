"""Results as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from soft_prompts.files import write_atomically
from soft_prompts.results import Result
from soft_prompts.stats import ratio_interval
from soft_prompts.tables import Point, curves, difference, title

COLORS = plt.get_cmap("tab10").colors


def saturation(results: Sequence[Result], path: Path, headline: Sequence[str] = ()) -> None:
    """Draw held-out loss, and below it the scores named in ``headline``, against the prompt's length; write a PNG to ``path``.

    Raises SoftPromptsError if it cannot be written.
    """
    found = curves(results)
    scores = [name for name in headline if any(name in r.scores for r in results)]
    heights = [2.2, *[1] * len(scores)]
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(7, 2 * sum(heights)), height_ratios=heights, sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    loss, *below = axes[:, 0]
    for curve, color in zip(found, COLORS * len(found), strict=False):
        draw_losses(loss, curve, color, difference(curve, found) or "held-out loss")
        for ax, name in zip(below, scores, strict=True):
            draw_score(ax, curve, name, color)
    same_task = len({c[0].results[0].baselines["unigram"] for c in found}) == 1
    for name, value in found[0][0].results[0].baselines.items() if same_task else ():
        loss.axhline(value, color="gray", linestyle=":" if name == "uniform" else "--", linewidth=1)
        loss.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="gray")
    loss.set(ylabel="nats per scored token", ylim=(0, None))
    loss.set_title(title(found[0]), fontsize=9, wrap=True)
    loss.legend(loc="lower left", frameon=False, fontsize=8)
    lengths = sorted({r.n_tokens for r in results})
    axes[-1, 0].set_xlabel("prompt length P (tokens)")
    axes[-1, 0].set_xticks([position(n) for n in lengths], [str(n) for n in lengths])
    for ax in axes[:, 0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    plt.close(figure)
    write_atomically(path, picture.getvalue())


def save_picture(pixels: np.ndarray, path: Path) -> None:
    """Write uint8 [height, width, 3] as a PNG. Raises SoftPromptsError if it cannot be written."""
    picture = io.BytesIO()
    plt.imsave(picture, pixels, format="png")
    write_atomically(path, picture.getvalue())


def position(n_tokens: int) -> float:
    """Where a length stands on the axis: doubling is a step, and 0 stands one step before 1."""
    return float(np.log2(n_tokens)) if n_tokens else -1.0


def draw_losses(ax: Axes, curve: Sequence[Point], color: tuple, label: str) -> None:
    """The mean over seeds with its interval over documents as a band, and every seed as a dot."""
    x = [position(p.n_tokens) for p in curve]
    low, high = np.array([ratio_interval(p.sums, p.counts) for p in curve]).T
    ax.plot(x, [np.mean(p.losses) for p in curve], color=color, label=label)
    ax.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0)
    ax.plot(np.repeat(x, [len(p.losses) for p in curve]), np.concatenate([p.losses for p in curve]), ".", color=color)


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
    ax.set_ylabel(name.replace("_", " "), fontsize=8)
