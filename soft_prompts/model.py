"""A frozen causal language model, taken apart into embed, body and head, and checked to be whole when put together again."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from functools import cached_property

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import local_folder, model_name
from soft_prompts.kernels import choose_kernels, keep_memory


@dataclass(frozen=True)
class LanguageModel:
    """A pretrained causal LM whose weights never change: ``head(body(embed(tokens)))`` are its logits."""

    name: str
    revision: str
    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    separator: int
    """Token id that opens every sequence: BOS, or EOS where there is none."""

    @property
    def device(self) -> torch.device:
        return self.lm.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm.dtype

    @property
    def head(self) -> nn.Linear:
        return self.lm.get_output_embeddings()

    @property
    def context(self) -> int:
        """The most positions the model was made for, prompt included."""
        return getattr(self.lm.config.get_text_config(), "max_position_embeddings", None) or 2**31

    def embed(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, D]"""
        return self.lm.get_input_embeddings()(tokens)

    def body(self, embeddings: Tensor) -> Tensor:
        """[B, L, D] -> hidden states [B, L, D] that ``head`` turns into logits. Rows are padded on the right, if at all."""
        return self.lm.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state

    def extend(self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Read [B, n, D] behind what ``cache`` holds (and grow it): hidden states [B, n, D].

        ``mask`` [B, cached + n] is 0 on padding, ``positions`` [B, n] counts the real tokens of each row.
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
        """The embeddings of the entries that the tokenizer can produce, [V, D] (models pad the matrix beyond them)."""
        matrix = self.lm.get_input_embeddings().weight.detach()
        return matrix[: min(len(matrix), len(self.tokenizer))]

    @cached_property
    def scale(self) -> float:
        """Root mean square of the vocabulary's embeddings: the unit in which prompts are trained."""
        return self.vocabulary.float().square().mean().sqrt().item()

    @cached_property
    def weight_hash(self) -> str:
        """16 hex digits over all weights, rounded to bfloat16 so that the same checkpoint loaded in any dtype has one hash."""
        digest = hashlib.blake2b(digest_size=8)
        for name, weight in sorted(self.lm.named_parameters()):
            digest.update(name.encode())
            digest.update(weight.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def tokenizer_hash(self) -> str:
        """16 hex digits over the tokenizer's vocabulary: results compare per token only where this agrees."""
        entries = sorted(self.tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0]))
        return hashlib.blake2b(repr(entries).encode(), digest_size=8).hexdigest()

    def identity(self) -> dict[str, str | int]:
        """What a prompt belongs to; stored with every snapshot and result."""
        return {
            "name": self.name,
            "revision": self.revision,
            "commit": getattr(self.lm.config, "_commit_hash", None) or "unknown",
            "weights": self.weight_hash,
            "tokenizer": self.tokenizer_hash,
            "d_model": self.vocabulary.shape[1],
        }


