"""The published curves, to be drawn beside ours."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from soft_prompts.results import Result


@lru_cache
def reference() -> dict:
    """Figures of arXiv 2505.14943, with their source and caveats: keys source, hardware, recipe, caveats, curves."""
    return json.loads(Path(__file__).with_name("reference.json").read_text())


def published(result: Result) -> dict[int, float] | None:
    """Prompt length -> published held-out loss in nats per token for the same experiment, model, text and variant, or None.

    Documents, splits and recipe were others: the levels compare roughly, the shapes well.
    """
    task = result.config["task"]
    text = " ".join(map(str, task.get("text", [])))
    for curve in reference()["curves"]:
        if (curve["experiment"], curve["model"]) != (result.experiment, result.model.split("@")[0]):
            continue
        if curve["dataset"] in ("Pile", "RedPajamaV2") and curve["dataset"].lower().removesuffix("v2") not in text:
            continue
        if curve["variant"] is not None and curve["variant"] not in (task.get("skip") or task.get("strings") or []):
            continue
        if not any(task.get("control", [])):
            return {int(n): loss for n, loss in curve["losses"].items()}
    return None
