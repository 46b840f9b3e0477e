"""Results as tables: one for every curve, with intervals, paired gains and flags."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from soft_prompts.results import Result
from soft_prompts.stats import comparison_widths, ratio, ratio_interval

CAPTION = (
    "Held-out loss in nats per scored token, the mean over seeds, ± half the 95 % interval over documents. Paired: the ± to compare lengths by, "
    "with what is common to all lengths taken out; where two do not overlap, the lengths differ. Seeds: how many, and their best and worst loss. "
    "Gain: loss at 0 tokens minus this loss, paired by document. Scores: mean over seeds ± half the widest 95 % interval."
)


@dataclass(frozen=True)
class Point:
    """All seeds of one prompt length on one curve."""

    results: list[Result]

    @property
    def n_tokens(self) -> int:
        return self.results[0].n_tokens

    @property
    def documents(self) -> list[str]:
        return self.results[0].held_out.documents

    @property
    def counts(self) -> np.ndarray:
        """Scored tokens by document, [documents]."""
        return np.array(self.results[0].held_out.document_scored)

    @property
    def sums(self) -> np.ndarray:
        """Nats by document, averaged over the seeds, [documents]."""
        return np.mean([r.held_out.document_losses for r in self.results], axis=0)

    @property
    def losses(self) -> list[float]:
        """Nats per scored token of every seed."""
        return [r.held_out.loss for r in self.results]

    def gain_over(self, other: Point) -> dict | None:
        """Nats per token that this length is better than ``other``, paired by document; None where they do not pair."""
        if self.documents != other.documents or (self.counts != other.counts).any():
            return None
        return ratio(other.sums - self.sums, self.counts)


def curves(results: Sequence[Result]) -> list[list[Point]]:
    """Results sorted into curves: one per experiment, model and configuration, by ascending prompt length."""
    found: dict[str, dict[int, list[Result]]] = {}
    for r in sorted(results, key=lambda r: (r.experiment, r.model, r.n_tokens, r.seed)):
        key = json.dumps([r.experiment, r.model, r.config], sort_keys=True)
        found.setdefault(key, {}).setdefault(r.n_tokens, []).append(r)
    return [[Point(same_length) for same_length in by_length.values()] for by_length in found.values()]


def curves_by_model(results: Sequence[Result]) -> dict[tuple[str, str], list[list[Point]]]:
    """(experiment, model) -> its curves, which differ in task options or recipe."""
    found: dict[tuple[str, str], list[list[Point]]] = {}
    for curve in curves(results):
        found.setdefault((curve[0].results[0].experiment, curve[0].results[0].model), []).append(curve)
    return found


def paired_widths(curve: Sequence[Point]) -> np.ndarray | None:
    """Half-widths [K] of the intervals by which a curve's losses compare, see ``comparison_widths``; None where they do not pair."""
    first = curve[0]
    if len(curve) < 2 or any(p.documents != first.documents or (p.counts != first.counts).any() for p in curve):
        return None
    return comparison_widths(np.stack([p.sums for p in curve]), first.counts)


def flags(point: Point, shorter: Sequence[Point]) -> list[str]:
    """What makes a point suspect, in words."""
    found = []
    if shorter:
        best = min(shorter, key=lambda p: float(np.mean(p.losses)))
        gain = point.gain_over(best)
        if gain is None:
            found.append("other documents")
        elif gain["interval"][1] < 0:
            found.append(f"worse than P={best.n_tokens}")
    if point.n_tokens and np.mean(point.losses) > point.results[0].baselines["unigram"]:
        found.append("worse than unigram")
    return found


