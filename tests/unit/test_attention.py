"""Which kernel computes attention, and that either computes the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from soft_prompts.models.attention import SHORT
from soft_prompts.models.loading import load

FUSED = "aten::_scaled_dot_product_flash_attention_for_cpu"


def operations(read: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> set[str]:
    """What torch does while embeddings [B, n, D] are read."""
    with torch.profiler.profile() as profiler:
        read(rows)
    return {event.key for event in profiler.key_averages()}


@pytest.mark.parametrize(
    ("dtype", "with_gradient", "n", "fused"),
    [
        ("bfloat16", True, SHORT, False),
        ("bfloat16", True, SHORT + 1, True),
        ("bfloat16", False, SHORT, True),
        ("float32", True, SHORT, True),
    ],
)
def test_scores_are_written_out_in_short_rows_of_16_bits_with_a_gradient(
    dtype: str, with_gradient: bool, n: int, fused: bool
) -> None:
    model = load("pocket", dtype=dtype, device="cpu")
    rows = model.embed(torch.arange(n)[None]).requires_grad_(with_gradient)
    with torch.set_grad_enabled(with_gradient):
        for read in (model.body, model.reader()):
            assert (FUSED in operations(read, rows)) == fused


@pytest.mark.parametrize("n", [1, 30])
def test_gradients_through_written_out_scores_are_those_of_float32_as_nearly_as_through_the_fused_kernel(
    monkeypatch, n: int
) -> None:
    tokens = torch.arange(3 * n).view(3, n) + 100

    def gradient(dtype: str, short: int) -> torch.Tensor:
        monkeypatch.setattr("soft_prompts.models.attention.SHORT", short)
        model = load("pocket", dtype=dtype, device="cpu")
        rows = model.embed(tokens).float().requires_grad_()
        model.head(model.body(rows.to(model.dtype))).float().log_softmax(-1)[..., 7].sum().backward()
        return rows.grad

    exact = gradient("float32", SHORT)
    error, of_fused = ((gradient("bfloat16", short) - exact).norm() / exact.norm() for short in (SHORT, 0))
    assert error < min(0.05, 1.5 * of_fused)
