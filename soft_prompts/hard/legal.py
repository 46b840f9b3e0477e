"""Which tokens a prompt of text may hold, and whether its text is read back as the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.language_model import LanguageModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Legal:
    """What a prompt may be. Its text is what a person types, so it counts as the tokens that the tokenizer makes of it:
    a prompt survives if these are its own, also with what stands behind it."""

    tokenizer: PreTrainedTokenizerBase
    rows: Tensor
    """float32 [V, D], the tokens as the model reads them."""
    mask: Tensor
    """bool [V], those that it may hold."""
    followed_by: tuple[str, ...] = ()
    """Texts that stand right behind it."""

    @classmethod
    def of(cls, model: LanguageModel, banned: Sequence[str] = (), plain_ascii: bool = False) -> Legal:
        """All tokens that are text: no special tokens, no parts of characters.

        Args:
            model: Whose tokens they are.
            banned: No token may hold any of these strings, upper or lower case.
            plain_ascii: Printable ASCII only.

        Raises:
            SoftPromptsError: Nothing is left.
        """
        tokenizer, special = model.tokenizer, set(model.tokenizer.all_special_ids)
        lowered = [word.lower() for word in banned]

        def may(i: int, text: str) -> bool:
            is_text = bool(text) and "\ufffd" not in text and i not in special
            plain = not plain_ascii or (text.isascii() and text.isprintable())
            return is_text and plain and not any(word in text.lower() for word in lowered)

        ids = [[i] for i in range(len(model.vocabulary))]
        texts = tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)
        mask = torch.tensor([may(i, text) for i, text in enumerate(texts)], device=model.device)
        return cls(tokenizer, model.vocabulary.float(), mask)._not_empty()

    def before(self, texts: Sequence[str], no_overlap: bool = False) -> Legal:
        """What may stand before texts.

        Args:
            texts: They stand right behind the prompt, each by itself.
            no_overlap: Their own tokens may not be used, with or without a space before a word.

        Raises:
            SoftPromptsError: Nothing is left.
        """
        mask = self.mask.clone()
        for form in {form for text in texts for form in (text, text.strip(), " " + text.strip()) if no_overlap}:
            mask[self.read_back([form])[0]] = False
        return replace(self, mask=mask, followed_by=tuple(texts))._not_empty()

    def _not_empty(self) -> Legal:
        if not self.mask.any():
            raise SoftPromptsError("no token is left that a prompt may hold; ban fewer.")
        return self

    @cached_property
    def ids(self) -> Tensor:
        """The legal tokens in ascending order, int64 [n]."""
        return self.mask.nonzero()[:, 0]

    def only(self, scores: Tensor) -> Tensor:
        """Scores of tokens [..., V], with -inf for those that are not legal."""
        return scores.masked_fill(~self.mask, -torch.inf)

    def nearest(self, rows: Tensor) -> Tensor:
        """The legal token that is nearest to each row by cosine: [n, D] -> int64 [n]."""
        return self.only(rows.float() @ self.rows.T / self._lengths).argmax(-1)

    @cached_property
    def _lengths(self) -> Tensor:
        return self.rows.norm(dim=-1).clamp(min=1e-9)

    def read_back(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts."""
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def survives(self, prompts: Tensor) -> Tensor:
        """Whether each prompt's text is read back as the same tokens, also with what stands behind it.

        Args:
            prompts: int64 [B, n].

        Returns:
            bool [B].
        """
        tokens = prompts.tolist()
        texts = self.tokenizer.batch_decode(tokens, clean_up_tokenization_spaces=False) if tokens else []
        fine = [True] * len(tokens)
        for behind in ("", *self.followed_by):
            own = self.read_back([behind])[0] if behind else []
            read = self.read_back([text + behind for text in texts])
            fine = [ok and found == prompt + own for ok, found, prompt in zip(fine, read, tokens, strict=True)]
        return torch.tensor(fine, dtype=torch.bool, device=prompts.device)

    def random(self, n: int, generator: torch.Generator) -> Tensor:
        """A random prompt that survives.

        Args:
            n: Its tokens.
            generator: Source of chance, on the CPU.

        Returns:
            int64 [n].

        Raises:
            SoftPromptsError: None was found in 1,000 tries.
        """
        at = torch.randint(len(self.ids), (1000, n), generator=generator).to(self.ids.device)
        for part in self.ids[at].split(50):
            if len(fine := part[self.survives(part)]):
                return fine[0]
        raise SoftPromptsError(f"no prompt of {n} tokens was found whose text is read back as the same tokens.")
