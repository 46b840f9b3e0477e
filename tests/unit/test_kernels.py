import torch

from soft_prompts import kernels
from soft_prompts.kernels import choose_kernels


def product_error() -> float:
    random = torch.Generator().manual_seed(1)
    a, b = torch.randn(300, 700, generator=random), torch.randn(700, 200, generator=random)
    exact = a.double() @ b.double()
    return (((a @ b).double() - exact).abs().max() / exact.abs().max()).item()


def test_whatever_kernels_are_chosen_products_are_those_of_float32() -> None:
    choose_kernels.cache_clear()
    assert choose_kernels() in ("medium", "highest")
    assert product_error() < 1e-5


def test_kernels_that_round_are_not_taken(monkeypatch) -> None:
    """A tolerance that nothing meets stands for a processor that rounds."""
    choose_kernels.cache_clear()
    monkeypatch.setattr(kernels, "TOLERANCE", -1.0)
    assert choose_kernels() == "highest" == torch.get_float32_matmul_precision()
    monkeypatch.undo()
    choose_kernels.cache_clear()
    choose_kernels()
