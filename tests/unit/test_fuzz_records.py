"""Damaged files of results, snapshots and checkpoints: each is refused or it is read as it was written.

A file with a checksum that loads must have the content that was saved. Files without one, or with a checksum made anew
by somebody who means ill, may say something else, but end in a sentence or load. CI tries about a thousand files, and
`pytest -m slow tests/unit/test_fuzz_records.py` a hundred thousand.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import checksum
from soft_prompts.interventions.base import Intervention
from soft_prompts.interventions.soft_prompt import PromptGenerator, SoftPrompt
from soft_prompts.results.provenance import _peak_memory
from soft_prompts.results.record import Result
from soft_prompts.results.snapshot import load_prompt, save_prompt
from soft_prompts.training.checkpoint import Checkpoints, _read
from soft_prompts.training.log import Logs
from soft_prompts.training.loop import train
from tests.unit.test_checkpoint import bench_of, checkpoints_of
from tests.unit.test_crafted_results import complete, values_of
from tests.unit.test_train import run

N_KINDS = 8
"""Kinds of files below, the targets of one test."""
QUICK, SLOW = 1000 // N_KINDS, 100_000 // N_KINDS
"""Damaged files of each kind."""
MEMORY = 2**30
"""Bytes by which the process may grow."""
PIECES = (
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"0.5", b"9" * 30, b"9" * 5000, b'""', b'"', b"\\"),
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b"[]",
        b"{}",
        b"," * 3,
        b":",
        b"[" * 2000,
        b'{"a":' * 2000,
        b'"\\ud800"',
        b"\x00",
        b"\xff",
    ),
    *(
        b"F32",
        b"BF16",
        b"F64",
        b"U8",
        b"BOOL",
        b"F4",
        b"C64",
        b"__metadata__",
        b"checksum",
        b"schema",
        b"1000000000000",
    ),
)
"""What stands in places where it should not."""


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with some faults: bits flipped, pieces overwritten, put in, taken out or repeated, or the end cut."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(("flip", "overwrite", "insert", "digit", "remove", "repeat", "cut")))
        piece, n = draw(st.sampled_from(PIECES)), draw(st.integers(1, 200))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "digit" and data:
            data[at] = draw(st.sampled_from(b'0123456789"[]{},:.-'))
        elif kind == "overwrite":
            data[at : at + len(piece)] = piece
        elif kind == "insert":
            data[at:at] = piece
        elif kind == "remove":
            del data[at : at + n]
        elif kind == "repeat":
            data[at:at] = data[at : at + n]
        elif kind == "cut":
            del data[at:]
    return bytes(data)


def packed(header: bytes, body: bytes) -> bytes:
    """A safetensors file."""
    return struct.pack("<Q", len(header)) + header + body


def unpacked(content: bytes) -> tuple[bytes, bytes]:
    """Header and body of a safetensors file."""
    (n,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + n], content[8 + n :]


class Kind:
    """One kind of file: how it is damaged, and how it is read."""

    def __init__(self, path: Path, content: bytes, damage: Callable[[st.DrawFn], bytes], read: Callable[[Path], bool]):
        self.path, self.content, self.damage = path, content, damage
        self.read = read
        """Whether a file is refused in the way that it should be; raises AssertionError if it is read wrongly."""


def result_kinds(folder: Path) -> dict[str, Kind]:
    result, path = complete(4, 1.1), folder / "tokens-0004-seed-0.json"
    result.save(path)
    whole, bare = path.read_bytes(), json.dumps(values_of(result, folder / "bare.json")).encode()

    def read(same: bool) -> Callable[[Path], bool]:
        def load(path: Path) -> bool:
            try:
                loaded = Result.load(path)
            except SoftPromptsError as error:
                assert str(path) in str(error) and len(str(error)) < 1000
                return True
            assert not same or loaded == result
            return False

        return load

    return {
        "result": Kind(path, whole, lambda draw: draw(damaged(whole)), read(same=True)),
        "result without checksum": Kind(path, bare, lambda draw: draw(damaged(bare)), read(same=False)),
    }


def snapshot_kinds(folder: Path, model, name: str, prompt: Intervention) -> dict[str, Kind]:
    path = folder / f"{name}.safetensors"
    save_prompt(prompt, model, {"seed": 1}, path)
    whole = path.read_bytes()
    header, body = unpacked(whole)
    values = json.loads(header)
    del values["__metadata__"]["checksum"]
    values["__metadata__"]["schema"] = "2"
    bare = json.dumps(values).encode()

    def read(same: bool) -> Callable[[Path], bool]:
        def load(path: Path) -> bool:
            try:
                loaded = load_prompt(path, model)
            except SoftPromptsError as error:
                assert str(path) in str(error) and len(str(error)) < 1000
                return True
            own = loaded.state_dict()
            assert not same or all(torch.equal(x, own[key]) for key, x in prompt.state_dict().items())
            return False

        return load

    def damage_header(draw: st.DrawFn) -> bytes:
        return packed(draw(damaged(bare)), body)

    return {
        f"{name} snapshot": Kind(path, whole, lambda draw: draw(damaged(whole)), read(same=True)),
        f"{name} snapshot without checksum": Kind(path, packed(bare, body), damage_header, read(same=False)),
    }


def checkpoint_kinds(folder: Path, model) -> dict[str, Kind]:
    of = run(2, steps=2)
    train(bench_of(model, of.target), [of], Logs(folder), Checkpoints(folder / "checkpoints", 1e-9))
    path = checkpoints_of(folder, of)[-1]
    whole = path.read_bytes()
    with safe_open(path, "pt") as file:
        words, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    counters = words["counters"]

    def read(same: bool) -> Callable[[Path], bool]:
        def load(path: Path) -> bool:
            found = _read(path, model.weight_hash, of)
            if found is None:
                return True
            assert not same or found[1] == {k: v for k, v in json.loads(counters).items() if k != "weights"}
            assert not same or all(torch.equal(found[0][name], x) for name, x in tensors.items())
            return False

        return load

    def made_anew(counters: str, tensors: dict[str, torch.Tensor]) -> bytes:
        digest = checksum({name: x.numpy() for name, x in tensors.items()}, {"counters": counters})
        return safetensors.torch.save(tensors, {"counters": counters, "checksum": digest})

    def damage_counters(draw: st.DrawFn) -> bytes:
        text = draw(damaged(counters.encode())).decode(errors="replace")
        changed = dict(tensors)
        if draw(st.booleans()):
            name = draw(st.sampled_from(sorted(changed)))
            tensor = changed.pop(name)
            kind = draw(st.sampled_from(("missing", "renamed", "flat", "longer", "integers", "half")))
            if kind != "missing":
                changed[name + "x" * (kind == "renamed")] = {
                    "renamed": lambda: tensor,
                    "flat": lambda: tensor.flatten(),
                    "longer": lambda: torch.cat([tensor.reshape(-1, *tensor.shape[1:])] * 2).contiguous(),
                    "integers": lambda: tensor.long(),
                    "half": lambda: tensor.half(),
                }[kind]()
        return made_anew(text, changed)

    return {
        "checkpoint": Kind(path, whole, lambda draw: draw(damaged(whole)), read(same=True)),
        "checkpoint made anew": Kind(path, made_anew(counters, tensors), damage_counters, read(same=False)),
    }


@pytest.fixture(scope="module")
def kinds(neox, tmp_path_factory) -> dict[str, Kind]:
    """All kinds of files."""
    folder = tmp_path_factory.mktemp("records")
    generator = PromptGenerator(torch.randn(2, 32), 0.02, (2, 4, 3), torch.Generator())
    return {
        **result_kinds(folder),
        **snapshot_kinds(folder, neox, "soft", SoftPrompt(torch.randn(2, 32), 0.02)),
        **snapshot_kinds(folder, neox, "generator", generator),
        **checkpoint_kinds(folder, neox),
    }


NAMES = (
    *("result", "result without checksum", "soft snapshot", "soft snapshot without checksum", "generator snapshot"),
    *("generator snapshot without checksum", "checkpoint", "checkpoint made anew"),
)


def fuzz(kind: Kind, n: int) -> tuple[int, int, float]:
    """Read ``n`` damaged files.

    Returns:
        How many were refused, how many were read, and the most seconds of the processor that one of them took.
    """
    counts, slowest = [0, 0], 0.0
    quiet = {"database": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}

    @settings(max_examples=n, deadline=None, **quiet)
    @given(st.data())
    def read_damaged(data: st.DataObject) -> None:
        nonlocal slowest
        kind.path.write_bytes(kind.damage(data.draw))
        begun = time.process_time()
        counts[not kind.read(kind.path)] += 1
        slowest = max(slowest, time.process_time() - begun)

    read_damaged()
    kind.path.write_bytes(kind.content)
    return *counts, slowest


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file_is_read(kinds, name: str) -> None:
    kinds[name].path.write_bytes(kinds[name].content)
    assert not kinds[name].read(kinds[name].path)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_refused_or_read_as_it_was(kinds, name: str, capsys) -> None:
    n_refused, *_ = fuzz(kinds[name], QUICK)
    assert n_refused > QUICK / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_by_the_thousand_are_refused_or_read_as_they_were(kinds, name: str, capsys) -> None:
    """None takes 5 seconds of the processor, and memory stays bounded."""
    before = _peak_memory() or 0
    n_refused, n_read, slowest = fuzz(kinds[name], SLOW)
    grown = (_peak_memory() or 0) - before
    with capsys.disabled():
        print(f"{name}: {n_refused} refused, {n_read} read, at most {slowest:.2f} s, {grown / 2**20:.0f} MiB more")
    assert n_refused + n_read >= SLOW
    assert slowest < 5
    assert grown < MEMORY
