"""Continuing texts behind an intervention, with a key-value cache and rows of any length in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from soft_prompts.data.example import Example
from soft_prompts.engine.batch import collate, insert
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.base import Intervention
from soft_prompts.models.language_model import LanguageModel


@torch.no_grad()
def generate(
    model: LanguageModel,
    intervention: Intervention,
    starts: Sequence[Example],
    n_new: int,
    temperature: float,
    random: torch.Generator,
) -> list[np.ndarray]:
    """Continue a batch of texts.

    Args:
        model: The frozen model.
        intervention: What stands in every text, or hooks into the model.
        starts: What stands before each continuation; all tokens of these examples are read.
        n_new: Tokens of a continuation at most.
        temperature: 0 takes the most likely token; otherwise tokens are drawn.
        random: Source of chance for the draws, on the model's device.

    Returns:
        The new tokens of each start, int64 [<= n_new]. A row ends before the separator or EOS.

    Raises:
        SoftPromptsError: The longest row would outgrow the model's context.
    """
    batch = collate(starts).to(model.device)
    lengths = batch.lengths + intervention.n_tokens  # [B]
    n_read = batch.tokens.shape[1] + intervention.n_tokens
    if n_read + n_new > model.context:
        raise SoftPromptsError(
            f"a prompt of {intervention.n_tokens} tokens, {batch.tokens.shape[1]} of text and {n_new} new ones need "
            f"{n_read + n_new} positions, but {model.name} has {model.context}; use fewer of any."
        )
    row = torch.arange(len(starts), device=model.device)
    with ExitStack() as hooks:
        for hook in intervention.hooks(model.lm, slice(0, len(starts))):
            hooks.enter_context(hook)

        # Read the prompt and the texts.
        mask = (torch.arange(n_read, device=model.device) < lengths[:, None]).long()
        positions = torch.arange(n_read, device=model.device).expand(len(starts), -1)
        cache = DynamicCache(config=model.lm.config)
        embeddings = insert(model.embed(batch.tokens), intervention(batch.condition), batch.insert_at)
        hidden = model.extend(embeddings, mask, positions, cache)
        last = hidden[row, lengths - 1]  # [B, D], at each row's last real token

        # Then write one token of every row at a time.
        stops = torch.tensor(sorted(_stops(model)), device=model.device)
        new = torch.empty(len(starts), 0, dtype=torch.long, device=model.device)
        ended = torch.zeros(len(starts), dtype=torch.bool, device=model.device)
        for i in range(n_new):
            token = _pick(model.head(last).float(), temperature, random)
            new = torch.cat([new, token[:, None]], 1)
            ended |= torch.isin(token, stops)
            if i + 1 == n_new or ended.all():
                break
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            last = model.extend(model.embed(token[:, None]), mask, (lengths + i)[:, None], cache)[:, 0]
    return [_until(tokens, _stops(model)) for tokens in new.cpu().numpy()]


def _stops(model: LanguageModel) -> set[int]:
    """Tokens that end a text."""
    return {model.separator} | ({model.tokenizer.eos_token_id} - {None})


def _pick(logits: Tensor, temperature: float, random: torch.Generator) -> Tensor:
    """The next token [B] of each row, from logits [B, V]."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=random)[:, 0]


def _until(tokens: np.ndarray, stops: set[int]) -> np.ndarray:
    """What comes before the first token that ends a text."""
    ends = np.flatnonzero(np.isin(tokens, list(stops)))
    return tokens[: ends[0]] if len(ends) else tokens
