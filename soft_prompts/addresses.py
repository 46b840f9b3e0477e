"""http(s) addresses, and what of them may be shown and recorded."""

from __future__ import annotations

import re

_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?")
"""A host with or without a port."""


def is_url(source: str) -> bool:
    """Whether a source is an http(s) address."""
    return source.lower().startswith(("http://", "https://"))


def without_secrets(source: str) -> str:
    """A source as messages and results may name it.

    Args:
        source: A path or an http(s) address.

    Returns:
        An address without user name, password, query and fragment: a signature or token may stand there. Of one whose
        host makes no sense only the scheme is left, since a secret may be a part of it. Anything else as it is.
    """
    if not is_url(source):
        return source
    scheme, _, rest = source.partition("://")
    authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    host = authority.rpartition("@")[2]
    return f"{scheme}://{host}{slash}{path}" if _HOST.fullmatch(host) else f"{scheme}://..."


def text_without_secrets(text: str) -> str:
    """Somebody else's text, such as an error of a library, with the addresses in it as ``without_secrets`` has them."""
    return re.sub(r"https?://\S+", lambda match: without_secrets(match[0]), text, flags=re.IGNORECASE)
