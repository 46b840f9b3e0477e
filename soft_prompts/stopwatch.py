"""Where a command's time goes, by stage: what is not training should be small."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

OTHER = "start and rest"
"""The stage of all that is in no other."""


class Stopwatch:
    """Seconds by stage. A stage within another one pauses it, so the stages add up to all the time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stages = [OTHER]
        self._since = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Around the work of a stage."""
        self._turn()
        self._stages.append(name)
        try:
            yield
        finally:
            self._turn()
            self._stages.pop()

    def read(self) -> dict[str, float]:
        """Seconds by stage so far."""
        self._turn()
        return dict(self.seconds)

    def _turn(self) -> None:
        """Charge the time since the last turn to the stage that ran."""
        now = time.perf_counter()
        self.seconds[self._stages[-1]] = self.seconds.get(self._stages[-1], 0.0) + now - self._since
        self._since = now


CLOCK = Stopwatch()
"""That of this process."""


def in_words(seconds: dict[str, float]) -> str:
    """Stages by share of the time, the longest first: "training 120 s (80 %), bits 30 s (20 %)"."""
    total = sum(seconds.values())
    longest_first = sorted(seconds.items(), key=lambda stage: -stage[1])
    return ", ".join(f"{name} {s:.0f} s ({100 * s / max(total, 1e-9):.0f} %)" for name, s in longest_first)