def load(
    name_or_path: str,
    revision: str = "main",
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> LanguageModel:
    """A frozen model by hub name, folder or the name of one that ships with the project (pocket, pocket-chat), in evaluation mode
    with sdpa attention, that has passed the fitness check.

    ``dtype``: "auto" is bfloat16 on a GPU that has it and float32 elsewhere. Raises SoftPromptsError if the model cannot
    be had or cannot be driven by embeddings.
    """
    transformers.utils.logging.disable_progress_bar()
    place = pick_device(device)
    kind = getattr(torch, pick_dtype(dtype, place))
    torch.set_float32_matmul_precision(choose_kernels() if place.type == "cpu" else "highest")
    if place.type == "cpu":
        keep_memory()
    folder = local_folder(name_or_path)
    source = str(folder or name_or_path)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(source, **options)
        if getattr(config, "is_encoder_decoder", False):
            raise SoftPromptsError(
                f"model {name_or_path!r} is an encoder-decoder; soft prompts here need a causal (decoder-only) model."
            )
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        # Without dtype= transformers 5 takes the checkpoint's own, float16 for pythia.
        lm = AutoModelForCausalLM.from_pretrained(source, dtype=kind, attn_implementation="sdpa", **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise SoftPromptsError(_why_not_loaded(name_or_path, revision, folder is not None, error)) from error
    lm = lm.to(place).eval().requires_grad_(False)
    name = model_name(name_or_path)
    model = LanguageModel(name, "local" if folder else revision, lm, tokenizer, _separator(name, tokenizer))
    check_fitness(model)
    return model


def pick_device(device: str) -> torch.device:
    """The device a name stands for ("auto": the GPU if there is one). Raises SoftPromptsError if it is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise SoftPromptsError(
            f"device {device!r} cannot be used here ({first}); try --device cpu or --device auto."
        ) from error
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> str:
    """The dtype a name stands for ("auto": bfloat16 on a GPU that has it, else float32)."""
    if dtype == "auto":
        return (
            "bfloat16"
            if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            else "float32"
        )
    return dtype


def _why_not_loaded(name: str, revision: str, is_folder: bool, error: Exception) -> str:
    cause = " ".join(str(error).split())[:300]
    if is_folder:
        return (
            f"the folder {name!r} cannot be loaded as a causal language model ({cause}); it needs config.json, "
            f"*.safetensors, a tokenizer and sdpa attention."
        )
    return (
        f"model {name!r} (revision {revision!r}) could not be loaded: it is no folder here, and the hub does not know it or cannot be reached; "
        f"check the spelling and the network, or give the path of a downloaded model. ({cause})"
    )


def _separator(name: str, tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token_id = token
            return token
    raise SoftPromptsError(
        f"the tokenizer of {name!r} has neither BOS nor EOS to open a document with; set one in its tokenizer_config.json."
    )


@torch.no_grad()
def check_fitness(model: LanguageModel) -> None:
    """Refuse a model that does not compute the same from embeddings as from tokens, or with a cache as without.

    Some models scale embeddings inside their forward pass, add embeddings per layer, cap their logits or ignore positions: a soft
    prompt trained on them would be measured on another model than the one named. Raises SoftPromptsError.
    """
    name = model.name
    if not isinstance(model.head, nn.Linear):
        raise SoftPromptsError(f"model {name!r} has no plain linear unembedding; its loss cannot be computed here.")
    n_long, n_short = 8, 5
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(len(model.vocabulary), (2, n_long + 1), generator=random).to(model.device)
    tokens[:, 0] = model.separator
    wanted = model.lm(input_ids=tokens, use_cache=False).logits.float()
    # Differences of rounding are a small share of the logits' spread; a missing scale or cap is of its own size.
    tolerance = (1e-3 if model.dtype == torch.float32 else 0.2) * wanted.std().item()

    def refuse(got: Tensor, wanted: Tensor, what: str) -> None:
        worst = (got.float() - wanted).abs().max().item()
        if not worst <= tolerance:  # also refuses nan
            raise SoftPromptsError(
                f"model {name!r} cannot be measured with soft prompts: {what} changes its logits by {worst:.3g} "
                f"(tolerated: {tolerance:.2g}); choose a model that computes from inputs_embeds as from input_ids."
            )

    refuse(
        model.head(model.body(model.embed(tokens))),
        wanted,
        "feeding embeddings through its body and head instead of tokens",
    )

    # A padded batch read into a cache, then one token more: the short row must not notice the other.
    lengths = torch.tensor([n_long, n_short], device=model.device)
    mask = torch.arange(n_long, device=model.device) < lengths[:, None]
    positions = torch.arange(n_long, device=model.device).expand(2, -1)
    cache = DynamicCache(config=model.lm.config)
    model.extend(model.embed(tokens[:, :n_long]), mask.long(), positions, cache)
    step = tokens.gather(1, lengths[:, None])
    mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    hidden = model.extend(model.embed(step), mask.long(), lengths[:, None], cache)
    refuse(
        model.head(hidden[:, 0]),
        wanted[torch.arange(2, device=model.device), lengths],
        "reading through a key-value cache in a padded batch",
    )
