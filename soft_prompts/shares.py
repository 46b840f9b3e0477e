"""How the runs of a sweep are shared out to processes: by what they cost, the costliest first."""

from __future__ import annotations

from collections.abc import Sequence

from soft_prompts.training.run import Run

BACKWARD = 2
"""What a backward pass costs, in forward passes. Weights get no gradients, so it costs about as much as one."""


def cost(run: Run) -> int:
    """The positions that a run computes, backward ones included: documents at their longest, and its prompt."""
    recipe = run.recipe
    looks = (recipe.n_evaluations + 2 if run.n_tokens else 1) * recipe.validation_documents + recipe.eval_documents
    trained = recipe.steps * recipe.batch_size if run.n_tokens else 0
    return (recipe.max_tokens + run.n_tokens) * (BACKWARD * trained + looks)


def times(group: Sequence[Run], others: Sequence[Run]) -> float:
    """How much more work other runs are than those of a group, in multiples of it."""
    return sum(map(cost, others)) / sum(map(cost, group))


def shares(runs: Sequence[Run], n: int) -> list[list[Run]]:
    """Runs shared out to ``n`` processes: each, from the costliest on, goes to the process that has least to do.

    Returns:
        The runs of each process, in the order that they were given in.
    """
    loads, of = [0] * n, {}
    for run in sorted(runs, key=cost, reverse=True):
        least = loads.index(min(loads))
        loads[least] += cost(run)
        of[run.path] = least
    return [[run for run in runs if of[run.path] == number] for number in range(n)]
