"""GGUF: a file that holds a whole model, tokenizer included, mostly with weights of a few bits each (llama.cpp).

transformers reads it. Here is what it leaves to its callers: to take nothing but the file, and to say what is wrong.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import transformers
from transformers import GgufConfig, PreTrainedConfig
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS, read_gguf_metadata
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from soft_prompts.errors import SoftPromptsError

READER = "gguf==0.19.0"
"""The package that transformers reads these files with."""
NO_MODEL = str(Path(__file__).parent)
"""The folder that transformers is given beside the file: one without a model. A tokenizer that lies in that folder
would be taken before the file's own."""


def options(file: Path) -> dict[str, Any]:
    """Options of every from_pretrained that make it read a file.

    The path is absolute, since transformers looks for weights in the working folder first.

    Raises:
        SoftPromptsError: The package that reads GGUF is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise SoftPromptsError(f"{file} can be read only with another package: pip install --no-deps {READER}")
    return {"gguf_file": str(file.resolve())}


def unpacked() -> dict[str, Any]:
    """Further options of a model's from_pretrained: its weights become plain numbers of the dtype that is asked for.

    Else those of some architectures stay in blocks of few bits, which are slow to train through.
    """
    return {"quantization_config": GgufConfig(dequantize=True)}  # made anew, since transformers writes into it


def check_positions(file: Path, config: PreTrainedConfig) -> None:
    """Refuse a model whose rotary positions are scaled in a way that transformers does not take from the file.

    Llama 3.1 and its successors keep a factor for each frequency in a tensor, and others one factor among the
    metadata. Such a model would be loaded without a word and compute something else.

    Raises:
        SoftPromptsError: The file scales positions, and the configuration made of it does not.
    """
    metadata, tensors = read_gguf_metadata(str(file))
    factor = metadata.get(f"{metadata['general.architecture']}.rope.scaling.factor", 1.0)
    scaling = [name for name in tensors if name.startswith("rope_")] + [f"factor {factor:g}"] * (factor != 1.0)
    if scaling and not _scales_positions(config):
        raise SoftPromptsError(
            f"{file} scales its rotary positions ({', '.join(scaling)}), and transformers {transformers.__version__} "
            f"does not read that from GGUF; give the folder of the same model's *.safetensors instead."
        )


def _scales_positions(config: PreTrainedConfig) -> bool:
    """Whether any layer has rotary positions of another type than the plain one."""
    of_layers = getattr(config, "rope_parameters", None) or {}
    kinds = [of_layers] if "rope_type" in of_layers else [kind for kind in of_layers.values() if isinstance(kind, dict)]
    return any(kind.get("rope_type", "default") != "default" for kind in kinds)


def why_not_loaded(file: Path, cause: str) -> str:
    """The sentence for a file that transformers could not make a model of.

    Args:
        file: It exists.
        cause: What transformers says.
    """
    with file.open("rb") as content:
        if content.read(4) != b"GGUF":
            return f"{file} does not begin as a GGUF file does; download it again, or give the path of another file."
    from gguf import GGUFReader

    try:
        GGUFReader(str(file))
    except Exception as error:  # the reader has no exception of its own: IndexError, OverflowError, struct.error ...
        if "GGMLQuantizationType" not in str(error):  # a kind of number that the reader does not know
            return (
                f"{file} ({file.stat().st_size:,} bytes) is cut short or damaged; compare its size with the original's "
                f"and download it again. ({cause})"
            )
    known = sorted({*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS} - {"general", "tokenizer"})
    return (
        f"{file} cannot be loaded as a causal language model ({cause}); transformers {transformers.__version__} reads "
        f"the architectures {', '.join(known)}, with numbers such as F16, Q8_0, Q4_K_M: take another file, or the "
        f"folder of the model's *.safetensors."
    )
