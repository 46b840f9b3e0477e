"""Trained prompts as safetensors files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from soft_prompts.errors import ODD_CONTENT, SoftPromptsError
from soft_prompts.files import checksum, write_atomically
from soft_prompts.interventions.base import Intervention
from soft_prompts.interventions.lora import LoRA
from soft_prompts.interventions.soft_prompt import PromptGenerator, SoftPrompt, TokenwiseGenerator
from soft_prompts.interventions.steering import Steering
from soft_prompts.models.language_model import LanguageModel

SCHEMA = 3
"""Version of the snapshot files. 1 had no configuration, 1 and 2 no checksum."""
KINDS: dict[str, type[Intervention]] = {
    kind.__name__: kind for kind in (SoftPrompt, PromptGenerator, TokenwiseGenerator, LoRA, Steering)
}
"""What can be loaded back, by the name in the file."""


@dataclass(frozen=True)
class Use:
    """What one must know to use a prompt without its task."""

    separator: int
    """Token id that opens every text."""
    behind: Literal["separator", "text", "nothing", "within"]
    """Where the prompt stands: just behind the separator, behind the text that is continued, before everything, or
    within the text, at a place that only the task knows."""
    conditions: dict[str, Any] | None = None
    """Names, offset and scale of what it depends on: soft_prompts.tasks.base.Conditions as plain JSON."""


def save_prompt(
    intervention: Intervention, model: LanguageModel, run: dict[str, Any], path: Path, use: Use | None = None
) -> None:
    """Write a trained prompt with all that is needed to load it back: tensors, kind and configuration.

    Args:
        intervention: What was trained.
        model: The model that it belongs to; its identity is stored.
        run: The run that made it, as plain JSON.
        path: The file.
        use: How it is used; None: nothing is known.

    Raises:
        SoftPromptsError: The file cannot be written.
    """
    intervention = intervention.plain()
    metadata = {
        "schema": str(SCHEMA),
        "kind": type(intervention).__name__,
        "config": json.dumps(intervention.config()),
        "model": json.dumps(model.identity()),
        "run": json.dumps(run),
        **({"use": json.dumps(asdict(use))} if use else {}),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in intervention.state_dict().items()}
    metadata["checksum"] = checksum({name: tensor.numpy() for name, tensor in tensors.items()}, metadata)
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_prompt(path: Path, model: LanguageModel) -> Intervention:
    """A prompt saved by ``save_prompt``, on the model's device.

    Raises:
        SoftPromptsError: The file is missing, damaged or of another model: a prompt means nothing to any other.
    """
    try:
        tensors, metadata = _content(path)
    except (*ODD_CONTENT, OSError, SafetensorError) as error:
        raise SoftPromptsError(
            f"could not read the snapshot {path} ({_in_short(error)}); train the prompt again with --force."
        ) from error
    if metadata.get("schema") not in ("1", "2", str(SCHEMA)) or metadata.get("kind") not in KINDS:
        says = f"{metadata.get('schema')}, kind {metadata.get('kind')}"
        raise SoftPromptsError(
            f"{path} is no snapshot of schema version 1 to {SCHEMA} (it says {says[:100]}); train the prompt again "
            f"with --force."
        )
    try:
        return _restored(path, tensors, metadata, model)
    except ODD_CONTENT as error:
        raise SoftPromptsError(
            f"the snapshot {path} is damaged ({_in_short(error)}); train the prompt again with --force."
        ) from error


def facts_of(path: Path) -> dict[str, Any]:
    """What a snapshot says of itself: "model" (its identity), "run" and "use" (None in older files), as plain JSON.

    Raises:
        SoftPromptsError: It cannot be read.
    """
    try:
        _, metadata = _content(path)
        facts = {name: json.loads(metadata.get(name, "null")) for name in ("model", "run", "use")}
        if not isinstance(facts["model"], dict) or not isinstance(facts["run"], dict):
            raise ValueError("it does not say of what model and run it is")
    except (*ODD_CONTENT, OSError, SafetensorError) as error:
        raise SoftPromptsError(f"could not read the snapshot {path} ({_in_short(error)}).") from error
    return facts


def _content(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a file."""
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise ValueError("it is no file")
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no dict


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _restored(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], model: LanguageModel
) -> Intervention:
    """The prompt that a snapshot holds."""
    if metadata["schema"] not in ("1", "2"):
        wanted = metadata.pop("checksum")
        if wanted != checksum({name: tensor.numpy() for name, tensor in tensors.items()}, metadata):
            raise SoftPromptsError(
                f"the snapshot {path} is damaged: its checksum is wrong; train the prompt again with --force."
            )
    saved, own = json.loads(metadata["model"]), model.identity()
    for part in ("weights", "tokenizer"):
        if saved[part] != own[part]:
            trained_on, loaded = (f"{x['name']} ({part} {x[part]})"[:200] for x in (saved, own))
            raise SoftPromptsError(
                f"the snapshot {path} was trained on {trained_on}, not on {loaded}; load that model."
            )
    kind = KINDS[metadata["kind"]]
    config = json.loads(metadata["config"]) if metadata["schema"] != "1" else kind.config_of(tensors)
    kind.check(config, tensors, model.lm)
    intervention = kind.from_config(config)
    if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise ValueError("its tensors are not float32")
    if intervention.trainable:  # a prompt of no tokens has no state
        intervention.load_state_dict(tensors)
    return intervention.to(model.device)
