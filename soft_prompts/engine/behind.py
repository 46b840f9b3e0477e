"""Documents behind texts that people wrote: a text stands where the prompt would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import TokenScores, evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.interventions.soft_prompt import SoftPrompt


def behind_texts(bench: Bench, texts: Sequence[str]) -> tuple[TokenScores, float]:
    """Score the held-out documents of a bench, each behind a text of its own.

    Args:
        bench: Model and documents.
        texts: As many as there are documents.

    Returns:
        The scores, and the code length of a text in bits, mean over the documents: tokens x log2(V).
    """
    triggers = [tokens[1:] for tokens in bench.encoding.tokens(texts)[0]]  # without the separator
    behind = [with_text(e, trigger) for e, trigger in zip(bench.held_out, triggers, strict=True)]
    no_prompt = SoftPrompt(bench.model.vocabulary[:0].float()).to(bench.model.device)
    (scores,) = evaluate(bench.model, [no_prompt], behind, bench.token_budget)
    n_tokens = float(np.mean([len(trigger) for trigger in triggers]))
    return scores, n_tokens * float(np.log2(len(bench.model.vocabulary)))


def with_text(e: Example, text: np.ndarray) -> Example:
    """An example with tokens of a text, int [n], where its prompt would stand."""
    at = e.insert_at
    return Example(
        np.concatenate([e.tokens[:at], text, e.tokens[at:]]),
        np.concatenate([e.labels[:at], np.full(len(text), IGNORE), e.labels[at:]]),
        e.document,
    )
