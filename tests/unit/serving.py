"""A server on this machine that answers as planned: with whole files, parts of them, errors or silence."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Server:
    """What the server does: each request gets the next answer, and the last answer serves all that follow."""

    def __init__(self, *answers: Callable[["Handler", int], None]) -> None:
        self.answers = list(answers)
        self.ranges: list[str | None] = []
        """The Range header of each request so far."""
        self.sent = 0
        """Bytes sent so far."""
        self.url = ""
        """The address of the file."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request with what the plan says."""

    plan: Server

    def do_GET(self) -> None:
        """Called by http.server for each request."""
        asked = self.headers.get("Range")
        number = len(self.plan.ranges)
        self.plan.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.plan.answers[min(number, len(self.plan.answers) - 1)](self, start)

    def log_message(self, *_: object) -> None:
        """Keep requests off the screen."""

    def begin(self, status: int, **headers: object) -> None:
        """Send the status and the headers. An underscore in a header's name stands for a hyphen."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def send(self, data: bytes) -> None:
        """Send some of the body at once."""
        self.wfile.write(data)
        self.wfile.flush()
        self.plan.sent += len(data)


@contextmanager
def serving(*answers: Callable[[Handler, int], None], name: str = "games.pgn") -> Iterator[Server]:
    """Run a server with these answers for a file of this name."""
    plan = Server(*answers)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Planned", (Handler,), {"plan": plan}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    plan.url = f"http://127.0.0.1:{server.server_port}/{name}"
    try:
        yield plan
    finally:
        server.shutdown()
        server.server_close()


def whole(data: bytes, upto: int | None = None, tag: str = "v1", ranges: bool = True) -> Callable:
    """An answer with the data, or with the part that was asked for.

    Args:
        data: The whole file.
        upto: The connection closes at this byte of the file. None: at its end.
        tag: The file's version.
        ranges: Whether the server can send parts.
    """

    def answer(handler: Handler, start: int) -> None:
        if start and ranges:
            size = f"bytes {start}-{len(data) - 1}/{len(data)}"
            handler.begin(206, Content_Range=size, Content_Length=len(data) - start, ETag=tag)
            handler.send(data[start:upto])
        else:
            handler.begin(200, Content_Length=len(data), ETag=tag)
            handler.send(data[:upto])

    return answer


def status(code: int) -> Callable:
    """An answer with a status and nothing else."""
    return lambda handler, start: handler.begin(code, Content_Length=0)


def stall_silently(released: threading.Event) -> Callable:
    """No answer until the event is set, or for ten seconds."""
    return lambda handler, start: released.wait(10)
