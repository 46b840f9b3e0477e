"""What a model is called, and where it lies on this machine."""

from __future__ import annotations

from pathlib import Path

from soft_prompts.pocket import MODELS, VARIANTS

SHIPPED = {**MODELS, **VARIANTS}
"""Folders of what is loaded by name."""


def local_folder(name_or_path: str) -> Path | None:
    """The folder that is named, or that of a model which ships with the project; None for the name of a hub."""
    folder = SHIPPED.get(name_or_path, Path(name_or_path))
    return folder if folder.is_dir() else None


def model_name(name_or_path: str) -> str:
    """The model as results call it: a name as it is, a folder by its own name."""
    is_folder = name_or_path not in SHIPPED and Path(name_or_path).is_dir()
    return Path(name_or_path).resolve().name if is_folder else name_or_path


def split_revision(model: str) -> tuple[str, str]:
    """Name and revision of NAME@REVISION; the revision is "main" if none is given."""
    name, at, revision = model.rpartition("@")
    return (name, revision) if at and not Path(model).is_dir() else (model, "main")
