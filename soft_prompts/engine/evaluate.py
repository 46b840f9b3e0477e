"""Held-out evaluation: the loss of every scored token, by document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from soft_prompts.data.example import Example
from soft_prompts.engine.forward import forward_pass, pack
from soft_prompts.engine.loss import score_tokens
from soft_prompts.engine.memory import within_memory
from soft_prompts.interventions.base import Intervention
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.processes import ALONE, Crew


@dataclass(frozen=True)
class TokenScores:
    """Held-out scores of one intervention, by document and scored token (in the order of the example's positions)."""

    documents: list[str]
    """Identity of each document."""
    losses: list[np.ndarray]
    """Nats of each document's scored tokens, float32 [n scored]."""
    correct: list[np.ndarray]
    """Whether the wanted token was the most likely one, bool [n scored]."""

    @property
    def sums(self) -> np.ndarray:
        """Nats of each document, float64 [documents]."""
        return np.array([x.sum(dtype=np.float64) for x in self.losses])

    @property
    def counts(self) -> np.ndarray:
        """Scored tokens of each document, int [documents]."""
        return np.array([len(x) for x in self.losses])

    @property
    def loss(self) -> float:
        """Nats per scored token."""
        return float(self.sums.sum() / self.counts.sum())


def evaluate(
    model: LanguageModel,
    interventions: Sequence[Intervention],
    examples: Sequence[Example],
    token_budget: int,
    crew: Crew = ALONE,
) -> list[TokenScores]:
    """Score every intervention on the same examples.

    Args:
        model: The frozen model.
        interventions: What is scored.
        examples: The documents.
        token_budget: Positions in one forward pass at most. No result depends on it.
        crew: The processes that do this together: each scores a part of the examples.

    Returns:
        The scores of each intervention, in every process.
    """
    own = crew.part(range(len(examples)), lambda i: len(examples[i]))
    parts = [examples[i] for i in own]
    of_own = score_rows(model, interventions, [parts] * len(interventions), token_budget)
    losses, correct = ([[np.empty(0)] * len(examples) for _ in interventions] for _ in range(2))
    for r, of_run in enumerate(of_own):
        for i, (row_losses, row_correct) in zip(own, of_run, strict=True):
            losses[r][i], correct[r][i] = row_losses, row_correct
    if crew.size > 1:
        wide = np.float64 if model.dtype == torch.float64 else np.float32
        losses, correct = _from_all(losses, examples, crew, wide), _from_all(correct, examples, crew, np.bool_)
    documents = [e.document for e in examples]
    return [TokenScores(documents, x, y) for x, y in zip(losses, correct, strict=True)]


def score_rows(
    model: LanguageModel,
    interventions: Sequence[Intervention],
    examples: Sequence[Sequence[Example]],
    token_budget: int,
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Score every intervention on examples of its own.

    Args:
        model: The frozen model.
        interventions: What is scored.
        examples: ``examples[r]`` are those of ``interventions[r]``.
        token_budget: Positions in one forward pass at most.

    Returns:
        [run][example]: nats of its scored tokens, float32 [n scored], and whether each was the most likely, bool.
    """
    return within_memory(lambda: _pass_by_pass(model, interventions, examples, token_budget), token_budget)


@torch.no_grad()
def _pass_by_pass(
    model: LanguageModel,
    interventions: Sequence[Intervention],
    examples: Sequence[Sequence[Example]],
    token_budget: int,
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    scores = [[(np.empty(0), np.empty(0))] * len(of_run) for of_run in examples]
    for rows in pack(interventions, examples, token_budget):
        states = forward_pass(model, interventions, examples, rows)
        ends = np.cumsum(states.counts)[:-1]
        by_row = (np.split(x.cpu().numpy(), ends) for x in score_tokens(model.head, states.hidden, states.labels))
        for (r, i), *of_row in zip(rows, *by_row, strict=True):
            scores[r][i] = tuple(of_row)
    return scores


def _from_all(
    of_runs: list[list[np.ndarray]], examples: Sequence[Example], crew: Crew, dtype: type
) -> list[list[np.ndarray]]:
    """What all processes of a crew know of the scored tokens: [run][example], each [n scored] or, if unknown here,
    empty."""
    counts = [e.n_scored for e in examples]
    known = [np.zeros(n) if len(x) < n else x for of_run in of_runs for x, n in zip(of_run, counts, strict=True)]
    tensor = torch.from_numpy(np.concatenate([np.empty(0), *known]))  # float64: sums with zeros are exact
    crew.add_up([tensor])
    pieces = np.split(tensor.numpy().astype(dtype), np.cumsum(counts * len(of_runs))[:-1])
    return [pieces[i : i + len(counts)] for i in range(0, len(pieces), len(counts))]
