"""A frozen causal language model, taken apart into embed, body and head."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.attention import quick_attention
from soft_prompts.models.spread import weight_of


def n_entries(tokenizer: PreTrainedTokenizerBase) -> int:
    """Entries of a tokenizer's vocabulary, V: one more than the largest token id."""
    return 1 + max(tokenizer.get_vocab().values())


WINDOWS = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size", "local_attention")
"""What configurations call the width of a sliding window."""


CAPS = ("final_logit_softcapping", "logits_soft_cap")
"""What configurations call the cap on logits."""


@dataclass(frozen=True)
class Head:
    """The unembedding: logits from hidden states, with all that the model does to them behind the matrix."""

    weight: Tensor
    """[V, D]"""
    bias: Tensor | None = None
    """[V]"""
    factor: float = 1.0
    """The model multiplies its logits by it."""
    cap: float | None = None
    """Then it bends them: cap * tanh(logit / cap)."""

    @classmethod
    def of(cls, lm: PreTrainedModel) -> Head:
        """The head of a causal LM.

        Raises:
            SoftPromptsError: It has no plain linear unembedding.
        """
        linear, config = lm.get_output_embeddings(), lm.config.get_text_config()
        if not isinstance(linear, nn.Linear):
            raise SoftPromptsError(f"{type(lm).__name__} has no linear unembedding; its loss cannot be computed here.")
        factor = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
        if config.model_type.startswith("granite"):
            factor /= getattr(config, "logits_scaling", None) or 1.0
        cap = next((cap for name in CAPS if (cap := getattr(config, name, None))), None)
        return cls(linear.weight, linear.bias, factor, cap)

    @property
    def out_features(self) -> int:
        """V"""
        return len(self.weight)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to logits [..., V]."""
        logits = nn.functional.linear(hidden, self.weight, self.bias) * self.factor
        return logits if self.cap is None else (logits / self.cap).tanh() * self.cap


@dataclass(frozen=True)
class LanguageModel:
    """A pretrained causal LM whose weights never change: ``head(body(embed(tokens)))`` are its logits."""

    name: str
    revision: str
    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    separator: int
    """Token id that opens every sequence: BOS, or EOS if there is none."""
    has_cache: bool = True
    """Whether a key-value cache computes the same as reading anew. Without it every new token reads the whole text."""
    shares_starts: bool = False
    """Whether rows that begin alike may read their beginning once; see ``fitness.shares_starts``."""

    @property
    def device(self) -> torch.device:
        """Where texts go in and logits come out; the layers of a large model may be elsewhere."""
        return self.lm.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm.dtype

    @property
    def head(self) -> Head:
        """The unembedding: hidden states [..., D] to logits [..., V]."""
        return Head.of(self.lm)

    @property
    def ends(self) -> list[int]:
        """Token ids that end a text: the separator, and all end tokens of tokenizer and generation configuration."""
        found = {self.separator}
        for source in (self.tokenizer, getattr(self.lm, "generation_config", None)):
            ids = getattr(source, "eos_token_id", None)
            found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
        return sorted(found)

    @property
    def window(self) -> int:
        """Tokens of the widest sliding window that any layer has; 0 if none has one."""
        config = self.lm.config.get_text_config()
        sizes = (getattr(config, name, None) for name in WINDOWS)
        return max((size for size in sizes if isinstance(size, int) and size > 0), default=0)

    @property
    def context(self) -> int:
        """The most positions that the model was made for, prompt included."""
        return getattr(self.lm.config.get_text_config(), "max_position_embeddings", None) or 2**31

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids [...] to embeddings [..., D]."""
        return self.lm.get_input_embeddings()(tokens)

    def body(self, embeddings: Tensor) -> Tensor:
        """Embeddings [B, L, D] to the hidden states [B, L, D] that ``head`` turns into logits.

        Rows of different lengths are padded on the right.
        """
        with quick_attention(embeddings):
            read = self.lm.base_model(inputs_embeds=embeddings, use_cache=False)
        return read.last_hidden_state.to(self.device)

    def reader(self) -> Reader:
        """What reads texts piece by piece."""
        return Reader(self)

    @cached_property
    def vocabulary(self) -> Tensor:
        """The embeddings [V, D] of the entries that the tokenizer can produce, as ``embed`` gives them: some models
        scale the rows of the matrix. Models pad the matrix beyond the entries."""
        with torch.no_grad():
            return self.embed(torch.arange(n_entries(self.tokenizer), device=self.device))

    @cached_property
    def words(self) -> Tensor:
        """The rows of ``vocabulary`` that text is made of, float32: those of all entries but the special ones."""
        special = set(self.tokenizer.all_special_ids)
        return self.vocabulary[[i for i in range(len(self.vocabulary)) if i not in special]].float()

    @cached_property
    def scale(self) -> float:
        """Root mean square of the vocabulary's embeddings: the unit in which prompts are trained."""
        return self.vocabulary.float().square().mean().sqrt().item()

    @cached_property
    def weight_hash(self) -> str:
        """16 hex digits over all weights, rounded to bfloat16: a checkpoint has one hash, whatever dtype it is loaded
        in."""
        digest = hashlib.blake2b(digest_size=8)
        for name in sorted(name for name, _ in self.lm.named_parameters()):
            weight = weight_of(self.lm, name)
            digest.update(name.encode())
            digest.update(weight.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def tokenizer_hash(self) -> str:
        """16 hex digits over the tokenizer's vocabulary: losses per token compare only between equal ones."""
        entries = sorted(self.tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0]))
        return hashlib.blake2b(repr(entries).encode(), digest_size=8).hexdigest()

    def identity(self) -> dict[str, str | int]:
        """What a prompt belongs to. It is stored with every snapshot and result."""
        return {
            "name": self.name,
            "revision": self.revision,
            "commit": getattr(self.lm.config, "_commit_hash", None) or "unknown",
            "weights": self.weight_hash,
            "tokenizer": self.tokenizer_hash,
            "d_model": self.vocabulary.shape[1],
        }


