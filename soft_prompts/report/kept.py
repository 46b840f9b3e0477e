"""What an earlier report computed, by the content of the results it was computed from and the version of the code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from soft_prompts import stats
from soft_prompts.console import warn
from soft_prompts.files import write_atomically

COUNTED_WITH = ("numpy", "scipy", "matplotlib")
"""Packages whose versions numbers and pictures may depend on."""


class Kept:
    """Values that JSON can hold, in one file with a digest.

    A file that is damaged, or of another version of the code, counts as empty: all is computed anew.
    """

    def __init__(self, path: Path | None = None):
        """
        Args:
            path: The file, which need not be there. None: nothing is kept.
        """
        self._path = path
        self._before = _read(path) if path else {}
        self._now: dict[str, Any] = {}

    def get(self, *content: Any) -> Any:
        """What was kept for this content; None if nothing was."""
        return self._before.get(digest(*content))

    def put(self, value: Any, *content: Any) -> None:
        """Keep a value for the next report.

        Args:
            value: What JSON can hold.
            content: All that the value depends on, but for the code.
        """
        self._now[digest(*content)] = value

    def of(self, compute: Callable[[], Any], *content: Any) -> Any:
        """What was kept for this content or, if nothing was, what ``compute`` returns."""
        known = self.get(*content)
        value = compute() if known is None else known
        self.put(value, *content)
        return value

    def save(self, all_asked_for: bool = True) -> None:
        """Write the file.

        Args:
            all_asked_for: What was not asked for since the file was read leaves it.

        Raises:
            SoftPromptsError: The file cannot be written.
        """
        values = self._now if all_asked_for else {**self._before, **self._now}
        if self._path and values != self._before:
            content = {"code": code_version(), "values": values}
            write_atomically(self._path, json.dumps({"digest": digest(content), **content}).encode())
        self._before = values


def digest(*content: Any) -> str:
    """32 hex digits over values that JSON can hold."""
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


@lru_cache
def code_version() -> str:
    """32 hex digits over the code that reads results, computes and draws pictures, and over the libraries it uses."""
    package = Path(stats.__file__).parent
    files = [package / "stats.py", *(f for room in ("report", "results") for f in sorted((package / room).iterdir()))]
    texts = [(f.name, f.read_text()) for f in files if f.suffix in (".py", ".json")]
    return digest(texts, [version(name) for name in COUNTED_WITH])


def _read(path: Path) -> dict[str, Any]:
    """The values of a file; {} if there are none that can be used."""
    try:
        kept = json.loads(path.read_bytes())
        content = {"code": kept["code"], "values": kept["values"]}
        if kept["digest"] != digest(content):
            raise ValueError("its digest is wrong")
    except FileNotFoundError:
        return {}
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        warn(f"{path} is damaged ({str(error)[:100]}); all numbers are computed anew and the file is replaced.")
        return {}
    return content["values"] if content["code"] == code_version() else {}
