"""Where data comes from: local files and addresses of any size, plain or compressed, as blocks of decompressed bytes.

An address is streamed, only as far as its reader needs. If a connection breaks, a new one goes on at the same byte.
A truncated archive is noticed, and one that grows beyond all measure is refused.

Messages name an address without user name, password and query.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

import zstandard

from soft_prompts.addresses import is_url, without_secrets
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import fingerprint as file_fingerprint

READ_BYTES = 1 << 16
"""Bytes read at a time."""
FEED_BYTES = 1 << 10
"""Compressed bytes that are decompressed in one go. Four bytes of zstd can become 128 KiB, so these can become
32 MiB."""
MAX_GROWTH = 200
"""So many bytes may come of one compressed byte, and FREE_BYTES more. Text and games give less than 50."""
FREE_BYTES = 64 << 20
"""Decompressed bytes up to which nobody asks how many compressed ones they come of."""
BLOCK_BYTES = 4 << 20
"""Decompressed bytes handed on at a time."""
TIMEOUT_S = 30.0
"""A connection that delivers nothing for so many seconds counts as broken."""
RETRY_PAUSES_S = (0.5, 1.0, 2.0)
"""Seconds to wait before each new try at a connection that broke."""

ZSTD_MAGICS = (b"\x28\xb5\x2f\xfd", *(bytes([n]) + b"\x2a\x4d\x18" for n in range(0x50, 0x60)))
"""First bytes of a zstd frame, and of the skippable frames that parallel compressors put first."""
GZIP_MAGIC = b"\x1f\x8b"
ARCHIVE_MAGICS = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"7z\xbc\xaf": "7z", b"\xfd7zX": "xz"}
"""First bytes of formats that are not read here, and their names. A tar file has none: its first block tells."""


class Dropped(Exception):
    """The connection is lost for good. The text says why."""


class Damaged(Exception):
    """The compressed data is truncated or corrupt. The text says how."""


class Bytes(Protocol):
    """What a local file and an address have in common: bytes in order."""

    def read(self, size: int, /) -> bytes: ...

    def tell(self) -> int: ...

    def close(self) -> None: ...


def fingerprint(source: str) -> str:
    """The identity of a source.

    Args:
        source: A path or an http(s) address.

    Returns:
        An address without user name and password and, for the part from "?" on, 8 hex digits: another query may be
        other data. So an address that is signed anew is other data, too. For a local file 16 hex digits over all of it.

    Raises:
        SoftPromptsError: If the file is missing or unreadable.
    """
    if is_url(source):
        _, mark, query = source.partition("?")
        return without_secrets(source) + (mark and f"?{hashlib.blake2b(query.encode(), digest_size=4).hexdigest()}")
    open_file(source).close()
    try:
        return file_fingerprint(Path(source))
    except OSError as error:  # a disk that fails, or a file that is gone meanwhile
        raise SoftPromptsError(f"{source} could not be read: {error.strerror}; check the disk and its path.") from error


def open_source(source: str) -> Bytes:
    """Open a path or an http(s) address for reading its raw bytes.

    An address is not contacted before the first read. A user name and password in it are sent as basic authentication.

    Raises:
        SoftPromptsError: If the file cannot be opened or the address is not a valid one.
    """
    return _HttpBytes(source) if is_url(source) else open_file(source)


def open_file(source: str) -> BinaryIO:
    """Open a local file for reading bytes.

    Raises:
        SoftPromptsError: If it is missing, not a regular file or unreadable.
    """
    path = Path(source)
    try:
        if path.is_dir():
            raise SoftPromptsError(f"{source} is a folder; give a file in it.")
        if not path.exists():
            raise SoftPromptsError(f"{source} does not exist; check the path.")
        if not path.is_file():
            raise SoftPromptsError(
                f"{source} is not a regular file; save what it delivers to a file and give its path."
            )
        return path.open("rb")
    except OSError as error:
        raise SoftPromptsError(f"{source} could not be opened: {error.strerror}; check its name and rights.") from error


class _HttpBytes:
    """The bytes of an http(s) address in order. If the connection breaks, a new one goes on at the same byte."""

    def __init__(self, url: str) -> None:
        self._name = without_secrets(url)
        """The address as messages name it."""
        try:
            parts = urllib.parse.urlsplit(url)
            _ = parts.port  # only to get the error that it raises for an invalid port
        except ValueError:
            raise self._invalid() from None  # the error itself may tell a password
        user, _, host = parts.netloc.rpartition("@")
        address = urllib.parse.urlunsplit(parts._replace(netloc=host, fragment=""))
        self._address = urllib.parse.quote(address, safe="/:?#[]@!$&'()*+,;=%~")  # spaces, letters beyond ASCII
        self._login = base64.b64encode(urllib.parse.unquote_to_bytes(user)).decode()
        self._position = 0
        # Size of the whole file in bytes, if the server says it.
        self._size: int | None = None
        # The server's name for this version of the file. It tells whether the file changes between two tries.
        self._version: str | None = None
        self._response: http.client.HTTPResponse | None = None

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end of the file.

        Raises:
            Dropped: If the connection broke and all new tries failed.
            SoftPromptsError: If the address gives nothing at all.
        """
        for pause in (*RETRY_PAUSES_S, None):
            try:
                if self._response is None:
                    self._response = self._connect()
                if self._size is not None:
                    size = min(size, self._size - self._position)
                data = self._response.read1(size) if size else b""
                if data or self._size is None or self._position >= self._size:
                    self._position += len(data)
                    return data
                why = f"the server closed it before all {self._size} bytes had come"
            except urllib.error.HTTPError as error:
                why = f"HTTP status {error.code} {error.reason}"
                error.close()
                if error.code < 500:
                    self._refuse(why)
            except (UnicodeError, http.client.InvalidURL):
                raise self._invalid() from None
            except (OSError, http.client.HTTPException) as error:
                why = str(getattr(error, "reason", error)) or type(error).__name__
                if isinstance(error, urllib.error.URLError) and not isinstance(error.reason, TimeoutError):
                    self._check_reachable(why)
            self.close()
            if pause is not None:
                time.sleep(pause)
        raise Dropped(why)

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _invalid(self) -> SoftPromptsError:
        return SoftPromptsError(f"{self._name} is not a valid address, or leads on to one that is not; check it.")

    def _refuse(self, why: str) -> NoReturn:
        """The server refuses the file; another try would not help."""
        if self._position:
            raise Dropped(why)
        raise SoftPromptsError(f"{self._name} was refused with {why}; check the address.")

    def _check_reachable(self, why: str) -> None:
        """Raise SoftPromptsError if no byte has come yet: there is no network or no such server.

        Later on, a failure to connect is a break like any other.
        """
        if not self._position:
            raise SoftPromptsError(
                f"{self._name} could not be reached ({why}); check the address and the network, "
                f"or download the file elsewhere and give its path instead."
            )

    def _connect(self) -> http.client.HTTPResponse:
        """A response whose next byte is the one at the current position."""
        headers = {"User-Agent": "soft-prompts", "Accept-Encoding": "identity"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
        request = urllib.request.Request(self._address, headers=headers)
        if self._login:
            request.add_unredirected_header("Authorization", f"Basic {self._login}")
        response = urllib.request.build_opener(_Redirects(self._name)).open(request, timeout=TIMEOUT_S)
        try:
            self._move_to_position(response)
        except BaseException:
            response.close()
            raise
        return response

    def _move_to_position(self, response: http.client.HTTPResponse) -> None:
        """Bring a new response to the current position. Raises Dropped if it is not of the same file."""
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if self._position and version != self._version:
            raise Dropped("the file on the server changed meanwhile")
        self._version = version
        if response.status == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {self._position}-"):
                raise Dropped(f"the server sent other bytes than those asked for, from {self._position} on")
            return
        length = response.headers.get("Content-Length", "")
        self._size = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        # The server ignored the range and begins at the first byte: skip what was read before.
        missing = self._position
        while missing:
            n_skipped = len(response.read1(min(missing, READ_BYTES)))
            if not n_skipped:
                raise ConnectionError("the server closed it early")
            missing -= n_skipped


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to other addresses, as long as they are http(s): not to files of this machine."""

    def __init__(self, name: str) -> None:
        self._name = name

    def http_error_302(self, request, response, code, message, headers) -> Any:
        """Called by urllib when a server names another address."""
        try:
            named = headers.get("Location") or headers.get("URI") or ""
            target = urllib.parse.urljoin(request.full_url, named)
            urllib.parse.urlsplit(target)
        except ValueError:
            raise http.client.InvalidURL from None
        if not is_url(target):
            response.close()
            raise SoftPromptsError(
                f"{self._name} leads on to an address of the kind {urllib.parse.urlsplit(target).scheme[:20]!r}, which "
                f"is not fetched; only http and https are. Download the file and give its path."
            )
        return super().http_error_302(request, response, code, message, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def blocks(source: str, raw: Bytes) -> Iterator[bytes]:
    """The decompressed content of a source in blocks.

    Args:
        source: Its path, or its address ``without_secrets``. The ending must fit the content.
        raw: Its raw bytes, from ``open_source``.

    Yields:
        BLOCK_BYTES or a little more, and at the end what is left. Content before a break is yielded first.

    Raises:
        Dropped: If the connection is lost for good.
        Damaged: If the compressed data is truncated or corrupt.
        SoftPromptsError: If the name promises another content, the content is of a kind that is not read here, or a
            compressed file grows beyond all measure.
    """
    gathered: list[bytes] = []
    size = 0
    try:
        for piece in _not_tar(source, _decompress(source, raw)):
            for start in range(0, len(piece), BLOCK_BYTES):
                gathered.append(piece[start : start + BLOCK_BYTES])
                size += len(gathered[-1])
                if size >= BLOCK_BYTES:
                    yield b"".join(gathered)
                    gathered, size = [], 0
    except (Dropped, Damaged):
        yield b"".join(gathered)
        raise
    yield b"".join(gathered)


def _decompress(source: str, raw: Bytes) -> Iterator[bytes]:
    """The decompressed content in pieces of any size, whatever the compression; raises what ``blocks`` raises."""
    head = b""
    while len(head) < 4:  # a connection may deliver less at once than the longest magic number
        data = raw.read(READ_BYTES)
        if not data:
            break
        head += data
    kind = _compression(head)
    _check_name(source, head, kind)
    pieces = _pieces(head, raw)
    if kind == "zstd":
        # Lichess compresses with windows larger than the decoder's default limit.
        decoder = zstandard.ZstdDecompressor(max_window_size=2**31)
        return _decompressed(source, pieces, decoder.decompressobj, kind)
    if kind == "gzip":
        return _decompressed(source, pieces, lambda: zlib.decompressobj(wbits=31), kind)
    return pieces


def _not_tar(source: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces. Raises SoftPromptsError if they are those of a tar file."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= tarfile.BLOCKSIZE:
            break
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        yield head
        yield from pieces
    else:
        raise SoftPromptsError(f"{source} is tar data; unpack it and give a file inside.")


def _compression(head: bytes) -> str:
    """What the first bytes of a file say: "zstd", "gzip", the name of an archive format, or "" for plain content."""
    if head.startswith(ZSTD_MAGICS):
        return "zstd"
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    return next((name for magic, name in ARCHIVE_MAGICS.items() if head.startswith(magic)), "")


def _check_name(source: str, head: bytes, kind: str) -> None:
    """Raise SoftPromptsError if the content is empty, not what the file's name promises, or not read here."""
    if not head:
        raise SoftPromptsError(f"{source} is empty (0 bytes); download it again or give another file.")
    name = urllib.parse.urlsplit(source).path if is_url(source) else source
    promised = {".zst": "zstd", ".gz": "gzip"}.get(Path(name).suffix.lower())
    if kind in ARCHIVE_MAGICS.values():
        raise SoftPromptsError(f"{source} is {kind} data; unpack it and give a file inside.")
    if promised and kind != promised:
        suffix = {"zstd": "to end in .zst", "gzip": "to end in .gz", "": f"without {Path(name).suffix}"}[kind]
        raise SoftPromptsError(
            f"{source} is not {promised} data although its name says so (it is {kind or 'not compressed'}); "
            f"rename it {suffix} or download it again."
        )


def _pieces(head: bytes, raw: Bytes) -> Iterator[bytes]:
    yield head
    while data := raw.read(READ_BYTES):
        yield data


def _decompressed(source: str, pieces: Iterator[bytes], new_decoder: Callable[[], Any], kind: str) -> Iterator[bytes]:
    """Decompress frame after frame (zstd) or member after member (gzip), never more than about 32 MiB in one go.

    zstandard has stream readers of its own, but they end silently where a file is cut off.

    Raises:
        Damaged: If the data is truncated or corrupt.
        SoftPromptsError: If more comes of it than of any text.
    """
    decoder = None
    n_fed = n_made = 0
    for data in (piece[at : at + FEED_BYTES] for piece in pieces for at in range(0, len(piece), FEED_BYTES)):
        n_fed += len(data)
        while data:
            if decoder is None:
                data = data.lstrip(b"\0") if kind == "gzip" else data  # gzip files may be padded with zeros
                if not data:
                    break
                decoder = new_decoder()
            try:
                text = decoder.decompress(data)
            except (zstandard.ZstdError, zlib.error) as error:
                raise Damaged(f"the {kind} data is corrupt ({error})") from error
            data = b""
            if decoder.eof:
                data = decoder.unused_data
                decoder = None
            n_made += len(text)
            if n_made > FREE_BYTES + MAX_GROWTH * n_fed:
                raise SoftPromptsError(
                    f"{source} is no text: its first {n_fed:,} bytes become {n_made:,} when they are decompressed, and "
                    f"no more than {MAX_GROWTH} times as many are read beyond {FREE_BYTES >> 20} MiB; give another "
                    f"file, or this one decompressed."
                )
            if text:
                yield text
    if decoder is not None:
        raise Damaged(f"the {kind} data ends in the middle")
