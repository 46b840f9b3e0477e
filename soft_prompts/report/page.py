"""One self-contained page: opens from disk, needs no network."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from markupsafe import Markup

from soft_prompts.plots import inline_svg
from soft_prompts.reference import reference
from soft_prompts.report.collection import Collection, Shown
from soft_prompts.report.pictures import pieces
from soft_prompts.summary import SHARES
from soft_prompts.tables import CAPTION, rows


def page(collection: Collection, headline: dict[str, tuple[str, ...]]) -> str:
    """HTML of a collection. ``headline``: experiment -> names of the scores to show; others show all their single scores."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(Path(__file__).with_name("page.html").read_text())
    shown = collection.shown
    return template.render(
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        curves=[_curve(s, i, collection, headline) for i, s in enumerate(shown)],
        experiments=list(dict.fromkeys(s.first.experiment for s in shown)),
        models=list(dict.fromkeys(s.first.model for s in shown)),
        lengths=sorted({r.n_tokens for s in shown for r in s.results}),
        shares=[f"{share * 100:.0f} % of gap" for share in SHARES],
        missing=collection.missing,
        caption=CAPTION,
        reference=reference(),
    )


def _curve(shown: Shown, number: int, collection: Collection, headline: dict[str, tuple[str, ...]]) -> dict:
    scores = headline.get(shown.first.experiment) or [n for n, s in shown.first.scores.items() if "value" in s]
    header, *body = rows(shown.points, scores)
    at_zero, best = shown.points[0], min(shown.points, key=lambda p: sum(p.losses) / len(p.losses))
    return {
        "id": f"curve-{number}",
        "name": shown.name,
        "experiment": shown.first.experiment,
        "model": shown.first.model,
        "what": shown.what,
        "lengths": sorted({r.n_tokens for r in shown.results}),
        "line": str(shown.summary) if shown.summary else "no distance: results at 0 tokens and at more are needed",
        "summary": shown.summary,
        "distances": [_tokens_and_bits(shown, share) for share in SHARES],
        "first_loss": f"{sum(at_zero.losses) / len(at_zero.losses):.3f}" if at_zero.n_tokens == 0 else "-",
        "best_loss": f"{sum(best.losses) / len(best.losses):.3f} (P = {best.n_tokens})",
        "svg": Markup(inline_svg(shown.results, scores[:2], f"curve-{number}")),
        "header": header,
        "body": body,
        "pictures": [(p.n_tokens, [Markup(x) for x in _pieces(shown, p, collection)]) for p in shown.points],
        "provenance": [_origin(r) for r in shown.results],
        "config": json.dumps(shown.first.config, indent=2),
    }


def _tokens_and_bits(shown: Shown, share: float) -> str:
    if not shown.summary:
        return "-"
    bits = shown.summary.bits[share]
    return str(shown.summary.distances[share]) + (f", {bits / 1000:.1f} kbit" if bits else "")


def _pieces(shown: Shown, point, collection: Collection) -> list[str]:
    result = point.results[0]
    return pieces(result, collection.paths.get(id(result)))


def _origin(r) -> str:
    """Where a result comes from, in one line."""
    p = r.provenance
    model = p.get("model", {})
    return (
        f"P = {r.n_tokens}, seed {r.seed}: commit {str(p.get('commit', '?'))[:10]}, weights {model.get('weights', '?')}, "
        f"{p.get('device', '?')}, {p.get('dtype', '?')}, {r.seconds:.0f} s, finished {p.get('finished', '?')}"
    )
