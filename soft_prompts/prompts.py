"""Soft prompts: making them, conditioning them, and placing them in a sequence.

One alphabet for shapes, here and everywhere else in this package:

    B examples · T tokens · P soft prompt tokens · L = T + P · D embedding width · C conditions · V vocabulary · R runs
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

INITIALISERS = ("vocabulary", "normal", "text", "zeros")


def initial_rows(init: str, n_tokens: int, vocabulary: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
    """The P embeddings that training starts from, float32 [P, D] on the CPU.

    - ``vocabulary``: rows of the embedding matrix, sampled with replacement (Lester et al. 2021, arXiv 2104.08691).
    - ``normal``: normal with the vocabulary's own mean and standard deviation in every dimension.
    - ``text``: the embeddings of a given text's tokens, repeated or cut to P tokens.
    - ``zeros``: the recipe of Nordby 2025 (arXiv 2505.14943).

    ``vocabulary`` is [V, D] and holds only the entries the tokenizer can produce; ``text`` holds token ids [n].
    """
    vocabulary = vocabulary.detach().float().cpu()
    shape = n_tokens, vocabulary.shape[1]
    if init == "vocabulary":
        return vocabulary[torch.randint(len(vocabulary), (n_tokens,), generator=generator)]
    if init == "normal":
        return torch.randn(shape, generator=generator) * vocabulary.std(0) + vocabulary.mean(0)
    if init == "text":
        if not len(text):
            raise ValueError("the initialiser 'text' needs a text of at least one token")
        return vocabulary[text.cpu()[torch.arange(n_tokens) % len(text)]]
    if init == "zeros":
        return torch.zeros(shape)
    raise ValueError(f"unknown initialiser {init!r}: choose one of {', '.join(INITIALISERS)}")


class SoftPrompt(nn.Module):
    """P trained embeddings, the same for every example.

    The parameters are kept in units of ``scale``, the root mean square of the vocabulary's embeddings, so that a learning
    rate means the same share of an embedding's size in every model: embedding sizes differ between models by more
    than the range of learning rates that work for one.
    """

    def __init__(self, initial: Tensor, scale: float = 1.0):
        """``initial`` [P, D]: where training starts, in the model's own units."""
        super().__init__()
        self.rows = nn.Parameter(initial.detach().float() / scale)
        self.register_buffer("scale", torch.tensor(float(scale)))

    @property
    def n_tokens(self) -> int:
        return self.rows.shape[0]

    def forward(self, condition: Tensor) -> Tensor:
        """The prompt for each example, float32 [B, P, D]; of ``condition`` [B, C] only B is used."""
        return (self.rows * self.scale).expand(len(condition), -1, -1)


class PromptGenerator(nn.Module):
    """A prompt that depends on the example's conditions: rows + MLP(condition), in units of ``scale`` as in SoftPrompt.

    The MLP's hidden layers are shared by all P tokens and its last layer writes all P x D numbers in one product, so 1,024
    tokens take no more kernels than one. The last layer starts small (``whisper`` times the size of an
    embedding), so that the first prompt is ``initial`` plus a whisper of the condition.
    """

    def __init__(
        self, initial: Tensor, scale: float, sizes: tuple[int, ...], generator: torch.Generator, whisper: float = 0.1
    ):
        """``initial`` [P, D]; ``sizes`` = (C, width of each hidden layer ...), GELU behind each of them."""
        super().__init__()
        if len(sizes) < 2 or min(sizes[1:]) < 1:
            raise ValueError(f"a prompt generator needs hidden layers of at least one unit, got sizes {sizes}")
        self.rows = nn.Parameter(initial.detach().float() / scale)
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        with torch.no_grad():
            for (
                layer
            ) in self.hidden:  # He et al. 2015 (arXiv 1502.01852): activations keep their size from layer to layer
                layer.weight.copy_(
                    torch.randn(layer.weight.shape, generator=generator) * (2 / layer.in_features) ** 0.5
                )
                layer.bias.copy_(torch.rand(layer.bias.shape, generator=generator) * 2 - 1)
        # Divided by the width in forward: one optimiser step then moves the prompt as far through the MLP as through the rows.
        self.out = nn.Parameter(
            torch.randn((sizes[-1], *initial.shape), generator=generator) * whisper * sizes[-1] ** 0.5
        )

    @property
    def n_tokens(self) -> int:
        return self.rows.shape[0]

    def forward(self, condition: Tensor) -> Tensor:
        """The prompt for each example, float32 [B, P, D], from ``condition`` [B, C]."""
        hidden = condition.to(self.rows.dtype)
        for layer in self.hidden:
            hidden = nn.functional.gelu(layer(hidden))
        return (self.rows + torch.einsum("bh,hpd->bpd", hidden / hidden.shape[1], self.out)) * self.scale


def insert(rows: Tensor, block: Tensor, at: Tensor) -> Tensor:
    """``rows`` [B, T, ...] with ``block`` [B, P, ...] put in before place ``at`` [B] of each row: [B, T + P, ...].

    Serves embeddings, labels, weights and masks alike. ``at`` = 0 puts the block first, ``at`` = the row's length last
    (before any padding).
    """
    n_rows, n_block = rows.shape[1], block.shape[1]
    row = torch.arange(len(rows), device=rows.device)[:, None]
    place = torch.arange(n_rows + n_block, device=rows.device)  # [L], in the result
    at = at[:, None]
    source = place - n_block * (place >= at + n_block)  # [B, L], what stands behind the block moves by P
    joined = rows[row, source.clamp(max=n_rows - 1)]  # where the block goes, anything
    joined[row, at + place[:n_block]] = block.to(rows.dtype)
    return joined
