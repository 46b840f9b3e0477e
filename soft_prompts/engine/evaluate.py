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
    model: LanguageModel, interventions: Sequence[Intervention], examples: Sequence[Example], token_budget: int
) -> list[TokenScores]:
    """Score every intervention on the same examples.

    Args:
        model: The frozen model.
        interventions: What is scored.
        examples: The documents.
        token_budget: Positions in one forward pass at most. No result depends on it.

    Returns:
        The scores of each intervention.
    """
    return within_memory(lambda: _evaluated(model, interventions, examples, token_budget), token_budget)


@torch.no_grad()
def _evaluated(
    model: LanguageModel, interventions: Sequence[Intervention], examples: Sequence[Example], token_budget: int
) -> list[TokenScores]:
    losses, correct = ([[np.empty(0)] * len(examples) for _ in interventions] for _ in range(2))
    of_each = [examples] * len(interventions)
    for rows in pack(interventions, of_each, token_budget):
        states = forward_pass(model, interventions, of_each, rows)
        ends = np.cumsum(states.counts)[:-1]
        by_row = (np.split(x.cpu().numpy(), ends) for x in score_tokens(model.head, states.hidden, states.labels))
        for (r, i), row_losses, row_correct in zip(rows, *by_row, strict=True):
            losses[r][i], correct[r][i] = row_losses, row_correct
    documents = [e.document for e in examples]
    return [TokenScores(documents, x, y) for x, y in zip(losses, correct, strict=True)]
