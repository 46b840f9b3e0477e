"""Can a behaviour that is switched on be told from one that is taught, by what prompts learn from their documents?

pocket-keys holds tags behind a key of 4 secret symbols; its twin was never taught them. Prompts of 4 tokens are trained
on 100 to 800 documents (there are 819). Each is counted before it is trained on, and again behind the final prompt.

Expected: on pocket-keys the bits learned stay the same however many documents follow, since the key is all there is to
say. On the twin and with permuted labels they grow with the documents, since there each of them teaches.

    python -m exploratory_tests.learned_test
    python -m exploratory_tests.learned_test table results/learned     # bits learned, by number of documents
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from soft_prompts.answers import run_or_print
from soft_prompts.report.markdown import markdown_table
from tests import calibration_test

STEPS = (25, 50, 100, 200)
DEFAULT = replace(
    calibration_test.POCKET,
    experiment="learned",
    task=replace(calibration_test.POCKET.task, key_tokens=(4,)),
    n_tokens=(0, 4),
    controls=("permuted",),
    train=replace(
        calibration_test.POCKET.train,
        steps=100,
        starts=1,
        batch_size=4,
        eval_documents=300,
        validation_documents=64,
        prequential=True,
    ),
    recipes=tuple({"steps": steps} for steps in STEPS),
)


def bits_learned(folder: Path) -> dict[tuple[str, str], dict[int, np.ndarray]]:
    """(model, control) -> optimiser steps -> bits learned from the documents of so many steps, float [seeds]."""
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves

    learned: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for curve in curves(load_results([folder])):
        nats = [r.prequential["nats_before"] - r.prequential["nats_after"] for r in curve.results if r.prequential]
        learned.setdefault((curve.model, curve.control), {})[curve.recipe["steps"]] = np.array(nats) / np.log(2)
    return learned


def table(folder: Path) -> str:
    """Markdown: bits learned from ever more documents, the mean and the range over the seeds."""
    body = []
    for (model, control), by_steps in sorted(bits_learned(folder).items()):
        of_each = [by_steps.get(steps) for steps in STEPS]
        cells = ["" if x is None else f"{x.mean():,.0f} ({x.min():,.0f} to {x.max():,.0f})" for x in of_each]
        body.append([f"{model}{', permuted labels' if control else ''}", *cells])
    return markdown_table(["bits learned", *(f"{4 * steps} documents" for steps in STEPS)], body)


if __name__ == "__main__":
    run_or_print(table, DEFAULT, __doc__)
