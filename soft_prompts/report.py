"""Results on the command line: `python -m soft_prompts.report results/chess`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from soft_prompts.console import fail
from soft_prompts.errors import SoftPromptsError
from soft_prompts.results import load_results
from soft_prompts.tables import markdown, print_table


def main(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional], scores: tuple[str, ...] = (), as_markdown: bool = False
) -> None:
    """Print results as tables.

    Args:
        folders: Folders of results, or single files; all results below them are shown.
        scores: Names of scores to show beside the loss; none named shows all.
        as_markdown: Print Markdown instead of drawing.
    """
    results = load_results(folders)
    if not results:
        raise SoftPromptsError(
            f"no results in {', '.join(map(str, folders))}; run an experiment first, or name another folder."
        )
    if as_markdown:
        print(markdown(results, scores))
    else:
        print_table(results, scores)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except SoftPromptsError as error:
        fail(error)
