"""Documents behind texts that people wrote: a text stands where the prompt would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import TokenScores
from soft_prompts.engine.prompted import Bench, unprompted


def behind_texts(bench: Bench, texts: Sequence[str]) -> tuple[TokenScores, float, float]:
    """Score the held-out documents of a bench, each behind a text of its own.

    Args:
        bench: Model and documents.
        texts: As many as there are documents.

    Returns:
        What ``behind_tokens`` returns.
    """
    return behind_tokens(bench, [tokens[1:] for tokens in bench.encoding.tokens(texts)[0]])  # without the separator


def behind_tokens(bench: Bench, texts: Sequence[np.ndarray]) -> tuple[TokenScores, float, float]:
    """Score the held-out documents of a bench, each behind tokens of its own.

    Args:
        bench: Model and documents.
        texts: int [n] each, as many as there are documents.

    Returns:
        The scores, and the length of a text in bits, mean over the documents: in a code in which every token is as
        long, tokens x log2(V), and in the model's own, -log2 of the text's probability where it stands.
    """
    alone = [text_alone(e, text) for e, text in zip(bench.held_out, texts, strict=True)]
    different = {e.tokens.tobytes(): e for e in alone}  # often all documents stand behind the same text
    nats = dict(zip(different, _scores(bench, list(different.values())).sums, strict=True))
    n_tokens = float(np.mean([len(text) for text in texts]))
    bits = n_tokens * float(np.log2(len(bench.model.vocabulary)))
    return scores_behind(bench, texts), bits, float(np.mean([nats[e.tokens.tobytes()] for e in alone]) / np.log(2))


def scores_behind(bench: Bench, texts: Sequence[np.ndarray]) -> TokenScores:
    """The scores alone of the held-out documents, each behind tokens of its own, int [n]."""
    return _scores(bench, [with_text(e, text) for e, text in zip(bench.held_out, texts, strict=True)])


def _scores(bench: Bench, examples: Sequence[Example]) -> TokenScores:
    return unprompted(bench).scores(examples)


def with_text(e: Example, text: np.ndarray) -> Example:
    """An example with tokens of a text, int [n], where its prompt would stand."""
    at = e.insert_at
    return Example(
        np.concatenate([e.tokens[:at], text, e.tokens[at:]]),
        np.concatenate([e.labels[:at], np.full(len(text), IGNORE), e.labels[at:]]),
        e.document,
    )


def text_alone(e: Example, text: np.ndarray) -> Example:
    """Tokens of a text, int [n], scored where an example's prompt would stand, behind what comes before it."""
    before = e.tokens[: e.insert_at]
    labels = np.concatenate([np.full(len(before), IGNORE), text])
    return Example(np.concatenate([before, text]), labels, e.document)
