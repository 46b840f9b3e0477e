"""Changes that interventions make to what a model's modules pass on, for their own rows of a batch only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from soft_prompts.interventions.base import Change, Intervention


@contextmanager
def changed(lm: PreTrainedModel, members: Iterable[tuple[Intervention, slice]]) -> Iterator[None]:
    """Forward passes within it are changed by interventions.

    A module that several of them change has one hook for all, so the time does not grow with the square of their
    number.

    Args:
        lm: The frozen model.
        members: Interventions and the rows of the batch that belong to each, ascending.
    """
    by_module: dict[nn.Module, list[tuple[slice, Change]]] = {}
    for intervention, rows in members:
        for module, change in intervention.changes(lm).items():
            by_module.setdefault(module, []).append((rows, change))
    handles = [module.register_forward_hook(_on_rows(parts)) for module, parts in by_module.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _on_rows(parts: Sequence[tuple[slice, Change]]):
    """A hook that makes changes to some rows of a module's output, or of its first output, and leaves the others."""

    def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        passed_on: Tensor = output[0] if isinstance(output, tuple) else output
        pieces, at = [], 0
        for rows, change in parts:
            own = passed_on[rows]
            pieces += [passed_on[at : rows.start], change(given[0][rows] if given else own, own)]
            at = rows.stop
        whole = torch.cat([*pieces, passed_on[at:]])
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    return hook