def rows(curve: Sequence[Point], headline: Sequence[str]) -> list[list[str]]:
    """Cells of a curve's table, the header first: a row for every prompt length, then the trivial baselines."""
    table = [
        [
            "P",
            "held-out loss",
            "paired",
            "seeds",
            "gain over 0",
            *(name.replace("_", " ") for name in headline),
            "flags",
        ]
    ]
    zero = next((p for p in curve if p.n_tokens == 0), None)
    widths = paired_widths(curve)
    for i, point in enumerate(curve):
        losses, gain = point.losses, point.gain_over(zero) if zero and point.n_tokens else None
        seeds = f"{len(losses)}" + (f" ({min(losses):.3f} to {max(losses):.3f})" if len(losses) > 1 else "")
        scores = [_mean_score([r.scores.get(name) for r in point.results]) for name in headline]
        table.append(
            [
                str(point.n_tokens),
                _loss(point),
                "" if widths is None else f"±{widths[i]:.{_digits(widths[i])}f}",
                seeds,
                _cell(gain) if gain else "",
                *scores,
                ", ".join(flags(point, curve[:i])),
            ]
        )
    for name, value in curve[0].results[0].baselines.items():
        table.append([name, f"{value:.3f}"] + [""] * (len(table[0]) - 2))
    return table


def overview(found: Sequence[Sequence[Point]]) -> list[list[str]]:
    """Cells of one table for several curves, the header first: a row for every curve, a column for every prompt length."""
    lengths = sorted({point.n_tokens for curve in found for point in curve})
    table = [["variant", *(f"{n} tokens" for n in lengths)]]
    for recipe, curve in sorted(
        ((difference(curve, found), curve) for curve in found), key=lambda pair: pair[0]
    ):  # the default, "", comes first
        by_length = {point.n_tokens: _loss(point) for point in curve}
        table.append([recipe or "default", *(by_length.get(n, "") for n in lengths)])
    return table


def difference(curve: Sequence[Point], among: Sequence[Sequence[Point]]) -> str:
    """How the task's options and the training recipe of a curve differ from most of the others', in words."""
    settings = [_settings(c) for c in among]
    own = _settings(curve)
    usual = {name: Counter(json.dumps(r.get(name)) for r in settings).most_common(1)[0][0] for name in own}
    many = {name for name in own if len({json.dumps(r.get(name)) for r in settings}) > 1 and name in _task(curve)}
    return ", ".join(
        f"{name} {_words(value)}"
        for name, value in own.items()
        if (name in many or json.dumps(value) != usual[name]) and value != ""
    )


def _task(curve: Sequence[Point]) -> dict:
    """The task's options, its data left out."""
    return {name: value for name, value in curve[0].results[0].config["task"].items() if name != "data"}


def _settings(curve: Sequence[Point]) -> dict:
    return {**_task(curve), **curve[0].results[0].config["train"]}


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _loss(point: Point) -> str:
    return _cell({"value": float(np.mean(point.losses)), "interval": ratio_interval(point.sums, point.counts)})


def _cell(score: dict) -> str:
    """A value and half the width of its interval."""
    low, high = score["interval"]
    half = (high - low) / 2
    return f"{score['value']:.{_digits(half)}f} ±{half:.{_digits(half)}f}"


def _digits(half: float) -> int:
    """Decimals by which half the width of an interval shows: three, or as many as its first digit needs."""
    return 3 if half >= 0.0005 or half < 1e-6 else min(4, int(np.ceil(-np.log10(half))))


def _mean_score(scores: Sequence[dict | None]) -> str:
    known = [s for s in scores if s and s["value"] is not None]
    if not known:
        return "-"
    widest = max((s["interval"] for s in known), key=lambda interval: interval[1] - interval[0])
    return _cell({"value": float(np.mean([s["value"] for s in known])), "interval": widest})


def title(curve: Sequence[Point]) -> str:
    result = curve[0].results[0]
    train = result.config["train"]
    return (
        f"{result.experiment} on {result.model} ({len(curve[0].documents)} held-out documents, {result.held_out.n_scored:,} scored tokens; "
        f"{train['steps']:,} steps of {train['batch_size']} documents)"
    )


