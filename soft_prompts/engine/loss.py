"""Cross-entropy straight from hidden states, a slice of the vocabulary at a time: [N, V] logits never exist.

The loss of a token is log(sum over the vocabulary of exp(logit)) - logit of the label. The sum is taken online (Milakov
and Gimelshein 2018, arXiv 1805.02867): it is kept relative to the largest logit so far, and when a slice brings a
larger one, what was summed before is multiplied by exp(old largest - new largest).

Why slices of the vocabulary and not of the tokens: each of the head's weights is read once, and matrix products stay
large. Why not `torch.nn.functional.linear_cross_entropy`: it reduces to one number, and we need the loss of every
token, since several runs share a pass, each with its own count, and held-out losses are kept by document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from soft_prompts.models.language_model import Head

SLICE_LOGITS = {"cpu": 2**22, "cuda": 2**26}
"""Logits held at once: 16 and 256 MiB in float32. More is no faster on a CPU. On a GPU it is not measured; small slices
would cost many small kernels."""


def cross_entropy(head: Head, hidden: Tensor, labels: Tensor) -> Tensor:
    """The loss of every token. Differentiable once, and in ``hidden`` only.

    Args:
        head: The frozen unembedding, D to V.
        hidden: [N, D].
        labels: int64 [N].

    Returns:
        Nats [N], in float32 or finer.
    """
    return _CrossEntropy.apply(hidden, head, labels)


@torch.no_grad()
def score_tokens(head: Head, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of every token and whether it was the model's first choice. Not differentiable.

    Args:
        head: The unembedding, D to V.
        hidden: [N, D].
        labels: int64 [N].

    Returns:
        Nats [N] in float32 or finer; bool [N].
    """
    sums = _OnlineSums(hidden)
    choice = torch.full_like(sums.largest, -1, dtype=torch.long)  # [N, 1]
    for part in _slices(head, hidden, labels):
        largest, where = part.logits.max(1, keepdim=True)
        choice = torch.where(largest > sums.largest, where + part.start, choice)
        sums.add(part, largest)
    return sums.losses()[:, 0], choice[:, 0] == labels


class _Slice(NamedTuple):
    """The logits of n vocabulary entries."""

    start: int
    """The first of the entries."""
    weight: Tensor
    """[n, D], the head's rows."""
    logits: Tensor
    """[N, n], in float32 or finer. Whoever takes a slice may overwrite them; the next slice does so, too."""
    slope: Tensor | None
    """[N, n], how a logit grows with what it was before the head's cap; None without a cap."""
    column: Tensor
    """int64 [N, 1], where each token's label stands among the entries. Means nothing if it is not among them."""
    holds_label: Tensor
    """bool [N, 1], whether it is among them."""


def _slices(head: Head, hidden: Tensor, labels: Tensor) -> Iterator[_Slice]:
    """The logits of all vocabulary entries, some entries at a time."""
    size = max(1, SLICE_LOGITS.get(hidden.device.type, SLICE_LOGITS["cuda"]) // max(1, len(hidden)))
    wide = torch.promote_types(hidden.dtype, torch.float32)
    # In bfloat16, every slice is converted into the same memory, which is still in the processor's cache. With fresh
    # memory each time the whole function took up to a sixth longer.
    n_kept = len(hidden) * min(size, head.out_features) if hidden.dtype != wide else 0
    kept = hidden.new_empty(n_kept, dtype=wide)
    for start in range(0, head.out_features, size):
        weight = head.weight[start : start + size]
        bias = None if head.bias is None else head.bias[start : start + size]
        logits = nn.functional.linear(hidden, weight, bias)
        column = (labels - start)[:, None]
        holds_label = (column >= 0) & (column < len(weight))
        if logits.dtype != wide:
            logits = kept[: logits.numel()].view_as(logits).copy_(logits)
        if head.factor != 1:
            logits.mul_(head.factor)
        slope = None
        if head.cap is not None:
            bent = logits.div_(head.cap).tanh_()
            slope = 1 - bent.square()
            logits = bent.mul_(head.cap)
        yield _Slice(start, weight, logits, slope, column.clamp(0, len(weight) - 1), holds_label)


class _OnlineSums:
    """What the loss of every token needs of the slices so far, each [N, 1] in float32 or finer."""

    def __init__(self, hidden: Tensor):
        wide = torch.promote_types(hidden.dtype, torch.float32)
        self.largest = hidden.new_full((len(hidden), 1), -torch.inf, dtype=wide)  # logit
        self.of_label = self.largest  # the label's logit
        self.total = torch.zeros_like(self.largest)  # of exp(logit - largest)

    def add(self, part: _Slice, largest: Tensor) -> Tensor:
        """Take in a slice, and leave exp(logit - largest so far) in its ``logits``.

        Args:
            part: The slice.
            largest: Its largest logit of each token, [N, 1].

        Returns:
            What any sum over earlier slices must be multiplied by, [N, 1].
        """
        self.of_label = torch.where(part.holds_label, part.logits.gather(1, part.column), self.of_label)
        new_largest = torch.maximum(self.largest, largest)
        shrink = (self.largest - new_largest).exp_()
        self.largest = new_largest
        self.total = self.total * shrink + part.logits.sub_(new_largest).exp_().sum(1, keepdim=True)
        return shrink

    def losses(self) -> Tensor:
        """Nats of every token, [N, 1]."""
        return self.largest + self.total.log() - self.of_label


class _CrossEntropy(torch.autograd.Function):
    """The loss with a gradient of its own, made in the forward pass while a slice's logits are at hand.

    That is possible because the head is frozen and a token's loss depends on its own hidden state only. Backward is
    then one multiplication.

    The gradient in the hidden state is the mean of the head's rows under the model's probabilities, minus the label's
    row. The label's own share is left out of the mean and added at the end as probability - 1 = expm1(-loss). So
    nothing cancels where the model is sure. Where the head caps its logits, each row counts by the slope of its logit.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, head: Head, labels: Tensor) -> Tensor:
        sums = _OnlineSums(hidden)
        # Sum over the slices so far of exp(logit - largest) times the head's rows, without the label's.
        gradient = torch.zeros_like(hidden, dtype=sums.total.dtype)  # [N, D]
        slope_of_label = torch.ones_like(sums.total)  # [N, 1]
        for part in _slices(head, hidden, labels):
            shrink = sums.add(part, part.logits.amax(1, keepdim=True))
            label_left_out = part.logits.gather(1, part.column).masked_fill_(part.holds_label, 0)
            part.logits.scatter_(1, part.column, label_left_out)
            if part.slope is not None:
                slope_of_label = torch.where(part.holds_label, part.slope.gather(1, part.column), slope_of_label)
                part.logits.mul_(part.slope)
            gradient.mul_(shrink).add_(part.logits.to(hidden.dtype) @ part.weight)
        losses = sums.losses()
        # Divided by the total, exponentials are probabilities. Then the label's row comes in.
        rows_of_labels = head.weight[labels].to(gradient.dtype)
        gradient = gradient.div_(sums.total).addcmul_(rows_of_labels, torch.expm1(-losses) * slope_of_label)
        ctx.gradient = gradient.mul_(head.factor).to(hidden.dtype)
        return losses[:, 0]

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient * upstream[:, None].to(ctx.gradient.dtype), None, None
