"""One behaviour through three interfaces: rows that are free, rows that are mixtures of tokens, and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Effort:
    """What a search may spend."""

    seeds: Sequence[int]
    """One for each attempt: of its start, and of the order of its documents."""
    passes: int
    """Forward passes of one document for each attempt."""
    batch: int
    """Documents in a step."""


def searched(bench: Bench, task: Task, legal: Legal, search: Search, n: int, effort: Effort) -> list[Attempt]:
    """Prompts of n rows with a low loss on a task's training documents, all seeds in shared forward passes.

    Args:
        bench: Model, and how documents are read.
        task: Whose loss is lowered.
        legal: The tokens that count.
        search: How it looks.
        n: Rows of a prompt.
        effort: How often it tries, and how long.

    Returns:
        The attempts, as they end.
    """

    def some_at_a_time(seed: int) -> Iterator[list[Example]]:
        examples = task.examples("train", bench.encoding, seed)
        while documents := list(islice(examples, effort.batch)):
            yield documents

    attempts = []
    for seed in effort.seeds:
        start = legal.random(n, torch.Generator().manual_seed(seed))
        attempts.append(Attempt(bench.model, legal, some_at_a_time(seed), start, effort.passes, keep_last=True))
    with progress_bar(f"{n} rows, {len(effort.seeds)} seeds", TICKS) as advance:
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
