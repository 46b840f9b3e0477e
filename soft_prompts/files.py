"""Files: written whole or not at all, and recognised by their content."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from soft_prompts.errors import SoftPromptsError

_LEFT_OVER = 3600
"""Seconds after which a temporary file is what a killed process left."""
_LARGE = 2**28
"""Bytes of a file that takes longer to read than to look up."""
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
    # Not the process's number: two machines that share the folder may have the same.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
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


def check_writable(folders: Sequence[Path]) -> None:
    """Write a small file into each folder and remove it, so that what is wrong with one is known before hours of work.

    Raises:
        SoftPromptsError: A folder cannot be made or written to.
    """
    for folder in folders:
        probe = folder / f".probe-{os.getpid()}"
        write_atomically(probe, b"may be removed")
        probe.unlink(missing_ok=True)


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


class Fingerprints:
    """What files hold, in 16 hex digits each. All of a file is read, but once while its size and time stay the same."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        """Where those of large files are kept for the next command; None: nowhere."""
        self._known: dict[tuple[str, int, int], str] = {}

    def of(self, file: Path) -> str:
        """The fingerprint of one file."""
        now = file.stat()
        key = (str(file.resolve()), now.st_size, now.st_mtime_ns)
        if key not in self._known:
            self._known[key] = self._kept(file, key) if self.folder and now.st_size >= _LARGE else _read_through(file)
        return self._known[key]

    def _kept(self, file: Path, key: tuple[str, int, int]) -> str:
        name = hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()  # the path itself is nobody's business
        kept = self.folder / f"fingerprint-{name}.txt"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if re.fullmatch("[0-9a-f]{16}", text := kept.read_text()):
                return text
        text = _read_through(file)
        write_atomically(kept, text.encode())
        return text


FINGERPRINTS = Fingerprints()
"""Those that this process knows."""


def fingerprint(path: Path) -> str:
    """16 hex digits over all of a file, or over the names and contents of a folder's files.

    A folder's descriptions (.md) do not count.
    """
    if not path.is_dir():
        return FINGERPRINTS.of(path)
    inside = sorted(p for p in path.iterdir() if p.is_file() and p.suffix != ".md")
    words = "".join(f"{file.name}:{FINGERPRINTS.of(file)}:" for file in inside)
    return hashlib.blake2b(words.encode(), digest_size=8).hexdigest()


def _read_through(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
