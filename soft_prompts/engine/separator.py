"""Which token opens a text: measured, since the tokenizer's own BOS is not always how a model's texts began."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from soft_prompts.data.example import Example
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.language_model import LanguageModel

MATTERS = 0.05
"""Nats per token by which another token must be better to take the place of the tokenizer's own."""


def token_of(model: LanguageModel, name: str) -> int:
    """The id of a token of this name.

    Raises:
        SoftPromptsError: There is no such token.
    """
    number = model.tokenizer.get_vocab().get(name)
    if number is None:
        raise SoftPromptsError(
            f"--separator is {name!r}, which is no token of {model.name}; its special tokens are "
            f"{', '.join(model.tokenizer.all_special_tokens) or 'none'}."
        )
    return number


def losses_behind(
    model: LanguageModel, examples_behind: Callable[[int], Sequence[Example]], token_budget: int
) -> dict[int, float]:
    """Nats per scored token of some documents without a prompt, behind each special token and the model's separator.

    Nothing is measured, and the result is empty, if there is only one of them.

    Args:
        model: The frozen model.
        examples_behind: Gives the documents behind a token.
        token_budget: Positions in one forward pass at most.
    """
    no_prompt = SoftPrompt(model.vocabulary[:0].float()).to(model.device)
    candidates = {model.separator, *(i for i in model.tokenizer.all_special_ids if i < len(model.vocabulary))}
    if len(candidates) == 1:
        return {}
    return {i: evaluate(model, [no_prompt], examples_behind(i), token_budget)[0].loss for i in sorted(candidates)}


def best_separator(own: int, losses: dict[int, float]) -> int:
    """The token with the lowest loss if it matters, else the model's own."""
    best = min(losses, key=losses.get, default=own)
    return best if best != own and losses[own] - losses[best] > MATTERS else own
