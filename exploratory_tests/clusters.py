"""How long does the published chess experiment take on several GPUs, and how well are they used?

    python -m exploratory_tests.clusters            # prints the table of docs/clusters.md

The runs are shared out by the same rule as in a launch. What a training document costs is the measured time of a step
in results/throughput/, which was on a CPU; how long it takes on a GPU is not measured. So hours are those of a process
on that CPU, and what carries over is how they fall with the number of processes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import tests.chess_test
from soft_prompts.report.tables import as_markdown
from soft_prompts.shares import shares
from soft_prompts.sweep import plan
from soft_prompts.training.run import Run

MEASURED = Path(__file__).parents[1] / "results" / "throughput" / "cpu.json"
BATCH, LENGTH = 8, 256
"""Of the steps that were measured."""
CASES = {
    1: "P = 1",
    16: "P = 16",
    64: "P = 64 conditional",
    512: "P = 512 conditional",
    1024: "P = 1024 conditional",
}
"""Prompt length -> which case of pythia-70m stands for it."""
PROCESSES = (1, 8, 64)


def seconds_a_document(path: Path = MEASURED) -> dict[int, float]:
    """Prompt length -> seconds of a training document, forward and backward."""
    rows = json.loads(path.read_text())["rows"]
    ours = {row["case"]: row["milliseconds"] for row in rows if row["contender"] == "ours"}
    return {n: ours[f"training, 70m {BATCH} x {LENGTH}, {case}"] / 1000 / BATCH for n, case in CASES.items()}


def hours_by_runs(runs: Sequence[Run], n: int, measured: dict[int, float]) -> list[float]:
    """Hours of each of ``n`` processes that share out runs."""
    return [sum(_hours_a_document(r, measured) * _documents(r) for r in share) for share in shares(runs, n)]


def hours_by_documents(runs: Sequence[Run], n: int, measured: dict[int, float]) -> list[float]:
    """Hours of each of ``n`` processes that share out the documents of every step: all rows are dealt in turn."""
    hours = [_hours_a_document(r, measured) * r.recipe.steps for r in runs if r.n_tokens]
    rows = np.repeat(hours, runs[0].train.batch_size)
    return [float(rows[number::n].sum()) for number in range(n)]


def _hours_a_document(run: Run, measured: dict[int, float]) -> float:
    return float(np.interp(run.n_tokens, list(measured), list(measured.values()))) / 3600


def _documents(run: Run) -> int:
    return run.recipe.steps * run.train.batch_size if run.n_tokens else 0


def table() -> str:
    """The table as Markdown."""
    sweep = tests.chess_test.DEFAULT
    runs, measured = plan(sweep, sweep.models[0]), seconds_a_document()
    total = sum(hours_by_runs(runs, 1, measured))
    header = ["processes", "shared out", "hours of the longest", "times as fast", "busy"]
    cells = [header]
    for n in PROCESSES:
        for what, hours in (("runs", hours_by_runs), ("documents", hours_by_documents)):
            longest = max(hours(runs, n, measured))
            cells.append([str(n), what, f"{longest:,.0f}", f"{total / longest:.1f}", f"{total / longest / n:.0%}"])
    return as_markdown(f"{len(runs)} runs of one model, lengths {', '.join(map(str, sweep.n_tokens))}", cells)


if __name__ == "__main__":
    print(table())
