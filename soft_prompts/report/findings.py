"""All behaviours and models in one picture: what each model contributed, and how far the behaviour is from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from soft_prompts.console import shown_only
from soft_prompts.report.collection import Shown
from soft_prompts.results.curve import without_random_targets

COLORS = matplotlib.colormaps["tab10"].colors
ROW, GAP = 0.26, 0.6
"""Inches of a curve, and rows between two behaviours."""
LINEAR = 0.1
"""Nats up to which the axis of contributions is linear; beyond, it is logarithmic: behaviours differ by 100 times."""
ZERO = 0.35
"""Where 0 tokens stand on the axis of tokens, which is logarithmic."""


def findings(shown: Sequence[Shown]) -> list[Shown]:
    """The curves that the picture has: those of a model itself, with a summary that names a contribution."""
    own = {id(curve) for curve in without_random_targets([s.curve for s in shown]) if not curve.control}
    return [s for s in shown if id(s.curve) in own and s.summary and s.summary.contribution]


def findings_figure(shown: Sequence[Shown]) -> Figure:
    """Contribution and conditional distance of every curve, with intervals: a group for each behaviour, a colour for
    each model.

    Args:
        shown: What ``findings`` returns, at least one.
    """
    models = list(dict.fromkeys(s.curve.model for s in shown))
    color = dict(zip(models, COLORS * len(models), strict=False))
    by_behaviour: dict[str, list[Shown]] = {}
    for s in shown:
        by_behaviour.setdefault(behaviour(s), []).append(s)
    n_rows = len(shown) + GAP * len(by_behaviour)
    figure = Figure(figsize=(9, 1.2 + ROW * n_rows), layout="constrained")
    nats, tokens = figure.subplots(1, 2, sharey=True, width_ratios=[1, 1])
    y, labels = 0.0, []
    for name, group in by_behaviour.items():
        labels.append((y + (len(group) - 1) / 2, name))
        for s in group:
            _draw_contribution(nats, s, y, color[s.curve.model])
            _draw_distance(tokens, s, y, color[s.curve.model])
            y += 1
        y += GAP
        for ax in (nats, tokens):
            ax.axhline(y - GAP / 2 - 0.5, color="gray", linewidth=0.3)
    nats.set_yticks([at for at, _ in labels], [shown_only(name) for _, name in labels], fontsize=8)
    nats.set_ylim(y - 0.5, -0.7)
    _scales(
        nats,
        tokens,
        [s.summary.contribution.value for s in shown],
        max(p.n_tokens for s in shown for p in s.curve.points),
    )
    for ax in (nats, tokens):
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.grid(axis="x", alpha=0.3)
    for model in models:
        nats.plot([], [], "o", color=color[model], label=shown_only(model))
    figure.legend(loc="outside upper center", ncols=min(4, len(models)), frameon=False, fontsize=8)
    return figure


def behaviour(s: Shown) -> str:
    """What a row is called: the experiment and, of several tasks or settings, which."""
    curve = s.curve
    which = curve.variant["label"] or curve.difference
    return which if which.startswith(curve.experiment) else f"{curve.experiment}\n{which}".strip()


def _draw_contribution(ax: Axes, s: Shown, y: float, color: tuple) -> None:
    """A dot with its interval; open where no contribution is seen."""
    found = s.summary.contribution
    low, high = found.interval
    ax.plot([low, high], [y, y], color=color, linewidth=1.5)
    ax.plot(found.value, y, "o", color=color, fillstyle="full" if found.seen else "none", markersize=5)


def _draw_distance(ax: Axes, s: Shown, y: float, color: tuple) -> None:
    """A dot with its interval, an arrow from the longest prompt if none reaches the target, or words why there is no
    distance."""
    distance = next(iter(s.summary.distances.values()))
    beside = {"textcoords": "offset points", "va": "center", "fontsize": 7, "color": color}
    if distance.why:
        ax.annotate(distance.why, (ZERO, y), (-3, 0), **beside)
        return
    longest = float(distance.longest)
    low, high, at = (_place(min(x, longest)) for x in (distance.low, distance.high, distance.at))
    ax.plot([low, high], [y, y], color=color, linewidth=1.5)
    if distance.value is None:
        ax.plot(longest, y, ">", color=color, markersize=6)
        ax.annotate(f"> {distance.longest}", (longest, y), (6, 0), **beside)
    else:
        ax.plot(at, y, "o", color=color, markersize=5)


def _place(n_tokens: float) -> float:
    """Where a number of tokens stands on the axis: from 1 on at itself; between 0 and 1 in proportion to the way on the
    paper, since a logarithm has no 0."""
    return n_tokens if n_tokens >= 1 else ZERO ** (1 - n_tokens)


def _scales(nats: Axes, tokens: Axes, contributions: Sequence[float], longest: int) -> None:
    nats.set_xscale("symlog", linthresh=LINEAR)
    nats.axvline(0, color="gray", linewidth=1)
    largest = max(1.0, *map(abs, contributions))
    ticks = [0.0, *(LINEAR * 10**k for k in range(math.ceil(math.log10(largest / LINEAR)) + 1))]
    negative = [-tick for tick in ticks[1:]] if min(contributions) < 0 else []
    nats.xaxis.set_major_locator(FixedLocator([*negative, *ticks]))
    nats.xaxis.set_minor_locator(NullLocator())
    nats.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    nats.set_xlabel(
        "contribution of the model: nats per scored token below\nwhat knows nothing (open: none seen)", fontsize=8
    )
    tokens.set_xscale("log", base=2)
    tokens.set_xlim(ZERO * 0.8, longest * 2)
    ticks = [ZERO, *(4**k for k in range(int(math.log(longest, 4)) + 1))]
    tokens.xaxis.set_major_locator(FixedLocator(ticks))
    tokens.xaxis.set_minor_locator(NullLocator())
    tokens.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x > ZERO else "0")
    tokens.set_xlabel(
        "conditional distance: tokens that close 95 % of\nthe gap (to the anchor, if the behaviour has one)", fontsize=8
    )
