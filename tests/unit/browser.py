"""A page in a real browser, which is told what to do over two pipes (the DevTools protocol of Chromium)."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OFF = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage")
OPTIONS = ("--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-pipe", *(f"--disable-{x}" for x in OFF))
KEYS = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}
PATIENCE = 60
"""Seconds until a page must have done what is waited for; reached only if it never does."""
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")


class Navigated(Exception):
    """The page that was asked is no longer there: it has loaded anew."""


class Page:
    """An open page."""

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from = to_browser, from_browser
        self._rest, self._n, self._session = b"", 0, None
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and wait for its answer."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                received = os.read(self._from, 2**16)
                assert received, "the browser has ended"
                self._rest += received
            one, _, self._rest = self._rest.partition(b"\0")
            if (answer := json.loads(one)).get("id") == self._n:
                if "navigated" in answer.get("error", {}).get("message", ""):
                    raise Navigated(method)
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path: Path) -> None:
        """Open a file and wait until it is there and its scripts have run."""
        self.tell("Page.navigate", url=f"file://{path}")
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def see(self, width: int = 1000, height: int = 900, scheme: str = "light") -> None:
        """A window of this size, light or dark."""
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + PATIENCE
        while not self._holds(condition):
            assert time.monotonic() < end, f"never: {condition}"
            time.sleep(0.05)

    def _holds(self, condition: str) -> bool:
        try:
            return bool(self.run(condition))
        except Navigated:
            return False

    def press(self, key: str) -> None:
        """Press a key, one of KEYS."""
        of_key = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        self.tell("Input.dispatchKeyEvent", type="keyDown", **of_key)
        self.tell("Input.dispatchKeyEvent", type="keyUp", **of_key)

    def choose(self, select: str, value: str) -> None:
        """Choose an option of the select of this selector."""
        self.run(
            f"{{const s = document.querySelector({json.dumps(select)}); s.value = {json.dumps(value)};"
            "s.dispatchEvent(new Event('change', {bubbles: true}));}"
        )

    def picture(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot")["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A browser that keeps its files in a folder, with an empty page."""
    ours, theirs = os.pipe(), os.pipe()  # each is (to read from, to write to)
    # The browser reads from 3 and writes to 4; its ends must not lie there themselves.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs[0], ours[1])]

    def place() -> None:
        for end, number in zip(ends, (3, 4), strict=True):
            os.dup2(end, number)

    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}"]
    process = subprocess.Popen(command, close_fds=False, preexec_fn=place, stderr=subprocess.DEVNULL)
    for end in (*ends, theirs[0], ours[1]):
        os.close(end)
    try:
        page = Page(theirs[1], ours[0])
        page.see()
        yield page
    finally:
        process.terminate()
        process.wait(PATIENCE)
        os.close(theirs[1])
        os.close(ours[0])


def in_browser(html: str, folder: Path, script: str) -> Any:
    """Open a page and read the value of an expression in it.

    Args:
        html: The page.
        folder: Where it is written, and where the browser keeps its files.
        script: The expression; a promise is waited for.
    """
    (folder / "probe.html").write_text(html)
    with browser(folder) as page:
        page.open(folder / "probe.html")
        return page.run(script)
