"""Is a property nearer in a model that was told of it by metatokens in its training?

Pairs of models read the same documents in the same order from the same start (soft_prompts/pocket/metatokens.py). In
front of a document stood a metatoken, of a game both ratings, of prose a token for its mean sentence length; the twin
read the same without. Here prompts are told the same of every document and have to bring it to bear on the model.
Korbak et al. 2023, arXiv 2302.08582, train models with such tokens for human preferences.

Expected: in the model that knows the metatokens, one prompt token does what the metatoken does: behind it the loss is
as low, and the condition of another document costs as much. The twin needs longer prompts for a smaller effect, and a
metatoken as text does nothing there. Of ratings a model this small makes no use, so there is nothing to be near to.

    python -m soft_prompts.pocket.metatokens --help     # makes the models; this comes first
    python -m tests.metatoken_test prose                # sentence lengths
    python -m tests.metatoken_test games                # ratings
    python -m tests.metatoken_test table results/metatoken
    python -m tests.metatoken_test games --models pocket runs/metatokens/pocket-untold    # pocket and its full twin
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_prompts import Sweep, on_pocket
from soft_prompts.answers import run_or_print
from soft_prompts.errors import SoftPromptsError
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.stats import estimated, two_level_draws
from soft_prompts.tasks.chess_moves import ChessMoves
from soft_prompts.tasks.sentences import Sentences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from soft_prompts.results.curve import Curve, Point

MODELS = "runs/metatokens"
"""Folder in which soft_prompts/pocket/metatokens.py leaves models and documents."""
TWINS = {"told-0": "untold-0", "told-1": "untold-1", "pocket": "pocket-untold"}
"""Model that knows the metatokens -> its twin."""
TOLD_OF = {"Sentences": ("sentence length", "length_effect"), "ChessMoves": ("ratings", "elo_effect")}
"""Task -> what its prompts are told of a document, and the score that says what use is made of it."""
FACTS = "facts.json"
"""What is known of a model, in the folder of its results."""
SPARSE = {"steps": 100, "n_evaluations": 0, "eval_documents": 200, "validation_documents": 32}
DEFAULT = Sweep("metatoken", Sentences(text=(f"{MODELS}/prose.jsonl.zst",)), ("pocket",), (0, 1, 4, 16))
PROSE = replace(
    on_pocket(DEFAULT, DEFAULT.task, **SPARSE, max_tokens=112),
    models=tuple(f"{MODELS}/{name}" for name in ("told-0", "untold-0")),
    control_seeds=1,
    separator="<|endoftext|>",  # or one of the metatokens, which are special tokens too, might be taken for it
)
# Ratings say most of openings. No game is continued: that is not asked here.
PLAYED = ChessMoves(
    f"{MODELS}/games.pgn.zst", min_plies=10, continued_from=(), anchor_text="White {white}, Black {black}.\n"
)
GAMES = replace(PROSE, task=PLAYED, train=replace(PROSE.train, max_tokens=48, eval_documents=400))


def measured(folder: Path) -> dict[str, dict[str, Curve]]:
    """Task -> model -> its curve, of pairs both of which were measured.

    Raises:
        SoftPromptsError: There is no such pair.
    """
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves, without_controls

    found: dict[str, dict[str, Curve]] = {}
    for curve in without_controls(curves(load_results([folder]))):
        found.setdefault(curve.task["name"], {})[curve.model] = curve
    paired = {
        task: {name: of[name] for told, twin in TWINS.items() if {told, twin} <= set(of) for name in (told, twin)}
        for task, of in found.items()
        if task in TOLD_OF
    }
    if not any(paired.values()):
        raise SoftPromptsError(f"{folder} has no results of a pair, such as {' and '.join(next(iter(TWINS.items())))}.")
    return {task: paired[task] for task in TOLD_OF if paired.get(task)}


def effects(point: Point) -> np.ndarray:
    """Nats that another document's condition costs, by seed and document, float [n_seeds, documents]."""
    _, name = TOLD_OF[point.results[0].task]
    return np.array([score["document_nats"] for score in point.scores(name)])


def behind_line(curve: Curve) -> np.ndarray:
    """Nats behind each document's own metatoken as text, float [1, documents]."""
    return np.array([curve.anchor["document_losses"]])


def estimate(plus: Sequence[np.ndarray], minus: Sequence[np.ndarray], counts: np.ndarray) -> dict[str, Any]:
    """Nats per token of some losses minus others, paired by document: "value" and "interval" over documents and seeds.

    Args:
        plus, minus: Nats by seed and document, float [n_seeds, documents] each.
        counts: Scored tokens by document, [documents].
    """
    signs = np.array([1] * len(plus) + [-1] * len(minus))
    value = sum(sign * of.mean(0).sum() for sign, of in zip(signs, (*plus, *minus), strict=True)) / counts.sum()
    draws = two_level_draws([*plus, *minus], counts) @ signs
    return estimated(value, draws)


