"""A server on loopback that answers as planned: whole files, parts of them, errors, silence."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Server:
    """What a loopback server does: an answer for each request in turn, the last one for all that follow."""

    def __init__(self, *answers: Callable[["Handler", int], None]) -> None:
        self.answers = list(answers)
        self.ranges: list[str | None] = []
        self.sent = 0
        self.url = ""


class Handler(http.server.BaseHTTPRequestHandler):
    plan: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        number = len(self.plan.ranges)
        self.plan.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.plan.answers[min(number, len(self.plan.answers) - 1)](self, start)

    def log_message(self, *_: object) -> None:
        pass

    def begin(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        self.plan.sent += len(data)


@contextmanager
def serving(*answers: Callable[[Handler, int], None], name: str = "games.pgn") -> Iterator[Server]:
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
    """An answer with the data, by range if asked for one; the connection closes at byte `upto` of the file."""

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
    return lambda handler, start: handler.begin(code, Content_Length=0)


def stall_silently(released: threading.Event) -> Callable:
    return lambda handler, start: released.wait(10)
