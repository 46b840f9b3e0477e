"""Loading a model: by hub name, from a folder or a GGUF file, or by the name of one that ships with the project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from soft_prompts.console import say, warn
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models import deltas, gguf
from soft_prompts.models.device import pick_device, pick_dtype
from soft_prompts.models.fitness import check_cache, check_fitness, shares_starts
from soft_prompts.models.language_model import LanguageModel, n_entries
from soft_prompts.models.names import LOCAL, changes_of, local_path, model_name, which_was_taken
from soft_prompts.models.spread import spread


def load(
    name_or_path: str,
    revision: str = "main",
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
    device_map: str = "one",
) -> LanguageModel:
    """A frozen model in evaluation mode that has passed the fitness check.

    Attention is torch's own (sdpa) where the architecture has it. Elsewhere, such as where attention scores are capped,
    transformers computes it step by step (eager).

    Args:
        name_or_path: A hub name, a folder, a GGUF file, a model that ships with the project (pocket, pocket-chat), or
            smollm2. A folder may hold a change to another model (DELTA) or one GGUF file in place of a model.
        revision: Branch, tag or commit on the hub.
        dtype: float32, bfloat16, float64, or auto (see ``pick_dtype``).
        device: A device's name, or auto: the GPU if there is one.
        trust_remote_code: Let the model run Python code that comes with it.
        device_map: one: the model lies on the device. auto: it is spread over all GPUs of the machine.

    Raises:
        SoftPromptsError: The model cannot be loaded, or cannot be driven by embeddings.
    """
    transformers.utils.logging.disable_progress_bar()
    device = pick_device(device)
    dtype = getattr(torch, pick_dtype(dtype, device))
    path = local_path(name_or_path if revision == "main" else f"{name_or_path}@{revision}")
    if sentence := which_was_taken(name_or_path):
        say(sentence)
    if path is not None:
        _check_index(name_or_path, path)
    changes, base = changes_of(name_or_path) if path is not None else ([], name_or_path)
    whole = local_path(base) if path is not None else None
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _no_pickle(name_or_path):
        lm, tokenizer = _from_files(name_or_path, base, whole, dtype, options)
    for folder in reversed(changes):
        deltas.merge(lm, deltas.load_delta(folder))
    lm = spread(lm) if device_map == "auto" else lm.to(device)
    lm = lm.eval().requires_grad_(False)  # the one place where a model is frozen
    name = model_name(name_or_path)
    _check_tokenizer(name, tokenizer, len(lm.get_input_embeddings().weight))
    model = LanguageModel(name, LOCAL if path else revision, lm, tokenizer, _separator(name, tokenizer))
    try:
        check_fitness(model)
    except SoftPromptsError:
        raise
    except Exception as error:  # as above
        raise SoftPromptsError(
            f"model {name!r} cannot be measured with soft prompts: fed with embeddings, its own code stops with "
            f"{_in_short(error)}; choose another model."
        ) from error
    model = replace(model, has_cache=_has_cache(model))
    return replace(model, shares_starts=shares_starts(model))


def load_beside(name: str, model: LanguageModel) -> LanguageModel:
    """Another model, on the same device and in the same precision. The ones asked for last are kept.

    Raises:
        SoftPromptsError: It cannot be loaded.
    """
    return _kept(name, str(model.dtype).removeprefix("torch."), str(model.device))


@lru_cache(maxsize=2)
def _kept(name: str, dtype: str, device: str) -> LanguageModel:
    return load(name, dtype=dtype, device=device)


def _from_files(
    name: str, base: str, whole: Path | None, dtype: torch.dtype, options: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A whole model as its files have it, and its tokenizer.

    Args:
        name: What the user asked for: this model or a change to it.
        base: This model.
        whole: Its folder or GGUF file. None: it comes from the hub.
        dtype: Of its weights.
        options: Of every from_pretrained.

    Raises:
        SoftPromptsError: It cannot be loaded, lacks weights, or is no causal model.
    """
    source, is_gguf = str(whole or base), whole is not None and whole.is_file()
    # Names of weights of other shapes come back so that _check_weights can refuse them.
    of_model = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    if is_gguf:
        source, options, of_model = gguf.NO_MODEL, options | gguf.options(whole), of_model | gguf.unpacked()
    try:
        config = AutoConfig.from_pretrained(source, **options)
        if getattr(config, "is_encoder_decoder", False):
            raise SoftPromptsError(
                f"model {name!r} is an encoder-decoder; soft prompts here need a causal (decoder-only) model."
            )
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        # Without dtype=, transformers 5 takes the checkpoint's own, which is float16 for pythia.
        lm, loaded = AutoModelForCausalLM.from_pretrained(source, config=config, **options, **of_model)
    except SoftPromptsError:
        raise
    except Exception as error:  # damaged files raise anything, and so does a model's own code
        raise SoftPromptsError(_why_not_loaded(base, options["revision"], whole, error)) from error
    _check_weights(name, loaded)
    if is_gguf:
        gguf.check_positions(whole, lm.config)
    return lm, tokenizer


