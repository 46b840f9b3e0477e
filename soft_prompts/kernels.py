"""Which kernels compute the matrix products on a CPU."""

from __future__ import annotations

from functools import lru_cache

import torch

TOLERANCE = 1e-5
"""Largest error of a product that still counts as float32's own, relative to the largest entry."""


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