def tables(results: Sequence[Result], headline: Sequence[str] = ()) -> list[tuple[str, list[list[str]]]]:
    """(title, cells) of every table: one for each curve, but one for all where an experiment compares many recipes, and one
    of the losses of all variants of a task.

    ``headline`` names the scores to show; none named shows all that are single numbers.
    """
    found = []
    for of_model in curves_by_model(results).values():
        variants: dict[str, list[list[Point]]] = {}
        for curve in of_model:
            variants.setdefault(json.dumps(curve[0].results[0].config["task"], sort_keys=True), []).append(curve)
        for recipes in variants.values():
            if len(recipes) > 2:
                found.append((title(recipes[0]), overview(recipes)))
                continue
            for curve in recipes:
                what = difference(curve, of_model)
                name = title(curve) + (f", {what}" if what else "")
                found.append((name, rows(curve, headline or _single_scores(curve))))
        if len(variants) > 1:
            found.append((f"{title(of_model[0]).split(' (')[0]}: all variants", overview(of_model)))
    return found


def _single_scores(curve: Sequence[Point]) -> list[str]:
    return [name for name, score in curve[0].results[0].scores.items() if "value" in score]


def models_by_length(results: Sequence[Result]) -> list[tuple[str, list[list[str]]]]:
    """(experiment, cells) of one table for each experiment: a row for every curve, named by its model, a column for every
    length, 0 first; a suspect point is marked "!" and its flags stand in the last column."""
    by_experiment: dict[str, list[list[Point]]] = {}
    for curve in curves(results):
        by_experiment.setdefault(curve[0].results[0].experiment, []).append(curve)
    tables = []
    for experiment, found in by_experiment.items():
        lengths = sorted({point.n_tokens for curve in found for point in curve})
        cells = [["model", *(f"P={n}" for n in lengths), "flags"]]
        for curve in found:
            model = curve[0].results[0].model
            what = difference(curve, [c for c in found if c[0].results[0].model == model])
            marked = {p.n_tokens: flags(p, curve[:i]) for i, p in enumerate(curve)}
            losses = {p.n_tokens: _loss(p) + (" !" if marked[p.n_tokens] else "") for p in curve}
            said = "; ".join(f"P={n} {', '.join(words)}" for n, words in marked.items() if words)
            cells.append([model + (f", {what}" if what else ""), *(losses.get(n, "") for n in lengths), said])
        tables.append((f"{experiment}: held-out nats per scored token", cells))
    return tables


def print_tables(named: Sequence[tuple[str, list[list[str]]]], caption: str = CAPTION) -> None:
    """Tables of cells for the terminal, and below them what their numbers are."""
    console = Console()
    for name, (header, *body) in named:
        table = Table(title=name, box=box.SIMPLE_HEAD, title_justify="left")
        table.pad_edge = False
        shown = [i for i, column in enumerate(zip(*body, strict=True)) if any(column)]  # no flags, no column of them
        for i in shown:
            justify = "left" if header[i] in ("flags", "variant", "model") else "right"
            # On a narrow terminal a cell may break between words, never within a number.
            longest = max(len(word) for row in (header, *body) for word in row[i].split() or [""])
            table.add_column(header[i], justify=justify, overflow="fold", min_width=min(longest, 12))
        for row in body:
            table.add_row(*(row[i] for i in shown))
        console.print(table)
    console.print(caption, style="dim")


def print_table(results: Sequence[Result], headline: Sequence[str] = ()) -> None:
    """Results as tables for the terminal."""
    print_tables(tables(results, headline))


def markdown(results: Sequence[Result], headline: Sequence[str] = ()) -> str:
    """Results as Markdown tables."""
    return "\n".join([as_markdown(name, cells) for name, cells in tables(results, headline)] + [CAPTION]) + "\n"


def as_markdown(name: str, cells: Sequence[Sequence[str]]) -> str:
    """One table below its name."""
    header, *body = cells
    lines = [header, ["---" if column in ("flags", "variant") else "---:" for column in header], *body]
    return f"**{name}**\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines)
