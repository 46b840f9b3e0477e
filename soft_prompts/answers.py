"""What experiments with a table of their own have in common: run, or print the table of what was measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from soft_prompts.cli import main
from soft_prompts.console import ends_in_a_sentence
from soft_prompts.errors import SoftPromptsError
from soft_prompts.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = "answer.png"
"""Name of the picture in the folder of results."""


def run_or_print(
    table: Callable[[Path], str],
    default: Sweep,
    description: str,
    figure: Callable[[Path], Figure] | None = None,
    **presets: Sweep,
) -> None:
    """Run an experiment as ``main`` does or, if the first word is "table", print the answer in a folder of results.

    Args:
        table: Makes it, as Markdown.
        default: What runs without arguments.
        description: The script's docstring.
        figure: Draws it; the picture is saved in the folder. None: there is none.
        presets: Other sweeps by name.
    """

    def checked(folder: Path) -> str:
        sweeps = (default, *presets.values())
        check_folder(folder, {sweep.experiment for sweep in sweeps})
        check_whole(folder, {sweep.experiment for sweep in sweeps if 0 in sweep.n_tokens})
        return table(folder)

    do_or_print(lambda: main(default, description, **presets), checked, figure)


def do_or_print(
    work: Callable[[], None], table: Callable[[Path], str], figure: Callable[[Path], Figure] | None = None
) -> None:
    """Do an experiment's work or, if the first word is "table", print the answer in a folder of results.

    Args:
        work: Does what the command line asks for.
        table: As in ``run_or_print``.
        figure: As in ``run_or_print``.
    """
    if sys.argv[1:2] != ["table"]:
        work()
        return
    with ends_in_a_sentence():
        if len(sys.argv) != 3:
            raise SoftPromptsError("behind the word table stands one folder of results.")
        folder = Path(sys.argv[2])
        answer = table(folder)
        if not answer.strip():
            raise SoftPromptsError(f"{folder} holds nothing yet that the table is made of; let the experiment finish.")
        print(answer)
        if figure:
            save_picture(figure, folder)
            print(f"\nthe same as a picture: {folder / PICTURE}")


def save_picture(figure: Callable[[Path], Figure], folder: Path) -> None:
    """Draw the answer in a folder of results, and save the picture there."""
    from soft_prompts.report.plots import save_figure

    save_figure(figure(folder), folder / PICTURE)


def check_folder(folder: Path, experiments: Collection[str]) -> None:
    """Raises SoftPromptsError if a folder holds anything but results of one of some experiments."""
    from soft_prompts.results import load_results

    found = sorted({result.experiment for result in load_results([folder])})
    if len(found) != 1 or found[0] not in experiments:
        wanted, holds = " or ".join(sorted(experiments)), ", ".join(found) or "nothing"
        raise SoftPromptsError(f"{folder} must hold results of {wanted} and of nothing else; it holds {holds}.")


def check_whole(folder: Path, experiments: Collection[str]) -> None:
    """Raises SoftPromptsError if results of one of some experiments lack the loss at 0 tokens that they are compared
    with, as they do while an experiment is at work."""
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves, without_controls

    for curve in without_controls(curves(load_results([folder]))):
        if curve.experiment in experiments and curve.points[0].n_tokens:
            raise SoftPromptsError(
                f"{folder} has no loss at 0 tokens of {curve.name}, which the table compares with; let the experiment "
                f"finish."
            )
