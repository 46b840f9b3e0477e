"""Results as tables: one for every curve, with intervals, paired gains and flags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from soft_prompts.console import shown_only
from soft_prompts.report.markdown import in_markdown, markdown_table
from soft_prompts.results.curve import Curve, Point, by_model, without_controls, without_random_targets
from soft_prompts.results.fragility import half_noises, shares_kept, steepness

if TYPE_CHECKING:
    from rich.console import Console

CAPTION = (
    "Held-out loss in nats per scored token: the mean over seeds, ± half the 95 % interval over documents and seeds "
    "(one seed: over documents only). Paired: the ± to compare lengths by, without what all lengths have in common; if "
    "two of them do not overlap, the lengths differ. Seeds: how many, and their best and worst loss. Scrambled: the "
    "loss with the model's weights permuted within each matrix. Contribution: the better of that and the best data "
    "baseline, minus the loss, paired by document: what the model brought. Gain: loss at 0 tokens minus this loss, "
    "paired by document. Scores: mean over seeds, ± half the widest 95 % interval."
)
Table = tuple[str, list[list[str]]]
"""A title and rows of cells, the header first."""


def rows(curve: Curve, headline: Sequence[str]) -> list[list[str]]:
    """Cells of a curve's table, the header first: a row for every prompt length, then the trivial baselines.

    Args:
        curve: The curve.
        headline: Names of the behavioural scores to show.
    """
    scores = [name.replace("_", " ") for name in headline]
    header = ["P", "held-out loss", "paired", "seeds", *_control_header(curve), "gain over 0", *scores, "flags"]
    table = [header]
    for k, (point, flags) in enumerate(zip(curve.points, curve.flags, strict=True)):
        losses = point.losses
        gain = curve.gains[k]
        width = curve.widths[k] if curve.widths is not None else None
        spread = f" ({min(losses):.3f} to {max(losses):.3f})" if len(losses) > 1 else ""
        table.append(
            [
                str(point.n_tokens),
                _loss(point),
                "" if width is None else f"±{width:.{_digits(width)}f}",
                f"{len(losses)}{spread}",
                *_control_cells(curve, k),
                _cell(gain) if gain else "",
                *(_mean_score(point.scores(name)) for name in headline),
                ", ".join(flags),
            ]
        )
    for name, value in curve.baselines.items():
        table.append([name, f"{value:.3f}"] + [""] * (len(table[0]) - 2))
    return table


def _control_header(curve: Curve) -> list[str]:
    """Columns of what knows nothing, if it was measured."""
    return [c.control for c in curve.controls] + (["contribution"] if curve.contribution else [])


def _control_cells(curve: Curve, k: int) -> list[str]:
    """The k-th point's cells below ``_control_header``."""
    others = [control.point(curve.points[k].n_tokens) for control in curve.controls]
    return [_loss(other) if other else "" for other in others] + (
        [_cell(curve.contribution[k])] if curve.contribution else []
    )


def under_changes(curve: Curve) -> list[list[str]]:
    """Cells of what a curve's prompts bear, the header first: a row for every length whose fragility was measured.

    Shares are of the gain over no prompt; the slope is in nats by the prompt's norm, curvatures by its square.
    """
    without, found = curve.point(0), []
    halves = {half.n_tokens: str(half).partition(" (")[0] for half in half_noises(curve)}
    for point in curve.points:
        if point.n_tokens and (steep := steepness(point)):
            kept = {name: str(share) for name, share in (shares_kept(point, without) if without else {}).items()}
            steep = {name: f"{value:.2g}" for name, value in steep.items()}
            found.append({"P": str(point.n_tokens), "half noise": halves.get(point.n_tokens, ""), **kept, **steep})
    names = list(dict.fromkeys(["P", "half noise"] + [n for of in reversed(found) for n in of]))
    return [names, *([of.get(name, "") for name in names] for of in found)]


def overview(curves: Sequence[Curve]) -> list[list[str]]:
    """Cells of one table for several curves, the header first: a row for every curve, a column for every prompt
    length."""
    lengths = sorted({point.n_tokens for curve in curves for point in curve.points})
    table = [["variant", *(f"{n} tokens" for n in lengths)]]
    for curve in sorted(curves, key=lambda curve: curve.difference):  # the default, "", comes first
        by_length = {point.n_tokens: _loss(point) for point in curve.points}
        table.append([curve.difference or "default", *(by_length.get(n, "") for n in lengths)])
    return table


def _loss(point: Point) -> str:
    return _cell({"value": point.loss, "interval": point.interval})


def _cell(score: dict) -> str:
    """A value and half the width of its interval."""
    low, high = score["interval"]
    half = (high - low) / 2
    return f"{score['value']:.{_digits(half)}f} ±{half:.{_digits(half)}f}"


def _digits(half: float) -> int:
    """Decimals by which half the width of an interval shows: three, or as many as its first digit needs."""
    return 3 if half >= 0.0005 or half < 1e-6 else min(4, int(np.ceil(-np.log10(half))))


def _mean_score(scores: Sequence[dict]) -> str:
    if not scores:
        return "-"
    widest = max((s["interval"] for s in scores), key=lambda interval: interval[1] - interval[0])
    return _cell({"value": float(np.mean([s["value"] for s in scores])), "interval": widest})


COUNTED = {"lora": "; P is the rank of a LoRA", "steering": "; P is the number of steered layers"}
"""Intervention -> what is said of its P, which is no number of tokens."""


def title(curve: Curve) -> str:
    """Experiment, model, how much was trained and scored, and what P is if it does not count tokens."""
    counted = COUNTED.get(curve.recipe.get("intervention", ""), "")
    return (
        f"{curve.experiment} on {curve.model} ({len(curve.points[0].documents)} held-out documents, "
        f"{curve.n_scored:,} scored tokens; {_steps(curve)} steps of {curve.recipe['batch_size']} documents{counted})"
    )


