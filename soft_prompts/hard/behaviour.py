"""One behaviour through three interfaces: rows that are free, rows that are mixtures of tokens, and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

import torch

from soft_prompts.console import progress_bar
from soft_prompts.data.example import Example
from soft_prompts.engine.prompted import Bench
from soft_prompts.hard.attempt import Attempt, Search, rounds
from soft_prompts.hard.legal import Legal
from soft_prompts.hard.search import mixture, narrow, soft
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.tasks.base import Task

TICKS = 50
"""Of the progress bar."""
SOFT, MIXTURE, TEXT = "soft", "mixture", "text"
INTERFACES: dict[str, Search] = {
    SOFT: soft,
    MIXTURE: partial(mixture, temperatures=(1.0, 1.0)),  # it stays a mixture: one that sharpens comes to be a text
    TEXT: narrow,
}
"""What a prompt may be made of, from the widest to the narrowest: each holds all that stands below it."""


def searched(
    bench: Bench, task: Task, legal: Legal, search: Search, n: int, seeds: Sequence[int], passes: int, batch: int
) -> list[Attempt]:
    """Prompts of n rows with a low loss on a task's training documents, all seeds in shared forward passes.

    Args:
        bench: Model, and how documents are read.
        task: Whose loss is lowered.
        legal: The tokens that count.
        search: How it looks.
        n: Rows of a prompt.
        seeds: Of each attempt: its start, and the order of its documents.
        passes: Forward passes of one document for each attempt.
        batch: Documents in a step.

    Returns:
        The attempts, as they end.
    """

    def some_at_a_time(seed: int) -> Iterator[list[Example]]:
        examples = task.examples("train", bench.encoding, seed)
        while documents := list(islice(examples, batch)):
            yield documents

    attempts = []
    for seed in seeds:
        start = legal.random(n, torch.Generator().manual_seed(seed))
        attempts.append(Attempt(bench.model, legal, some_at_a_time(seed), start, passes, keep_last=True))
    with progress_bar(f"{n} rows, {len(seeds)} seeds", TICKS) as advance:
        shown = 0
        for _ in rounds([(search, attempt) for attempt in attempts], task, bench.token_budget):
            while shown < int(TICKS * min(attempt.done for attempt in attempts)):
                advance()
                shown += 1
    return attempts


def prompt_of(attempt: Attempt, interface: str) -> SoftPrompt:
    """What an attempt came to, as the model reads it: the rows that it ended with, or its tokens."""
    rows = attempt.embed(attempt.prompt) if interface == TEXT else attempt.rows
    return SoftPrompt(rows.detach().clone()).to(attempt.model.device)
