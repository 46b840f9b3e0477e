"""Which tokens did a model hardly see in training? They are found by their embeddings, and verified by asking the model
to repeat them.

The method is that of Land and Bartolo 2024, *Fishing for Magikarp: Automatically Detecting Under-trained Tokens in
Large Language Models* (arXiv 2405.05417). What differs is said where it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from soft_prompts.models.language_model import LanguageModel, n_entries

ORDINARY, SPECIAL, PARTIAL, UNREACHABLE = CLASSES = ("ordinary", "special", "partial", "unreachable")
"""Classes of tokens. Special: marks that were added by hand. Partial: pieces of a character in UTF-8, which are no text
alone. Unreachable: the text of the token is written with other tokens, so no text holds it. Only ordinary tokens are
candidates."""
BEFORE = (".", "a")
"""Texts behind which a token's own text is tried: some tokenizers write a word otherwise at the start of a text."""
NEVER_IN_UTF8 = (0xC0, 0xC1, *range(0xF5, 0x100))
"""Bytes of no text."""
FAILS_BELOW = 0.01
"""A token that no prompt makes the model repeat with this probability is under-trained (Land and Bartolo)."""
REPEAT = (
    ("", *[","] * 8),
    ("time, time, time, time\nwater, water, water, water\n", ",", ",", ","),
    ('Repeat: "time", "time", "time". Repeat: "water", "water", "water". Repeat: "', '", "', '", "'),
)
"""Texts with the token in their gaps, which go on with the token. The paper's prompts ask in words; these are for
models that only continue texts."""


@dataclass(frozen=True)
class Tokens:
    """The entries of a tokenizer, by token id."""

    texts: list[str]
    """As they stand behind other text. A partial token has no text; here is what the vocabulary calls it."""
    classes: np.ndarray
    """One of CLASSES each, [V]."""

    def of(self, name: str) -> np.ndarray:
        """The ids of a class, ascending."""
        return np.flatnonzero(self.classes == name)

    def shown(self, token: int) -> str:
        """A token between marks that show its spaces; what cannot be printed is escaped."""
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in self.texts[token])
        return f"«{text}»"


