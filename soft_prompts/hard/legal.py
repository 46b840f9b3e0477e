"""Which tokens a prompt of text may hold, and whether its text is read back as the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.language_model import LanguageModel


class Legal:
    """The tokens that a prompt may hold. Special tokens never are: they are no text."""

    def __init__(
        self, model: LanguageModel, banned: Sequence[str] = (), plain_ascii: bool = False, no_overlap: Sequence[str] = ()
    ):
        """
        Args:
            model: Whose tokens they are.
            banned: No token may hold any of these strings, upper or lower case.
            plain_ascii: Printable ASCII only.
            no_overlap: Texts of which no token may be used, with or without a space before it.

        Raises:
            SoftPromptsError: Nothing is left.
        """
        self.tokenizer = model.tokenizer
        n = len(model.vocabulary)
        written = self.tokenizer.batch_decode([[i] for i in range(n)], clean_up_tokenization_spaces=False)
        special = set(self.tokenizer.all_special_ids)
        overlap = {
            i
            for text in no_overlap
            for form in (text, " " + text, text.strip())
            for i in self.tokenizer(form, add_special_tokens=False)["input_ids"]
        }
        lowered = [word.lower() for word in banned]

        def may(i: int, text: str) -> bool:
            readable = text and "\ufffd" not in text  # a part of a character is no text
            plain = not plain_ascii or (text.isascii() and text.isprintable())
            return bool(readable and plain) and i not in special | overlap and not any(w in text.lower() for w in lowered)

        self.mask = torch.tensor([may(i, text) for i, text in enumerate(written)], device=model.device)
        """bool [V]"""
        if not self.mask.any():
            raise SoftPromptsError("no token is left that a prompt may hold; ban fewer.")

    @cached_property
    def ids(self) -> Tensor:
        """The legal tokens, int64 [n]."""
        return self.mask.nonzero()[:, 0]

    def read_back(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """What the tokenizer makes of the prompts' texts."""
        if not len(prompts):
            return []
        texts = self.tokenizer.batch_decode(prompts, clean_up_tokenization_spaces=False)
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def survives(self, prompts: Tensor) -> Tensor:
        """Whether each prompt's text is read back as the same tokens: others cannot be typed.

        Args:
            prompts: int64 [B, n].

        Returns:
            bool [B].
        """
        tokens = prompts.tolist()
        same = [x == y for x, y in zip(tokens, self.read_back(tokens), strict=True)]
        return torch.tensor(same, dtype=torch.bool, device=prompts.device)

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
