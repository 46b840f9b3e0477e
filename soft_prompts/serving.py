"""A prompt in use: `soft_prompts.load(snapshot)` gives a model behind it that writes and scores texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.forward import forward_pass, usual_budget
from soft_prompts.engine.generate import generate
from soft_prompts.engine.memory import within_memory
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.base import Intervention
from soft_prompts.interventions.given import base_model, given_prompt
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load as load_model
from soft_prompts.models.names import LOCAL, split_revision
from soft_prompts.results.snapshot import Use, facts_of, load_prompt
from soft_prompts.tasks.base import Conditions


@dataclass(frozen=True)
class Prompted:
    """A frozen model behind a prompt."""

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
        return self.decode(self.continued(self.start(text, condition), n_tokens, temperature, seed))

    def continued(
        self,
        start: Example,
        n_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        enough: Callable[[np.ndarray], bool] | None = None,
    ) -> np.ndarray:
        """The tokens behind the start of a text, int64 [<= n_tokens].

        Args:
            start: From ``start``.
            n_tokens, temperature, seed: As ``generate``.
            enough: Whether the tokens so far, int64 [n], are all that is wanted; asked after every token.

        Raises:
            SoftPromptsError: There are too many tokens for the model.
        """

        def once() -> np.ndarray:
            random = torch.Generator(self.model.device).manual_seed(seed)
            return generate(self.model, self.prompt, [start], n_tokens, temperature, random, enough)[0]

        return within_memory(once, usual_budget(self.model.device))

    def decode(self, tokens: np.ndarray | Sequence[int]) -> str:
        """Text as the model wrote it: special tokens stay visible, spaces untouched."""
        return self.model.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def logprobs(self, texts: Sequence[str], condition: Sequence[float] = ()) -> list[np.ndarray]:
        """Log-probability of every token of some texts behind the prompt, in nats, float32 [tokens] each.

        Raises:
            SoftPromptsError: The prompt stands behind a text and not before it, or the condition has the wrong length.
        """
        if self.use.behind == "text":
            raise SoftPromptsError(
                "this prompt stands behind a text, so it changes none of the text's own tokens; use generate."
            )
        examples = [self.start(text, condition) for text in texts]
        (scores,) = evaluate(self.model, [self.prompt], examples, usual_budget(self.model.device))
        return [-losses for losses in scores.losses]

    @torch.no_grad()
    def likely(self, start: Example, new: np.ndarray, n: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How likely the tokens behind the start of a text are, and which would have been the most likely ones.

        Args:
            start: From ``start``.
            new: int [T], the tokens behind it, one or more.
            n: How many of the most likely ones.

        Returns:
            In nats, float32 [T], the log-probability of each token; the ids [T, n] of the most likely ones at its
            place, the first first; and their log-probabilities, float32 [T, n].
        """
        labels = np.concatenate([np.full(len(start), IGNORE), new])
        whole = replace(start, tokens=np.concatenate([start.tokens, new]), labels=labels)
        states = forward_pass(self.model, [self.prompt], [[whole]], [(0, 0)])
        logprobs = self.model.head(states.hidden).float().log_softmax(-1)  # [T, V]
        best = logprobs.topk(n)
        own = logprobs.gather(1, states.labels[:, None])[:, 0]
        return own.cpu().numpy(), best.indices.cpu().numpy(), best.values.cpu().numpy()

    def rows(self, condition: Sequence[float] = ()) -> Tensor:
        """The prompt as embeddings, float32 [P, D].

        Raises:
            SoftPromptsError: The condition has the wrong length.
        """
        with torch.no_grad():
            return self.prompt(torch.from_numpy(self._condition(condition))[None].to(self.model.device))[0]

    def start(self, text: str, condition: Sequence[float] = (), at: int | None = None) -> Example:
        """A text behind the separator, all of whose tokens are scored.

        Args:
            text: The text.
            condition: What the prompt depends on.
            at: The character before which the prompt stands. None: it stands where it was trained.

        Raises:
            SoftPromptsError: The condition has the wrong length, or nothing says where the prompt stands.
        """
        coded = self.model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=at is not None)
        ids = coded["input_ids"]
        tokens = np.array([self.use.separator, *ids], np.int64)
        labels = np.concatenate([[IGNORE], tokens[1:]])
        if at is None and self.use.behind == "within":
            raise SoftPromptsError(
                "this prompt stands within a text, where only its task knows; say where (in Inspect: -M place=user)."
            )
        if at is None:
            place = {"nothing": 0, "separator": 1, "text": len(tokens)}[self.use.behind]
        else:
            place = 1 + sum(begins < at for begins, _ in coded["offset_mapping"])
        return Example(tokens, labels, text, insert_at=place, condition=self._condition(condition))

    def _condition(self, numbers: Sequence[float]) -> np.ndarray:
        known = self.use.conditions
        names = known["names"] if known else []
        if len(numbers) != len(names):
            wanted = f"{len(names)} numbers ({', '.join(names)})" if names else "no condition"
            raise SoftPromptsError(f"the condition is {tuple(numbers)}, but this prompt takes {wanted}.")
        return Conditions(**known)(numbers) if known else np.zeros(0, np.float32)


def load(snapshot: str | Path | None, model: str = "", dtype: str = "auto", device: str = "auto") -> Prompted:
    """A model behind a prompt.

    Args:
        snapshot: A file below snapshots/, or a folder of PEFT's prompt tuning. None: no prompt, the model as it is.
        model: Name, folder or GGUF file of the model that the prompt was trained on; "": the name that the prompt
            comes with.
        dtype: Of the model.
        device: Where it is computed.

    Raises:
        SoftPromptsError: The prompt or the model cannot be loaded, they do not belong together, or the snapshot is from
            before snapshots told how they are used.
    """
    if snapshot is None:
        lm = load_model(*_named(model, "without a prompt, nothing says which model is meant"), dtype, device)
        return Prompted(lm, SoftPrompt(lm.vocabulary[:0]).to(lm.device), Use(lm.separator, "separator"))
    path = Path(snapshot)
    if path.is_dir():
        belongs = model or base_model(path)
        lm = load_model(*_named(belongs, f"{path} does not say to which model it belongs"), dtype, device)
        given = given_prompt(path, lm.vocabulary, lm.tokenizer.all_special_ids)
        separator = lm.separator if given.opener is None else given.opener
        use = Use(separator, "nothing" if given.before else "separator")
        return Prompted(lm, SoftPrompt(given.rows).to(lm.device), use)
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


def _named(model: str, otherwise: str) -> tuple[str, str]:
    """Name and revision of a model that must be named."""
    if not model:
        raise SoftPromptsError(f"{otherwise}; name the model (in Inspect: -M language_model=NAME).")
    return split_revision(model)


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
