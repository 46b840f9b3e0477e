"""Settings of the whole process that make the same numbers come faster. The command line makes them, once."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch

TOLERANCE = 1e-5
"""Largest error of a product that still counts as float32's own, relative to the largest entry."""
KEPT = (2**31 - 1, 2**26, 2**31 - 1)
"""glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD, in bytes: no memory goes back to the system."""


def settle_process(device: torch.device) -> None:
    """Make all settings of the process for one device: the kernels of float32 products, and memory that is kept.

    This is the only place that makes such settings. Loading a model makes none, so a program that uses this package as
    a library keeps its own.
    """
    if device.type == "cpu":
        torch.set_float32_matmul_precision(choose_kernels())
        keep_memory()
    else:
        torch.set_float32_matmul_precision("highest")


@lru_cache
def choose_kernels() -> str:
    """The faster library for float32 products if it is as exact.

    torch's precision "medium" sends float32 products to oneDNN. On some processors that is more than twice as fast at
    full precision, on others it rounds its input to bfloat16. Which of the two this processor does is measured, on
    products of the shapes that models have: precision is never given up silently.

    Returns:
        "medium" if it is exact here, else "highest"; this is also what is set.
    """
    torch.set_float32_matmul_precision("medium")
    random = torch.Generator().manual_seed(0)
    for n, inner, m in ((512, 256, 1024), (64, 2048, 512), (1, 512, 512)):
        a, b = (torch.randn(shape, generator=random) for shape in ((n, inner), (inner, m)))
        exact = a.double() @ b.double()
        if ((a @ b).double() - exact).abs().max() > TOLERANCE * exact.abs().max():
            torch.set_float32_matmul_precision("highest")
            break
    return torch.get_float32_matmul_precision()


def keep_memory() -> bool:
    """Let the process keep the memory that tensors give back.

    Every forward pass takes and gives back the same hundreds of megabytes. If glibc returns large blocks to the system
    in between, as it does by default, every page is fetched, zeroed and mapped again: a quarter of a small model's
    time.

    Returns:
        False if the C library cannot be told, because it is not glibc.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        accepted = [libc.mallopt(-1 - i, size) for i, size in enumerate(KEPT)]  # the settings are numbered -1, -2, -3
    except (OSError, AttributeError):
        return False
    return all(accepted)
