"""The device and the dtype that the options name."""

from __future__ import annotations

import torch

from soft_prompts.errors import SoftPromptsError


def pick_device(device: str) -> torch.device:
    """The device that a name stands for. "auto" is the GPU if there is one.

    Raises:
        SoftPromptsError: There is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise SoftPromptsError(
            f"device {device!r} cannot be used here ({first_line}); try --device cpu or --device auto."
        ) from error
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> str:
    """The dtype that a name stands for. "auto" is bfloat16 on a GPU that has it and float32 elsewhere."""
    if dtype != "auto":
        return dtype
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_bfloat16 else "float32"
