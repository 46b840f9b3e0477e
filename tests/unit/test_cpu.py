"""Kernels of float32 products, and memory that stays with the process."""

import subprocess
import sys

import pytest
import torch

from soft_prompts.models import cpu
from soft_prompts.models.cpu import choose_kernels, keep_memory


def product_error() -> float:
    """The largest error of a float32 product, relative to the largest entry."""
    random = torch.Generator().manual_seed(1)
    a, b = torch.randn(300, 700, generator=random), torch.randn(700, 200, generator=random)
    exact = a.double() @ b.double()
    return (((a @ b).double() - exact).abs().max() / exact.abs().max()).item()


def test_whatever_kernels_are_chosen_products_are_those_of_float32() -> None:
    choose_kernels.cache_clear()
    assert choose_kernels() in ("medium", "highest")
    assert product_error() < 1e-5


def test_kernels_that_round_are_not_taken(monkeypatch) -> None:
    """The tolerance is one that no product meets, as if this processor rounded."""
    choose_kernels.cache_clear()
    monkeypatch.setattr(cpu, "TOLERANCE", -1.0)
    assert choose_kernels() == "highest" == torch.get_float32_matmul_precision()
    monkeypatch.undo()
    choose_kernels.cache_clear()
    choose_kernels()


TAKE_AND_GIVE_BACK = """
import os, pathlib, torch
from soft_prompts.models.cpu import keep_memory

def remains():
    def resident():
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    before = resident()
    torch.ones(2**24).sum()
    return resident() - before

print(remains(), keep_memory(), remains())
"""


@pytest.mark.skipif(not keep_memory(), reason="no glibc here")
def test_memory_that_is_given_back_stays_with_the_process_when_it_is_kept() -> None:
    """64 MiB are taken and given back. Their pages leave a fresh process, and remain once it keeps its memory."""
    said = subprocess.run([sys.executable, "-c", TAKE_AND_GIVE_BACK], capture_output=True, text=True, check=True)
    returned, told, kept = said.stdout.split()
    assert told == "True"
    assert int(returned) < 2**25 < int(kept)
