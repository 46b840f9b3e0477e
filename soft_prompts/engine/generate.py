"""Continuing texts behind an intervention, rows of any length in one batch.

No row is padded, so none can notice its neighbours: while short texts are being continued, long ones are still being
read, a token at a time. A padded batch would need a mask, positions and a window for every row, and models whose layers
carry a state along cannot have it at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from soft_prompts.data.example import Example
from soft_prompts.engine.batch import collate, insert
from soft_prompts.engine.changes import changed
from soft_prompts.engine.memory import MEMORY
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
    enough: Callable[[np.ndarray], bool] | None = None,
) -> list[np.ndarray]:
    """Continue a batch of texts.

    Args:
        model: The frozen model.
        intervention: What stands in every text, or changes the model.
        starts: What stands before each continuation; all tokens of these examples are read.
        n_new: Tokens of a continuation at most.
        temperature: 0 takes the most likely token; otherwise tokens are drawn.
        random: Source of chance for the draws, on the model's device.
        enough: Whether the new tokens of a row, int64 [n], are all that is wanted; asked after every token.

    Returns:
        The new tokens of each start, int64 [<= n_new]. A row ends before the first of ``model.ends``, or where it is
        ``enough``.

    Raises:
        SoftPromptsError: The longest row would outgrow the model's context.
    """
    batch = collate(starts).to(model.device)
    lengths = batch.lengths + intervention.n_tokens  # [B]
    _check_context(model, intervention, batch.tokens.shape[1], n_new)
    with changed(model.lm, [(intervention, slice(0, len(starts)))]):
        # Read what all rows have: the prompt and the start of each text.
        given = insert(model.embed(batch.tokens), intervention(batch.condition), batch.insert_at)  # [B, L, D]
        n_common, n_longest = int(lengths.min()), given.shape[1]
        read = model.reader()
        last = read(given[:, :n_common])[:, -1]  # [B, D]

        # Then one position of every row at a time: the next token of its text or, behind that, the one it picks.
        ends = torch.tensor(model.ends, device=model.device)
        firsts = lengths - n_common  # where a row's own tokens begin in new
        new = torch.zeros(len(starts), n_longest - n_common + n_new, dtype=torch.long, device=model.device)
        kept = torch.full_like(lengths, n_new)  # how many of them are wanted, with the token that ends them
        going = torch.arange(len(starts), device=model.device)  # the rows that have not ended, and some that have
        for position in range(n_common, n_longest + n_new):
            at, token = position - n_common, _pick(model.head(last).float(), temperature, random)
            new[going, at] = token  # what was picked, wanted or not
            n_own = at + 1 - firsts[going]
            writing = (n_own > 0) & (n_own < kept[going])
            last_one = writing & torch.isin(token, ends)
            kept[going[last_one]] = n_own[last_one]
            if enough:
                for row in going[writing & ~last_one].tolist():
                    if enough(new[row, firsts[row] : at + 1].cpu().numpy()):
                        kept[row] = at + 1 - firsts[row]
            ended = n_own >= kept[going]
            if ended.all():
                break
            if 2 * ended.sum() >= len(going):  # not each time: it copies what has been read
                still = (~ended).nonzero()[:, 0]
                read.hand_out(still)
                going, token = going[still], token[still]
            following = model.embed(token)
            if position < n_longest:
                following = torch.where((position < lengths[going])[:, None], given[going, position], following)
            last = read(following[:, None])[:, 0]
    rows = zip(new.cpu().numpy(), firsts.tolist(), kept.tolist(), strict=True)
    return [_until(row[first : first + n], model.ends) for row, first, n in rows]


def _check_context(model: LanguageModel, intervention: Intervention, longest: int, n_new: int) -> None:
    """Raises SoftPromptsError if a prompt, a text and its continuation are longer than the model's context."""
    n_tokens = intervention.n_tokens
    needed = n_tokens + longest + n_new
    if needed > model.context:
        raise SoftPromptsError(
            f"a prompt of {n_tokens} tokens, {longest} of text and {n_new} new ones need {needed} positions, but "
            f"{model.name} has {model.context}; use fewer of any."
        )


def batches(starts: Sequence[Example], n_tokens: int, n_new: int, token_budget: int) -> Iterator[list[int]]:
    """Share texts out to batches of like length, the shortest first.

    A batch takes a step for every token by which its longest text is longer than its shortest. A batch more takes
    ``n_new`` steps, so there is one where that is fewer.

    Args:
        starts: The texts.
        n_tokens: P.
        n_new: Tokens of a continuation at most.
        token_budget: Positions of a batch at most. A longer text has a batch to itself.

    Yields:
        Which texts are in a batch.
    """
    token_budget = MEMORY.allowed(token_budget)
    batch: list[int] = []
    for i in sorted(range(len(starts)), key=lambda i: len(starts[i])):
        full = (len(batch) + 1) * (len(starts[i]) + n_tokens + n_new) > token_budget
        if batch and (full or len(starts[i]) - len(starts[batch[0]]) > n_new):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _pick(logits: Tensor, temperature: float, random: torch.Generator) -> Tensor:
    """The next token [B] of each row, from logits [B, V]."""
    if temperature == 0:
        return logits.argmax(-1)
    # Where a draw falls among the summed probabilities: a third of what torch.multinomial takes, one draw for a row.
    until = (logits / temperature).softmax(-1).double().cumsum(-1)
    drawn = torch.rand(len(until), 1, generator=random, device=until.device, dtype=until.dtype) * until[:, -1:]
    return torch.searchsorted(until, drawn, right=True)[:, 0].clamp(max=until.shape[-1] - 1)


def _until(tokens: np.ndarray, ends: list[int]) -> np.ndarray:
    """What comes before the first token that ends a text."""
    found = np.flatnonzero(np.isin(tokens, ends))
    return tokens[: found[0]] if len(found) else tokens
