"""Locks: processes that share a folder do each thing once, on one machine or on many.

A lock is a folder of numbered files. The file with the highest number says who holds the lock, and the time of its last
change says when the holder was last heard of. Whoever takes a lock over from a dead holder makes the file with the next
number, which the file system lets only one process do. A number is never used twice while a lock is in use, so whoever
looks at the folder late can win nothing that another one has. Releasing a lock is a note in its file.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically

STALE = 120.0
"""Seconds without a sign of life after which a holder counts as dead. If its process was on this machine and is gone,
it counts as dead at once."""
BEAT = 10.0
"""Seconds between two signs of life."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    pid: int
    machine: str
    """What tells machines apart, and containers that give the same number to different processes."""
    started: str
    """When the process started, as the system counts: a later process may get the same number."""
    since: str
    """When it took the lock."""

    @classmethod
    def this_process(cls) -> Holder:
        """This one, from now on."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _machine(), _started(pid), time.strftime("%Y-%m-%d %H:%M:%S"))

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended. That of another machine is not known."""
        return self.machine == _machine() and self.started != _started(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Locks:
    """Locks below one folder, each by its name. Leaving the ``with`` block releases those that are still held."""

    def __init__(self, folder: Path):
        """
        Args:
            folder: The same for all processes that share the work.
        """
        self.folder = folder
        self._held: dict[Path, Path] = {}
        self._left = threading.Event()
        self._began = 0.0
        self.taken_over: Counter[str] = Counter()
        """Dead processes -> how many locks of theirs were taken."""

    def __enter__(self) -> Locks:
        self._began = self._now()
        # Signs of life come from a thread: nothing that the process is busy with may stop them.
        threading.Thread(target=self._live, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        for name in list(self._held):
            with suppress(SoftPromptsError):  # whatever ends the work is more important; the lock will count as stale
                self.release(name)

    def take(self, name: Path) -> bool:
        """Take a lock that is free, or whose holder is dead.

        Returns:
            False if another process has it, or has said since this one began that there is no use in it.

        Raises:
            SoftPromptsError: The file system refuses.
        """
        folder = self.folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            latest = _latest(folder)
            before = folder / str(latest)
            if latest and (self._is_alive(before) or self.failure(name)):
                return False
            dead = _holder(before)
            path = folder / str(latest + 1)
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)  # of several processes, one succeeds
            with open(file, "w") as content:
                json.dump(asdict(Holder.this_process()), content)
            before.unlink(missing_ok=True)
        except FileExistsError:
            return False
        except OSError as error:
            raise SoftPromptsError(
                f"could not lock {folder} ({error.strerror}): free some space or choose another folder with --out."
            ) from error
        self._held[name] = path
        if dead:
            self.taken_over[str(dead)] += 1
        return True

    def is_held(self, name: Path) -> bool:
        """Whether this process still has a lock that it took: if it stood still too long, another one has taken it
        over."""
        path = self._held.get(name)
        return path is not None and _latest(path.parent) <= int(path.name)

    def release(self, name: Path, failure: str = "") -> None:
        """Let others have a lock.

        Args:
            name: The lock's.
            failure: Why there is no use in trying again, for those who wait.
        """
        path = self._held.pop(name)
        if path.exists():
            write_atomically(path, json.dumps({"released": True, "failure": failure}).encode())

    def failure(self, name: Path) -> str:
        """Why another process gave up what the lock stands for, since this one began; "" if none did."""
        path = self.folder / name / str(_latest(self.folder / name))
        try:
            return _content(path).get("failure", "") if path.stat().st_mtime >= self._began else ""
        except FileNotFoundError:
            return ""

    def holders(self, names: Iterable[Path]) -> dict[str, int]:
        """The processes that are at work on some things -> on how many."""
        found = Counter()
        for name in names:
            path = self.folder / name / str(_latest(self.folder / name))
            if name not in self._held and self._is_alive(path):
                found[str(_holder(path) or "a process")] += 1
        return dict(found)

    def _is_alive(self, path: Path) -> bool:
        """Whether a lock's file has a holder that is alive, as far as this process can know."""
        try:
            heard_of = path.stat().st_mtime
        except FileNotFoundError:
            return False
        if "released" in _content(path):
            return False
        holder = _holder(path)
        return not (holder and holder.is_gone) and self._now() - heard_of <= STALE

    def _live(self) -> None:
        while not self._left.wait(BEAT):
            for path in list(self._held.values()):
                with suppress(OSError):
                    os.utime(path)

    def _now(self) -> float:
        """The time by the clock that the folder's files go by: machines need not agree on theirs."""
        probe = self.folder / f".now-{socket.gethostname()}-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            try:
                return probe.stat().st_mtime
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise SoftPromptsError(
                f"could not write to {self.folder} ({error.strerror}): free some space or choose another folder with "
                f"--out."
            ) from error


def _latest(folder: Path) -> int:
    """The highest number of a lock's files; 0 if there are none."""
    try:
        return max((int(name) for name in os.listdir(folder) if name.isdecimal()), default=0)
    except FileNotFoundError:
        return 0


def _content(path: Path) -> dict[str, Any]:
    """What a lock's file says; nothing if it has just been made or is gone."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _holder(path: Path) -> Holder | None:
    try:
        return Holder(**_content(path))
    except TypeError:
        return None


def _machine() -> str:
    """What tells this machine from others, and this container from others on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process of this machine started, as the system counts; "" if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # a name may hold spaces
        return "" if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        pass
    if sys.platform != "win32":  # there, signal 0 is Ctrl-C
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except OSError:
            pass
    return "unknown"
