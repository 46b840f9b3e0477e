"""Prompts that were trained before, here or with PEFT, as rows to start from or to measure."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from soft_prompts.errors import ODD_CONTENT, SoftPromptsError

ADAPTER, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What PEFT calls the files of an adapter."""


def given_rows(path: Path, separator: Tensor) -> tuple[Tensor, bool]:
    """A trained prompt as embeddings, and where it stands.

    PEFT puts its rows before everything. So `python -m soft_prompts.export` writes a prompt that stands behind the
    separator with the separator's embedding as its first row; here that row is taken off again.

    Args:
        path: A snapshot of a prompt without conditions, or a folder of PEFT's prompt tuning.
        separator: [D], the embedding of the token that opens every text.

    Returns:
        float32 [P, D], and whether the prompt stands before the separator.

    Raises:
        SoftPromptsError: It is neither, or it is damaged or of another width.
    """
    rows, of_peft = rows_in(path)
    if rows.dim() != 2 or rows.shape[1] != len(separator):
        raise SoftPromptsError(
            f"the prompt in {path} has the shape {list(rows.shape)}, but the model's embeddings have {len(separator)} "
            f"numbers; give the model that the prompt was trained on."
        )
    if not of_peft:
        return rows, False
    ours = len(rows) > 1 and bool((rows[0] == separator.float().cpu()).all())
    return (rows[1:], False) if ours else (rows, True)


def rows_in(path: Path) -> tuple[Tensor, bool]:
    """All rows of a trained prompt, and whether they are of PEFT.

    Raises:
        SoftPromptsError: There are none.
    """
    return (_of_peft(path), True) if path.is_dir() else (_of_snapshot(path), False)


def base_model(path: Path) -> str:
    """The model that an adapter of PEFT or a snapshot says it belongs to; "" if it says nothing."""
    try:
        if path.is_dir():
            return str(json.loads((path / ADAPTER).read_text()).get("base_model_name_or_path") or "")
        with safe_open(path, framework="pt") as file:
            return str(json.loads((file.metadata() or {})["model"])["name"])
    except (*ODD_CONTENT, OSError, SafetensorError):
        return ""


def _of_peft(folder: Path) -> Tensor:
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
        return tensors["prompt_embeddings"].float()
    except (*ODD_CONTENT, OSError, SafetensorError) as error:
        raise SoftPromptsError(
            f"the adapter {folder} cannot be read ({type(error).__name__}: {error}); save it again with "
            f"save_pretrained, as safetensors."
        ) from error


def _of_snapshot(path: Path) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            kind, rows, scale = (file.metadata() or {}).get("kind"), file.get_tensor("rows"), file.get_tensor("scale")
    except (*ODD_CONTENT, OSError, SafetensorError) as error:
        raise SoftPromptsError(f"{path} cannot be read as a snapshot ({type(error).__name__}: {error}).") from error
    if kind != "SoftPrompt":
        raise SoftPromptsError(f"{path} holds a {kind}, but only a prompt without conditions can be started from.")
    return (rows * scale).float()
