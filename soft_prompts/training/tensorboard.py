"""TensorBoard's log of one run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from soft_prompts.training.writer import Place, Writer


class TensorBoardWriter(Writer):
    """Writes a file of events, by the thread that trains: the writers that come with TensorBoard have a thread each,
    which a full disk ends with a traceback."""

    def __init__(self, place: Place):
        """
        Raises:
            OSError: The file cannot be written, as in every other method.
        """
        self._options = place.options
        place.folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        self._file = (place.folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}").open("wb")
        self._write(Event(file_version="brain.Event:2"))
        if place.done is None:
            self.text(0, "config", f"```json\n{json.dumps(place.run.config, indent=2)}\n```")
        else:
            self._write(Event(session_log=SessionLog(status=SessionLog.START), step=place.done + 1))

    def _add(self, value: Summary, step: int = 0) -> None:
        self._write(Event(summary=value, step=int(step)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        RecordWriter(self._file).write(event.SerializeToString())

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each name."""
        for name, value in values.items():
            self._add(summary.scalar(name, value), step)

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text in Markdown."""
        self._add(summary.text(name, text), step)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Add pictures, uint8 [height, width, 3]."""
        for name, picture in pictures.items():
            self._add(summary.image(name, picture, dataformats="HWC"), step)

    def final(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the run's options with its final numbers, for the HParams tab, and the numbers as curves."""
        for part in summary.hparams(self._options, dict(metrics)):
            self._add(part)
        self.numbers(step, metrics)

    def flush(self) -> None:
        """Let TensorBoard see what is known so far."""
        self._file.flush()

    def close(self) -> None:
        """Write what is still in memory."""
        self._file.close()