class Roomy(DynamicLayer):
    """A layer of a key-value cache that adds tokens without copying those before them: it keeps room for as many again.

    Where gradients are wanted it grows as its library's own, since nothing that they need may be written over.
    """

    _room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values [B, heads, n, width] of the next n tokens; returns those of all tokens so far."""
        before = self.get_seq_length()
        if torch.is_grad_enabled() or not before:
            return super().update(key_states, value_states)
        now = before + key_states.shape[-2]
        # Rows that were picked out, and what was added with gradients, lie elsewhere than in the room.
        kept_there = self._room is not None and self._room[0].data_ptr() == self.keys.data_ptr()
        if not kept_there or now > self._room[0].shape[-2]:
            known = self.keys, self.values
            self._room = tuple(x.new_empty(*x.shape[:-2], 2 * now, x.shape[-1]) for x in known)
            for room, x in zip(self._room, known, strict=True):
                room[..., :before, :] = x
        for room, x in zip(self._room, (key_states, value_states), strict=True):
            room[..., before:now, :] = x
        self.keys, self.values = (room[..., :now, :] for room in self._room)
        return self.keys, self.values


class Reader:
    """Reads texts piece by piece: it keeps what it read, and every call reads on behind that.

    All rows of a piece have real tokens only, but for what is padding to the end. So there is no mask, positions count
    up, and a sliding window holds the same tokens as in a row alone.
    """

    def __init__(self, model: LanguageModel):
        self._model, self._pieces = model, []
        self._cache = DynamicCache(config=model.lm.config) if model.has_cache else None
        if self._cache is not None:
            self._cache.layers = [Roomy() if type(of) is DynamicLayer else of for of in self._cache.layers]

    def __call__(self, piece: Tensor) -> Tensor:
        """Embeddings [B, n, D] of the next n tokens to their hidden states [B, n, D]."""
        if self._cache is None:
            self._pieces.append(piece)
            return self._model.body(torch.cat(self._pieces, 1))[:, -piece.shape[1] :]
        with quick_attention(piece):
            read = self._model.lm.base_model(inputs_embeds=piece, past_key_values=self._cache, use_cache=True)
        return read.last_hidden_state.to(self._model.device)

    def hand_out(self, row_of: Tensor) -> None:
        """From now on there are as many rows as ``row_of``, int64 [B], has entries: each goes on from the row that it
        names."""
        if self._cache is None:
            self._pieces = [piece[row_of] for piece in self._pieces]
        else:
            self._cache.reorder_cache(row_of)
