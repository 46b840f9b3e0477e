"""What a person reads on the screen: news, warnings, errors and progress, on stderr. Only tables of results go to
stdout. Of several processes that were launched together, the first one speaks; the others only warn and stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn

from soft_prompts.errors import SoftPromptsError
from soft_prompts.processes import rank

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

INTERRUPTED = "interrupted; finished runs are kept and will be skipped next time."
SAVING = "saving what is trained so far; once more leaves at once."

COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")
"""Characters that a terminal obeys, or that XML cannot hold."""


class Interrupted(KeyboardInterrupt):
    """Somebody wants the command to end."""

    def __init__(self, number: int):
        super().__init__()
        self.code = 128 + number
        """The exit code: 130 after Ctrl-C, 143 after a polite kill."""


class Signals:
    """What Ctrl-C and a polite kill do: they end the command at once or, while it can save, when it has saved."""

    def __init__(self) -> None:
        self._deferred = False
        self.received: int | None = None
        """The signal that came while it was deferred."""

    def install(self) -> None:
        """From now on for this process. Only the main thread may do so; in others nothing changes."""
        with suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._handle)

    def leave_if_received(self) -> None:
        """Raises:
        Interrupted: A signal came.
        """
        if self.received is not None:
            self.leave(self.received)

    def leave(self, number: int) -> NoReturn:
        """Raises:
        Interrupted: As if this signal had come.
        """
        self.received = None
        raise Interrupted(number)

    @contextmanager
    def deferred(self, wanted: bool) -> Iterator[None]:
        """Around work that looks at ``received`` by itself, if that is ``wanted``."""
        self._deferred = wanted
        try:
            yield
        finally:
            self._deferred = False
        self.leave_if_received()

    def _handle(self, number: int, frame: object) -> None:
        if self._deferred and self.received is None:
            self.received = number
            sys.stderr.write(f"\n{SAVING}\n")
            return
        self.leave(number)


SIGNALS = Signals()
"""Those of this process."""


@lru_cache
def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def shown_only(text: str) -> str:
    """A text from outside with U+FFFD in the place of COMMANDS."""
    return COMMANDS.sub("\ufffd", text)


def _print(sentence: str, mark: str = "") -> None:
    from rich.markup import escape

    # A path may hold what rich would take for markup.
    _console().print(mark + escape(shown_only(sentence)), soft_wrap=bool(mark))


def say(sentence: str) -> None:
    """News."""
    if not rank():
        _print(sentence)


def warn(sentence: str) -> None:
    """Something that a person should know but that stops nothing."""
    _print(sentence, f"{_who()}[bold yellow]warning:[/] ")


def stop(error: SoftPromptsError) -> NoReturn:
    """Say what is wrong and exit with code 2."""
    _print(str(error), f"{_who()}[bold red]error:[/] ")
    sys.exit(2)


def _who() -> str:
    """Which process speaks, if it is not the first."""
    return f"process {rank()} on {socket.gethostname()}: " if rank() else ""


def interrupts_end_in_a_sentence() -> None:
    """Let Ctrl-C end the process with a sentence wherever it strikes, also while modules are still being imported."""
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: object) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write(f"\n{INTERRUPTED}\n")
        else:
            usual(kind, error, trace)

    sys.excepthook = hook


@contextmanager
def ends_in_a_sentence() -> Iterator[None]:
    """Around a command's work: what a person must read ends it with one sentence, and Ctrl-C does, too."""
    SIGNALS.install()
    try:
        yield
    except SoftPromptsError as error:
        stop(error)
    except KeyboardInterrupt as interrupt:
        sys.stderr.write(f"\n{INTERRUPTED}\n")
        sys.exit(getattr(interrupt, "code", 130))
    except BrokenPipeError:  # whoever reads the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes the output
        sys.exit(0)


@dataclass(frozen=True)
class Ahead:
    """What comes behind the work of a progress bar."""

    times: float = 0.0
    """How much more work of the same kind, in multiples of the bar's own."""
    then: str = ""
    """What follows of which nobody knows how long it takes."""


LAST = Ahead()
"""Nothing."""


def in_time(seconds: float) -> str:
    """A duration with as many digits as an estimate deserves: "45 s", "2.5 min", "12 h"."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{seconds:.0f} s"


def time_left(seconds: float, taken: int, left: int, n_steps: int, ahead: Ahead) -> str:
    """How long it takes and how fast it goes, in words. All steps are taken to last as long as those so far.

    Args:
        seconds: What the steps taken so far took.
        taken: How many these are, without those of an earlier process.
        left: How many are to be taken.
        n_steps: Of the whole work.
        ahead: What comes behind it.
    """
    if not taken or seconds <= 0:
        return ""
    step = seconds / taken
    parts = [f"about {in_time(step * left)} left"]
    if ahead.times:
        parts.append(f"about {in_time(step * (left + ahead.times * n_steps))} with the other runs")
    if ahead.then:
        parts.append(f"then {ahead.then}")
    return ", ".join([*parts, f"{1 / step:.2f} steps/s"])


@contextmanager
def progress_bar(title: str, n_steps: int, done: int = 0, ahead: Ahead = LAST) -> Iterator[Callable[..., None]]:
    """A bar on a terminal, and below it what is known by now and how long it takes.

    Args:
        title: What stands before it.
        n_steps: Of the whole work.
        done: Steps taken before.
        ahead: What comes behind it.

    Yields:
        The function that moves it one step on. It may be given what is known by now, in a few words.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.text import Text

    class Bar(Progress):
        words = Text()

        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            yield self.words  # beside the bar it would leave no room for it

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, console=_console(), transient=True, disable=bool(rank())) as bar:
        task, since = bar.add_task(title, total=n_steps, completed=done), time.perf_counter()

        def advance(known: str = "") -> None:
            bar.advance(task)
            at = int(bar.tasks[0].completed)
            left = time_left(time.perf_counter() - since, at - done, n_steps - at, n_steps, ahead)
            bar.words = Text(", ".join(part for part in (known, left) if part))

        yield advance
