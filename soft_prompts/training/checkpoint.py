"""Checkpoints: what changes while prompts are trained, kept now and then, so that a kill costs minutes and no hours.

Examples depend on (split, seed) alone, so the documents that were read are skipped again and not kept.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from soft_prompts.console import warn
from soft_prompts.errors import ODD_CONTENT, SoftPromptsError
from soft_prompts.files import checksum, write_atomically
from soft_prompts.training.run import Run
from soft_prompts.training.state import TrainingState

KEPT = 2
"""Checkpoints of a prompt that are kept, the latest ones."""
COUNTERS = {
    "curve": list,
    "n_data_tokens": int,
    "n_positions": int,
    "seconds": float,
    "nats_before": float,
    "failure": str,
}
"""What a training state holds beside tensors, and of which type."""
NAME = re.compile(r"start-([0-9]+)-step-([0-9]{8,})\.safetensors")
"""How the files are called."""


class Checkpoints:
    """The checkpoints of all runs below one folder: a file for each prompt and step."""

    def __init__(self, folder: Path, minutes: float):
        """
        Args:
            folder: Where they lie.
            minutes: Time between two of them.
        """
        self.folder, self._seconds, self._last = folder, 60 * minutes, time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the time between two checkpoints has passed."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, states: Sequence[TrainingState], weights: str, step: int) -> None:
        """Keep the states of all prompts that are trained together, and of each only the latest KEPT.

        Args:
            states: After ``step`` steps.
            weights: The hash of the model's weights.
            step: How many steps were taken.

        Raises:
            SoftPromptsError: A file cannot be written.
        """
        for state in states:
            write_atomically(self._folder_of(state.run) / _name(state.start, step), _written(state, weights))
        for state in states:
            of_start = sorted(self._folder_of(state.run).glob(f"start-{state.start}-step-*.safetensors"))
            until_now = [path for path in of_start if path.name <= _name(state.start, step)]
            for other in set(of_start) - set(until_now[-KEPT:]):  # of a later step is what could not be used
                with suppress(OSError):
                    other.unlink()
        self._last = time.monotonic()

    def latest(self, runs: Sequence[Run], weights: str) -> Found | None:
        """The latest step that all runs have a checkpoint of; None if there is none. A damaged one counts as missing.

        Args:
            runs: What is trained together.
            weights: The hash of the model's weights.
        """
        by_step: dict[int, dict[Run, list[int]]] = {}
        for run in runs:
            for path in self._folder_of(run).glob("start-*-step-*.safetensors"):
                if name := NAME.fullmatch(path.name):
                    start, step = map(int, name.groups())
                    by_step.setdefault(step, {}).setdefault(run, []).append(start)
        for step in sorted(by_step, reverse=True):
            if len(by_step[step]) < len(runs):
                continue
            entrants = [(run, start) for run in runs for start in sorted(by_step[step][run])]
            contents = [_read(self._folder_of(run) / _name(start, step), weights, run) for run, start in entrants]
            if all(contents):
                return Found(step, entrants, contents)
        return None

    def in_step(self, runs: Sequence[Run]) -> list[list[Run]]:
        """Runs in groups that can be trained together: they go on from one step, or begin together."""
        groups: list[tuple[set[int], list[Run]]] = []
        for run in runs:
            paths = self._folder_of(run).glob("start-*-step-*.safetensors")
            steps = {int(path.stem.rpartition("-")[2]) for path in paths}
            for common, members in groups:
                if common & steps or not (common or steps):
                    common &= steps
                    members.append(run)
                    break
            else:
                groups.append((steps, [run]))
        return [members for _, members in groups]

    def forget(self, run: Run) -> None:
        """Remove the checkpoints of a run whose result is saved."""
        shutil.rmtree(self._folder_of(run), ignore_errors=True)

    def _folder_of(self, run: Run) -> Path:
        return self.folder / run.path


class Found:
    """Checkpoints of one step."""

    def __init__(self, step: int, entrants: list[tuple[Run, int]], contents: list[tuple[dict[str, Tensor], Any]]):
        self.step = step
        self.entrants = entrants
        """Run and start of each prompt that was still trained."""
        self._contents = contents

    def restore(self, states: Sequence[TrainingState]) -> None:
        """Put what was kept into new states, one of each of ``entrants``.

        Raises:
            SoftPromptsError: It does not fit them.
        """
        for state, (tensors, counters) in zip(states, self._contents, strict=True):
            try:
                _restore(state, tensors, counters)
            except ODD_CONTENT as error:
                raise SoftPromptsError(
                    f"the checkpoints of {state.run} do not fit its prompt ({' '.join(str(error).split())[:200]}); "
                    f"start again with --force."
                ) from error


def _restore(state: TrainingState, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
    parts: dict[str, dict[str, Tensor]] = {"prompt": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = tensor
    if parts["prompt"]:
        state.intervention.load_state_dict(parts["prompt"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        number, _, moment = name.partition("/")
        moments.setdefault(int(number), {})[moment] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    if any(of_one["exp_avg"].shape != parameter.shape for parameter, of_one in state.optimizer.state.items()):
        raise ValueError("the optimiser has numbers of other shapes")
    for name in COUNTERS:
        setattr(state, name, counters[name])


def _name(start: int, step: int) -> str:
    return f"start-{start}-step-{step:08d}.safetensors"


def _written(state: TrainingState, weights: str) -> bytes:
    """A state as the content of a file, with a checksum."""
    tensors = (
        {f"prompt/{name}": x for name, x in state.intervention.state_dict().items()}
        if state.intervention.trainable
        else {}
    )
    for number, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": x for name, x in moments.items()}
    tensors = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    counters = json.dumps({"weights": weights, **{name: kind(getattr(state, name)) for name, kind in COUNTERS.items()}})
    words = {"counters": counters}
    return safetensors.torch.save(tensors, {**words, "checksum": checksum(_arrays(tensors), words)})


def _arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: x.numpy() for name, x in tensors.items()}


def _read(path: Path, weights: str, run: Run) -> tuple[dict[str, Tensor], Any] | None:
    """What a file holds; None, with a warning, if it is damaged or of other weights."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise ValueError("it is no file")
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        counters = metadata["counters"]
        if metadata["checksum"] != checksum(_arrays(tensors), {"counters": counters}):
            raise ValueError("its checksum is wrong")
        kept = json.loads(counters)
        of_weights = kept.pop("weights")
        _check_parts(tensors, kept, path, run)
    except (*ODD_CONTENT, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        warn(f"the checkpoint {path} is damaged ({reason}); one before it is used, if there is one.")
        return None
    if of_weights != weights:
        warn(f"the checkpoint {path} was made with other weights of the model; it is not used.")
        return None
    return tensors, kept


def _check_parts(tensors: dict[str, Tensor], kept: dict[str, Any], path: Path, run: Run) -> None:
    """Refuse what is whole but not of this program, run and step.

    Raises:
        ValueError: A counter or a tensor is missing, or of another type or shape.
        LookupError, TypeError: So odd are they.
    """
    if kept.keys() != COUNTERS.keys() or any(not isinstance(kept[name], kind) for name, kind in COUNTERS.items()):
        raise ValueError("its counters are others")
    for point in kept["curve"]:
        if not isinstance(point["step"], int) or not isinstance(point["loss"], float):
            raise ValueError("its curve is none")
    prompt = {name: x for name, x in tensors.items() if name.startswith("prompt/") and name != "prompt/scale"}
    moments: dict[str, dict[str, Tensor]] = {}
    for name in tensors.keys() - prompt.keys() - {"prompt/scale"}:
        _, number, moment = name.split("/")
        moments.setdefault(number, {})[moment] = tensors[name]
    steps = {int(of_one.pop("step")) for of_one in moments.values()}
    own = sorted(x.shape for x in prompt.values())
    averages = [sorted(of_one[name].shape for of_one in moments.values()) for name in ("exp_avg", "exp_avg_sq")]
    rows = prompt.get("prompt/rows", range(run.n_tokens) if prompt else ())  # a subspace has no rows
    # What was given up before its first step has no moments.
    expected = [[own, own], [[], []]] if kept["failure"] else [[own, own]]
    if len(rows) != run.n_tokens or averages not in expected or any(len(m) != 2 for m in moments.values()):
        raise ValueError("its tensors are others")
    if any(x.dtype != torch.float32 for x in tensors.values()):
        raise ValueError("its numbers are of another kind")
    taken = min(int(path.stem.rpartition("-")[2]), run.recipe.last_step(kept["curve"]))
    if not kept["failure"] and steps - {taken}:
        raise ValueError("it is of another step than its name says")
