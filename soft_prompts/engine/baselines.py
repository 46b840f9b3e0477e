"""Data baselines: what predictors that know only the training documents reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from soft_prompts.data.example import IGNORE, Example


def baselines(training: Sequence[Example], held_out: Sequence[Example], n_vocabulary: int) -> dict[str, float]:
    """Held-out nats per scored token of two predictors that read nothing.

    Args:
        training: Documents whose scored tokens are counted.
        held_out: Documents that are predicted.
        n_vocabulary: V.

    Returns:
        "uniform": ln V. "unigram": the frequencies of the tokens scored in ``training``, with add-one smoothing
            (Laplace).
    """
    counts = np.ones(n_vocabulary)
    for e in training:
        np.add.at(counts, e.labels[e.labels != IGNORE], 1)
    nats = -np.log(counts / counts.sum())
    wanted = np.concatenate([e.labels[e.labels != IGNORE] for e in held_out])
    return {"uniform": float(np.log(n_vocabulary)), "unigram": float(nats[wanted].mean())}
