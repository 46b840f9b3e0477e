"""Commands that tests start, without waiting ten seconds each time for torch and transformers to be loaded.

One process loads the two libraries, and forks for every command ``python -m module ...``. What it forks is a process
like any other: with its own environment, folder, output, exit code and signals. It has loaded nothing of this project.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TextIO

ROOT = Path(__file__).parents[2]
LONGEST = 2**20
"""Bytes of one request at most: words and environment."""


class Started:
    """A command that was started, with what tests use of subprocess.Popen."""

    def __init__(self, pid: int, end: socket.socket, out: int, err: int):
        self.pid, self._end = pid, end
        self.stdout, self.stderr = (os.fdopen(fd, encoding="utf-8", errors="replace") for fd in (out, err))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return self.returncode  # type: ignore[return-value]

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._end], [], [], timeout)[0]:
            self.returncode = int(self._end.recv(64))
            self._end.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote, to both, until its end."""
        said = ["", ""]

        def read(k: int, file: TextIO) -> None:
            with file:
                said[k] = file.read()

        readers = [Thread(target=read, args=pair, daemon=True) for pair in enumerate((self.stdout, self.stderr))]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(words: Sequence[str | bytes], env: Mapping[str, str] = os.environ, cwd: Path = ROOT) -> Started:
    """Start ``python -m module ...``; both of its outputs are pipes.

    Args:
        words: sys.executable, -m, the module, its arguments.
        env: Its whole environment.
        cwd: Its folder; also where the module is looked for.
    """
    python, flag, *rest = (os.fsdecode(word) for word in words)
    assert (python, flag) == (sys.executable, "-m"), "only commands of Python's -m can be forked"
    own, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    (out, writes_out), (err, writes_err) = os.pipe(), os.pipe()
    request = json.dumps({"words": rest, "env": dict(env), "cwd": str(cwd)}).encode()
    socket.send_fds(_server(os.getpid()), [request], [its.fileno(), writes_out, writes_err])
    its.close()
    for fd in (writes_out, writes_err):
        os.close(fd)
    return Started(int(own.recv(64)), own, out, err)


def ran(
    words: Sequence[str | bytes], env: Mapping[str, str] = os.environ, cwd: Path = ROOT, timeout: float = 300
) -> subprocess.CompletedProcess:
    """What came of such a command."""
    process = start(words, env, cwd)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@cache
def _server(_: int) -> socket.socket:
    """The process that forks; one for each process of the tests. It ends when that does."""
    from soft_prompts.cli import SETTINGS

    own, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST)
    # Settings that are read when torch is loaded, as the command line makes them. And threads do not survive a fork.
    environment = {**os.environ, **SETTINGS, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(its.fileno())]  # not -m, which loads the package that it is in
    subprocess.Popen(command, env=environment, pass_fds=[its.fileno()])
    its.close()
    return own


def _forked(requests: socket.socket) -> list[str]:
    """Fork for every request. Returns, in each process that was forked, the words of its command."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the terminal ends the tests, and so this process
    while True:
        request, fds, _, _ = socket.recv_fds(requests, LONGEST, 3)
        if not request:
            os._exit(0)
        if not os.fork():
            break
        for fd in fds:
            os.close(fd)
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end = socket.socket(fileno=fds[0])
    pid = os.fork()
    if pid:  # this process waits for the command and tells how it ended
        end.send(str(pid).encode())
        for fd in (1, 2, *fds[1:]):
            os.close(fd)
        end.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
        os._exit(0)
    end.close()
    for fd, standard in zip(fds[1:], (1, 2), strict=True):
        os.dup2(fd, standard)
        os.close(fd)
    asked = json.loads(request)
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    os.chdir(asked["cwd"])
    sys.path[:1] = [asked["cwd"], *filter(None, asked["env"].get("PYTHONPATH", "").split(os.pathsep))]
    return asked["words"]


def _main() -> None:
    sys.path[0] = str(ROOT)
    import torch
    from matplotlib import figure  # noqa: F401
    from torch.utils import tensorboard  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    assert not any(name.startswith("soft_prompts") for name in sys.modules)
    module, *arguments = _forked(socket.socket(fileno=int(sys.argv[1])))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
