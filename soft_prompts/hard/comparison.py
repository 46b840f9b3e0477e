"""Prompts of text for completions: several searches from the same starts, with the same number of forward passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import torch

from soft_prompts.console import progress_bar
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import score_rows
from soft_prompts.engine.forward import usual_budget
from soft_prompts.errors import SoftPromptsError
from soft_prompts.hard.attempt import Attempt, Search, rounds
from soft_prompts.hard.legal import Legal
from soft_prompts.hard.search import gcg, mixture, narrow, projected, soft, then
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.tasks.base import Task

TICKS = 50
"""Of the progress bar."""
SOFT, GCG = "soft, nearest tokens", "GCG"
METHODS: dict[str, Search] = {
    SOFT: soft,
    "projected": projected,
    "mixture": mixture,
    GCG: gcg,
    "GCG of width 64": partial(gcg, width=64),
    "soft, then GCG": then(soft, partial(gcg, width=64), 0.25),
    "narrow": narrow,
    # Projection falls first and is soon at its end. Then many small steps are best, which need not go down.
    "projected, then GCG": then(projected, partial(gcg, width=64), 0.1),
}
"""Rates, widths and shares were chosen on pocket with strings that are no targets."""


@dataclass(frozen=True)
class Target:
    """What a prompt must bring about: one completion or several, which are scored each by itself."""

    completions: tuple[str, ...]
    random: bool = False
    """Whether it is a control: random tokens, as many."""

    def examples(self, model: LanguageModel) -> list[Example]:
        """Separator, prompt, completion; the completion's tokens are scored.

        Raises:
            SoftPromptsError: A completion has no tokens.
        """
        made = []
        for text in self.completions:
            ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
            if not ids:
                raise SoftPromptsError(f"the target {text!r} has no tokens; give it some text.")
            made.append(Example(np.array([model.separator, *ids]), np.array([IGNORE, *ids]), text, insert_at=1))
        return made

    def control(self, legal: Legal, seed: int) -> Target:
        """Random strings with as many tokens, which are read back as such."""
        random = torch.Generator().manual_seed(seed)
        sizes = [len(ids) for ids in legal.read_back(self.completions)]
        strings = [legal.tokenizer.decode(legal.random(n, random)) for n in sizes]
        return Target(tuple(strings), random=True)


def compare(
    model: LanguageModel,
    targets: Sequence[Target],
    legal: Legal,
    method: str,
    n_tokens: int,
    passes: int,
    no_overlap: bool = False,
) -> list[dict[str, Any]]:
    """Search a prompt of text for each target, all of them side by side.

    Args:
        model: The frozen model.
        targets: The targets. The k-th has the same start whatever the method.
        legal: What a prompt may say.
        method: One of METHODS.
        n_tokens: Of each prompt.
        passes: Forward passes for each completion of a target.
        no_overlap: No prompt may use its target's own tokens.

    Returns:
        Of each target, as plain JSON: target (its completions), random, method, n_tokens; the prompt's text and tokens;
        loss, nats per token of the completions behind the text, as it is read back; exact, whether the likeliest
        continuation is one of the completions; at_zero and at_start, the loss without a prompt and behind the
        start; soft_loss, the lowest of embeddings, or None; spent, the passes; found, whether the search found any
        prompt that survives (else its start stands for it); history, [passes spent, lowest loss].

    Raises:
        SoftPromptsError: A target is empty, or nothing is legal.
    """
    attempts = []
    for k, target in enumerate(targets):
        before, examples = legal.before(target.completions, no_overlap), target.examples(model)
        start = before.random(n_tokens, torch.Generator().manual_seed(k))
        attempts.append(Attempt(model, before, repeat(examples), start, passes * len(examples), seed=k))
    shown = 0
    with progress_bar(f"{method}, {n_tokens} tokens, {len(targets)} targets", TICKS) as advance:
        for _ in rounds([(METHODS[method], a) for a in attempts], Task(), usual_budget(model.device)):
            while shown < math.floor(TICKS * min(attempt.done for attempt in attempts)):
                advance()
                shown += 1
    return [_record(model, *pair, method) for pair in zip(targets, attempts, strict=True)]


def _record(model: LanguageModel, target: Target, attempt: Attempt, method: str) -> dict[str, Any]:
    """What became of one target. The prompt is taken from its text, not from the search."""
    text = attempt.legal.tokenizer.decode(attempt.prompt, clean_up_tokenization_spaces=False)
    tokens = attempt.legal.read_back([text])[0]
    examples = target.examples(model)
    prompts = (tokens, [], attempt.start.tolist())
    behind = [SoftPrompt(attempt.embed(torch.tensor(ids, dtype=torch.long, device=model.device))) for ids in prompts]
    found = score_rows(model, behind, [examples] * 3, usual_budget(model.device))
    loss, at_zero, at_start = (float(np.concatenate([x for x, _ in rows]).mean(dtype=np.float64)) for rows in found)
    return {
        "target": list(target.completions),
        "random": target.random,
        "method": method,
        "n_tokens": len(attempt.start),
        "text": text,
        "tokens": tokens,
        "target_tokens": sum(e.n_scored for e in examples),
        "loss": loss,
        "exact": any(bool(right.all()) for _, right in found[0]),
        "at_zero": at_zero,
        "at_start": at_start,
        "soft_loss": attempt.soft_loss if math.isfinite(attempt.soft_loss) else None,
        "spent": attempt.spent,
        "found": math.isfinite(attempt.loss),
        "history": [[spent, round(loss, 4)] for spent, loss in attempt.history],
    }
