"""The device and the dtype that the options name."""

from __future__ import annotations

import torch

from soft_prompts.errors import SoftPromptsError
from soft_prompts.processes import local_rank


def pick_device(device: str) -> torch.device:
    """The device that a name stands for. "auto" is the GPU if there is one; of several processes on a machine, each has
    its own.

    Raises:
        SoftPromptsError: There is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and torch.cuda.is_available():
        device = f"cuda:{local_rank() % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise SoftPromptsError(
            f"device {device!r} cannot be used here ({first_line}); try --device cpu or --device auto."
        ) from error
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> str:
    """The dtype that a name stands for. "auto" is bfloat16 on a device that multiplies it natively, else float32.

    A processor is asked what it can do, not timed: the dtype is part of what a result is, so it must not depend on what
    else the machine is busy with.
    """
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        can = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        native = any(can.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return "bfloat16" if native else "float32"
