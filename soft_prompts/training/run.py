"""One run: a task, a model, a prompt length, a seed and a recipe. The only place that makes paths."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from soft_prompts import files
from soft_prompts.data.sources import fingerprint
from soft_prompts.files import safe_name
from soft_prompts.models.names import model_files, model_name
from soft_prompts.options import recorded
from soft_prompts.tasks.base import Task
from soft_prompts.tasks.permuted import PermutedLabels
from soft_prompts.tasks.placed import BeforeEverything
from soft_prompts.training.recipe import TrainConfig

SPLITS = 2
"""Version of how documents are split: 2 has validation documents. A change makes all results anew."""


@dataclass(frozen=True)
class Run:
    """One point of a curve."""

    experiment: str
    task: Task
    model: str
    """Hub name, name@revision, a folder, or a GGUF file."""
    n_tokens: int
    seed: int
    train: TrainConfig
    dtype: str
    control: str = ""
    """"scrambled" or "untrained": a model that knows nothing is in the model's place (models/controls.py). "permuted":
    the labels are permuted (tasks/permuted.py). "half": it is trained for half the steps. "": none of these."""

    anchor: str = ""
    """What distances go by: "" is what the task names; the others are in training/anchors.py."""

    separator: str = ""
    """The token that opens every text; "": the one that is measured to be the best."""

    @property
    def target(self) -> Task:
        """The task that is trained and measured: ``task``, or that with permuted labels or the prompt elsewhere."""
        task = BeforeEverything(self.task) if self.train.before else self.task
        return PermutedLabels(task) if self.control == "permuted" else task

    @property
    def recipe(self) -> TrainConfig:
        """How it is trained: ``train``, or that with half the steps."""
        return replace(self.train, steps=self.train.steps // 2) if self.control == "half" else self.train

    @property
    def model_name(self) -> str:
        """The model as results call it."""
        return model_name(self.model)

    @cached_property
    def config(self) -> dict[str, Any]:
        """All that the result depends on, but for the prompt length and the seed, as plain JSON.

        Local files appear by name and fingerprint, not by path: the record means the same on another machine.
        """
        control = {"control": self.control} if self.control else {}
        asked_for = {**_anchor(self.anchor), "separator": self.separator}
        if self.train.init_from:
            asked_for["init_files"] = files.fingerprint(Path(self.train.init_from))
        return {
            **control,
            **{name: value for name, value in asked_for.items() if value},
            "splits": SPLITS,
            "experiment": self.experiment,
            "task": {"name": type(self.task).__name__, **self.task.recorded(), "data": self.task.identity()},
            "model": self.model_name,
            "model_files": model_files(self.model),
            "dtype": self.dtype,
            "train": recorded(self.train, ("init_from",)),
        }

    @cached_property
    def path(self) -> Path:
        """experiment/model/<hash of the config>/tokens-P-seed-S, below results/, runs/ and snapshots/ alike.

        Runs of one curve share a folder. Another setting is another folder, so no result can be mistaken for another's.
        """
        digest = hashlib.blake2b(json.dumps(self.config, sort_keys=True).encode(), digest_size=4).hexdigest()
        return Path(
            safe_name(self.experiment),
            safe_name(self.model_name),
            digest,
            f"tokens-{self.n_tokens:04d}-seed-{self.seed}",
        )

    def result_path(self, out: Path) -> Path:
        """Where the result lies, with ``out`` as the folder above results/, runs/ and snapshots/."""
        return out / "results" / self.path.with_name(self.path.name + ".json")

    def snapshot_path(self, out: Path) -> Path:
        """Where the trained prompt lies."""
        return out / "snapshots" / self.path.with_name(self.path.name + ".safetensors")

    def __str__(self) -> str:
        name = self.model_name + (f" ({self.control})" if self.control else "")
        return f"{self.experiment} on {name}, {self.n_tokens} tokens, seed {self.seed}"


def _anchor(asked: str) -> dict[str, str]:
    """What is asked for as the anchor, for the record: other models and files by name and content, not by path."""
    kind, _, name = asked.partition(":")
    if kind == "texts":
        return {"anchor": f"texts:{Path(name).name}", "anchor_files": fingerprint(name)}
    if kind != "model":
        return {"anchor": asked}
    return {"anchor": f"model:{model_name(name)}", "anchor_files": model_files(name) or ""}