def tokens_of(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The text and the class of every entry.

    Args:
        tokenizer: Its largest token id is V - 1. Ids without an entry are unreachable.
    """
    ids = range(n_entries(tokenizer))
    anchors = [_encoded(tokenizer, [text])[0] for text in BEFORE]
    behind = [_decoded(tokenizer, [[*anchor, i] for i in ids]) for anchor in anchors]
    first = _decoded(tokenizer, anchors)[0]
    texts = [text.removeprefix(first) for text in behind[0]]
    # A token is reachable if its text alone, or behind another text, is written with it.
    is_reached = np.array([row == [i] for i, row in enumerate(_encoded(tokenizer, texts))])
    for anchor, of_anchor in zip(anchors, behind, strict=True):
        for i in np.flatnonzero(~is_reached):
            is_reached[i] = _encoded(tokenizer, [of_anchor[i]])[0] == [*anchor, i]
    is_partial = np.array(["\ufffd" in text for text in texts])
    classes = np.where(is_reached, ORDINARY, np.where(is_partial, PARTIAL, UNREACHABLE)).astype(object)
    added = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special and i < len(texts)]
    classes[added] = SPECIAL
    for i in np.flatnonzero(classes == PARTIAL):
        texts[i] = tokenizer.convert_ids_to_tokens(int(i))
    return Tokens(texts, classes)


def _decoded(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> list[str]:
    return tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def is_tied(model: LanguageModel) -> bool:
    """Whether one matrix embeds tokens and predicts them."""
    return model.head.weight.data_ptr() == model.lm.get_input_embeddings().weight.data_ptr()


def known_unused(model: LanguageModel, tokens: Tokens) -> list[int]:
    """Rows of the unembedding that no training text had.

    They are rows beyond the tokenizer's entries, and bytes that UTF-8 has no use for. If a model has neither, as
    SmolLM2: special tokens without a role, which most training texts, if not all, do without.
    """
    entries = model.tokenizer.get_vocab()
    of_bytes = [entries.get(name) for byte in NEVER_IN_UTF8 for name in _names(byte)]
    found = [i for i in of_bytes if i is not None and tokens.classes[i] == PARTIAL]
    found += range(len(tokens.texts), len(model.head.weight))
    if found:
        return sorted(found)
    template = str(model.tokenizer.chat_template or "")
    roles = {*model.ends, *model.tokenizer.all_special_ids}
    return [i for i in tokens.of(SPECIAL).tolist() if i not in roles and tokens.texts[i] not in template]


def _names(byte: int) -> tuple[str, str]:
    """What a byte that is no character is called in vocabularies: as a letter of byte-level BPE, which has the Latin
    letter of this number there, and as sentencepiece falls back to it."""
    return chr(byte), f"<0x{byte:02X}>"


def from_unused(unembedding: Tensor, unused: Sequence[int]) -> Tensor:
    """The indicator for tied embeddings: the distance from rows that are known to be unused.

    In every step of training, whatever is not the next token is pushed away from the hidden state. Rows of tokens that
    never come are only pushed, all alike, so they end up close together. The first principal component c, which most
    rows share, is removed: U' = U - (U c) c^T. The indicator is 1 - cos(U'_i, u) with u the centre of the unused rows
    of U' (Land and Bartolo 2024, section 3.2). They take the mean; here u is the median, since of the special tokens
    some may be in use after all.

    Args:
        unembedding: U, [rows, D].
        unused: Which rows are known to be unused.

    Returns:
        float32 [rows], from 0 (as an unused token) to 2.
    """
    rows = unembedding.float()
    _, axes = torch.linalg.eigh(rows.double().T @ rows.double())  # ascending
    shared = axes[:, -1].float()
    rows = rows - (rows @ shared)[:, None] * shared
    return 1 - torch.nn.functional.cosine_similarity(rows, rows[list(unused)].median(0).values[None])


def indicator(model: LanguageModel, tokens: Tokens, unused: Sequence[int]) -> tuple[str, np.ndarray]:
    """How little every token was trained: the smaller, the less.

    Where another matrix predicts tokens, the input embedding of a token moves only where the token is read, and decays
    elsewhere; so its norm tells (Land and Bartolo 2024, section 3.2). It is all there is, too, where no token is known
    to be unused.

    Args:
        model: The model.
        tokens: Its tokenizer's entries.
        unused: ``known_unused``, or what is known better.

    Returns:
        What it is, and float32 [V].
    """
    if is_tied(model) and unused:
        return "distance from unused tokens", from_unused(model.head.weight, unused)[: len(tokens.texts)].cpu().numpy()
    return "norm of the input embedding", model.vocabulary.float().norm(dim=1).cpu().numpy()


def of_like_frequency(chosen: Sequence[int], others: Sequence[int]) -> list[int]:
    """For each chosen token another one with nearly the same id: BPE numbers its entries by how frequent they were in
    the text that the tokenizer was made from.

    Args:
        chosen: Token ids.
        others: Those to take from, as many at least; each is taken once.
    """
    left, taken = sorted(others), []
    for token in chosen:
        at = int(np.abs(np.array(left) - token).argmin())
        taken.append(left.pop(at))
    return taken


@torch.no_grad()
def repeats(model: LanguageModel, tokens: Sequence[int], at_once: int = 64) -> np.ndarray:
    """How probable the model finds a token where it must be repeated.

    Args:
        model: The model.
        tokens: N token ids.
        at_once: Rows of a forward pass.

    Returns:
        float32 [N, prompts of REPEAT]. Land and Bartolo take the largest of a token's.
    """
    found = [
        torch.cat([_probability(model, prompt, part) for part in torch.tensor(tokens).split(at_once)])
        for prompt in _prompts(model)
    ]
    return torch.stack(found, 1).cpu().numpy()


def _prompts(model: LanguageModel) -> Iterator[list[list[int]]]:
    """Each of REPEAT as token ids, piece by piece."""
    for pieces in REPEAT:
        first, *others = _encoded(model.tokenizer, pieces)
        yield [[model.separator, *first], *others]


def _probability(model: LanguageModel, pieces: list[list[int]], tokens: Tensor) -> Tensor:
    """Of each token [N] behind the pieces with the token in their gaps, float32 [N]."""
    own = tokens[:, None]
    columns = [torch.tensor(pieces[0], dtype=torch.long).expand(len(tokens), -1)]
    for piece in pieces[1:]:
        columns += [own, torch.tensor(piece, dtype=torch.long).expand(len(tokens), -1)]
    hidden = model.body(model.embed(torch.cat(columns, 1).to(model.device)))[:, -1]  # [N, D]
    probabilities = model.head(hidden).float().softmax(-1)
    return probabilities.gather(1, own.to(model.device))[:, 0]
