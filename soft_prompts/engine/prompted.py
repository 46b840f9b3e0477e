"""A frozen model behind one trained intervention, and the documents that it is measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import Example

if TYPE_CHECKING:
    from soft_prompts.engine.evaluate import TokenScores
    from soft_prompts.interventions.base import Intervention
    from soft_prompts.models.language_model import LanguageModel


@dataclass(frozen=True)
class Bench:
    """What every intervention on one model is measured on: the frozen model and the held-out documents."""

    model: LanguageModel
    encoding: Encoding
    held_out: Sequence[Example]
    """What results are measured on. Nothing is chosen by them."""
    token_budget: int
    """Positions in one forward pass at most."""
    validation: Sequence[Example] = ()
    """What choices are made on: how long to train, how coarsely to round."""

    @cached_property
    def _found(self) -> dict[str, Any]:
        return {}

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What is the same for all interventions on this bench: found the first time it is asked for by its name."""
        if name not in self._found:
            self._found[name] = find()
        return self._found[name]

    @property
    def for_choices(self) -> Bench:
        """The same bench with the validation documents in the place of the held-out ones."""
        return replace(self, held_out=self.validation)


@dataclass(frozen=True)
class PromptedModel:
    """A frozen model behind one trained intervention: what a task's behavioural scores are made with."""

    bench: Bench
    intervention: Intervention
    known: TokenScores | None = None
    """Its scores on the bench's held-out documents, if they have been measured already."""

    @cached_property
    def held_out_scores(self) -> TokenScores:
        """Loss and first choice of every scored token of the bench's held-out documents."""
        return self.known or self.scores(self.bench.held_out)

    def scores(self, examples: Sequence[Example]) -> TokenScores:
        """Loss and first choice of every scored token of some examples."""
        from soft_prompts.engine.evaluate import evaluate  # brings torch, which takes a second to import

        return evaluate(self.bench.model, [self.intervention], examples, self.bench.token_budget)[0]

    def generate(
        self, starts: Sequence[Example], n_new: int, temperature: float = 0.0, seed: int = 0
    ) -> list[np.ndarray]:
        """Continue texts.

        Args:
            starts: What stands before each continuation; all tokens of these examples are read.
            n_new: Tokens of a continuation at most.
            temperature: 0 takes the most likely token every time.
            seed: Of the draws at other temperatures.

        Returns:
            The new tokens of each start, int64 [<= n_new]. Fewer if the model ends the text.
        """
        import torch

        from soft_prompts.engine.generate import batches, generate
        from soft_prompts.engine.memory import within_memory

        model, budget = self.bench.model, self.bench.token_budget

        def continued() -> dict[int, np.ndarray]:
            random, new = torch.Generator(model.device).manual_seed(seed), {}
            for batch in batches(starts, self.intervention.n_tokens, n_new, budget):
                rows = generate(model, self.intervention, [starts[i] for i in batch], n_new, temperature, random)
                new.update(zip(batch, rows, strict=True))
            return new

        new = within_memory(continued, budget)
        return [new[i] for i in range(len(starts))]

    def decode(self, tokens: np.ndarray) -> str:
        """Text as the model wrote it: special tokens stay visible, spaces untouched."""
        tokenizer = self.bench.encoding.tokenizer
        return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def unprompted(bench: Bench) -> PromptedModel:
    """A bench's model as it is."""
    from soft_prompts.interventions.soft_prompt import SoftPrompt  # brings torch, which takes a second to import

    return PromptedModel(bench, SoftPrompt(bench.model.vocabulary[:0].float()).to(bench.model.device))
