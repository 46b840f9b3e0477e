"""Searches for a prompt of n legal tokens. They differ in where they look next; `attempt.py` answers what they ask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from soft_prompts.hard.attempt import Asking, Attempt, Losses, Search, Slope

LOOKS = 32
"""How often a search over embeddings looks at the tokens that it has come to, at most."""


class _Descent:
    """Adam on a tensor; its rate falls to zero along half a cosine as the passes are spent."""

    def __init__(self, parameters: Tensor, rate: float):
        self._parameters, self._rate = parameters.requires_grad_(), rate
        self._adam = torch.optim.Adam([parameters])

    def step(self, gradient: Tensor, done: float) -> None:
        self._adam.param_groups[0]["lr"] = self._rate * (1 + torch.cos(torch.tensor(torch.pi * done)).item()) / 2
        self._parameters.grad = gradient
        self._adam.step()


class _Looks:
    """Looks now and then at the tokens that a search over embeddings has come to."""

    def __init__(self, attempt: Attempt):
        self._attempt, self._taken, self._seen = attempt, 0, set()

    def at(self, find: Callable[[], Tensor]) -> Asking:
        """Note what ``find`` returns, unless it is too early or that was looked at before."""
        if self._attempt.done * LOOKS < self._taken:
            return
        self._taken += 1
        prompt = find()
        key = tuple(prompt.tolist())
        if key not in self._seen and self._attempt.legal.survives(prompt[None])[0]:
            self._seen.add(key)
            losses = yield Losses(prompt[None])
            self._attempt.note(losses.item(), prompt)


def soft(attempt: Attempt, start: Tensor, rate: float = 0.3) -> Asking:
    """Embeddings that are free while they are optimised. Its prompt is made of the tokens nearest to them."""
    scale, looks = attempt.model.scale, _Looks(attempt)
    rows = attempt.embed(start) / scale
    descent = _Descent(rows, rate)
    while attempt.left:
        attempt.turn()
        free = rows.detach() * scale
        loss, gradient = yield Slope(free)
        attempt.note_soft(loss, free)
        descent.step(gradient * scale, attempt.done)
        yield from looks.at(lambda: attempt.legal.nearest(rows.detach()))


def projected(attempt: Attempt, start: Tensor, rate: float = 1.0) -> Asking:
    """Free embeddings, moved by the gradient at the legal tokens nearest to them (PEZ: Wen et al. 2023, arXiv
    2302.03668, algorithm 1)."""
    scale = attempt.model.scale
    rows = attempt.embed(start) / scale
    descent = _Descent(rows, rate)
    while attempt.left:
        attempt.turn()
        prompt = attempt.legal.nearest(rows.detach())
        loss, gradient = yield Slope(attempt.embed(prompt))
        attempt.note(loss, prompt)
        descent.step(gradient * scale, attempt.done)


def mixture(
    attempt: Attempt, start: Tensor, rate: float = 1.0, temperatures: tuple[float, float] = (1.0, 0.05)
) -> Asking:
    """Every row is a mixture of all legal tokens, softmax(logits / temperature). The temperature falls, so that each
    comes to be one token."""
    legal, looks = attempt.legal, _Looks(attempt)
    logits = 0.01 * torch.randn((len(start), len(legal.rows)), generator=attempt.random).to(legal.rows.device)
    logits[torch.arange(len(start)), start] += 1
    descent = _Descent(logits, rate)
    first, last = temperatures
    while attempt.left:
        attempt.turn()
        with torch.enable_grad():
            rows = mixed(legal.only(logits), first * (last / first) ** attempt.done, legal.rows)
        loss, gradient = yield Slope(rows.detach())
        attempt.note_soft(loss, rows.detach())
        descent.step(torch.autograd.grad(rows, logits, gradient)[0], attempt.done)
        yield from looks.at(lambda: legal.only(logits.detach()).argmax(-1))


def mixed(logits: Tensor, temperature: float, tokens: Tensor) -> Tensor:
    """Mixtures of token embeddings.

    Args:
        logits: [n, V].
        temperature: Above 0; towards 0, a mixture comes to be the token of its largest logit.
        tokens: [V, D].

    Returns:
        [n, D]
    """
    return (logits / temperature).softmax(-1) @ tokens


def gcg(attempt: Attempt, start: Tensor, width: int = 512, best: int = 256) -> Asking:
    """Greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043, algorithm 1), with nanoGCG's sizes.

    In each step the gradient names the ``best`` tokens for every place. ``width`` prompts with one token changed, drawn
    evenly from those, are tried, and the one of the lowest loss is taken, even if it is worse than the one before.
    """
    legal, prompt = attempt.legal, start
    while attempt.left:
        attempt.turn()
        _, gradient = yield Slope(attempt.embed(prompt))
        promising = legal.only(-gradient @ legal.rows.T).topk(min(best, len(legal.ids))).indices  # [n, best]
        place = torch.randint(len(prompt), (width,), generator=attempt.random)
        token = promising[place, torch.randint(promising.shape[1], (width,), generator=attempt.random)]
        tried = changed(prompt, place, token)
        tried = tried[legal.survives(tried)][: attempt.affordable]
        if len(tried):
            losses = yield Losses(tried)
            prompt = tried[losses.argmin()]
            attempt.note(losses.min().item(), prompt)


def changed(prompt: Tensor, place: Tensor, token: Tensor) -> Tensor:
    """Copies of a prompt [n], each with one token changed: places [B], tokens [B] -> [B, n]."""
    tried = prompt.repeat(len(place), 1)
    tried[torch.arange(len(place)), place] = token
    return tried


def narrow(attempt: Attempt, start: Tensor, widths: tuple[int, int] = (8, 128)) -> Asking:
    """Coordinate search that tries few prompts in a step, and so takes many steps.

    As in ``gcg``, the gradient says which changes of one token are promising. But they are drawn without replacement,
    by how much is promised, over all places together. Improvements at several places are also tried together. A prompt
    is left for a better one only. And the number of prompts that are tried doubles after a step without success, and is
    halved after one with. It ends before its passes are spent if no change of one token helped.
    """
    legal, prompt, width, refused = attempt.legal, start, widths[0], set()
    while attempt.left:
        attempt.turn()
        rows = attempt.embed(prompt)
        loss, gradient = yield Slope(rows)
        attempt.note(loss, prompt)
        gains = legal.only(promised(gradient, rows, legal.rows))
        gains[torch.arange(len(prompt)), prompt] = -torch.inf
        place, token = drawn(gains, 2 * width + len(refused), attempt.random)
        tried = changed(prompt, place, token)
        new = [tuple(row) not in refused for row in tried.tolist()]
        tried = tried[torch.tensor(new, dtype=torch.bool, device=tried.device)]
        if not len(tried):  # drawn are more than were refused, if there are more
            return
        survives = legal.survives(tried)
        refused |= {tuple(row) for row in tried[~survives].tolist()}
        tried = tried[survives][: min(width, attempt.affordable)]
        if not len(tried):
            width = min(widths[1], 2 * width)
            continue
        losses = yield Losses(tried)
        together = merged(prompt, tried[losses < loss], losses[losses < loss])
        together = together[legal.survives(together)][: attempt.affordable]
        if len(together):
            more = yield Losses(together)
            tried, losses = torch.cat([tried, together]), torch.cat([losses, more])
        if losses.min() < loss:
            prompt, refused, width = tried[losses.argmin()], set(), max(widths[0], width // 2)
            attempt.note(losses.min().item(), prompt)
        else:
            refused |= {tuple(row) for row in tried.tolist()}
            width = min(widths[1], 2 * width)


def promised(gradient: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """By how much the loss falls, by its slope, with each token in the place of each row.

    Args:
        gradient: [n, D], of the loss in the rows.
        rows: [n, D].
        tokens: [V, D].

    Returns:
        [n, V]
    """
    return (gradient * rows).sum(-1, keepdim=True) - gradient @ tokens.T


def drawn(gains: Tensor, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw changes without replacement, each with a weight of exp(gain / spread), by Gumbel's trick. The spread is
    that of the best changes of each place: these differ in weight, but not by orders of magnitude.

    Args:
        gains: [n, V], by how much the loss would fall; -inf for what is no change.
        n: How many at most.
        random: Source of chance, on the CPU.

    Returns:
        Places and tokens, int64 [n] each.
    """
    possible = gains.isfinite()
    best = gains.topk(min(256, int(possible.sum(1).min()))).values
    spread = best.std().nan_to_num(0.0).clamp(min=1e-9)
    uniform = torch.rand(gains.shape, generator=random).clamp(1e-9, 1 - 1e-7).to(gains.device)
    keys = gains / spread - torch.log(-torch.log(uniform))
    chosen = keys.flatten().topk(min(n, int(possible.sum()))).indices
    return chosen // keys.shape[1], chosen % keys.shape[1]


def merged(prompt: Tensor, better: Tensor, losses: Tensor) -> Tensor:
    """Prompts with the 2, 3, ... best improvements at different places made together.

    Args:
        prompt: int64 [n].
        better: int64 [B, n], prompts with one token changed.
        losses: [B], theirs.

    Returns:
        int64 [fewer than n, n].
    """
    now, places, made = prompt, set(), []
    for one in better[losses.argsort()]:
        place = int((one != prompt).nonzero()[0, 0])
        if place not in places:
            places.add(place)
            now = torch.where(torch.arange(len(prompt), device=prompt.device) == place, one, now)
            made.append(now)
    return torch.stack(made[1:]) if len(made) > 1 else better[:0]


def then(first: Search, second: Search, share: float) -> Search:
    """Spend a share of the passes on one search, and the others on another that starts from the best prompt so far."""

    def both(attempt: Attempt, start: Tensor) -> Asking:
        passes = attempt.passes
        attempt.passes = round(share * passes)
        yield from first(attempt, start)
        attempt.passes = passes
        yield from second(attempt, attempt.prompt)

    return both
