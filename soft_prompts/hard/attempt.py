"""One search for a prompt of text: its texts, what it has spent, the best prompt so far; and many searches together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from soft_prompts.data.example import Example
from soft_prompts.engine.evaluate import score_rows
from soft_prompts.hard.legal import Legal
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.tasks.base import Task
from soft_prompts.training.loop import accumulate_gradients

FOR_A_GRADIENT = 3
"""A pass with its gradient counts as so many forward passes: going back is twice the work (Kaplan et al. 2020, arXiv
2001.08361, section 2.1)."""


@dataclass(frozen=True)
class Slope:
    """A search asks for the loss behind embeddings and its gradient. The answer: nats per scored token, and [n, D]."""

    rows: Tensor
    """float32 [n, D]"""


@dataclass(frozen=True)
class Losses:
    """A search asks for the losses behind prompts of tokens. The answer: nats per scored token, float64 [B]."""

    prompts: Tensor
    """int64 [B, n]"""


class Attempt:
    """What one search works on, and what it has found."""

    def __init__(
        self,
        model: LanguageModel,
        legal: Legal,
        batches: Iterator[Sequence[Example]],
        start: Tensor,
        passes: int,
        seed: int = 0,
        keep_last: bool = False,
    ):
        """
        Args:
            model: The frozen model.
            legal: What a prompt may say.
            batches: The texts that it must make likely: the same for each step, or others.
            start: int64 [n], a prompt that survives.
            passes: Forward passes of one text that may be spent; one with its gradient counts as FOR_A_GRADIENT.
            seed: Source of the search's chance.
            keep_last: Keep the prompt and the embeddings that were noted last, not those of the lowest loss: losses of
                different texts do not compare.
        """
        self.model, self.legal, self._batches, self.start, self.passes = model, legal, batches, start, passes
        self._keep_last = keep_last
        self.random = torch.Generator().manual_seed(seed)
        self.examples = next(batches)
        """The batch that asks are answered on."""
        self.spent = 0
        self.loss, self.prompt = np.inf, start
        """The lowest loss noted, and the prompt that has it."""
        self.soft_loss, self.rows = np.inf, self.embed(start)
        """The lowest loss of embeddings that need not be tokens, and those embeddings, float32 [n, D]."""
        self.history: list[tuple[int, float]] = []
        """Passes spent, and the lowest loss by then, whenever it fell."""

    @property
    def left(self) -> bool:
        """Whether passes are left."""
        return self.spent < self.passes

    @property
    def affordable(self) -> int:
        """How many prompts can still be looked at."""
        return max(0, self.passes - self.spent) // len(self.examples)

    @property
    def done(self) -> float:
        """Share of the passes that is spent."""
        return min(1.0, self.spent / self.passes)

    def turn(self) -> None:
        """Go on to the next batch."""
        self.examples = next(self._batches)

    def embed(self, prompts: Tensor) -> Tensor:
        """Tokens [..., n] as the model reads them, float32 [..., n, D]."""
        return self.legal.rows[prompts]

    def note(self, loss: float, prompt: Tensor) -> None:
        """Keep a prompt if it is the best so far and survives: its text is read back as the same tokens."""
        if (loss < self.loss or self._keep_last) and self.legal.survives(prompt[None])[0]:
            self.loss, self.prompt = loss, prompt.clone()
            self.history.append((self.spent, loss))

    def note_soft(self, loss: float, rows: Tensor) -> None:
        """Keep embeddings if their loss is the lowest so far."""
        if loss < self.soft_loss or self._keep_last:
            self.soft_loss, self.rows = loss, rows


Asking = Generator["Slope | Losses", "tuple[float, Tensor] | Tensor", None]
Search = Callable[[Attempt, Tensor], Asking]
"""Begins at a prompt that survives, int64 [n], asks, and goes on with the answers, until the attempt's passes are
spent. What is good on the way, it notes."""


def rounds(searches: Sequence[tuple[Search, Attempt]], task: Task, token_budget: int) -> Iterator[None]:
    """Run searches side by side: what they ask for at a time is computed in shared forward passes.

    Args:
        searches: Each search and its attempt, which holds what was found when all are done; of one model.
        task: Whose loss is taken.
        token_budget: Positions in one pass at most.

    Yields:
        After every round of asks and answers.
    """
    asking = [(search(attempt, attempt.start), attempt) for search, attempt in searches]
    pending = [(generator, attempt, ask) for generator, attempt in asking if (ask := next(generator, None))]
    while pending:
        slopes = [(a, ask) for _, a, ask in pending if isinstance(ask, Slope)]
        losses = [(a, ask) for _, a, ask in pending if isinstance(ask, Losses)]
        answers = iter([*_slopes(slopes, task, token_budget), *_losses(losses, token_budget)])
        in_order = [p for kind in (Slope, Losses) for p in pending if isinstance(p[2], kind)]
        pending = []
        for generator, attempt, _ in in_order:
            try:
                pending.append((generator, attempt, generator.send(next(answers))))
            except StopIteration:
                continue
        yield


def _slopes(asked: Sequence[tuple[Attempt, Slope]], task: Task, token_budget: int) -> list[tuple[float, Tensor]]:
    if not asked:
        return []
    model = asked[0][0].model
    prompts = [SoftPrompt(ask.rows).to(model.device) for _, ask in asked]
    examples = [attempt.examples for attempt, _ in asked]
    losses = accumulate_gradients(model, task, prompts, examples, token_budget).tolist()
    for attempt, _ in asked:
        attempt.spent += FOR_A_GRADIENT * len(attempt.examples)
    return [(loss, prompt.rows.grad) for loss, prompt in zip(losses, prompts, strict=True)]  # type: ignore[misc]


def _losses(asked: Sequence[tuple[Attempt, Losses]], token_budget: int) -> list[Tensor]:
    if not asked:
        return []
    model = asked[0][0].model
    behind = [SoftPrompt(rows) for attempt, ask in asked for rows in attempt.embed(ask.prompts)]
    examples = [attempt.examples for attempt, ask in asked for _ in ask.prompts]
    found = score_rows(model, behind, examples, token_budget)
    means = [sum(x.sum(dtype=np.float64) for x, _ in of_one) / sum(len(x) for x, _ in of_one) for of_one in found]
    sizes = [len(ask.prompts) for _, ask in asked]
    for (attempt, _), size in zip(asked, sizes, strict=True):
        attempt.spent += size * len(attempt.examples)
    return list(torch.tensor(means, dtype=torch.float64).split(sizes))
