"""Where a result comes from: model, data, code, versions, device, time, memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from soft_prompts.engine.memory import MEMORY
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.stopwatch import CLOCK

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "chess", "numpy", "scipy")
"""Packages whose versions a result records."""


def provenance(model: LanguageModel, data: dict[str, Any], n_together: int) -> dict[str, Any]:
    """The record of a run's origin.

    Args:
        model: The model that was measured.
        data: What the task says of its data.
        n_together: How many runs were trained in the same forward passes.

    Returns:
        Plain JSON.
    """
    on_gpu = model.device.type == "cuda"
    cpu = f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"
    return {
        "model": model.identity(),
        "separator": model.separator,
        "data": data,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": torch.cuda.get_device_name(model.device) if on_gpu else cpu,
        "dtype": str(model.dtype).removeprefix("torch."),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "runs_together": n_together,
        **({"passes_cut_to": MEMORY.positions} if MEMORY.positions else {}),  # positions, once memory ran out
        # Of the process so far, by stage; training is that of all prompts together.
        "seconds": {stage: round(seconds, 2) for stage, seconds in CLOCK.read().items()},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(model.device) if on_gpu else _peak_memory(),
    }


def _peak_memory() -> int | None:
    """Bytes of the whole process so far; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


@lru_cache
def _commit() -> str:
    """The commit of this code, with "+" behind it if files differ from it; "unknown" outside a repository."""
    here = Path(__file__)

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # installed, this file may lie inside somebody else's repository
        head, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no", "..")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")
