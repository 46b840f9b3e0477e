"""One self-contained page: it opens from disk and needs no network."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from soft_prompts.report.collection import Collection, Shown
from soft_prompts.report.findings import findings, findings_figure
from soft_prompts.report.pictures import pieces

from soft_prompts.report.reference import reference
from soft_prompts.report.tables import CAPTION, rows
from soft_prompts.results.record import Result


def page(collection: Collection, scores: tuple[str, ...] = ()) -> str:
    """HTML of a collection.

    Args:
        collection: What is shown.
        scores: Names of the behavioural scores to show. None named: all that are single numbers.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(Path(__file__).with_name("page.html").read_text())
    curves, found = collection.curves, findings(collection.shown)
    return template.render(
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        findings="",
        curves=[_curve(shown, f"curve-{i}", collection, scores) for i, shown in enumerate(collection.shown)],
        experiments=list(dict.fromkeys(curve.experiment for curve in curves)),
        models=list(dict.fromkeys(curve.model for curve in curves)),
        lengths=sorted({point.n_tokens for curve in curves for point in curve.points}),
        missing=collection.missing,
        caption=CAPTION,
        reference=reference(),
    )


def _curve(shown: Shown, name: str, collection: Collection, scores: tuple[str, ...]) -> dict[str, Any]:
    """What the template needs of one curve."""
    curve, summary = shown.curve, shown.summary
    scores = scores or tuple(curve.single_scores)
    header, *body = rows(curve, scores)
    zero, best = curve.point(0), min(curve.points, key=lambda point: point.loss)
    pictures = []
    for point in curve.points:
        first = point.results[0]
        drawn = pieces(first, collection.paths.get(first.identity))
        pictures.append((point.n_tokens, [Markup(piece) for piece in drawn]))
    return {
        "id": name,
        "name": curve.name,
        "experiment": curve.experiment,
        "model": curve.model,
        "line": str(summary) if summary else "no distance: results at 0 tokens and at more are needed",
        "summary": summary,
        "contribution": str(summary.contribution) if summary and summary.contribution else "-",
        "distance": _first_distance(shown),
        "first_loss": f"{zero.loss:.3f}" if zero else "-",
        "best_loss": f"{best.loss:.3f} (P = {best.n_tokens})",
        "svg": "",
        "header": header,
        "body": body,
        "pictures": pictures,
        "provenance": [_origin(r) for r in curve.results],
        "config": json.dumps(curve.config, indent=2),
    }


def _first_distance(shown: Shown) -> str:
    """The distance to quote, and what it is the distance to."""
    if not shown.summary:
        return "-"
    what, distance = next(iter(shown.summary.distances.items()))
    return f"{distance} ({what})"


def _origin(r: Result) -> str:
    """Where a result comes from, in one line."""
    p = r.provenance
    model = p.get("model", {})
    return (
        f"P = {r.n_tokens}, seed {r.seed}: commit {str(p.get('commit', '?'))[:10]}, "
        f"weights {model.get('weights', '?')}, {p.get('device', '?')}, {p.get('dtype', '?')}, {r.seconds:.0f} s, "
        f"finished {p.get('finished', '?')}"
    )
