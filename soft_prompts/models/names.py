"""What a model is called, and where it lies on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from soft_prompts.errors import SoftPromptsError
from soft_prompts.pocket import MODELS

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""What a name of the hub looks like: NAME or OWNER/NAME."""


def local_folder(name_or_path: str) -> Path | None:
    """The folder that is named, or that of a model which ships with the project; None for the name of a hub.

    Raises:
        SoftPromptsError: A folder is given a revision. It has none, and its files would not be what results record.
    """
    if folder := _folder(name_or_path):
        return folder
    name, at, revision = name_or_path.rpartition("@")
    if at and _folder(name):
        raise SoftPromptsError(
            f"{name_or_path!r} asks for a revision of a folder, but only models of the hub have revisions; leave "
            f"@{revision} out, or give a folder that holds that revision."
        )
    return None


def _folder(name: str) -> Path | None:
    folder = MODELS.get(name, Path(name))
    return folder if folder.is_dir() else None


def model_name(name_or_path: str) -> str:
    """The model as results call it: a name as it is, a folder by its own name."""
    is_folder = name_or_path not in MODELS and Path(name_or_path).is_dir()
    return Path(name_or_path).resolve().name if is_folder else name_or_path


def split_revision(model: str) -> tuple[str, str]:
    """Name and revision of NAME@REVISION; the revision is "main" if none is given.

    Raises:
        SoftPromptsError: A folder is given a revision.
    """
    name, at, revision = model.rpartition("@")
    return (name, revision) if at and not local_folder(model) else (model, "main")


def which_was_taken(name_or_path: str) -> str:
    """A sentence for a name that could mean two models; "" if it means one."""
    is_folder = Path(name_or_path).is_dir()
    if name_or_path in MODELS:
        told_apart = f"the model that ships was taken; ./{name_or_path} is the folder of that name here."
        return told_apart if is_folder else ""
    if not is_folder or not HUB_NAME.fullmatch(name_or_path):
        return ""
    return (
        f"{name_or_path!r} could be a model of the hub, too; the folder {Path(name_or_path).resolve()} was taken "
        f"(./{name_or_path} says so)."
    )
