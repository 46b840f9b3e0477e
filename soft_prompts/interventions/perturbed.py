"""A finished prompt, moved a little: what is left of its effect says how exactly it must be said."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from soft_prompts.interventions.base import Intervention


class Perturbed(Intervention):
    """row + |row| / sqrt(D) * offset for every row of a prompt, of which some are left out or change places.

    So an offset of standard normal numbers times s is noise of about s times the norm of each row, whatever the model's
    scale. Of a conditional prompt, the rows of every condition are moved alike. Gradients go to the offset only.
    """

    def __init__(self, prompt: Intervention, offset: Tensor, order: Sequence[int] | None = None):
        """
        Args:
            prompt: What is moved; it stays as it is.
            offset: [P, D].
            order: Which of its tokens are inserted, in this order; None: all as they are.
        """
        super().__init__()
        self._prompt = [prompt]  # in a list, so that its parameters are not this one's
        self._order = list(range(prompt.n_tokens)) if order is None else list(order)
        self.offset = nn.Parameter(offset.detach().clone())

    @property
    def n_tokens(self) -> int:
        return len(self._order)

    @property
    def n_numbers(self) -> int:
        return self.n_tokens * self.offset.shape[1]

    def forward(self, condition: Tensor) -> Tensor:
        rows = self._prompt[0](condition).detach()
        norms = rows.norm(dim=-1, keepdim=True) / rows.shape[-1] ** 0.5
        return (rows + norms * self.offset)[:, self._order]
