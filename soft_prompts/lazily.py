"""Names of a package that are imported when they are first used (PEP 562), since torch takes a second to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def exports(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Args:
        package: The package's name.
        homes: Name -> the module below the package that defines it, or "module:other name".
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, original = homes[name].partition(":")
        return getattr(import_module(f"{package}.{module}"), original or name)

    return get