@contextmanager
def _no_pickle(name: str) -> Iterator[None]:
    """Refuse to read a pickle, which can run any code, wherever a model's files lead: to pytorch_model.bin, to an
    adapter's weights, or to whatever file an index of weights names.

    Args:
        name: The model's.
    """

    def refuse(file: object, *_: object, **__: object) -> NoReturn:
        raise SoftPromptsError(
            f"the weights of {name!r} are a pickle ({Path(str(file)).name}), which can run any code, so it is not "
            f'read; if you trust it, convert it to safetensors: python -c "from transformers import '
            f"AutoModelForCausalLM as M; M.from_pretrained({name!r}).save_pretrained('converted')\", then copy the "
            f"tokenizer's files into the folder converted and give that."
        )

    with patch.object(torch, "load", refuse):
        yield


def _check_index(name: str, folder: Path) -> None:
    """Refuse an index of weights that leads out of its folder: what lies there is in no fingerprint of the model.

    Raises:
        SoftPromptsError: It does.
    """
    try:
        index = json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_bytes())
        files = {str(file) for file in index["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # there is none; or it is damaged, which transformers says
    if outside := sorted(file for file in files if Path(file).name != file):
        raise SoftPromptsError(
            f"model {name!r} names {outside[0]!r} in {SAFE_WEIGHTS_INDEX_NAME}; weights must lie in the model's own "
            f"folder: move them there and correct the name."
        )


def _has_cache(model: LanguageModel) -> bool:
    """Whether the model's key-value cache can be used; if not, it is said why."""
    try:
        check_cache(model)
    except Exception as error:  # a model's own code may raise anything
        warn(f"{model.name!r} continues texts without its key-value cache, which is slow: {_in_short(error)}")
        return False
    return True


def _in_short(error: Exception) -> str:
    kind = "" if isinstance(error, SoftPromptsError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())[:300]


def _check_weights(name: str, loaded: dict[str, Any]) -> None:
    """Refuse a checkpoint that lacks weights: transformers fills them at random. Tied weights do not count as lacking.

    Args:
        name: The model's.
        loaded: What ``from_pretrained`` says of the weights.

    Raises:
        SoftPromptsError: Weights are missing, or have other shapes than the model.
    """
    lacking = sorted(loaded["missing_keys"])
    lacking += sorted(
        f"{key} ({list(there)} instead of {list(wanted)})" for key, there, wanted in loaded["mismatched_keys"]
    )
    if lacking:
        named = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        unknown = sorted(loaded["unexpected_keys"])
        others = f"; it holds others that the model has no place for, such as {unknown[0]}" if unknown else ""
        raise SoftPromptsError(
            f"the checkpoint of {name!r} lacks {len(lacking)} of the model's weights, which would be random numbers: "
            f"{named}{others}; save the whole causal language model again with save_pretrained."
        )


def _why_not_loaded(name: str, revision: str, path: Path | None, error: Exception) -> str:
    cause = _in_short(error)
    if path is not None and path.is_file():
        return gguf.why_not_loaded(path, cause)
    if path is not None:
        return (
            f"the folder {name!r} cannot be loaded as a causal language model ({cause}); it needs config.json, "
            f"*.safetensors and a tokenizer."
        )
    return (
        f"model {name!r} (revision {revision!r}) could not be loaded: it is no folder and no .gguf file here, and the "
        f"hub does not know it or cannot be reached; check the spelling and the network, or give the path of a "
        f"downloaded model. ({cause})"
    )


def _check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase, n_rows: int) -> None:
    """Refuse a tokenizer that cannot be used with the model.

    Args:
        name: The model's.
        tokenizer: Its tokenizer.
        n_rows: Rows of the model's embedding matrix.

    Raises:
        SoftPromptsError: It is not fast, or it has more entries than the model.
    """
    if not tokenizer.is_fast:
        raise SoftPromptsError(
            f"the tokenizer of {name!r} ({type(tokenizer).__name__}) cannot say where in a text its tokens stand; put "
            f"a tokenizer.json into the model's folder, which only fast tokenizers have."
        )
    if n_entries(tokenizer) > n_rows:
        raise SoftPromptsError(
            f"the tokenizer of {name!r} has token ids up to {n_entries(tokenizer) - 1}, but the model has "
            f"{n_rows} embeddings; use the model's own tokenizer, or resize the model's embeddings."
        )


def _separator(name: str, tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token_id = token
            return token
    raise SoftPromptsError(
        f"the tokenizer of {name!r} has neither BOS nor EOS to open a document with; set one in its "
        f"tokenizer_config.json."
    )
