"""Whether a model can be measured with soft prompts: it must compute the same in parts as it does whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.language_model import LanguageModel

N_LONG, N_SHORT = 8, 5
"""Tokens of the two rows that are tried."""
PROMPT = slice(1, 4)
"""Where a prompt stands in them."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Largest error of a logit, as a share of the logits' standard deviation. Rounding is a small share of it; a scale or a
cap that is missing is of its own size."""


@torch.no_grad()
def check_fitness(model: LanguageModel) -> None:
    """Refuse a model that computes something else from embeddings than from tokens, or with a cache than without.

    Some models scale embeddings inside their forward pass, add embeddings in every layer, cap their logits or ignore
    positions. A soft prompt trained on such a model would be measured on another model than the one that was named.

    Raises:
        SoftPromptsError: The model is refused; the sentence says what changes its logits and by how much.
    """
    if not isinstance(model.head, nn.Linear):
        raise SoftPromptsError(
            f"model {model.name!r} has no plain linear unembedding; its loss cannot be computed here."
        )
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(len(model.vocabulary), (2, N_LONG + 1), generator=random).to(model.device)
    tokens[:, 0] = model.separator
    wanted = model.lm(input_ids=tokens, use_cache=False).logits.float()
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE[torch.bfloat16]) * wanted.std().item()

    def compare(logits: Tensor, wanted: Tensor, what: str) -> None:
        worst = (logits.float() - wanted).abs().max().item()
        if not worst <= tolerance:  # written so that nan is refused, too
            raise SoftPromptsError(
                f"model {model.name!r} cannot be measured with soft prompts: {what} changes its logits by {worst:.3g} "
                f"(tolerated: {tolerance:.2g}); choose a model that computes from inputs_embeds as from input_ids."
            )

    # A prompt made of a text's embeddings is that text, and one of embeddings that no token has is read as it stands.
    rows = model.embed(tokens)
    rows[:, PROMPT] = model.vocabulary[tokens[:, PROMPT]]
    compare(model.head(model.body(rows)), wanted, "feeding embeddings through its body and head instead of tokens")
    rows[:, PROMPT] = -rows[:, PROMPT].flip(1)
    whole = model.lm(inputs_embeds=rows, use_cache=False).logits
    compare(model.head(model.body(rows)), whole.float(), "reading embeddings that no token has in parts")

    # A padded batch is read into a cache, then one token more. The short row must not notice the long one.
    lengths = torch.tensor([N_LONG, N_SHORT], device=model.device)
    mask = torch.arange(N_LONG, device=model.device) < lengths[:, None]
    positions = torch.arange(N_LONG, device=model.device).expand(2, -1)
    cache = DynamicCache(config=model.lm.config)
    model.extend(model.embed(tokens[:, :N_LONG]), mask.long(), positions, cache)
    next_token = tokens.gather(1, lengths[:, None])
    mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    hidden = model.extend(model.embed(next_token), mask.long(), lengths[:, None], cache)
    of_next = wanted[torch.arange(2, device=model.device), lengths]
    compare(model.head(hidden[:, 0]), of_next, "reading through a key-value cache in a padded batch")
