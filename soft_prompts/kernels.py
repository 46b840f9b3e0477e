"""What makes the same numbers come sooner on a CPU: kernels for matrix products, and memory that is kept."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch

TOLERANCE = 1e-5
"""Largest error of a product that still counts as float32's own, relative to the largest entry."""
KEPT = (2**31 - 1, 2**26, 2**31 - 1)
"""glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD, in bytes: nothing goes back to the system."""


@lru_cache
def choose_kernels() -> str:
    """Take the faster library for float32 products where it is as exact; "medium" if it was taken, else "highest".

    torch's precision "medium" sends float32 products to oneDNN, which on some processors is more than twice as fast at full
    precision and on others rounds its input to bfloat16. Which of the two this processor does is measured, on products of
    the shapes that models have: precision is never given up silently.
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
    """Let the process keep the memory that tensors give back; False where the C library cannot be told (it is not glibc).

    Every pass takes and gives back the same hundreds of megabytes. Returned to the system in between, as glibc does with large
    blocks, every page is fetched, zeroed and mapped again, which costs a small model a quarter of its time.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        told = [libc.mallopt(-1 - i, size) for i, size in enumerate(KEPT)]  # numbered -1, -2, -3
    except (OSError, AttributeError):
        return False
    return all(told)
