"""What open questions with a table of their own have in common: run, or print the table of what was measured."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from soft_prompts import Sweep, main
from soft_prompts.console import ends_in_a_sentence
from soft_prompts.errors import SoftPromptsError


def run_or_print(table: Callable[[Path], str], default: Sweep, description: str, **presets: Sweep) -> None:
    """Run an experiment as ``main`` does or, if the first word is "table", print the answer in a folder of results.

    Args:
        table: Makes it, as Markdown.
        default: What runs without arguments.
        description: The script's docstring.
        presets: Other sweeps by name.
    """
    if sys.argv[1:2] != ["table"]:
        main(default, description, **presets)
        return
    with ends_in_a_sentence():
        if len(sys.argv) != 3:
            raise SoftPromptsError("behind the word table stands one folder of results.")
        print(table(Path(sys.argv[2])))
