"""The log of a run: what the training loop tells of it, written by the libraries that --log names.

Names of numbers are the same in every library and every experiment.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft_prompts.console import warn
from soft_prompts.errors import SoftPromptsError
from soft_prompts.training.run import Run
from soft_prompts.training.writer import Place, Writer

if TYPE_CHECKING:
    import numpy as np

LOGGERS = {"tensorboard": "", "trackio": "trackio==0.43.0", "wandb": "wandb==0.31.0"}
"""What can write a log, and the package that it needs beside the requirements, as it was tried."""


@dataclass(frozen=True)
class Logs:
    """Where the logs of runs lie, and what writes them."""

    folder: Path
    """That of all logs: runs/."""
    loggers: tuple[str, ...] = ("tensorboard",)
    """Of LOGGERS."""

    @classmethod
    def named(cls, folder: Path, loggers: str) -> Logs:
        """The logs that --log asks for.

        Raises:
            SoftPromptsError: There is no such logger, or its package is not installed.
        """
        names = () if loggers == "none" else tuple(name.strip() for name in loggers.split(","))
        for name in names:
            if name not in LOGGERS:
                raise SoftPromptsError(
                    f"--log is {loggers!r}, but must be some of {', '.join(LOGGERS)} with commas between, or none."
                )
            found = importlib.util.find_spec(name)
            if found is None or found.origin is None:  # a mere folder of this name, such as W&B makes, is no package
                raise SoftPromptsError(f"--log {name} needs its package: pip install {LOGGERS[name] or name}")
        return cls(folder, tuple(dict.fromkeys(names)))

    def of(self, run: Run, start: int = 0, done: int | None = None) -> RunLog:
        """Begin a log.

        Args:
            run: What it is the log of.
            start: Which of the run's starts.
            done: Go on with the log that is there, behind this step. None: remove it and begin anew.
        """
        return RunLog(Place(self.folder, run, start, done), self.loggers)

    def shown(self, below: Path) -> str:
        """How the curves of the runs below a folder of ``folder`` are looked at: a line for each logger."""
        ways = {
            "tensorboard": f"tensorboard --logdir {self.folder / below}",
            "trackio": f"TRACKIO_DIR={self.folder / 'trackio'} trackio show --project {below.parts[0]}",
            "wandb": f"wandb.ai, after wandb sync $(find {self.folder / below} -type d -name 'offline-run-*')",
        }
        return "".join(f"curves: {ways[name]}\n" for name in self.loggers)


def _begun(logger: str, place: Place) -> Writer:
    """Begin a log. Each library is imported when it is first used."""
    if logger == "trackio":
        from soft_prompts.training.trackio import TrackioWriter

        return TrackioWriter(place)
    if logger == "wandb":
        from soft_prompts.training.wandb import WandbWriter

        return WandbWriter(place)
    from soft_prompts.training.tensorboard import TensorBoardWriter

    return TensorBoardWriter(place)


class RunLog:
    """Tells every logger what is known of a run while it trains and when it is done.

    If one of them cannot write, that is said once, and the run goes on without it.
    """

    def __init__(self, place: Place | None = None, loggers: Sequence[str] = ()):
        """
        Args:
            place: Which log it is. None: another process writes it, and this one nothing.
            loggers: Of LOGGERS.
        """
        self._place = place
        self._writers: dict[str, Writer] = {}
        if place is None:
            return
        if place.done is None:
            shutil.rmtree(place.folder, ignore_errors=True)  # points of an earlier run would mix with ours
        for logger in loggers:
            self._guarded(logger, lambda logger=logger: self._writers.update({logger: _begun(logger, place)}))

    def _tell(self, what: Callable[[Writer], None]) -> None:
        for logger, writer in list(self._writers.items()):
            self._guarded(logger, lambda writer=writer: what(writer))

    def _guarded(self, logger: str, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # of any kind: each library has its own
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
            warn(f"the {logger} log {self._place.folder} cannot be written ({reason}); the run goes on without it.")
            if writer := self._writers.pop(logger, None):
                with suppress(Exception):  # what was in memory does not fit either
                    writer.close()

    def flush(self) -> None:
        """Let readers see what is known so far."""
        self._tell(lambda writer: writer.flush())

    def close(self) -> None:
        """Write what is still in memory. Nothing can be added from then on."""
        self._tell(lambda writer: writer.close())
        self._writers = {}

    def _numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._tell(lambda writer: writer.numbers(step, values))

    def training(
        self, step: int, loss: float, gradient_norm: float, lr: float, prompt_norm: float, tokens_per_second: float
    ) -> None:
        """A point of the training curves.

        Args:
            step: Optimiser step.
            loss: Nats per token on this step's documents.
            gradient_norm: Before clipping.
            lr: Learning rate, in units of the vocabulary's root mean square.
            prompt_norm: Root mean square of the prompt, in the same units.
            tokens_per_second: Data tokens trained on, prompts not counted.
        """
        values = {
            "loss/train": loss,
            "training/learning_rate": lr,
            "training/gradient_norm": gradient_norm,
            "training/prompt_norm_over_vocabulary_norm": prompt_norm,
            "speed/data_tokens_per_second": tokens_per_second,
        }
        self._numbers(step, values)

    def validation(self, step: int, loss: float) -> None:
        """Nats per scored token of the validation documents, while the prompt is trained."""
        self._numbers(step, {"loss/validation": loss})
        self.flush()

    def held_out(self, step: int, loss: float) -> None:
        """Held-out nats per scored token, when it is trained."""
        self._numbers(step, {"loss/held_out": loss})
        self.flush()

    def samples(self, step: int, samples: list[dict[str, str]]) -> None:
        """Readable samples, a part a line."""
        parts = [{part: text for part, text in sample.items() if part != "kind"} for sample in samples]
        text = "\n\n".join("\n".join(f"    {part}: {value}" for part, value in sample.items()) for sample in parts)
        self._tell(lambda writer: writer.text(step, "samples", text))
        self.flush()

    def scores(self, step: int, scores: dict[str, Any]) -> None:
        """The scores that are single numbers."""
        self._numbers(step, _single("scores", scores))

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Name -> picture, uint8 [height, width, 3]."""
        self._tell(lambda writer: writer.pictures(step, {f"pictures/{k}": v for k, v in pictures.items()}))

    def final(self, run: Run, loss: float, scores: dict[str, Any]) -> None:
        """The run's final numbers, to compare runs by."""
        metrics = {"final/held_out_loss": loss, **_single("final", scores)}
        self._tell(lambda writer: writer.final(run.recipe.steps, metrics))


def _single(group: str, scores: dict[str, Any]) -> dict[str, float]:
    """group/name -> the scores that are single numbers."""
    return {f"{group}/{name}": s["value"] for name, s in scores.items() if s.get("value") is not None}
