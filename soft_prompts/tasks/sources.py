"""Where data comes from: local files and addresses of any size, plain or compressed, as blocks of decompressed bytes.

An address is streamed, and no further than its reader wants; a connection that breaks is taken up again where it
broke. A truncated archive is noticed.
"""

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import fingerprint as file_fingerprint

READ_BYTES = 1 << 16  # small, because one read of compressed bytes is decompressed as a whole
BLOCK_BYTES = 4 << 20  # text handed on at a time
TIMEOUT_S = 30.0  # a connection that delivers nothing for so long has stalled
RETRY_PAUSES_S = (0.5, 1.0, 2.0)  # before each new try at a connection that broke

# A frame, or a skippable frame as parallel compressors put first.
ZSTD_MAGICS = (b"\x28\xb5\x2f\xfd", *(bytes([n]) + b"\x2a\x4d\x18" for n in range(0x50, 0x60)))
ARCHIVE_MAGICS = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"7z\xbc\xaf": "7z", b"\xfd7zX": "xz"}


class Dropped(Exception):
    """The connection is lost for good; the text says why."""


class Damaged(Exception):
    """The compressed data is truncated or corrupt; the text says how."""


class Bytes(Protocol):
    """What a local file and an address have in common: bytes in order."""

    def read(self, size: int, /) -> bytes: ...

    def tell(self) -> int: ...

    def close(self) -> None: ...


def fingerprint(source: str) -> str:
    """The identity of a source, without reading all of it: an address is its own, a local file's is that of its content.

    Raises SoftPromptsError for a file that is missing or unreadable.
    """
    if is_url(source):
        return source
    open_file(source).close()
    return file_fingerprint(Path(source))


def open_source(source: str) -> Bytes:
    """The raw bytes of a path or an http(s) address; SoftPromptsError says why they are not to be had."""
    return _HttpBytes(source) if is_url(source) else open_file(source)


def is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def open_file(source: str) -> BinaryIO:
    """Open a local file for reading bytes; SoftPromptsError says why not."""
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
    """The bytes of an http(s) address in order; a connection that breaks is taken up again where it broke.

    read raises Dropped when the retries are used up, and SoftPromptsError where the address gives nothing at all.
    """

    def __init__(self, url: str) -> None:
        try:
            _ = urllib.parse.urlsplit(url).port  # read for the errors that it raises
        except ValueError as error:
            raise SoftPromptsError(f"{url} is not a valid address ({error}); check it.") from error
        self._url = url
        self._position = 0
        self._size: int | None = None  # of the whole file, where the server says it
        self._version: str | None = None  # as the server names it, to notice a file that changes between two tries
        self._response: http.client.HTTPResponse | None = None

    def read(self, size: int) -> bytes:
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
            except (OSError, http.client.HTTPException) as error:
                why = str(getattr(error, "reason", error)) or type(error).__name__
                if isinstance(error, urllib.error.URLError) and not isinstance(error.reason, TimeoutError):
                    self._unreachable(why)
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

    def _refuse(self, why: str) -> None:
        """The server will not give the file, now or later."""
        if self._position:
            raise Dropped(why)
        raise SoftPromptsError(f"{self._url} was refused with {why}; check the address.")

    def _unreachable(self, why: str) -> None:
        """Before the first byte there is no network or no such server; later on it is a break like any other."""
        if not self._position:
            raise SoftPromptsError(
                f"{self._url} could not be reached ({why}); check the address and the network, "
                f"or download the file elsewhere and give its path instead."
            )

    def _connect(self) -> http.client.HTTPResponse:
        """A response whose next byte is the one at the position reached."""
        headers = {"User-Agent": "soft-prompts", "Accept-Encoding": "identity"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
        address = urllib.parse.quote(self._url, safe="/:?#[]@!$&'()*+,;=%~")  # spaces and letters beyond ASCII
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT_S)
        try:
            self._match(response)
        except BaseException:
            response.close()
            raise
        return response

    def _match(self, response: http.client.HTTPResponse) -> None:
        """See to it that a response goes on where the last one broke off, in the same file."""
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if self._position and version != self._version:
            raise Dropped("the file on the server changed meanwhile")
        self._version = version
        if response.status == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {self._position}-"):
                raise Dropped(f"the server sent other bytes than those asked for, from {self._position} on")
            return
        length = response.headers.get("Content-Length", "")
        self._size = int(length) if length.isdigit() else None
        missing = self._position  # the server ignored the range and begins anew
        while missing:
            skipped = len(response.read1(min(missing, READ_BYTES)))
            if not skipped:
                raise ConnectionError("the server closed it early")
            missing -= skipped


def _decompress(source: str, raw: Bytes) -> Iterator[bytes]:
    """Yield the decompressed content, whatever the compression. Raises Damaged, SoftPromptsError for a wrong name."""
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
        return _decompressed(pieces, lambda: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj(), kind)
    if kind == "gzip":
        return _decompressed(pieces, lambda: zlib.decompressobj(wbits=31), kind)
    return pieces


def _compression(head: bytes) -> str:
    """zstd, gzip, an archive format that is not read here, or "" for text, by the content's first bytes."""
    if head.startswith(ZSTD_MAGICS):
        return "zstd"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    return next((name for magic, name in ARCHIVE_MAGICS.items() if head.startswith(magic)), "")


def _check_name(source: str, head: bytes, kind: str) -> None:
    """Raise SoftPromptsError where the content is not what the file's name promises, or nothing that is read here."""
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


def _decompressed(pieces: Iterator[bytes], new_decoder: Callable, kind: str) -> Iterator[bytes]:
    """Decompress frame after frame (zstd) or member after member (gzip). Raises Damaged.

    Done by hand because the stream readers of zstandard end without a word where a file is cut off.
    """
    decoder = None
    for data in pieces:
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
            if text:
                yield text
    if decoder is not None:
        raise Damaged(f"the {kind} data ends in the middle")


def blocks(source: str, raw: Bytes) -> Iterator[bytes]:
    """The decompressed content in blocks of BLOCK_BYTES or a little more; what came before a break is yielded first.

    Raises Dropped, Damaged, and SoftPromptsError for a file whose name promises another content.
    """
    gathered: list[bytes] = []
    size = 0
    try:
        for piece in _decompress(source, raw):
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
