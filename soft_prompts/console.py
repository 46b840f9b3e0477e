"""What a person reads on the screen, all of it on stderr but for tables of results: news, warnings, errors, progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from soft_prompts.errors import SoftPromptsError

_console = Console(stderr=True, highlight=False)


def say(sentence: str) -> None:
    """News."""
    _console.print(escape(sentence))  # a path may hold what rich would take for markup


def warn(sentence: str) -> None:
    """Something that a person should know but that stops nothing."""
    _console.print(f"[bold yellow]warning:[/] {escape(sentence)}", soft_wrap=True)


def fail(error: SoftPromptsError) -> NoReturn:
    """Say what is wrong and exit with code 2."""
    _console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
    sys.exit(2)


@contextmanager
def progress_bar(title: str, n_steps: int) -> Iterator[Callable[[], None]]:
    """A bar with rate and time left on a terminal; yields the function that moves it one step on."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=_console, transient=True) as bar:
        task = bar.add_task(title, total=n_steps, rate="")

        def advance() -> None:
            bar.advance(task)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.2f} steps/s" if speed else "")

        yield advance
