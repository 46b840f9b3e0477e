"""Options: frozen dataclasses whose fields reach the command line and, as plain JSON, the record of a result."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from soft_prompts.addresses import without_secrets
from soft_prompts.errors import SoftPromptsError

_BEFORE = "before"
_PATH = re.compile(r"(?<![\w.~%-])(?:[A-Za-z]:)?(?:[/\\][^/\\\s'\":,;]+)+[/\\](?=[^/\\\s'\":,;])")
"""All of an absolute path but its last part."""


def added_later(default: Any, before: Any = MISSING) -> Any:
    """A dataclass field for an option that did not exist when older results were made.

    While it stands at ``before``, which is what the program did before the option existed, the option is left out of
    the record. So older results keep their identity: they are found as finished, and they share a curve with new ones.

    Args:
        default: The option's default value.
        before: The value that means "as it was done before", if that is not the default.
    """
    return field(default=default, metadata={_BEFORE: default if before is MISSING else before})


def settle(options: Any) -> None:
    """Give a frozen dataclass of options the values that its code counts on, whatever kind a script gave them in.

    Numbers of numpy become Python's, lists, ranges and arrays become tuples, and a path becomes text where the field is
    not declared as a path.
    """
    for f in fields(options):
        object.__setattr__(options, f.name, _settled(getattr(options, f.name), is_path="Path" in str(f.type)))


def _settled(value: Any, is_path: bool) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple, range, np.ndarray)):
        return tuple(_settled(item, is_path) for item in value)
    return str(value) if isinstance(value, Path) and not is_path else value


def refuse_negative(options: Any) -> None:
    """Refuse whole numbers below 0 in a dataclass of options that count or number things.

    Raises:
        SoftPromptsError: There is one.
    """
    for f in fields(options):
        value = getattr(options, f.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and number < 0:
                raise SoftPromptsError(f"--{f.name.replace('_', '-')} holds {number}, but must be at least 0.")


def recorded(options: Any, file_options: Collection[str] = ()) -> dict[str, Any]:
    """A frozen dataclass's fields as plain JSON values.

    Args:
        options: The dataclass.
        file_options: Fields that may name a local file or folder: it is recorded without its path, since a folder of
            this machine means nothing on another one. An address is recorded ``without_secrets``. No other string is
            taken for a path.

    Returns:
        Name -> value. Options that are as they were before they existed are left out.

    Raises:
        SoftPromptsError: JSON cannot hold a value.
    """
    values = {f.name: getattr(options, f.name) for f in fields(options) if not _is_as_before(f, options)}
    of = type(options).__name__
    return {
        name: plain(value, f"the option {name} of {of}", is_file=name in file_options) for name, value in values.items()
    }


def _is_as_before(f: Field, options: Any) -> bool:
    return _BEFORE in f.metadata and getattr(options, f.name) == f.metadata[_BEFORE]


def plain(value: Any, what: str, is_file: bool = False) -> Any:
    """A value as JSON can hold it: text, numbers, None, and lists and dicts of them.

    Args:
        value: May also hold tuples, numbers and arrays of numpy, and paths.
        what: What it is, for the error.
        is_file: It may name a local file or an address.

    Raises:
        SoftPromptsError: It is something else, or a number that is not finite.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, (tuple, list)):
        return [plain(item, what, is_file) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(item, what, is_file) for key, item in value.items()}
    if isinstance(value, Path) and is_file:
        value = str(value)
    if isinstance(value, Path) or (is_file and isinstance(value, str) and os.path.exists(value)):
        return Path(value).name
    if is_file and isinstance(value, str):
        return without_secrets(value)
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise SoftPromptsError(
        f"{what} is or holds {str(value)[:60]!r} ({type(value).__name__}), which a result cannot record; give text, "
        f"finite numbers, None, or tuples of them."
    )


def without_paths(text: str) -> str:
    """A text in which absolute paths are shortened to their last part."""
    return _PATH.sub("", text)


def option(name: str) -> str:
    """A field's name as it stands on the command line."""
    return name.replace("_", "-")
