"""Loading a model: by hub name, from a folder or a GGUF file, or by the name of one that ships with the project."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from soft_prompts.errors import SoftPromptsError
from soft_prompts.models import deltas, gguf
from soft_prompts.models.device import pick_device, pick_dtype
from soft_prompts.models.fitness import check_fitness
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.names import local_path, model_name
from soft_prompts.pocket import MODELS


def load(
    name_or_path: str,
    revision: str = "main",
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> LanguageModel:
    """A frozen model in evaluation mode, with sdpa attention, that has passed the fitness check.

    Args:
        name_or_path: A hub name, a folder, a GGUF file, a model that ships with the project (pocket, pocket-chat), or
            smollm2. A folder may hold a change to pocket (deltas.FILE) or one GGUF file in place of a model.
        revision: Branch, tag or commit on the hub.
        dtype: float32, bfloat16, float64, or auto (see ``pick_dtype``).
        device: A device's name, or auto: the GPU if there is one.
        trust_remote_code: Let the model run Python code that comes with it.

    Raises:
        SoftPromptsError: The model cannot be loaded, or cannot be driven by embeddings.
    """
    transformers.utils.logging.disable_progress_bar()
    device = pick_device(device)
    dtype = getattr(torch, pick_dtype(dtype, device))
    path = local_path(name_or_path)
    is_gguf = path is not None and path.is_file()
    is_delta = path is not None and (path / deltas.FILE).exists()
    source = str(MODELS["pocket"] if is_delta else path or name_or_path)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    of_model = {"dtype": dtype, "attn_implementation": "sdpa", "output_loading_info": True}
    if is_gguf:
        source, options, of_model = gguf.NO_MODEL, options | gguf.options(path), of_model | gguf.unpacked()
    try:
        config = AutoConfig.from_pretrained(source, **options)
        if getattr(config, "is_encoder_decoder", False):
            raise SoftPromptsError(
                f"model {name_or_path!r} is an encoder-decoder; soft prompts here need a causal (decoder-only) model."
            )
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        # Without dtype=, transformers 5 takes the checkpoint's own, which is float16 for pythia.
        lm, found = AutoModelForCausalLM.from_pretrained(source, config=config, **options, **of_model)
    except SoftPromptsError:
        raise
    except Exception as error:  # whatever transformers, tokenizers, safetensors and gguf make of a file that is damaged
        raise SoftPromptsError(_why_not_loaded(name_or_path, revision, path, error)) from error
    _check_whole(name_or_path, found["missing_keys"])
    if is_gguf:
        gguf.check_positions(path, lm.config)
    if is_delta:
        deltas.merge(lm, deltas.load_delta(path))
    lm = lm.to(device).eval().requires_grad_(False)  # the one place where a model is frozen
    name = model_name(name_or_path)
    model = LanguageModel(name, "local" if path else revision, lm, tokenizer, _separator(name, tokenizer))
    check_fitness(model)
    return model


def _check_whole(name: str, missing: Collection[str]) -> None:
    """Refuse a model without some of its weights: transformers fills them in at random.

    Raises:
        SoftPromptsError: With the names of the first ones.
    """
    if missing:
        first = ", ".join(sorted(missing)[:3])
        raise SoftPromptsError(
            f"the files of model {name!r} lack {len(missing)} of its weights ({first}{', ...' * (len(missing) > 3)}); "
            f"download all of them again, or give the whole model if this is a part of one."
        )


def _why_not_loaded(name: str, revision: str, path: Path | None, error: Exception) -> str:
    cause = " ".join(str(error).split())[:300]
    if path is not None and path.is_file():
        return gguf.why_not_loaded(path, cause)
    if path is not None:
        return (
            f"the folder {name!r} cannot be loaded as a causal language model ({cause}); it needs config.json, "
            f"*.safetensors, a tokenizer and sdpa attention."
        )
    return (
        f"model {name!r} (revision {revision!r}) could not be loaded: it is no folder and no .gguf file here, and the "
        f"hub does not know it or cannot be reached; check the spelling and the network, or give the path of a "
        f"downloaded model. ({cause})"
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
