"""Where a run's log lies, and what a library that writes it has to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soft_prompts.training.run import Run

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Place:
    """Which log of which run, and where it lies."""

    root: Path
    """The folder of all logs."""
    run: Run
    start: int = 0
    """Which of the run's starts."""
    done: int | None = None
    """Go on with the log that is there: what it holds of later steps than this does not count. None: begin anew."""

    @property
    def within(self) -> Path:
        """The log's place below ``root``. Further starts of a prompt have folders within the first one's."""
        return self.run.path / (f"start-{self.start}" if self.start else "")

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.root / self.within

    @property
    def options(self) -> dict[str, bool | str | float | int]:
        """The run's options by name, to compare runs by."""
        run = self.run
        options = {"model": run.model_name, "n_tokens": run.n_tokens, "seed": run.seed, **run.config["train"]}
        options |= {name: value for name, value in run.config["task"].items() if name != "data"}
        return {k: v if isinstance(v, (bool, str, float, int)) else str(v) for k, v in options.items()}


class Writer(ABC):
    """A library's log of one run. Whatever a method raises ends this log, and the run goes on without it."""

    @abstractmethod
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each name."""

    @abstractmethod
    def text(self, step: int, name: str, text: str) -> None:
        """Add a text. Lines that begin with four spaces are shown as they stand."""

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:  # noqa: B027 - not every log holds them
        """Add pictures, uint8 [height, width, 3], if the library can. They lie beside the result in any case."""

    def final(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the numbers that runs are compared by."""
        self.numbers(step, metrics)

    @abstractmethod
    def flush(self) -> None:
        """Let readers see what is known so far."""

    @abstractmethod
    def close(self) -> None:
        """Write what is still in memory. Nothing can be added from then on."""
