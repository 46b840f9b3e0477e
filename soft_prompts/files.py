"""Files: written whole or not at all, and recognised by their content."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from soft_prompts.errors import SoftPromptsError

_MIB = 2**20
_LEFT_OVER = 3600
"""Seconds after which a temporary file is what a killed process left."""
_LONGEST = 100
"""Characters of a file's name that come from outside."""


def safe_name(text: str) -> str:
    """Any text as one part of a path: it leads nowhere else, and a file system takes it."""
    return re.sub(r"[^\w.@-]+", "--", text)[:_LONGEST].lstrip(".") or "-"


def write_atomically(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step: a crash or a full disk leaves what was there before.

    Raises:
        SoftPromptsError: The file system refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_left_over(path)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise SoftPromptsError(
            f"could not write {path} ({error.strerror}): free some space or choose another folder with --out, then run "
            f"again; finished runs are kept."
        ) from error


def checksum(arrays: Mapping[str, np.ndarray], words: Mapping[str, str]) -> str:
    """32 hex digits over named arrays and words: a flipped bit of a file that holds them changes it."""
    digest = hashlib.blake2b(repr(sorted(words.items())).encode(), digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _clear_left_over(path: Path) -> None:
    """Remove temporary files of this name that a kill left."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):  # somebody else may have removed it
            if time.time() - left.lstat().st_mtime > _LEFT_OVER:
                left.unlink()


def fingerprint(path: Path) -> str:
    """16 hex digits over a file's size and its first and last MiB, or over those of a folder's files: quick for 30 GB,
    too.

    A folder's descriptions (.md) do not count.
    """
    digest = hashlib.blake2b(digest_size=8)
    inside = sorted(p for p in path.iterdir() if p.is_file() and p.suffix != ".md") if path.is_dir() else [path]
    for file in inside:
        size = file.stat().st_size
        digest.update(f"{file.name if path.is_dir() else ''}:{size}:".encode())
        with file.open("rb") as content:
            digest.update(content.read(_MIB))
            content.seek(max(0, size - _MIB))
            digest.update(content.read(_MIB))
    return digest.hexdigest()
