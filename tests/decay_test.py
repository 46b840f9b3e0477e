"""Is an ability that a model is no longer trained on gone, or only gated?

A model is trained on without what taught it something, and beside it with that. At steps on a log scale its held-out
loss is measured, without a prompt and behind new ones: what a prompt brings back was there. The half-life is the number
of steps after which half of the gain over a model that never learned is gone.

Models: pocket, trained on without mazes. tests/overlap_test.py asks the same of tiny models that are trained on with
tasks of more or less overlap.

Expected: the loss without a prompt rises within tens of steps, and prompts bring most of it back, so the ability is
gated long before it is gone. The model that is trained on with mazes keeps its ability.

    python -m soft_prompts.pocket.fading --prose books.tar.zst     # makes the models of the next line in runs/fading
    python -m tests.decay_test pocket
    python -m tests.decay_test table results/decay                 # what was lost, what prompts bring back, a picture
    python -m tests.decay_test                                     # chess over pythia's own training; needs a GPU
    python -m tests.decay_test pocket --models EleutherAI/pythia-70m@step512 EleutherAI/pythia-70m@step4000
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_prompts import Sweep, on_pocket
from soft_prompts.answers import check_folder, check_whole, do_or_print
from soft_prompts.cli import command
from soft_prompts.cli import run as run_sweep
from soft_prompts.errors import SoftPromptsError
from soft_prompts.pocket.mazes import Mazes
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.stats import CONFIDENCE, estimated, two_level_draws

from . import chess_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from soft_prompts.results.curve import Curve
    from soft_prompts.results.half_life import HalfLife

FADING = "runs/fading"
WITHOUT, WITH = "without-mazes", "with-mazes"
STEPS = (16, 64, 256)
DEFAULT = replace(
    chess_test.DEFAULT,
    experiment="decay",
    models=tuple(f"EleutherAI/pythia-70m-deduped@step{n}" for n in (1, 8, 64, 512, 4000, 32000, 143000)),
    n_tokens=(0, 1, 4, 16, 64),
)
POCKET = replace(
    on_pocket(Sweep("decay", Mazes(), (), ()), Mazes(), steps=50, n_evaluations=0, validation_documents=24),
    models=(f"{FADING}/pocket-step-0", *(f"{FADING}/{arm}-step-{n}" for arm in (WITHOUT, WITH) for n in STEPS)),
    controls=(),
)


def run(sweep: Sweep) -> None:
    """Measure what has no result yet, and show what was found.

    Raises:
        SoftPromptsError: Options cannot work, or models are missing; then once those that are there are measured.
    """
    for model in sweep.models:
        step_of(model)  # a name without a step is refused before anything is trained
    there = tuple(m for m in sweep.models if not m.startswith(FADING) or Path(m).is_dir())
    if there:
        print(_table(_curves_of(run_sweep(replace(sweep, models=there)))))
    if missing := [m for m in sweep.models if m not in there]:
        raise SoftPromptsError(
            f"{missing[0]} is not there; make the models first: python -m soft_prompts.pocket.fading --prose FILE."
        )


def table(folder: Path) -> str:
    """Markdown: what became of the ability in the checkpoints of a folder.

    Raises:
        SoftPromptsError: It holds something else, or lacks losses at 0 tokens.
    """
    from soft_prompts.results import load_results

    check_folder(folder, {DEFAULT.experiment})
    check_whole(folder, {DEFAULT.experiment})
    return _table(_curves_of(load_results([folder])))


def step_of(model: str) -> tuple[str, int]:
    """The series that a checkpoint belongs to, and its step: of NAME@step1000, NAME-step-1000 or a folder step-1000.

    Raises:
        SoftPromptsError: The name has no step.
    """
    found = re.fullmatch(r"(.*?)[@/_-]?step-?(\d+)", model.rstrip("/"))
    if not found:
        raise SoftPromptsError(f"{model!r} has no step in its name; give NAME@step1000 or a folder NAME-step-1000.")
    return found[1].rpartition("/")[2] if Path(model).is_dir() else found[1], int(found[2])


def _curves_of(results: Sequence[Any]) -> dict[str, dict[int, Curve]]:
    """Series -> step -> curve. A model of step 0 begins every series."""
    from soft_prompts.results.curve import curves, without_controls

    found: dict[str, dict[int, Curve]] = {}
    for curve in without_controls(curves(results)):
        series, step = step_of(curve.model)
        found.setdefault(series, {})[step] = curve
    starts = {name: of for name, of in found.items() if set(of) == {0}}
    others = {name: of for name, of in found.items() if name not in starts} or starts
    for of_series in others.values():
        for of_start in starts.values():
            of_series.update(of_start)
    return {name: dict(sorted(of.items())) for name, of in sorted(others.items(), reverse=True)}


def _table(found: dict[str, dict[int, Curve]]) -> str:
    parts = [_losses(found), _lives(found)]
    parts += [_gap(found, name) for name in found if _partner(name) in found]
    return "\n\n".join(parts)


def _partner(name: str) -> str:
    """The series that kept what one went on without: with-X of without-X."""
    return name.replace("without-", "with-", 1) if name.startswith("without-") else ""


def _losses(found: dict[str, dict[int, Curve]]) -> str:
    """Loss by step and length, and how far the series' best loss is."""
    lengths = _lengths(found)
    body = []
    for name, series in found.items():
        goal = min(series.values(), key=lambda curve: curve.points[0].results[0].validation_loss)
        for step, curve in series.items():
            cells = [f"{p.loss:.3f} ±{(p.interval[1] - p.interval[0]) / 2:.3f}" for p in _points(curve, lengths)]
            body.append([name, str(step), *cells, _distance(curve, goal)])
    return markdown_table(["series", "step", *(f"P={n}" for n in lengths), "tokens to the best loss"], body)


