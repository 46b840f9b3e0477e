"""The cache of parsed data: numpy arrays and a few facts in one file, with a digest over both.

A cache file is a safetensors file. Its name is a hash of the request, so different requests never share a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soft_prompts.console import warn
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically


def cache_path(folder: Path, kind: str, wanted: Sequence[Any]) -> Path:
    """Where data is kept.

    Args:
        folder: The folder of the cache.
        kind: One word for what the data is. It becomes a part of the file's name.
        wanted: Everything that the data depends on, as values that JSON can hold.
    """
    name = hashlib.blake2b(json.dumps(wanted).encode(), digest_size=16).hexdigest()
    return folder / f"{name}.{kind}.safetensors"


def load_cached(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Data that was kept before.

    Args:
        path: The file, from ``cache_path``.

    Returns:
        The arrays and the facts that ``save_cached`` was given. None if the file is missing. None, too, if it cannot be
        read or is damaged; a warning then says so.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            kept = json.loads(file.metadata()["kept"])
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        facts = kept["facts"]
        if kept["digest"] == _digest(arrays, facts):
            return arrays, facts
        reason = "its checksum is wrong"
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    warn(f"the cache file {path} is damaged ({reason}); the data is read anew and the file replaced.")
    return None


def save_cached(path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Keep data for the next time. If the file cannot be written, a warning says so and nothing else happens.

    Args:
        path: The file, from ``cache_path``. It is written whole or not at all.
        arrays: The data, of any shapes and dtypes.
        facts: What else belongs to the data, as values that JSON can hold.
    """
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # A single entry, because safetensors writes several in any order: the same data must give the same file.
    kept = json.dumps({"facts": facts, "digest": _digest(contiguous, facts)})
    try:
        write_atomically(path, save(contiguous, metadata={"kept": kept}))
    except SoftPromptsError as error:
        warn(f"the data could not be kept in the cache {path.parent}: {error}")


def _digest(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> str:
    """32 hex digits over the facts and over the arrays: their names, dtypes, shapes and values."""
    digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
