"""A trained prompt in use: `soft_prompts.load(snapshot)` gives a model behind it that writes and scores texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.forward import usual_budget
from soft_prompts.engine.generate import generate
from soft_prompts.engine.memory import within_memory
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.base import Intervention
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load as load_model
from soft_prompts.models.names import LOCAL, split_revision
from soft_prompts.results.snapshot import Use, facts_of, load_prompt
from soft_prompts.tasks.base import Conditions


@dataclass(frozen=True)
class Prompted:
    """A frozen model behind a trained prompt."""

    model: LanguageModel
    prompt: Intervention
    use: Use

    def generate(
        self,
        text: str = "",
        n_tokens: int = 100,
        temperature: float = 0.0,
        seed: int = 0,
        condition: Sequence[float] = (),
    ) -> str:
        """Continue a text.

        Args:
            text: What stands before the continuation.
            n_tokens: Tokens of the continuation at most; it is shorter if the model ends the text.
            temperature: 0 takes the most likely token every time.
            seed: Of the draws at other temperatures.
            condition: What the prompt depends on, such as both players' ratings.

        Raises:
            SoftPromptsError: There are too many tokens for the model, or the condition has the wrong length.
        """
        start = self._example(text, condition)
        random = torch.Generator(self.model.device).manual_seed(seed)
        once = partial(generate, self.model, self.prompt, [start], n_tokens, temperature, random)
        (new,) = within_memory(once, usual_budget(self.model.device))
        return self.model.tokenizer.decode(new, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def logprobs(self, texts: Sequence[str], condition: Sequence[float] = ()) -> list[np.ndarray]:
        """Log-probability of every token of some texts behind the prompt, in nats, float32 [tokens] each.

        Raises:
            SoftPromptsError: The prompt stands behind a text and not before it, or the condition has the wrong length.
        """
        if self.use.behind == "text":
            raise SoftPromptsError(
                "this prompt stands behind a text, so it changes none of the text's own tokens; use generate."
            )
        examples = [self._example(text, condition) for text in texts]
        (scores,) = evaluate(self.model, [self.prompt], examples, usual_budget(self.model.device))
        return [-losses for losses in scores.losses]

    def rows(self, condition: Sequence[float] = ()) -> Tensor:
        """The prompt as embeddings, float32 [P, D].

        Raises:
            SoftPromptsError: The condition has the wrong length.
        """
        with torch.no_grad():
            return self.prompt(torch.from_numpy(self._condition(condition))[None].to(self.model.device))[0]

    def _example(self, text: str, condition: Sequence[float]) -> Example:
        """A text behind the separator, all of whose tokens are scored."""
        ids = self.model.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = np.array([self.use.separator, *ids], np.int64)
        labels = np.concatenate([[IGNORE], tokens[1:]])
        at = {"nothing": 0, "separator": 1, "text": len(tokens)}[self.use.behind]
        return Example(tokens, labels, text, insert_at=at, condition=self._condition(condition))

    def _condition(self, numbers: Sequence[float]) -> np.ndarray:
        known = self.use.conditions
        names = known["names"] if known else []
        if len(numbers) != len(names):
            wanted = f"{len(names)} numbers ({', '.join(names)})" if names else "no condition"
            raise SoftPromptsError(f"the condition is {tuple(numbers)}, but this prompt takes {wanted}.")
        return Conditions(**known)(numbers) if known else np.zeros(0, np.float32)


def load(snapshot: str | Path, model: str = "", dtype: str = "auto", device: str = "auto") -> Prompted:
    """A model behind the prompt of a snapshot.

    Args:
        snapshot: A file below snapshots/.
        model: Name, folder or GGUF file of the model that the prompt was trained on; "": the name in the snapshot.
        dtype: Of the model.
        device: Where it is computed.

    Raises:
        SoftPromptsError: The snapshot or the model cannot be loaded, they do not belong together, or the snapshot is
            from before snapshots told how they are used.
    """
    path = Path(snapshot)
    facts = facts_of(path)
    use = _use(path, facts)
    name, revision = split_revision(model or _model_of(facts))
    try:
        lm = load_model(name, revision, dtype, device)
    except SoftPromptsError as error:
        if model:
            raise
        raise SoftPromptsError(f"{error} If it lies on this machine, name the folder or file of {name!r}.") from error
    return Prompted(lm, load_prompt(path, lm), use)


def _model_of(facts: dict[str, Any]) -> str:
    name, revision = (str(facts["model"].get(key, "")) for key in ("name", "revision"))
    return name if revision in ("", "main", LOCAL) else f"{name}@{revision}"


def _use(path: Path, facts: dict[str, Any]) -> Use:
    try:
        return Use(**facts["use"])
    except TypeError as error:
        raise SoftPromptsError(
            f"{path} does not say behind which token its prompt stands: it is from an older version; train it again "
            f"with --force."
        ) from error
