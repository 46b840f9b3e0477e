"""Options: frozen dataclasses whose fields reach the command line and, as plain JSON, the record of a result."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any

_BEFORE = "before"


def added_later(default: Any, before: Any = MISSING) -> Any:
    """A dataclass field for an option that did not exist when older results were made.

    While it stands at ``before``, which is what the program did before the option existed, the option is left out of
    the record. So older results keep their identity: they are found as finished, and they share a curve with new ones.

    Args:
        default: The option's default value.
        before: The value that means "as it was done before", if that is not the default.
    """
    return field(default=default, metadata={_BEFORE: default if before is MISSING else before})


def recorded(options: Any, file_options: Collection[str] = ()) -> dict[str, Any]:
    """A frozen dataclass's fields as plain JSON values.

    Args:
        options: The dataclass.
        file_options: Fields that may name a local file or folder: it is recorded without its path, since a folder of
            this machine means nothing on another one. No other string is taken for a path.

    Returns:
        Name -> value. Options that are as they were before they existed are left out.
    """
    values = {f.name: getattr(options, f.name) for f in fields(options) if not _is_as_before(f, options)}
    return {name: _plain(value, is_file=name in file_options) for name, value in values.items()}


def _is_as_before(f: Field, options: Any) -> bool:
    return _BEFORE in f.metadata and getattr(options, f.name) == f.metadata[_BEFORE]


def _plain(value: Any, is_file: bool) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item, is_file) for item in value]
    if isinstance(value, Path) or (is_file and isinstance(value, str) and os.path.exists(value)):
        return Path(value).name
    return value


def option(name: str) -> str:
    """A field's name as it stands on the command line."""
    return name.replace("_", "-")
