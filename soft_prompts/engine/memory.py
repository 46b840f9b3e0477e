"""When a forward pass does not fit into the memory: passes become smaller, and the work is done again."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from soft_prompts.console import warn
from soft_prompts.errors import SoftPromptsError

Done = TypeVar("Done")

FEWEST = 64
"""Positions in one pass, below which halving is given up: passes hold a single text by then."""
_SIGNS = ("can't allocate memory", "out of memory", "bad_alloc", "could not create a memory", "create a primitive")
"""What torch and its libraries say on a processor, where they have no error of their own for it."""


class Memory:
    """How many positions one pass may have, as far as running out of memory has shown."""

    def __init__(self) -> None:
        self.positions: int | None = None
        """None: it never ran out."""

    def allowed(self, token_budget: int) -> int:
        """A token budget, or what fits if that is less."""
        return min(token_budget, self.positions or token_budget)

    def halve(self, token_budget: int) -> None:
        """From now on passes have half as many positions as now.

        Raises:
            SoftPromptsError: Passes hold a single text already.
        """
        now = self.allowed(token_budget)
        if now // 2 < FEWEST:
            raise SoftPromptsError(
                "the memory does not hold the model and one text at a time; use a smaller model, --dtype bfloat16, "
                "fewer --train.max-tokens, shorter --n-tokens, or a device with more memory."
            )
        self.positions = now // 2
        warn(
            f"out of memory: passes have at most {self.positions:,} positions from now on, instead of {now:,}. No loss "
            f"depends on it (--token-budget {self.positions} starts so)."
        )


MEMORY = Memory()
"""That of this process."""


def within_memory(work: Callable[[], Done], token_budget: int, undo: Callable[[], None] = lambda: None) -> Done:
    """Do work that makes forward passes; after running out of memory once more, with smaller passes.

    Args:
        work: What is done. It packs its passes anew each time.
        token_budget: Positions in one of its passes at most.
        undo: Takes back what a part of the work has left, before the next try.

    Returns:
        What the work returns.

    Raises:
        SoftPromptsError: Not even one text fits.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        # Out here the error is gone, and with it the frames that hold the tensors of the pass that failed.
        MEMORY.halve(token_budget)
        undo()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    words = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in words for sign in _SIGNS)
