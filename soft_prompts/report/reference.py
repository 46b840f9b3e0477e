"""The published curves, to be drawn beside ours."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from soft_prompts.results.curve import Curve


@lru_cache
def reference() -> dict:
    """Figures of arXiv 2505.14943, with their source and caveats: keys source, hardware, recipe, caveats, curves."""
    return json.loads(Path(__file__).with_name("reference.json").read_text())


def published(curve: Curve) -> dict[int, float] | None:
    """The published curve of the same experiment, model, text and variant.

    Documents, splits and recipe were others: the levels compare roughly, the shapes well.

    Returns:
        Prompt length -> held-out nats per token; None if nothing was published.
    """
    text = json.dumps(curve.task.get("text"))
    wanted = (curve.experiment, curve.model.split("@")[0], curve.variant["label"])
    for known in reference()["curves"]:
        if (known["experiment"], known["model"], known["variant"]) != wanted:
            continue
        corpus = known["dataset"].lower().removesuffix("v2")
        if corpus in ("pile", "redpajama") and corpus not in text:
            continue
        return {int(n): loss for n, loss in known["losses"].items()}
    return None
