"""Cross-entropy straight from hidden states, a slice of the vocabulary at a time, so that [N, V] logits never exist.

The sums are taken online (Milakov and Gimelshein 2018, arXiv 1805.02867): with the largest logit so far known, what was summed before is shrunk
to it. Slices of the vocabulary rather than of the tokens, because each of the head's weights is then read once, and matrix products stay large.
`torch.nn.functional.linear_cross_entropy` has a chunked path too, but it reduces to one number; we need the loss of every token
(several runs share a pass, each with its own count, and held-out losses are kept per document).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

SLICE_LOGITS = {"cpu": 2**22, "cuda": 2**26}
"""Logits held at once, 16 and 256 MiB in float32: more is no faster on a CPU; on a GPU, where it is not measured, small kernels would be dear."""


def cross_entropy(head: nn.Linear, hidden: Tensor, labels: Tensor) -> Tensor:
    """Nats for every token, [N] in float32 or finer, of ``head(hidden [N, D])`` against ``labels`` [N]. Differentiable in ``hidden`` once."""
    return _CrossEntropy.apply(hidden, head, labels)


@torch.no_grad()
def score_tokens(head: nn.Linear, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Nats for every token, float32 [N] or finer, and whether the label was the most likely token, bool [N]. Not differentiable."""
    sums = _Sums(hidden)
    choice = torch.full_like(sums.top, -1, dtype=torch.long)
    for start, _, logits, column, inside in _slices(head, hidden, labels):
        largest, where = logits.max(1, keepdim=True)
        choice = torch.where(largest > sums.top, where + start, choice)
        sums.add(logits, largest, column, inside)
    return sums.losses()[:, 0], choice[:, 0] == labels


class _Sums:
    """What the loss of every token needs of the slices so far, each [N, 1] in float32 or finer."""

    def __init__(self, hidden: Tensor):
        wide = torch.promote_types(hidden.dtype, torch.float32)
        self.top = self.at_label = hidden.new_full(
            (len(hidden), 1), -torch.inf, dtype=wide
        )  # largest logit, label's logit
        self.total = torch.zeros_like(self.top)  # of exp(logit - top)

    def add(self, logits: Tensor, largest: Tensor, column: Tensor, inside: Tensor) -> Tensor:
        """Take in a slice, whose largest logits are ``largest`` [N, 1], and leave exp(logit - top) in ``logits``; what
        sums of earlier slices are to be multiplied by, [N, 1]."""
        self.at_label = torch.where(inside, logits.gather(1, column), self.at_label)
        top = torch.maximum(self.top, largest)
        shrink = (self.top - top).exp_()
        self.top = top
        self.total = self.total * shrink + logits.sub_(top).exp_().sum(1, keepdim=True)
        return shrink

    def losses(self) -> Tensor:
        return self.top + self.total.log() - self.at_label


def _slices(head: nn.Linear, hidden: Tensor, labels: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    """The logits of some vocabulary entries at a time: the first entry, their weights [n, D], the logits [N, n] in float32 or finer (the taker
    may change them, and the next slice does), and for every token the place of its label among them [N, 1], and whether it is there at all
    [N, 1] (else the place means nothing)."""
    size = max(1, SLICE_LOGITS.get(hidden.device.type, SLICE_LOGITS["cuda"]) // max(1, len(hidden)))
    wide = torch.promote_types(hidden.dtype, torch.float32)
    # Converted into the same memory each time, which is still in the cache: in bfloat16 up to a sixth of the whole function's time.
    held = hidden.new_empty(len(hidden) * min(size, head.out_features) if hidden.dtype != wide else 0, dtype=wide)
    for start in range(0, head.out_features, size):
        weight = head.weight[start : start + size]
        bias = None if head.bias is None else head.bias[start : start + size]
        logits = nn.functional.linear(hidden, weight, bias)
        column = (labels - start)[:, None]
        inside = (column >= 0) & (column < len(weight))
        if logits.dtype != wide:
            logits = held[: logits.numel()].view_as(logits).copy_(logits)
        yield start, weight, logits, column.clamp(0, len(weight) - 1), inside


class _CrossEntropy(torch.autograd.Function):
    """The gradient of each token's loss is made in the forward pass, while its logits are at hand: the head is frozen and
    a token's loss depends on its own hidden state only, so backward is one multiplication.

    It is the mean of the head's rows under the model's probabilities less the label's row. The label's own share is left
    out of the mean and put in at the end, as probability - 1 = expm1(-loss): nothing cancels where the model is sure.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
        sums = _Sums(hidden)
        gradient = torch.zeros_like(
            hidden, dtype=sums.total.dtype
        )  # without the label's share; like the total, times exp(-top)
        for _, weight, logits, column, inside in _slices(head, hidden, labels):
            shrink = sums.add(logits, logits.amax(1, keepdim=True), column, inside)
            logits.scatter_(1, column, logits.gather(1, column).masked_fill_(inside, 0))
            gradient.mul_(shrink).add_(logits.to(hidden.dtype) @ weight)
        losses = sums.losses()
        of_labels = head.weight[labels].to(gradient.dtype)
        ctx.gradient = gradient.div_(sums.total).addcmul_(of_labels, torch.expm1(-losses)).to(hidden.dtype)
        return losses[:, 0]

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient * upstream[:, None].to(ctx.gradient.dtype), None, None
