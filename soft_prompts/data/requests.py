"""Requests to a chat model, each with the reply that is wanted: one JSON object a line."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from soft_prompts.errors import SoftPromptsError


@dataclass(frozen=True)
class Request:
    """A request, and what would answer it."""

    request: str
    reply: str = ""
    """The reply that is wanted, whole; "" if none is given."""
    pattern: str = ""
    """A regular expression that is found in every reply that answers the request; "" if none is given."""
    group: str = ""
    """Of which kind it is, so that one kind can be trained on and another measured."""


def read_requests(path: str) -> list[Request]:
    """The requests in a file, in its order; of equal ones the first.

    Args:
        path: One JSON object a line, with "request" and any of "reply", "pattern" and "group"; other fields are passed
            over.

    Raises:
        SoftPromptsError: With the line that is no request.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise SoftPromptsError(f"the requests {path!r} cannot be read ({error}); give a UTF-8 text file.") from error
    found: dict[str, Request] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            request = _request(line, f"line {number} of {path}")
            found.setdefault(request.request, request)
    if not found:
        raise SoftPromptsError(f'{path} holds no requests; give one JSON object a line, with a "request".')
    return list(found.values())


def _request(line: str, where: str) -> Request:
    wanted = '{"request": "...", "reply": "...", "pattern": "...", "group": "..."}'
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SoftPromptsError(f"{where} is no JSON ({error}); a line looks like {wanted}.") from error
    if not isinstance(content, dict) or not content.get("request"):
        raise SoftPromptsError(f'{where} has no "request"; a line looks like {wanted}.')
    fields = {name: content[name] for name in ("request", "reply", "pattern", "group") if content.get(name)}
    if odd := [name for name, value in fields.items() if not isinstance(value, str)]:
        raise SoftPromptsError(f"{where}: {odd[0]!r} is {fields[odd[0]]!r}, but must be a text.")
    check_pattern(fields.get("pattern", ""), where)
    return Request(**fields)


def check_pattern(pattern: str, where: str) -> None:
    """Raises SoftPromptsError if a text is no regular expression."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise SoftPromptsError(f"{where}: {pattern!r} is no regular expression ({error}); correct it.") from error
