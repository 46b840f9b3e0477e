"""A frozen causal language model, taken apart into embed, body and head."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LanguageModel:
    """A pretrained causal LM whose weights never change: ``head(body(embed(tokens)))`` are its logits."""

    name: str
    revision: str
    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    separator: int
    """Token id that opens every sequence: BOS, or EOS if there is none."""

    @property
    def device(self) -> torch.device:
        return self.lm.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm.dtype

    @property
    def head(self) -> nn.Linear:
        """The unembedding: hidden states [..., D] to logits [..., V]."""
        return self.lm.get_output_embeddings()

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
        return self.lm.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state

    def extend(self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Read on behind what ``cache`` holds, and add what was read to it.

        Args:
            embeddings: [B, n, D], what is read.
            mask: [B, cached + n], 0 on padding.
            positions: [B, n], the position of each within the real tokens of its row.
            cache: Keys and values of what was read before.

        Returns:
            Hidden states [B, n, D].
        """
        extra = {"position_ids": positions} if self._takes_positions else {}
        return self.lm.base_model(
            inputs_embeds=embeddings, attention_mask=mask, past_key_values=cache, use_cache=True, **extra
        ).last_hidden_state

    @cached_property
    def _takes_positions(self) -> bool:
        return "position_ids" in inspect.signature(self.lm.base_model.forward).parameters

    @cached_property
    def vocabulary(self) -> Tensor:
        """The embeddings [V, D] of the entries that the tokenizer can produce, as ``embed`` gives them: some models
        scale the rows of the matrix. Models pad the matrix beyond the entries."""
        n_entries = min(len(self.lm.get_input_embeddings().weight), len(self.tokenizer))
        with torch.no_grad():
            return self.embed(torch.arange(n_entries, device=self.device))

    @cached_property
    def scale(self) -> float:
        """Root mean square of the vocabulary's embeddings: the unit in which prompts are trained."""
        return self.vocabulary.float().square().mean().sqrt().item()

    @cached_property
    def weight_hash(self) -> str:
        """16 hex digits over all weights, rounded to bfloat16: a checkpoint has one hash, whatever dtype it is loaded
        in."""
        digest = hashlib.blake2b(digest_size=8)
        for name, weight in sorted(self.lm.named_parameters()):
            digest.update(name.encode())
            digest.update(weight.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
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
