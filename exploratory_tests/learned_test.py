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

from exploratory_tests.answers import run_or_print
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
        starts=1,
        batch_size=4,
        validation_documents=64,
        eval_documents=300,
        prequential=True,
    ),
    recipes=tuple({"steps": steps} for steps in STEPS),
)


def table(folder: Path) -> str:
    """Markdown: bits learned from ever more documents, the mean and the range over the seeds."""
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves

    found = [c for c in curves(load_results([folder])) if c.recipe["steps"] in STEPS]
    names = sorted({(c.model, c.control) for c in found})
    lines = [
        "| | " + " | ".join(f"{4 * steps} documents" for steps in STEPS) + " |",
        "|" + " ---: |" * (1 + len(STEPS)),
    ]
    for model, control in names:
        cells = []
        for steps in STEPS:
            (curve,) = [c for c in found if (c.model, c.control, c.recipe["steps"]) == (model, control, steps)]
            nats = [r.prequential["nats_before"] - r.prequential["nats_after"] for r in curve.results if r.prequential]
            bits = np.array(nats) / np.log(2)
            cells.append(f"{bits.mean():,.0f} ({bits.min():,.0f} to {bits.max():,.0f})")
        lines.append(f"| {model}{', permuted labels' if control else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_or_print(table, DEFAULT, __doc__)
