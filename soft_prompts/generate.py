"""Continuing texts behind a soft prompt, with a key-value cache and rows of any length in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from soft_prompts.batch import Example, collate
from soft_prompts.errors import SoftPromptsError
from soft_prompts.model import LanguageModel
from soft_prompts.prompts import PromptGenerator, SoftPrompt, insert


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: SoftPrompt | PromptGenerator,
    starts: Sequence[Example],
    n_new: int,
    temperature: float,
    random: torch.Generator,
) -> list[np.ndarray]:
    """Up to ``n_new`` tokens behind each start's own tokens, int64 [<= n_new]; a row ends before the separator or EOS.

    ``temperature`` 0 takes the most likely token; otherwise tokens are drawn with ``random``. Raises SoftPromptsError if the
    longest row would outgrow the model's context.
    """
    batch = collate(starts).to(model.device)
    lengths = batch.lengths + prompt.n_tokens  # [B]
    n_read = batch.tokens.shape[1] + prompt.n_tokens
    if n_read + n_new > model.context:
        raise SoftPromptsError(
            f"a prompt of {prompt.n_tokens} tokens, {batch.tokens.shape[1]} of text and {n_new} new ones need {n_read + n_new} "
            f"positions, but {model.name} has {model.context}; use fewer of any."
        )
    mask = (torch.arange(n_read, device=model.device) < lengths[:, None]).long()
    positions = torch.arange(n_read, device=model.device).expand(len(starts), -1)
    cache = DynamicCache(config=model.lm.config)
    embeddings = insert(model.embed(batch.tokens), prompt(batch.condition), batch.insert_at)
    hidden = model.extend(embeddings, mask, positions, cache)
    last = hidden[torch.arange(len(starts), device=model.device), lengths - 1]  # [B, D], each row's last real place

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
    return [_until(row, _stops(model)) for row in new.cpu().numpy()]


def _stops(model: LanguageModel) -> set[int]:
    return {model.separator} | ({model.tokenizer.eos_token_id} - {None})


def _pick(logits: Tensor, temperature: float, random: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=random)[:, 0]


def _until(row: np.ndarray, stops: set[int]) -> np.ndarray:
    ends = np.flatnonzero(np.isin(row, list(stops)))
    return row[: ends[0]] if len(ends) else row
