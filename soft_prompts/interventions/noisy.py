"""A prompt that is right on average under noise: what it must say is what the noise leaves of it.

A prompt is drawn from a normal distribution around trained means, with trained widths. Sending such a draw to somebody
who expects a draw of the vocabulary's own distribution costs the Kullback-Leibler divergence between the two (Hinton
and van Camp 1993, doi 10.1145/168304.168306): what a prompt can leave to chance costs nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from soft_prompts.interventions.base import Intervention
from soft_prompts.interventions.soft_prompt import SoftPrompt

FLOOR = 1e-3
"""Of the vocabulary's spread along a direction, as a share of its largest: along narrower ones it counts as so wide."""
FIRST_WIDTH = 0.1
"""Of the noise, in units of the vocabulary's spread along each direction."""


class NoisyPrompt(Intervention):
    """mean + (w + sigma * noise) B for every token, where B turns standard normal numbers into the vocabulary's
    distribution (its mean and covariance); w [P, D] and log sigma [P, D] are trained.
    """

    def __init__(self, initial: Tensor, vocabulary: Tensor, tokens: float):
        """
        Args:
            initial: [P, D], where the means start.
            vocabulary: [V, D], whose distribution the receiver expects.
            tokens: Among how many scored tokens the cost of a prompt is shared: the more, the more it may cost.
        """
        super().__init__()
        vocabulary, initial = vocabulary.detach().float().cpu(), initial.detach().float().cpu()
        mean = vocabulary.mean(0)
        spread, directions = torch.linalg.eigh(torch.cov(vocabulary.T))
        widths = spread.clamp_min(0).sqrt()
        widths = widths.clamp_min(FLOOR * widths.max())
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("basis", (directions * widths).T, persistent=False)  # [D, D], a direction a row
        self.w = nn.Parameter((initial - mean) @ directions / widths)
        self.log_sigma = nn.Parameter(torch.full_like(self.w, FIRST_WIDTH).log())
        self.register_buffer("noise", torch.zeros_like(self.w), persistent=False)
        self._tokens = tokens

    @property
    def n_tokens(self) -> int:
        return self.w.shape[0]

    @property
    def n_numbers(self) -> int:
        return self.w.numel()

    def forward(self, condition: Tensor) -> Tensor:
        rows = self.mean + (self.w + self.log_sigma.exp() * self.noise) @ self.basis
        return rows.expand(len(condition), -1, -1)

    def draw(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.noise.copy_(torch.randn(self.noise.shape, generator=random))

    @property
    def nats(self) -> Tensor:
        variance = (2 * self.log_sigma).exp()
        return 0.5 * (variance + self.w.square() - 1 - 2 * self.log_sigma).sum()

    def penalty(self) -> Tensor:
        return self.nats / self._tokens

    def plain(self) -> Intervention:
        return SoftPrompt(self(self.w.new_zeros(1, 0))[0].detach().cpu()).to(self.w.device)
