"""A prompt made of tokens of the vocabulary, trained by gradients: text as a rival of free embeddings."""

from __future__ import annotations

import math

from torch import Tensor

from soft_prompts.interventions.base import Intervention
from soft_prompts.interventions.soft_prompt import SoftPrompt


class Words(SoftPrompt):
    """Free rows of which the model reads the nearest tokens, while the gradient there moves the rows (PEZ: Wen et al.
    2023, arXiv 2302.03668, algorithm 1). It sees no conditions.

    What has to be told is which tokens they are: log2 V bits each, whatever the model's width.
    """

    def __init__(self, initial: Tensor, scale: float, tokens: Tensor):
        """
        Args:
            initial: [P, D], where training starts, in the model's own units.
            scale: The unit of the parameters.
            tokens: [V, D], the embeddings of those that it may be made of.
        """
        super().__init__(initial, scale)
        self.register_buffer("tokens", tokens.detach().float(), persistent=False)

    def nearest(self) -> Tensor:
        """Which of the tokens is nearest to each row by cosine, int64 [P]."""
        lengths = self.tokens.norm(dim=-1).clamp(min=1e-9)
        return (self.rows.detach() @ self.tokens.T / lengths).argmax(-1)

    def forward(self, condition: Tensor) -> Tensor:
        free = self.rows * self.scale
        read = self.tokens[self.nearest()] + (free - free.detach())  # the tokens, with the gradient of the rows
        return read[: self.n_tokens].expand(len(condition), -1, -1)

    @property
    def nats(self) -> Tensor:
        return self.rows.new_tensor(len(self.rows) * math.log(len(self.tokens)))

    def plain(self) -> Intervention:
        return SoftPrompt(self.tokens[self.nearest()].cpu()).to(self.rows.device)