def _steps(curve: Curve) -> str:
    """How many steps its prompts took: the fewest and the most, if each was trained until its loss was flat."""
    if curve.exhaustion.steps is None:
        return f"{curve.recipe['steps']:,}"
    fewest = min(int(r.curve[-1]["step"]) for r in curve.results if r.n_tokens)
    return f"{fewest:,} to {curve.exhaustion.steps:,}"


def tables(curves: Sequence[Curve], headline: Sequence[str] = ()) -> list[Table]:
    """One table for each curve, but one for all if an experiment compares many recipes; and one of all variants of a
    task.

    Args:
        curves: The curves.
        headline: Names of the behavioural scores to show. None named: all that are single numbers.
    """
    parts = []
    for of_model in by_model(without_controls(curves)).values():
        variants: dict[str, list[Curve]] = {}
        for curve in of_model:
            variants.setdefault(json.dumps(curve.task, sort_keys=True), []).append(curve)
        for recipes in variants.values():
            if len(recipes) > 2:
                parts.append((title(recipes[0]), overview(recipes)))
                continue
            asked_for = without_random_targets(of_model)  # a random one stands in the table of all variants only
            for curve in (curve for curve in recipes if curve in asked_for):
                name = title(curve) + (f", {curve.difference}" if curve.difference else "")
                parts.append((name, rows(curve, headline or curve.single_scores)))
                if len(changed := under_changes(curve)) > 1:
                    parts.append((f"{name}: share of the gain that is left if the prompt is changed", changed))
        if len(variants) > 1:
            first = of_model[0]
            parts.append((f"{first.experiment} on {first.model}: all variants", overview(of_model)))
    return parts


def models_by_length(curves: Sequence[Curve]) -> list[Table]:
    """One table for each experiment: a row for every curve, named by its model, and a column for every length, 0 first.

    A suspect point is marked "!"; its flags stand in the last column.
    """
    by_experiment: dict[str, list[Curve]] = {}
    for curve in without_controls(curves):
        by_experiment.setdefault(curve.experiment, []).append(curve)
    parts = []
    for experiment, of_experiment in by_experiment.items():
        lengths = sorted({point.n_tokens for curve in of_experiment for point in curve.points})
        cells = [["model", *(f"P={n}" for n in lengths), "flags"]]
        for curve in of_experiment:
            flagged = list(zip(curve.points, curve.flags, strict=True))
            losses = {point.n_tokens: _loss(point) + (" !" if flags else "") for point, flags in flagged}
            said = "; ".join(f"P={point.n_tokens} {', '.join(flags)}" for point, flags in flagged if flags)
            name = curve.model + (f", {curve.difference}" if curve.difference else "")
            cells.append([name, *(losses.get(n, "") for n in lengths), said])
        parts.append((f"{experiment}: held-out nats per scored token", cells))
    return parts


def print_tables(named: Sequence[Table], caption: str = CAPTION) -> None:
    """Tables of cells for the terminal, and below them what their numbers are.

    A table that is wider than the terminal is shown in parts, each with the first column. Flags are sentences, so they
    stand in lines of their own below their table.
    """
    from rich.console import Console

    console = Console(markup=False, highlight=False)  # a name may hold what looks like markup
    for name, cells in named:
        header, *body = [[shown_only(cell) for cell in row] for row in cells]
        console.print(shown_only(name), style="italic")
        for part in _parts(header, body, console.width):
            _print_columns(console, [header[i] for i in part], [[row[i] for i in part] for row in body])
        for row in body:
            if header[-1] == "flags" and row[-1]:
                console.print(f"{header[0]}={row[0]}: {row[-1]}" if header[0] == "P" else f"{row[0]}: {row[-1]}")
        console.print()
    console.print(caption, style="dim")


def _parts(header: Sequence[str], body: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """The columns of a table, by number, in parts that fit the terminal's width; the first column opens each part.

    A column without content is left out, and so are the flags.
    """
    wide = [max(map(len, column)) + 2 for column in zip(header, *body, strict=True)]  # with the space between columns
    first = min(wide[0], width // 3)
    parts: list[list[int]] = [[0]]
    room = width - first
    for i in range(1, len(header)):
        if header[i] == "flags" or not any(row[i] for row in body):
            continue
        if wide[i] > room and len(parts[-1]) > 1:
            parts.append([0])
            room = width - first
        parts[-1].append(i)
        room -= wide[i]
    return parts


def _print_columns(console: Console, header: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    """One part of a table. Only its first column may break lines, between words."""
    from rich import box
    from rich.table import Table as RichTable

    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(header[0], justify="left" if header[0] in ("variant", "model") else "right", overflow="fold")
    for column in header[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    for row in body:
        if any(row[1:]):
            table.add_row(*row)
    console.print(table)


def print_table(curves: Sequence[Curve], headline: Sequence[str] = ()) -> None:
    """Curves as tables for the terminal."""
    print_tables(tables(curves, headline))


def markdown(curves: Sequence[Curve], headline: Sequence[str] = ()) -> str:
    """Curves as Markdown tables."""
    return "\n".join([as_markdown(name, cells) for name, cells in tables(curves, headline)] + [CAPTION]) + "\n"


def as_markdown(name: str, cells: Sequence[Sequence[str]]) -> str:
    """One table below its name."""
    header, *body = cells
    texts = [i for i, column in enumerate(header) if column in ("flags", "variant")]
    return f"**{in_markdown(name)}**\n\n{markdown_table(header, body, texts)}\n"
