"""Does a process that measures for hours stay as it is?

Sweeps of chess on pocket, one after another in one process, each with training, controls, bits, scores, results,
snapshots, logs and the report. Before each, the process's memory, open files and threads are noted.

Expected: after the first sweeps, which fill caches, all three stay flat.

    python -m exploratory_tests.soak --hours 2 --out runs/soak
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.figure
import numpy as np
import tyro

from soft_prompts.cli import run, settle_libraries
from soft_prompts.console import ends_in_a_sentence, say
from soft_prompts.report.plots import save_figure
from tests.chess_test import POCKET

WARM = 3
"""Sweeps that fill caches. What comes behind them should be flat."""
NOTED = ("resident MiB", "open files", "threads")
"""What is noted behind every sweep, beside the seconds since the beginning."""


@dataclass(frozen=True)
class Soak:
    """How long, and where."""

    hours: float = 2.0
    """A sweep that has begun is finished."""
    out: Path = Path("runs/soak")
    """Of soak.csv and soak.png; the sweeps' own files are removed after each."""


def resident_mib() -> float:
    """Memory of this process now, MiB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(options: Soak) -> None:
    """Sweep until the time is over, then say what grew."""
    recipe = replace(POCKET.train, steps=8, eval_documents=40, validation_documents=20)
    options.out.mkdir(parents=True, exist_ok=True)
    rows, end = [], time.monotonic() + 3600 * options.hours
    with (options.out / "soak.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["seconds", *NOTED])
        begun = time.monotonic()
        while time.monotonic() < end:
            place = options.out / "sweep"
            run(replace(POCKET, train=recipe, seeds=(len(rows),), out=place))
            shutil.rmtree(place)
            files = len(os.listdir("/proc/self/fd"))
            rows.append((time.monotonic() - begun, resident_mib(), files, threading.active_count()))
            table.writerow([round(x, 1) for x in rows[-1]])
            file.flush()
    seconds, *measured = np.array(rows[WARM:]).T
    for name, values in zip(NOTED, measured, strict=True):
        slope = np.polyfit(seconds / 3600, values, 1)[0] if len(values) > 1 else float("nan")
        say(f"{name}: {values.min():.0f} to {values.max():.0f}, {slope:+.1f} an hour")
    draw(np.array(rows), options.out / "soak.png")
    say(f"{len(rows)} sweeps in {seconds[-1] / 3600:.2f} hours; every row is in {options.out / 'soak.csv'}")


def draw(rows: np.ndarray, path: Path) -> None:
    """A panel for each thing noted, against the hours.

    Args:
        rows: [sweeps, 1 + len(NOTED)]: seconds, then what was noted.
        path: Of the picture.
    """
    figure = matplotlib.figure.Figure(figsize=(8, 6), layout="constrained")
    panels = figure.subplots(len(NOTED), sharex=True)
    for panel, name, values in zip(panels, NOTED, rows.T[1:], strict=True):
        panel.plot(rows[:, 0] / 3600, values, marker="o", markersize=3)
        panel.set(ylabel=name, ylim=(0, 1.2 * values.max()))
    panels[-1].set_xlabel("hours; a point behind every sweep")
    save_figure(figure, path)


if __name__ == "__main__":
    settle_libraries()
    with ends_in_a_sentence():
        soak(tyro.cli(Soak, description=__doc__, args=sys.argv[1:]))
