"""trackio's log of one run: a database of each experiment, below the folder of all logs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from soft_prompts.training.writer import Place, Writer

if TYPE_CHECKING:
    from trackio.sqlite_storage import SQLiteStorage


class TrackioWriter(Writer):
    """Writes rows with the function that trackio's own imports use.

    ``trackio.init`` has one run at a time, a thread for it, and asks the hub who is logged in. Here many runs are
    trained together, without a network.
    """

    def __init__(self, place: Place):
        """
        Raises:
            OSError, sqlite3.Error: The database cannot be written, as in ``flush`` and ``close``.
        """
        self._folder = (place.root / "trackio").resolve()
        self._project, *within = place.within.parts
        self._name = "/".join(within)
        self._rows: list[tuple[str, int, str, dict[str, Any]]] = []
        if place.done is None:
            self._storage().delete_run(self._project, self._name, self._name)
        self._options: dict[str, Any] | None = place.options

    def _storage(self) -> type[SQLiteStorage]:
        from trackio import sqlite_storage

        # The environment variable of this name is read only once, when trackio is imported.
        sqlite_storage.TRACKIO_DIR = self._folder
        return sqlite_storage.SQLiteStorage

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each name, in memory."""
        # A row that is there already stays: when training goes on, steps are computed again, to the same numbers.
        row_id = f"{self._name}/{step}/{','.join(values)}"
        self._rows.append((row_id, int(step), datetime.now(UTC).isoformat(), dict(values)))

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text in Markdown, in memory."""
        self.numbers(step, {name: {"_type": "trackio.markdown", "_value": text}})

    def flush(self) -> None:
        """Write what is in memory."""
        if not self._rows:
            return
        ids, steps, times, values = map(list, zip(*self._rows, strict=True))
        self._storage().bulk_log(self._project, self._name, values, steps, times, self._options, ids, run_id=self._name)
        self._rows, self._options = [], None

    def close(self) -> None:
        """Write what is still in memory."""
        self.flush()
