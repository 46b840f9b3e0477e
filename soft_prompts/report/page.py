"""One self-contained page: it opens from disk and needs no network."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from soft_prompts.report.charts import charts, gains_by_document, in_script
from soft_prompts.report.collection import Collection, Shown
from soft_prompts.report.pictures import pieces
from soft_prompts.report.reference import reference
from soft_prompts.report.remedies import remedies
from soft_prompts.report.tables import CAPTION, rows
from soft_prompts.results.record import Result
from soft_prompts.results.summary import Summary

SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "page.js")
"""What draws the page's charts, beside this file."""
MOST_DOCUMENTS = 5
"""Documents that are named for the largest, and for the smallest gains."""


def page(collection: Collection, scores: tuple[str, ...] = (), made: str = "", live: bool = False) -> str:
    """HTML of a collection.

    Args:
        collection: What is shown.
        scores: Names of the behavioural scores to show. None named: all that are single numbers.
        made: When the page is made, in words; empty: now.
        live: The page looks whether a newer one was made, and shows it.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    here = Path(__file__).parent
    template = environment.from_string((here / "page.html").read_text())
    curves = collection.curves
    return template.render(
        made=made or datetime.now(UTC).isoformat(sep=" ", timespec="minutes"),
        live=live,
        curves=[_curve(shown, i, collection, scores) for i, shown in enumerate(collection.shown)],
        experiments=list(dict.fromkeys(curve.experiment for curve in curves)),
        models=list(dict.fromkeys(curve.model for curve in curves)),
        missing=collection.missing,
        caption=CAPTION,
        reference=reference(),
        data=Markup(in_script(charts(collection, scores))),
        scripts=[Markup((here / script).read_text()) for script in SCRIPTS],
    )


def _curve(shown: Shown, place: int, collection: Collection, scores: tuple[str, ...]) -> dict[str, Any]:
    """What the template needs of one curve, which stands at a place of the collection."""
    curve, summary = shown.curve, shown.summary
    scores = scores or tuple(curve.single_scores)
    header, *body = rows(curve, scores)
    zero, best = curve.point(0), min(curve.points, key=lambda point: point.loss)
    pictures = []
    for point in curve.points:
        first = point.results[0]
        drawn = pieces(first, collection.paths.get(first.identity))
        if drawn:
            pictures.append((point.n_tokens, [Markup(piece) for piece in drawn]))
    return {
        "id": shown.id,
        "place": place,
        "name": curve.name,
        "experiment": curve.experiment,
        "model": curve.model,
        "line": str(summary) if summary else "no distance: results at 0 tokens and at more are needed",
        "summary": summary,
        "contribution": str(summary.contribution) if summary and summary.contribution else "-",
        "distance": _first_distance(shown),
        "bits": f"{summary.bits.bits:,.0f}" if summary and summary.bits else "-",
        "first_loss": f"{zero.loss:.3f}" if zero else "-",
        "best_loss": f"{best.loss:.3f} (P = {best.n_tokens})",
        "flags": remedies(_suspect(summary)) if summary else [],
        "documents": _documents(shown),
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


def _suspect(summary: Summary) -> list[str]:
    """All that is suspect, also what the verdict on the search says."""
    return [*summary.flags, *([summary.search] if summary.search.startswith("search not") else [])]


def _documents(shown: Shown) -> dict[str, Any] | None:
    """The documents that gained most and least, with their gains; None if there is nothing to compare."""
    known = gains_by_document(shown.curve)
    if known is None:
        return None
    named = [(name, f"{gain:.3f}") for name, gain in zip(known["documents"], known["gains"], strict=True)]
    few = named if len(named) <= 2 * MOST_DOCUMENTS else [*named[:MOST_DOCUMENTS], *named[-MOST_DOCUMENTS:]]
    return {"n_tokens": known["n_tokens"], "ends": few}


def _origin(r: Result) -> str:
    """Where a result comes from, in one line."""
    p = r.provenance
    model = p.get("model", {})
    return (
        f"P = {r.n_tokens}, seed {r.seed}: commit {str(p.get('commit', '?'))[:10]}, "
        f"weights {model.get('weights', '?')}, {p.get('device', '?')}, {p.get('dtype', '?')}, {r.seconds:.0f} s, "
        f"finished {p.get('finished', '?')}"
    )