def _distance(curve: Curve, goal: Curve) -> str:
    """Tokens until a prompt has come 95 % of the way to what the goal does without one."""
    if curve is goal:
        return "it is the best"
    if not curve.points[0].pairs_with(goal.points[0]):
        return "other documents"
    return str(replace(curve.paired, anchor=goal.points[0].by_seed).distance_to_anchor(CONFIDENCE))


def lives_of(series: dict[int, Curve]) -> dict[int, HalfLife]:
    """Prompt length -> half-life of the gain over the best data baseline, as counted for the first checkpoint."""
    from soft_prompts.results.half_life import half_lives

    first = next(iter(series.values()))
    lengths = _lengths({"": series})
    losses = {n: [curve.point(n).by_seed for curve in series.values()] for n in lengths}
    return half_lives(list(series), losses, dict.fromkeys(lengths, first.paired.baselines), first.points[0].counts)


def _lives(found: dict[str, dict[int, Curve]]) -> str:
    lengths = _lengths(found)
    body = []
    for name, series in found.items():
        lives = lives_of(series)
        ratios = [lives[n].times(lives[0]) for n in lengths[1:]]
        body.append([name, *(str(lives[n]) for n in lengths), *ratios])
    head = ["half-life in steps", *(f"P={n}" for n in lengths), *(f"P={n} by P=0" for n in lengths[1:])]
    return markdown_table(head, body)


def _gap(found: dict[str, dict[int, Curve]], name: str) -> str:
    """By how much a series is behind the one that kept the ability, and what share of that prompts bring back."""
    lengths, kept, body = _lengths(found), found[_partner(name)], []
    for step in [step for step in found[name] if step and step in kept]:
        values, draws = gaps(found[name][step], kept[step], lengths)
        lost = [estimated(x, of_x) for x, of_x in zip(values, draws.T, strict=True)]
        back = [
            estimated(1 - x, 1 - of_x) for x, of_x in zip(values / values[0], (draws / draws[:, :1]).T, strict=True)
        ]
        sure = lost[0]["interval"][0] > 0  # of what was not lost nothing can come back
        shares = (with_interval(one, ".0%") if sure else "" for one in back[1:])
        body.append([str(step), *(with_interval(one, ".3f") for one in lost), *shares])
    head = ["lost by step", *(f"nats, P={n}" for n in lengths), *(f"brought back, P={n}" for n in lengths[1:])]
    return markdown_table(head, body)


def gaps(without: Curve, kept: Curve, lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Loss of one model minus that of another by prompt length, paired by document: values [K] and draws
    [resamples, K]."""
    pairs = [(without.point(n), kept.point(n)) for n in lengths]
    draws = two_level_draws([p.by_seed for pair in pairs for p in pair], without.points[0].counts)
    return np.array([a.loss - b.loss for a, b in pairs]), draws[:, ::2] - draws[:, 1::2]


def _lengths(found: dict[str, dict[int, Curve]]) -> list[int]:
    """The lengths that all checkpoints have."""
    of_all = [{p.n_tokens for p in curve.points} for series in found.values() for curve in series.values()]
    return sorted(set.intersection(*of_all))


def _points(curve: Curve, lengths: Sequence[int]) -> list[Any]:
    return [curve.point(n) for n in lengths]


def figure(folder: Path) -> Figure:
    """Loss over steps, a line for each series and prompt length."""
    from matplotlib.figure import Figure

    from soft_prompts.results import load_results

    drawn = Figure(figsize=(8, 4.4), layout="constrained")
    ax = drawn.subplots()
    found = _curves_of(load_results([folder]))
    steps = sorted({step for series in found.values() for step in series})
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])
    for style, (name, series) in zip(("o-", "s--", "^:") * len(found), found.items(), strict=False):
        for k, n in enumerate(_lengths(found)):
            points = [curve.point(n) for curve in series.values()]
            losses, ends = np.array([p.loss for p in points]), np.array([p.interval for p in points])
            at, widths, label = [steps.index(step) for step in series], np.abs(ends.T - losses), f"{name}, P={n}"
            ax.errorbar(at, losses, widths, fmt=style, color=f"C{k}", capsize=2, markersize=4, label=label)
    ax.set_xlabel("steps of training on")
    ax.set_ylabel("held-out nats per token")
    ax.spines[["top", "right"]].set_visible(False)
    drawn.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize="small")
    return drawn


if __name__ == "__main__":
    do_or_print(lambda: command(run, DEFAULT, __doc__, {"pocket": POCKET}), table, figure)
