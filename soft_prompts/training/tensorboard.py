"""The TensorBoard log of one run; the same names in every experiment."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from soft_prompts.console import warn
from soft_prompts.training.run import Run


class TensorBoardLog:
    """Writes what is known of a run while it trains and when it is done.

    If it cannot be written, that is said once, and the run goes on without it. It is written by the thread that trains:
    the writers that come with TensorBoard have a thread each, which a full disk ends with a traceback.
    """

    def __init__(self, run: Run, folder: Path | None, start: int = 0, done: int | None = None):
        """Start a log at the run's place below ``folder``; further starts of its prompt have folders within it.

        Args:
            run: What it is the log of.
            folder: That of all logs. None: another process writes it, and this one nothing.
            start: Which of the run's starts.
            done: Go on with the log that is there: what it holds of later steps than this does not count.
        """
        self._file: BinaryIO | None = None
        if folder is None:
            return
        self.folder = folder / run.path / (f"start-{start}" if start else "")
        if done is None:
            shutil.rmtree(self.folder, ignore_errors=True)  # points of an earlier run would mix with ours
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads the files of a folder in the order of their names.
            self._file = (self.folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}").open("wb")
        except OSError as error:
            self._give_up(error)
        self._write(Event(file_version="brain.Event:2"))
        if done is None:
            self._add(summary.text("config", f"```json\n{json.dumps(run.config, indent=2)}\n```"))
        else:
            self._write(Event(session_log=SessionLog(status=SessionLog.START), step=done + 1))

    def _add(self, value: Summary, step: int = 0) -> None:
        self._write(Event(summary=value, step=int(step)))

    def _write(self, event: Event) -> None:
        if not self._file:
            return
        event.wall_time = time.time()
        try:
            RecordWriter(self._file).write(event.SerializeToString())
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        file, self._file = self._file, None
        warn(f"the TensorBoard log {self.folder} cannot be written ({error.strerror}); the run goes on without it.")
        if file:
            with contextlib.suppress(OSError):  # what was in memory does not fit either
                file.close()

    def flush(self) -> None:
        """Let readers see what is known so far."""
        try:
            if self._file:
                self._file.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is still in memory. Nothing can be added from then on."""
        self.flush()
        if self._file:
            self._file.close()
            self._file = None

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
        self._add(summary.scalar("loss/train", loss), step)
        self._add(summary.scalar("training/learning_rate", lr), step)
        self._add(summary.scalar("training/gradient_norm", gradient_norm), step)
        self._add(summary.scalar("training/prompt_norm_over_vocabulary_norm", prompt_norm), step)
        self._add(summary.scalar("speed/data_tokens_per_second", tokens_per_second), step)

    def validation(self, step: int, loss: float) -> None:
        """Nats per scored token of the validation documents, while the prompt is trained."""
        self._add(summary.scalar("loss/validation", loss), step)
        self.flush()

    def held_out(self, step: int, loss: float) -> None:
        """Held-out nats per scored token, when it is trained."""
        self._add(summary.scalar("loss/held_out", loss), step)
        self.flush()

    def samples(self, step: int, samples: list[dict[str, str]]) -> None:
        """Readable samples, a part a line."""
        parts = [{part: text for part, text in sample.items() if part != "kind"} for sample in samples]
        text = "\n\n".join("\n".join(f"    {part}: {value}" for part, value in sample.items()) for sample in parts)
        self._add(summary.text("samples", text), step)
        self.flush()

    def scores(self, step: int, scores: dict) -> None:
        """The scores that are single numbers."""
        for name, score in scores.items():
            if score.get("value") is not None:
                self._add(summary.scalar(f"scores/{name}", score["value"]), step)

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Name -> picture, uint8 [height, width, 3]."""
        for name, picture in pictures.items():
            self._add(summary.image(f"pictures/{name}", picture, dataformats="HWC"), step)

    def final(self, run: Run, loss: float, scores: dict) -> None:
        """The run's options with its final numbers, to compare runs in TensorBoard's HParams tab."""
        options = {"model": run.model_name, "n_tokens": run.n_tokens, "seed": run.seed, **run.config["train"]}
        options |= {name: value for name, value in run.config["task"].items() if name != "data"}
        plain = {k: v if isinstance(v, (bool, str, float, int)) else str(v) for k, v in options.items()}
        metrics = {"final/held_out_loss": loss}
        metrics |= {f"final/{name}": s["value"] for name, s in scores.items() if s.get("value") is not None}
        for part in summary.hparams(plain, metrics):
            self._add(part)
        for name, value in metrics.items():
            self._add(summary.scalar(name, value), run.recipe.steps)
