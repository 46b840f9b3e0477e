"""The processes of one launch: which of them this is, and what they tell each other.

`accelerate launch`, `torchrun` and their like start one command several times and number the processes in the
environment: RANK of WORLD_SIZE, LOCAL_RANK on this machine. If they also say where the first one can be reached
(MASTER_ADDR), the processes are connected. Otherwise they share work by what lies in their folder alone.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(days=30)
"""How long a process waits for the others: as long as training takes. One that dies breaks the connection at once."""


def rank() -> int:
    """The number of this process; 0 is the first, which speaks and shows the results."""
    return _number("RANK", 0)


def n_processes() -> int:
    """How many processes the launch has."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """The number of this process on its machine: that of its GPU."""
    return _number("LOCAL_RANK", rank())


def n_processes_here() -> int:
    """How many processes of the launch are on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "") or str(default)
    if not value.isdecimal():
        raise SoftPromptsError(f"the environment variable {name} is {value!r}, but must be a number; unset it.")
    return int(value)


@contextmanager
def connected() -> Iterator[None]:
    """Around all work of a command: a connection to the other processes of its launch, if there are any.

    Raises:
        SoftPromptsError: They cannot be reached.
    """
    if n_processes() == 1 or not os.environ.get("MASTER_ADDR"):
        yield
        return
    from torch import distributed

    # What is sent is small: prompts' gradients, and files of results. gloo sends it from any device.
    with _heard():
        distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def are_connected() -> bool:
    """Whether this process can tell the others something."""
    if n_processes() == 1:
        return False
    from torch import distributed

    return distributed.is_initialized()


@contextmanager
def _heard() -> Iterator[None]:
    """Around a message to the others."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise SoftPromptsError(
            f"process {rank()} of {n_processes()} lost the others ({str(error).splitlines()[0][:200]}): what the one "
            f"that ended first said is above; then run the same command again, finished runs are kept."
        ) from error


def sent(content: bytes, source: int) -> bytes:
    """What one process gives, to all of them.

    Args:
        content: In the process that gives.
        source: Its number.
    """
    import torch
    from torch import distributed

    with _heard():
        size = torch.tensor([len(content)])
        distributed.broadcast(size, source)
        data = torch.empty(int(size), dtype=torch.uint8)
        if rank() == source and content:
            data.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        distributed.broadcast(data, source)
    return data.numpy().tobytes()


def told(value: Any) -> list[Any]:
    """What each process says, to all of them; anything that JSON can hold."""
    return [json.loads(sent(json.dumps(value).encode(), source)) for source in range(n_processes())]


def folder_leaders(folder: Path) -> list[int]:
    """For each process, the lowest number of those whose files it finds in a folder: 0 for all if they share it.

    Every process writes a file with a name that the first one has drawn, and looks for the others'.
    """
    token = told(secrets.token_hex(8))[0]
    probes = [folder / f".launch-{token}-{number}" for number in range(n_processes())]
    write_atomically(probes[rank()], b"")
    told(None)  # all files are there
    leader = min(number for number, probe in enumerate(probes) if probe.exists())
    leaders = told(leader)
    probes[rank()].unlink(missing_ok=True)
    return leaders


def copied(root: Path, names: Sequence[str], source: int, wanted: bool) -> None:
    """Copy files of one process to others, in their order.

    Args:
        root: The folder that stands for that of the others, in each process.
        names: Paths below it, in the process that has the files.
        source: Its number.
        wanted: Whether this process takes them.
    """
    for name in json.loads(sent(json.dumps(list(names)).encode(), source)):
        content = sent((root / name).read_bytes() if rank() == source else b"", source)
        if wanted and rank() != source:
            write_atomically(root / name, content)


@dataclass(frozen=True)
class Crew:
    """Processes that train the same runs together: each computes its part of the documents of every step."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def decides(self, decide: Callable[[], T]) -> T:
        """What the first process decides, for all. JSON must be able to hold it."""
        if self.size == 1:
            return decide()
        decision = {}
        if self.is_first:
            try:
                decision["is"] = decide()
            except SoftPromptsError as error:
                decision["error"] = str(error)
        decision = json.loads(sent(json.dumps(decision).encode(), 0))
        if "error" in decision:
            raise SoftPromptsError(decision["error"])
        return decision["is"]

    def together(self, work: Callable[[], T]) -> T:
        """Do something in every process; if it fails in one, all of them end with its error."""
        if self.size == 1:
            return work()
        try:
            done, failure = work(), ""
        except SoftPromptsError as error:
            done, failure = None, str(error)
        if failures := [said for said in told(failure) if said]:
            raise SoftPromptsError(failures[0])
        return done

    def first_does(self, work: Callable[[], object]) -> None:
        """Let the first process do something; if it fails, all end with its error."""
        self.together(work if self.is_first else lambda: None)

    def part(self, rows: Sequence[T], length: Callable[[T], int], dealt: int = 0) -> list[T]:
        """This process's rows. They are dealt like cards, by length: every process gets short ones and long ones.

        Args:
            rows: Of all processes.
            length: Of a row.
            dealt: How many were dealt before: the next process gets the first.
        """
        return list(rows) if self.size == 1 else sorted(rows, key=length)[(self.rank - dealt) % self.size :: self.size]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over the processes; all get the same bits."""
        if self.size == 1 or not tensors:
            return
        import torch
        from torch import distributed

        flat = torch.cat([x.detach().flatten() for x in tensors])
        with _heard():
            distributed.all_reduce(flat)
        for x, summed in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            x.detach().copy_(summed.view_as(x))

    def largest(self, *numbers: int) -> list[int]:
        """For each number, the largest that a process gives."""
        if self.size == 1:
            return list(numbers)
        import torch
        from torch import distributed

        found = torch.tensor(numbers)
        with _heard():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return found.tolist()


ALONE = Crew()
"""A process that trains by itself."""
