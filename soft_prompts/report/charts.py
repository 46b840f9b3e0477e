"""The numbers that the page's charts show. Scripts of the page only draw them."""

from __future__ import annotations

import json
import math
from itertools import combinations
from typing import Any

import numpy as np

from soft_prompts.report.collection import Collection, Shown
from soft_prompts.report.findings import behaviour, findings
from soft_prompts.report.reference import published
from soft_prompts.results.curve import Curve, paired_difference, without_random_targets


def charts(collection: Collection, scores: tuple[str, ...] = ()) -> dict[str, Any]:
    """All that the page's charts show, as plain JSON.

    Args:
        collection: What is shown.
        scores: Names of the behavioural scores to show. None named: all that are single numbers.

    Returns:
        "curves": of each what ``_curve`` returns. "findings": of each curve with a contribution what ``_finding``
        returns. "pairs": "first second" (places in "curves") -> ``paired_difference`` of the two.
    """
    places = {id(s): i for i, s in enumerate(collection.shown)}
    asked_for = {id(curve) for curve in without_random_targets(collection.curves)}
    return {
        "curves": [_curve(s, scores) | {"random": id(s.curve) not in asked_for} for s in collection.shown],
        "findings": [_finding(s) | {"curve": places[id(s)]} for s in findings(collection.shown)],
        "pairs": _pairs(collection),
    }


def _curve(s: Shown, scores: tuple[str, ...]) -> dict[str, Any]:
    """Losses in nats per scored token by prompt length, and what stands beside them."""
    curve = s.curve
    known = published(curve)
    return {
        "id": s.id,
        "name": curve.name,
        "experiment": curve.experiment,
        "label": f"{curve.model}, {curve.difference}".removesuffix(", "),
        **_line(curve),
        "band": curve.band,
        "widths": curve.widths,
        "seeds": [[p.n_tokens, loss] for p in curve.points for loss in p.losses],
        "unfinished": sorted(curve.exhaustion.flags),
        "controls": [{"name": control.control, **_line(control)} for control in curve.controls],
        "baselines": curve.baselines,
        "anchor": {key: curve.anchor[key] for key in ("name", "loss")} if curve.anchor else None,
        "published": known and {"lengths": list(known), "losses": list(known.values())},
        "scores": {
            name: [[p.n_tokens, score["value"], *score["interval"]] for p in curve.points for score in p.scores(name)]
            for name in scores or curve.single_scores
        },
        "gains": gains_by_document(curve),
    }


def _line(curve: Curve) -> dict[str, list]:
    return {"lengths": [p.n_tokens for p in curve.points], "losses": [p.loss for p in curve.points]}


def gains_by_document(curve: Curve) -> dict[str, Any] | None:
    """What the best prompt gains over none on each document, in nats per scored token, the largest gain first.

    Returns:
        "n_tokens", the length of the best prompt, "documents" and their "gains"; None if there is nothing to compare.
    """
    zero = curve.point(0)
    paired = [p for p in curve.points if p.n_tokens and zero and p.pairs_with(zero)]
    if not paired:
        return None
    best = min(paired, key=lambda p: p.loss)
    scored = np.flatnonzero(best.counts)
    gains = (zero.sums - best.sums)[scored] / best.counts[scored]
    order = np.argsort(-gains, kind="stable")
    documents = [best.documents[i] for i in scored[order]]
    return {"n_tokens": best.n_tokens, "documents": documents, "gains": gains[order].round(5).tolist()}


def _finding(s: Shown) -> dict[str, Any]:
    """Contribution, conditional distance and bits of a curve, in numbers and in words. No number: null."""
    found, bits = s.summary.contribution, s.summary.bits
    to, distance = next(iter(s.summary.distances.items()))
    return {
        "behaviour": behaviour(s).replace("\n", ", "),
        "model": s.curve.model,
        "nats": {"at": found.value, "low": found.interval[0], "high": found.interval[1], "said": str(found)},
        "tokens": {
            **{end: _finite(getattr(distance, end)) for end in ("at", "low", "high")},
            "longest": distance.longest,
            "why": distance.why,
            "said": f"{distance} tokens for 95 % of {to}" if not distance.why else f"{distance} (95 % of {to})",
        },
        "bits": bits and {"at": bits.bits, "said": str(bits)},
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _pairs(collection: Collection) -> dict[str, dict[str, list]]:
    """Differences of all two curves that were scored on the same documents."""
    by_documents: dict[tuple, list[int]] = {}
    for i, s in enumerate(collection.shown):
        first = s.curve.points[0]
        by_documents.setdefault((tuple(first.documents), tuple(first.counts)), []).append(i)
    found = {}
    for i, k in (pair for places in by_documents.values() for pair in combinations(places, 2)):
        first, second = collection.shown[i], collection.shown[k]
        difference = collection.kept.of(
            lambda first=first, second=second: [paired_difference(first.curve, second.curve)],
            *("pair", first.contents[0], second.contents[0]),
        )[0]
        if difference:
            found[f"{i} {k}"] = difference
    return found


def in_script(values: Any) -> str:
    """JSON that may stand in a script tag: no text in it ends the tag or opens a comment."""
    return json.dumps(values, allow_nan=False).replace("<", "\\u003c")
