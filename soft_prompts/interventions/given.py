"""Prompts that were trained before, here or with PEFT, to start from or to measure."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from soft_prompts.errors import ODD_CONTENT, SoftPromptsError
from soft_prompts.interventions.soft_prompt import PromptGenerator

ADAPTER, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What PEFT calls the files of an adapter."""


@dataclass(frozen=True)
class Given:
    """A prompt that was trained before."""

    rows: Tensor
    """float32 [P, D]."""
    opener: int | None
    """Token id that opens every text, as far as the prompt says so."""
    before: bool
    """Whether it stands before that token, and not behind it or later."""


def given_prompt(path: Path, vocabulary: Tensor, special: Collection[int]) -> Given:
    """A trained prompt, and where it stands.

    PEFT puts its rows before everything. So `python -m soft_prompts.export` writes a prompt that stands behind the
    token that opens every text with that token's embedding as its first row; here that row is taken off again.

    Args:
        path: A snapshot of a prompt without conditions, or a folder of PEFT's prompt tuning.
        vocabulary: [V, D], the embeddings of the model that it was trained on.
        special: Token ids that may open a text.

    Raises:
        SoftPromptsError: It is neither, or it is damaged or of another width.
    """
    given = _of_peft(path) if path.is_dir() else _of_snapshot(path)
    rows, width = given.rows, vocabulary.shape[1]
    if rows.dim() != 2 or rows.shape[1] != width:
        raise SoftPromptsError(
            f"the prompt in {path} has the shape {list(rows.shape)}, but the model's embeddings have {width} numbers; "
            f"give the model that the prompt was trained on."
        )
    if not given.before or len(rows) < 2:
        return given
    first = rows[0].to(vocabulary.device, vocabulary.dtype)  # a model in bfloat16 knows its embeddings so exactly only
    opener = next((i for i in sorted(special) if (vocabulary[i] == first).all()), None)
    return given if opener is None else Given(rows[1:], opener, before=False)


def given_generator(path: Path) -> tuple[PromptGenerator, bool] | None:
    """A trained prompt that depends on conditions. None: what lies there is something else.

    Returns:
        The prompt, and whether it stands before the token that opens every text.

    Raises:
        SoftPromptsError: It is a snapshot of one, but damaged.
    """
    if path.is_dir():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            known = file.metadata() or {}
            if known.get("kind") != PromptGenerator.__name__:
                return None
            before = json.loads(known.get("use", "{}")).get("behind") == "nothing"
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
        made = PromptGenerator.from_config(PromptGenerator.config_of(tensors))
        made.load_state_dict(tensors)
    except (*ODD_CONTENT, OSError, SafetensorError, RuntimeError) as error:
        raise SoftPromptsError(f"{path} cannot be read as a snapshot ({type(error).__name__}: {error}).") from error
    return made, before


def base_model(path: Path) -> str:
    """The model that an adapter of PEFT or a snapshot says it belongs to; "" if it says nothing."""
    try:
        if path.is_dir():
            return str(json.loads((path / ADAPTER).read_text()).get("base_model_name_or_path") or "")
        with safe_open(path, framework="pt") as file:
            return str(json.loads((file.metadata() or {})["model"])["name"])
    except (*ODD_CONTENT, OSError, SafetensorError):
        return ""


def _of_peft(folder: Path) -> Given:
    try:
        kind = json.loads((folder / ADAPTER).read_text())["peft_type"]
    except (*ODD_CONTENT, OSError) as error:
        raise SoftPromptsError(
            f"{folder} is no adapter of PEFT ({type(error).__name__}: {error}); it needs {ADAPTER} and {WEIGHTS}."
        ) from error
    if kind != "PROMPT_TUNING":
        raise SoftPromptsError(f"{folder} holds a {kind} of PEFT, but only PROMPT_TUNING is a prompt in the input.")
    try:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
        return Given(tensors["prompt_embeddings"].float(), None, before=True)
    except (*ODD_CONTENT, OSError, SafetensorError) as error:
        raise SoftPromptsError(
            f"the adapter {folder} cannot be read ({type(error).__name__}: {error}); save it again with "
            f"save_pretrained, as safetensors."
        ) from error


def _of_snapshot(path: Path) -> Given:
    try:
        with safe_open(path, framework="pt") as file:
            known, rows, scale = file.metadata() or {}, file.get_tensor("rows"), file.get_tensor("scale")
        kind, use = known.get("kind"), json.loads(known.get("use", "{}"))
        given = Given((rows * scale).float(), use.get("separator"), use.get("behind") == "nothing")
    except (*ODD_CONTENT, OSError, SafetensorError) as error:
        raise SoftPromptsError(f"{path} cannot be read as a snapshot ({type(error).__name__}: {error}).") from error
    if kind != "SoftPrompt":
        raise SoftPromptsError(f"{path} holds a {kind}, but only a prompt without conditions can be started from.")
    return given
