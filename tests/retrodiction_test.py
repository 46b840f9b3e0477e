"""What does a soft prompt say, if it must be said in words?

Texts are ranked by the divergence of what the model predicts behind them from what it predicts behind the trained
prompt: what the model itself says behind the prompt, openings of training documents, the prompt's nearest tokens, and a
text that was searched by the loss. And for pocket's tokens: what came before the model's own words, as told by
pocket-backwards, which was fine-tuned to tell that. Beside them: no text, the best of as many random ones, and what
pocket-backwards tells of the model's words without the prompt. The prompt is also put into sentences, which the model
goes on with.

Expected: an opening of a training document says what a prompt says where the prompt means "such texts follow". A prompt
that forces the model is in no text. The nearest tokens say nothing. pocket-backwards tells the line of ratings that
stood above pocket's games, which does what a chess prompt does.

    python -m tests.retrodiction_test pocket               # chess
    python -m tests.retrodiction_test text                 # or skip, repetition, detuning, smollm2
    python -m tests.retrodiction_test                      # chess on pythia, as published; needs a GPU
    python -m tests.retrodiction_test table results/retrodiction_chess
    python -m tests.chess_test pocket --probes retrodiction   # of finished prompts
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_prompts import probed
from soft_prompts.answers import run_or_print
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.stats import ratio

from . import autoregressive_test, chat_detuning_test, chess_test, repetition_test, skip_tokens_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from soft_prompts.results.curve import Curve
    from soft_prompts.results.record import Result

said = partial(probed, probe="retrodiction")
DEFAULT = said(chess_test.DEFAULT)
POCKET = replace(said(chess_test.POCKET), n_tokens=(0, 1, 4))
OTHERS = {
    "text": replace(said(autoregressive_test.POCKET), models=("pocket-chat",), n_tokens=(0, 1, 4)),
    "skip": replace(said(skip_tokens_test.POCKET, skip=(1,)), n_tokens=(0, 1, 4)),
    "repetition": said(repetition_test.POCKET, targets=(0,)),
    "detuning": replace(said(chat_detuning_test.POCKET), n_tokens=(0, 1, 4)),
    "smollm2": replace(said(chess_test.SMOLLM2), n_tokens=(0, 1, 4)),
}


def measured(folder: Path) -> list[Curve]:
    """The curves of a folder whose prompts were put into words."""
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves

    found = curves(load_results([folder]))
    return [curve for curve in found if any(r.retrodiction for r in curve.results)]


def kinds(results: list[Result]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Kinds of texts, and the best of each kind for each seed of a prompt length."""
    for name in dict.fromkeys(one["kind"] for r in results for one in r.retrodiction["texts"]):
        of_seeds = [next((one for one in r.retrodiction["texts"] if one["kind"] == name), None) for r in results]
        if all(of_seeds):
            yield name, of_seeds  # type: ignore[misc]


def divergence(results: list[Result], of_seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Nats per scored token, with the interval over documents; seeds averaged."""
    sums = np.mean([one["document_divergences"] for one in of_seeds], axis=0)
    return ratio(sums, _counts(results[0]))


def kept(results: list[Result], of_seeds: list[dict[str, Any]], without: Result) -> dict[str, Any]:
    """Share of the prompt's gain that the text brings, too; seeds averaged."""
    documents = results[0].retrodiction["documents"]
    zero = _losses(without, documents)
    prompt = np.mean([_losses(r, documents) for r in results], axis=0)
    text = np.mean([one["document_losses"] for one in of_seeds], axis=0)
    return ratio(zero - text, zero - prompt)


def _losses(result: Result, documents: list[str]) -> np.ndarray:
    own = dict(zip(result.held_out.documents, result.held_out.document_losses, strict=True))
    return np.array([own[name] for name in documents])


def _counts(result: Result) -> np.ndarray:
    own = dict(zip(result.held_out.documents, result.held_out.document_scored, strict=True))
    return np.array([own[name] for name in result.retrodiction["documents"]])


def table(folder: Path) -> str:
    """Markdown: what each kind of text does of what the prompts do, the best texts, and the frames."""
    return "\n\n".join(f"**{curve.name}**\n\n{_texts(curve)}\n\n{_frames(curve)}" for curve in measured(folder))


def _texts(curve: Curve) -> str:
    head = ["P", "text", "tried", "median of them", "divergence, nats", "gain kept", "the text of the first seed"]
    body = []
    without = curve.points[0].results[0]
    for point in curve.points:
        results = [r for r in point.results if r.retrodiction]
        for name, of_seeds in kinds(results) if results else ():
            typical = np.mean([one.get("median_divergence", np.nan) for one in of_seeds])
            cells = [str(point.n_tokens), name, str(of_seeds[0]["tried"]), f"{typical:.2f}".replace("nan", "")]
            cells += [
                _shown(divergence(results, of_seeds)),
                _shown(kept(results, of_seeds, without)),
                repr(of_seeds[0]["text"]),
            ]
            body.append(cells)
    return markdown_table(head, body, texts=(1, 6))


def _shown(of: dict[str, Any]) -> str:
    if of["value"] is None or not np.isfinite([of["value"], *of["interval"]]).all():
        return "-"
    return with_interval(of, ".2f")


def _frames(curve: Curve) -> str:
    body = []
    for point in curve.points:
        for one in (point.results[0].retrodiction or {"frames": []})["frames"]:
            shown = (repr(one[of]).strip("'\"") for of in ("frame", "continuation"))
            body.append([str(point.n_tokens), *shown])
    return markdown_table(["P", "frame", "the model goes on"], body, texts=(1, 2))


def figure(folder: Path) -> Figure:
    """Divergence from the prompt's predictions, by kind of text and prompt length."""
    from matplotlib.figure import Figure

    found = measured(folder)
    drawn = Figure(figsize=(7, 3.6 * len(found)), layout="constrained")
    for ax, curve in zip(np.ravel(drawn.subplots(len(found))), found, strict=True):
        points = [p for p in curve.points if any(r.retrodiction for r in p.results)]
        by_kind: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for i, point in enumerate(points):
            results = [r for r in point.results if r.retrodiction]
            for name, of_seeds in kinds(results):
                by_kind.setdefault(name, []).append((i, divergence(results, of_seeds)))
        for k, (name, at) in enumerate(by_kind.items()):
            values = np.array([of["value"] for _, of in at])
            ends = np.abs(np.array([of["interval"] for _, of in at]).T - values)
            ax.errorbar([i + 0.05 * k for i, _ in at], values, ends, fmt="o-", capsize=2, label=name)
        ax.set_xticks(range(len(points)), [str(point.n_tokens) for point in points])
        ax.set_xlabel("prompt tokens")
        ax.set_ylabel("divergence from the prompt, nats")
        ax.set_title(curve.name, loc="left", fontsize="medium")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize="small")
    return drawn


if __name__ == "__main__":
    run_or_print(table, DEFAULT, __doc__, figure, pocket=POCKET, **OTHERS)
