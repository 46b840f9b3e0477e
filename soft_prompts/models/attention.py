"""Which of torch's kernels compute attention."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

SHORT = 192
"""Positions read at once up to which scores are written out. At 256 the fused kernel is as fast or faster again."""


def quick_attention(rows: Tensor) -> AbstractContextManager[None]:
    """The faster kernel for a pass, for as long as the context lasts; backward uses the one that forward used.

    On a processor, the backward pass of torch's fused attention is slow in 16 bits: 5 to 14 times as slow as forward,
    where it is 2 times as slow in float32. Written out, scores and all, forward and backward of 4 rows of 189 positions
    (9 heads of 64, bfloat16, one core with AMX) took 15 ms instead of 26, and a step of SmolLM2 5.4 s instead of 7.2.
    In float32 and without gradients the fused kernel is as fast or faster. Scores take memory: 1.2 GB in a pass of 28
    rows of 144 through SmolLM2. The rule depends on nothing that is timed, so equal commands give equal numbers.

    Args:
        rows: Embeddings [B, n, D] of the positions that are read.
    """
    is_slow = rows.device.type == "cpu" and rows.dtype.itemsize == 2 and torch.is_grad_enabled()
    return sdpa_kernel(SDPBackend.MATH) if is_slow and rows.shape[1] <= SHORT else nullcontext()
