"""How exactly must a prompt be said? Its rows are moved by noise, left out or shuffled, and the loss it then has is
measured.

Noise of size s moves each row by about s times its own norm, so sizes mean the same in every model and at every length.
All sizes share their draws: a draw of size 2 s lies on the same line as that of size s, twice as far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soft_prompts.data.example import Example
from soft_prompts.engine.evaluate import TokenScores, evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.interventions.base import Intervention
from soft_prompts.interventions.perturbed import Perturbed

SIZES = tuple(2.0**i for i in range(-4, 3))
"""Of the noise, in units of each row's norm: 0.06 to 4."""
DRAWS = 4
"""At every size."""
CHECKED = 32
"""Held-out documents on which perturbed prompts are measured, at most."""
SLOPED, SLOPED_DRAWS = 8, 2
"""On how many of those documents, and in how many draws, gradients are measured: they take three times as long."""
LEFT_OUT = (0.25, 0.5, 0.75)
"""Shares of the tokens that are left out."""
STEP = 1 / 16
"""Of the second differences, in units of the prompt's norm."""


@dataclass(frozen=True)
class Change:
    """One way to change a prompt of P tokens."""

    offset: Tensor
    """[P, D], in units of each row's norm over sqrt(D)."""
    order: tuple[int, ...]
    """Which tokens are inserted, and in which order."""


def fragility(
    bench: Bench,
    prompt: Intervention,
    give_gradients: Callable[[Sequence[Intervention], Sequence[Example]], object],
) -> dict[str, Any] | None:
    """How a finished prompt bears small changes.

    Args:
        bench: The model and the held-out documents.
        prompt: Soft prompt or generator. It stays as it is.
        give_gradients: Gives the parameters of interventions the gradients of their mean losses on some examples.

    Returns:
        What a result records under "fragility"; None for a prompt of no tokens.
    """
    if not prompt.n_tokens:
        return None
    model, documents = bench.model, [e for e in bench.held_out if e.n_scored][:CHECKED]

    def changed(changes: Sequence[Change]) -> list[Perturbed]:
        return [Perturbed(prompt, c.offset.to(model.device), c.order) for c in changes]

    def scores(changes: Sequence[Change]) -> list[TokenScores]:
        return evaluate(model, changed(changes), documents, bench.token_budget)

    def gradients(changes: Sequence[Change]) -> list[Tensor]:
        moved = changed(changes)
        give_gradients(moved, documents[:SLOPED])
        return [one.offset.grad.cpu() for one in moved]

    return under_changes((prompt.n_tokens, model.vocabulary.shape[1]), scores, gradients)


def under_changes(
    shape: tuple[int, int],
    scores: Callable[[Sequence[Change]], list[TokenScores]],
    gradients: Callable[[Sequence[Change]], list[Tensor]],
) -> dict[str, Any]:
    """The probe for anything that has a loss and a gradient.

    Args:
        shape: P and D.
        scores: Of some changes.
        gradients: Of the loss in the offset, [P, D] each, of some changes.

    Returns:
        As ``fragility``.
    """
    n_tokens, width = shape
    random = torch.Generator().manual_seed(0)
    noise = torch.randn((DRAWS, *shape), generator=random)
    order, nothing = tuple(range(n_tokens)), torch.zeros(shape)
    unmoved = Change(nothing, order)
    whole = (n_tokens * width) ** 0.5  # the norm of an offset that moves the prompt by its own norm

    def slope_of(of_draws: Sequence[Tensor]) -> float:
        """Norm of the gradient, nats by the prompt's norm, averaged."""
        return float(np.mean([g.norm().item() for g in of_draws])) * whole

    def level(size: float) -> dict[str, Any]:
        changes = [Change(size * draw, order) for draw in noise]
        return {"size": size, "slope": slope_of(gradients(changes[:SLOPED_DRAWS])), **_averaged(scores(changes))}

    def without(share: float) -> dict[str, Any]:
        n_kept = n_tokens - round(share * n_tokens)
        kept = [torch.randperm(n_tokens, generator=random)[:n_kept].sort().values for _ in range(DRAWS)]
        return {"share": share, **_averaged(scores([Change(nothing, tuple(k.tolist())) for k in kept]))}

    (gradient,) = gradients([unmoved])
    (before,) = scores([unmoved])
    shuffled = [tuple(torch.randperm(n_tokens, generator=random).tolist()) for _ in range(DRAWS)]

    def curvature(directions: Sequence[Tensor]) -> float:
        """Second differences, nats by the prompt's squared norm, averaged."""
        steps = [STEP * whole * d / d.norm().clamp_min(1e-30) for d in directions]
        around = scores([Change(sign * step, order) for step in steps for sign in (1, -1)])
        return float(np.mean([(s.loss - before.loss) / STEP**2 for s in around]) * 2)

    return {
        "draws": DRAWS,
        "documents": before.documents,
        "unmoved": {"slope": slope_of([gradient]), **_averaged([before])},
        "noise": [level(size) for size in SIZES],
        "left_out": [without(share) for share in LEFT_OUT if 0 < round(share * n_tokens) < n_tokens],
        "shuffled": _averaged(scores([Change(nothing, o) for o in shuffled])) if n_tokens > 1 else None,
        "curvature": {"random": curvature(list(noise)), "gradient": curvature([gradient])},
    }


def _averaged(of_draws: Sequence[TokenScores]) -> dict[str, Any]:
    """Loss, share of first choices that are right, and nats by document, averaged over draws."""
    correct = [np.concatenate(s.correct).mean() for s in of_draws]
    return {
        "loss": float(np.mean([s.loss for s in of_draws])),
        "accuracy": float(np.mean(correct)),
        "document_losses": np.mean([s.sums for s in of_draws], axis=0).round(4).tolist(),
    }
