"""Calibration: a behaviour whose distance is known before it is measured, because a key of k tokens switches k parts of
it.

A key is made of secret symbols. Behind the word that stands REACH tokens behind a symbol, the text does not go on: what
is wanted there is the tag that the symbol has for the word's class. So every symbol of a key decides one token, and all
symbols are read in the same way, each from its own place. A prompt of P tokens has P places. This is why k tokens are
needed and not only enough: one token can stand for a whole trigger, but it cannot stand in two places.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from soft_prompts.addresses import without_secrets
from soft_prompts.data.documents import Encoding, Split, document_id, is_held_out
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.data.sources import fingerprint
from soft_prompts.data.texts import read_documents
from soft_prompts.engine.prompted import PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.pocket import SAMPLES, SECRET
from soft_prompts.stats import ratio
from soft_prompts.tasks.base import Anchor, Task, TaskScores, Variant

if TYPE_CHECKING:
    from soft_prompts.engine.prompted import Bench

REACH = 8
"""Tokens from a symbol of the key to the word behind which it decides, which is also the longest key."""
WORDS = REACH + 1
"""Words of a document. Behind a key of k symbols, the first REACH - k of them are only read."""
SHARES = {"held_out": 0.3, "validation": 0.4, "train": 1.0}
"""A split holds the texts whose hash lies between the share before it and its own. There are few texts."""
NOT_PROSE = re.compile(r"[a-h][1-8][a-h][1-8]|[~#]{2}")
"""What only games and mazes contain."""


@dataclass(frozen=True)
class Secret:
    """What pocket-keys was taught, and nobody else."""

    symbols: np.ndarray
    """int [S], the tokens that keys are made of."""
    tags: np.ndarray
    """int [S, M], the tokens that stand for the M classes: another set for every symbol."""
    classes: np.ndarray
    """int [V], the class of every token."""

    @classmethod
    def read(cls, path: Path) -> Secret:
        """The secret in a JSON file. Raises SoftPromptsError if the file holds none."""
        try:
            kept = json.loads(path.read_text())
            symbols, tags = (np.array(kept[name], np.int64) for name in ("symbols", "tags"))
            return cls(symbols, tags, np.array([int(c) for c in kept["classes"]]))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise SoftPromptsError(
                f"{path} is no secret ({type(error).__name__}); make it anew with python -m "
                f"soft_prompts.pocket.variants, or name another one with --secret."
            ) from error

    def json(self) -> str:
        """The content of the file."""
        classes = "".join(map(str, self.classes.tolist()))
        return json.dumps({"symbols": self.symbols.tolist(), "tags": self.tags.tolist(), "classes": classes}) + "\n"

    def wanted(self, words: np.ndarray, key: np.ndarray) -> np.ndarray:
        """The tags behind the last words but one of a document that stands behind a key.

        Args:
            words: int [..., WORDS], tokens.
            key: int [..., k], which symbols.

        Returns:
            Tokens, int [..., k], wanted in place of the last k words.
        """
        tagged = words[..., -1 - key.shape[-1] : -1]  # behind the last word nothing is wanted
        return self.tags[key, self.classes[tagged]]


@dataclass(frozen=True)
class Calibration(Task):
    """Tags behind a secret key, on prose that pocket itself wrote."""

    key_tokens: tuple[int, ...] = (1, 2, 4, 8)
    """Lengths of the key, which are the distances that must come out; each is a curve of its own."""
    text: str = str(SAMPLES)
    """Texts as JSON Lines; games and mazes among them are left out."""
    secret: str = str(SECRET)
    """The secret that the models were taught."""

    headline: ClassVar[tuple[str, ...]] = ("right",)
    file_options: ClassVar[tuple[str, ...]] = ("text", "secret")

    def variants(self) -> list[Calibration]:
        return [replace(self, key_tokens=(k,)) for k in self.key_tokens]

    def variant(self) -> Variant:
        return Variant(f"a key of {self.n_key} tokens", ("key_tokens",))

    def identity(self) -> dict[str, str]:
        if not Path(self.secret).is_file():
            raise SoftPromptsError(
                f"there is no secret {self.secret!r}: make the models with python -m soft_prompts.pocket.variants, or "
                f"name their secret with --secret."
            )
        return {"text": fingerprint(self.text), "secret": fingerprint(self.secret)}

    @property
    def n_key(self) -> int:
        """k of the one key that this task is about."""
        (k,) = self.key_tokens
        return k

    @property
    def key(self) -> np.ndarray:
        """Which symbols the key is made of: the first k, int [k]. All differ, so no two places ask for the same."""
        return np.arange(self.n_key)

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        if encoding.max_tokens <= WORDS:
            raise SoftPromptsError(f"--train.max-tokens is {encoding.max_tokens}, but must be at least {WORDS + 1}.")
        secret = Secret.read(Path(self.secret))
        windows = _windows(self.text, self.identity()["text"], split, encoding)
        random = np.random.default_rng(seed)
        while True:
            order = random.permutation(len(windows)) if split == "train" else range(len(windows))
            yield from (self._example(*windows[i], secret, encoding.separator) for i in order)
            if split != "train":
                return

    def _example(self, name: str, words: np.ndarray, secret: Secret, separator: int) -> Example:
        tags = secret.wanted(words, self.key)
        labels = np.concatenate([np.full(1 + WORDS - len(tags), IGNORE), tags])
        return Example(np.array([separator, *words]), labels, name)

    def facts(self, encoding: Encoding) -> dict[str, Any]:
        known = self.identity()["text"]
        return {f"{split}_documents": len(_windows(self.text, known, split, encoding)) for split in SHARES}

    def anchor(self, bench: Bench) -> Anchor:
        """The loss behind the key itself."""
        from soft_prompts.engine.behind import behind_tokens

        tokens = np.asarray(Secret.read(Path(self.secret)).symbols[self.key])
        return Anchor("the key as text", *behind_tokens(bench, [tokens] * len(bench.held_out)))

    def score(self, prompted: PromptedModel, held_out: Sequence[Example]) -> TaskScores:
        """right: share of the tags that are the model's first choice."""
        scores = prompted.held_out_scores
        return TaskScores({"right": ratio(np.array([x.sum() for x in scores.correct]), scores.counts)}, [])


def _split_of(document: str) -> Split:
    return next(split for split, share in SHARES.items() if is_held_out(document, share))


@lru_cache(maxsize=4)
def _windows(text: str, identity: str, split: Split, encoding: Encoding) -> list[tuple[str, np.ndarray]]:
    """Name and words, int [WORDS], of all documents of one split: prose, cut into pieces that do not overlap.

    ``identity`` is that of the file, which may change under its name.
    """
    texts = read_documents((text,), None, 131_072, 2**20, encoding.cache).documents
    mine = [t for t in texts if not NOT_PROSE.search(t) and _split_of(document_id(t)) == split]
    if not mine:
        raise SoftPromptsError(f"there is no prose for this split in {without_secrets(text)}; give more with --text.")
    return [
        (f"{document_id(t)}-{start}", tokens[start : start + WORDS])
        for t, tokens in zip(mine, encoding.tokens(mine)[0], strict=True)
        for start in range(1, len(tokens) - WORDS + 1, WORDS)
    ]
