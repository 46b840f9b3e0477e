"""Whether a model can be measured with soft prompts: it must compute the same in parts as it does whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.language_model import LanguageModel

N_LONG, N_SHORT = 9, 5
"""Tokens of the rows that are tried, and of those of them that are also tried alone."""
PROMPT = slice(1, 4)
"""Where a prompt stands in them."""
HEAD = "taking its head for a matrix with the factor and the cap that its configuration names"
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Largest error of a logit, as a share of the logits' standard deviation. Rounding is a small share of it; a scale or a
cap that is missing is of its own size."""


@torch.no_grad()
def check_fitness(model: LanguageModel) -> None:
    """Refuse a model that computes something else from embeddings than from tokens, or that looks ahead.

    Some models scale embeddings inside their forward pass, add embeddings in every layer, or change their logits behind
    the head. A soft prompt trained on such a model would be measured on another model than the one that was named.

    Raises:
        SoftPromptsError: The model is refused; the sentence says what changes its logits and by how much.
    """
    tokens = _tokens(model, n_rows=2, n=N_LONG)
    wanted = model.lm(input_ids=tokens, use_cache=False).logits

    def compare(logits: Tensor, wanted: Tensor, what: str) -> None:
        worst, tolerated = _error(logits, wanted), _tolerated(model, wanted)
        if not worst <= tolerated:  # written so that nan is refused, too
            raise SoftPromptsError(
                f"model {model.name!r} cannot be measured with soft prompts: {what} changes its logits by {worst:.3g} "
                f"(tolerated: {tolerated:.2g}); choose another model."
            )

    # Rows are padded on the right, which is right only if nothing looks ahead.
    alone = model.lm(input_ids=tokens[:, :N_SHORT], use_cache=False).logits
    compare(alone, wanted[:, :N_SHORT], "what stands behind a token")
    # A prompt made of a text's embeddings is that text, and one of embeddings that no token has is read as it stands.
    rows = model.embed(tokens)
    rows[:, PROMPT] = model.vocabulary[tokens[:, PROMPT]]
    compare(_whole(model, rows), wanted, "reading the embeddings of tokens instead of tokens")
    compare(_in_parts(model, rows), wanted, HEAD)
    rows[:, PROMPT] = -rows[:, PROMPT].flip(1)
    compare(_in_parts(model, rows), _whole(model, rows), "reading embeddings that no token has in parts")


@torch.no_grad()
def check_cache(model: LanguageModel) -> None:
    """Refuse a key-value cache with which a model computes something else than without.

    Read are a text that begins with one token, and one that is longer than the model's window, if it has one.

    Raises:
        SoftPromptsError: It does; the sentence says by how much.
    """
    longer = model.window + N_LONG if model.window + N_LONG <= model.context else N_LONG
    for n_first, n in ((1, N_SHORT), (longer - N_SHORT, longer)):
        rows = model.embed(_tokens(model, n_rows=1, n=n))
        wanted = _in_parts(model, rows)[:, n_first - 1 :]
        read = model.reader()
        pieces = [read(rows[:, :n_first].clone())[:, -1:]] + [
            read(rows[:, i : i + 1].clone()) for i in range(n_first, n)
        ]
        worst, tolerated = _error(model.head(torch.cat(pieces, 1)), wanted), _tolerated(model, wanted)
        if not worst <= tolerated:
            raise SoftPromptsError(
                f"reading {n} tokens through the key-value cache of {model.name!r} changes its logits by {worst:.3g} "
                f"(tolerated: {tolerated:.2g})."
            )


def shares_starts(model: LanguageModel) -> bool:
    """Whether rows that begin alike may read their beginning once, with the same states and gradients behind it.

    Not with sliding windows, of which a cache keeps a part, and not where positions turn by how long the whole row is.
    """
    config = model.lm.config.get_text_config()
    turning = str([getattr(config, name, None) for name in ("rope_parameters", "rope_scaling")])
    if not model.has_cache or model.window or "dynamic" in turning or "longrope" in turning:
        return False
    rows = model.embed(_tokens(model, n_rows=2, n=N_LONG))
    start, row_of = rows[:, : PROMPT.stop].clone(), torch.tensor([0, 1, 0], device=model.device)
    texts = rows[:, PROMPT.stop :][[1, 1, 0]]

    def at_once(start: Tensor) -> Tensor:
        return model.body(torch.cat([start[row_of], texts], 1))[:, start.shape[1] :]

    def in_parts(start: Tensor) -> Tensor:
        read = model.reader()
        read(start)
        read.hand_out(row_of)
        return read(texts.clone())

    def found(states_of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        leaf = start.clone().requires_grad_()
        logits = model.head(states_of(leaf * 1.0))  # some models change the embeddings that they are given
        return logits.detach(), torch.autograd.grad(logits.float().square().mean(), leaf)[0]

    try:
        wanted, got = found(at_once), found(in_parts)
    except Exception:  # a model's own code may raise anything; then its rows are read one by one
        return False
    return all(_error(a, b) <= _tolerated(model, b) for a, b in zip(got, wanted, strict=True))


# Some models change the embeddings that they are given, so each reading gets its own.


def _whole(model: LanguageModel, rows: Tensor) -> Tensor:
    return model.lm(inputs_embeds=rows.clone(), use_cache=False).logits


def _in_parts(model: LanguageModel, rows: Tensor) -> Tensor:
    return model.head(model.body(rows.clone()))


def _tokens(model: LanguageModel, n_rows: int, n: int) -> Tensor:
    """Random tokens behind the separator, [n_rows, n]."""
    tokens = torch.randint(len(model.vocabulary), (n_rows, n), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = model.separator
    return tokens.to(model.device)


def _error(logits: Tensor, wanted: Tensor) -> float:
    return (logits.float() - wanted.float()).abs().max().item()


def _tolerated(model: LanguageModel, wanted: Tensor) -> float:
    return TOLERANCE.get(model.dtype, TOLERANCE[torch.bfloat16]) * wanted.float().std().item()
