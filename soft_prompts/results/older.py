"""Result files of older versions, brought up to date as they are read. This is the only place that knows their
experiments."""

from __future__ import annotations

from typing import Any

SCHEMA = 4
"""Version of the result files; result.schema.json describes them. 1 had no "sizes"; 1 and 2 had no "variant" and no
kinds of samples; 1 to 3 had no "anchor", of the data baselines only the loss, and no validation documents."""
KINDS = {"ChessMoves": "board", "ChatDetuning": "dialogue", "Pathfinding": "path", "Repetition": "repetition"}
"""Task -> kind of its samples; all others are texts."""


def completed(values: dict[str, Any]) -> dict[str, Any]:
    """The content of a result file of any version, with the keys that it lacks, empty, so that one schema fits all."""
    missing = {"sizes": [], "variant": {"label": "", "options": [], "control_of": None}, "anchor": None}
    values = {**missing, **values, "schema": SCHEMA}
    if isinstance(values.get("baselines"), dict):
        known = values["baselines"].items()
        values["baselines"] = {n: {"loss": b, "document_losses": None} if _is_number(b) else b for n, b in known}
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def described(values: dict[str, Any]) -> dict[str, Any]:
    """The content of a result file of version 1 or 2, completed and checked, with its variant and its kinds of
    samples."""
    options, kind = values["config"]["task"], KINDS.get(values["task"], "text")
    samples = [{"kind": kind, **sample, **_wanted(options, sample)} for sample in values["samples"]]
    return {**values, "variant": _variant(options), "samples": samples}


def _variant(options: dict[str, Any]) -> dict[str, Any]:
    """Skipped tokens and repetition with its random control were the only tasks of several variants."""
    if (skip := _first(options, "skip", int)) is not None:
        return {"label": f"skip {skip}", "options": ["skip"], "control_of": None}
    if string := _first(options, "strings", str):
        names = ["strings", "control"]
        if options.get("control") == [True]:
            label = f"random tokens, as many as {string!r}"
            return {"label": label, "options": names, "control_of": {"control": [False]}}
        return {"label": f"repetition of {string!r}", "options": names, "control_of": None}
    return {"label": "", "options": [], "control_of": None}


def _wanted(options: dict[str, Any], sample: dict[str, str]) -> dict[str, str]:
    """The text that a repetition should have been. Of random tokens it was not recorded."""
    string = _first(options, "strings", str)
    if not string or options.get("control") != [False]:
        return {}
    again = " " + string
    return {"wanted": again * (len(sample.get("continuation", "")) // len(again) + 1)}


def _first(options: dict[str, Any], name: str, of_type: type) -> Any:
    """The first value of an option that lists several; None if it is not there or of another type."""
    values = options.get(name)
    return values[0] if isinstance(values, list) and values and isinstance(values[0], of_type) else None