def _shown(of: dict[str, Any]) -> str:
    return with_interval(of, ".4f")


def facts_of(folder: Path, model: str) -> dict[str, Any]:
    """What is known of a model, from the folder of results; nothing if it was not put there."""
    path = folder / model / FACTS
    return json.loads(path.read_text()) if path.is_file() else {}


def table(folder: Path) -> str:
    """Markdown: losses and effects of all models, then what sets the two models of a pair apart."""
    return f"{_losses(folder)}\n\n{_differences(folder)}"


def _losses(folder: Path) -> str:
    found = measured(folder)
    lengths = [point.n_tokens for point in next(iter(next(iter(found.values())).values())).points]
    prompts = [n for n in lengths if n]
    head = ["told of", "model", *(f"P={n}" for n in lengths), "the metatoken as text", "another's metatoken costs"]
    head += [*(f"another's condition costs, P={n}" for n in prompts), "counting", f"scrambled, P={prompts[-1]}"]
    body = []
    for task, of in found.items():
        kind = "prose" if task == "Sentences" else "game"
        for model, curve in of.items():
            facts = facts_of(folder, model)
            cells = [
                TOLD_OF[task][0],
                model,
                *(f"{point.loss:.4f}" for point in curve.points),
                f"{curve.anchor['loss']:.4f}",
                _shown(facts["worth"][kind]["others"]) if "worth" in facts else "",
                *(_shown(estimate([effects(p)], [], p.counts)) for p in curve.points if p.n_tokens),
                f"{curve.baselines[curve.best_baseline]:.4f} ({curve.best_baseline})",
                _scrambled(curve, prompts[-1]),
            ]
            body.append(cells)
    return markdown_table(head, body, texts=(0, 1))


def _scrambled(curve: Curve, n_tokens: int) -> str:
    point = curve.knows_nothing.point(n_tokens) if curve.knows_nothing else None
    return f"{point.loss:.4f}" if point else ""


def pairs(folder: Path) -> Iterator[tuple[str, Curve, Curve]]:
    """Task, the curve of the model that knows the metatokens, and its twin's."""
    for task, of in measured(folder).items():
        for told, twin in TWINS.items():
            if told in of:
                yield task, of[told], of[twin]


def _differences(folder: Path) -> str:
    head = ["told of", "pair", "P", "above its metatoken, told", "gain over P=0, told", "gain over P=0, twin"]
    head.append("effect of the condition, told - twin")
    body = []
    for task, told, twin in pairs(folder):
        for point in told.points[1:]:
            other, counts = twin.point(point.n_tokens), point.counts
            cells = [TOLD_OF[task][0], told.model, str(point.n_tokens)]
            cells.append(_shown(estimate([point.by_seed], [behind_line(told)], counts)))
            for curve, own in ((told, point), (twin, other)):
                cells.append(_shown(estimate([curve.points[0].by_seed], [own.by_seed], counts)))
            cells.append(_shown(estimate([effects(point)], [effects(other)], counts)))
            body.append(cells)
    return markdown_table(head, body, texts=(0, 1))


def figure(folder: Path) -> Figure:
    """What another document's condition costs by prompt length, beside what its metatoken costs as text."""
    from matplotlib.figure import Figure

    found = measured(folder)
    drawn = Figure(figsize=(5 * len(found), 4), layout="constrained")
    for ax, (task, of) in zip(np.atleast_1d(drawn.subplots(1, len(found))), found.items(), strict=True):
        for i, (model, curve) in enumerate(of.items()):
            points = [p for p in curve.points if p.n_tokens]
            shown = [estimate([effects(p)], [], p.counts) for p in points]
            values, intervals = (np.array([x[name] for x in shown]) for name in ("value", "interval"))
            style = "o-" if model in TWINS else "s--"
            at = np.arange(len(points)) + 0.05 * i
            ax.errorbar(at, values, np.abs(intervals.T - values), fmt=style, capsize=2, label=model, color=f"C{i // 2}")
            worth = facts_of(folder, model).get("worth", {}).get("prose" if task == "Sentences" else "game")
            if worth and model in TWINS:
                ax.axhline(worth["others"]["value"], color=f"C{i // 2}", linewidth=0.8, linestyle=":")
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_xticks(range(len(points)), [str(p.n_tokens) for p in points])
        ax.set_xlabel("prompt tokens")
        ax.set_title(f"told of: {TOLD_OF[task][0]}", loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    drawn.axes[0].set_ylabel("nats per token that another's condition costs")
    drawn.axes[0].legend(frameon=False, fontsize="small")
    return drawn


if __name__ == "__main__":
    run_or_print(table, PROSE, __doc__, figure, prose=PROSE, games=GAMES)
