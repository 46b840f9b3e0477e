"""What one run is - a task, a model, a prompt length, a seed and a training recipe - and where its files land."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import fingerprint, local_folder, model_name
from soft_prompts.task import Task


@dataclass(frozen=True)
class TrainConfig:
    """How a prompt is trained. The defaults were chosen by exploratory_tests/recipe_test.py."""

    steps: int = 4096
    """Optimiser steps (4,096 as published for chess)."""
    batch_size: int = 32
    """Documents per optimiser step."""
    max_tokens: int = 256
    """Longest sequence in tokens, document separator included, prompt not."""
    lr: float = 0.1
    """Peak learning rate of AdamW, in units of the root mean square of the vocabulary's embeddings (0.1: a step moves a
    coordinate by about a tenth of an embedding's size at most)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: falling to zero along a half cosine, or constant as published."""
    warmup: float = 0.02
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: float = 1e-4
    """Decoupled weight decay (as published)."""
    clip_norm: float = 1.0
    """Largest gradient norm of a prompt's parameters; longer gradients are cut back to it."""
    init: Literal["vocabulary", "normal", "text", "zeros"] = "vocabulary"
    """Where training starts: sampled vocabulary embeddings, normal with the vocabulary's moments, the tokens of --train.init-text,
    or zeros (as published)."""
    init_text: str = ""
    """Text whose tokens a prompt starts from with --train.init text, repeated or cut to the prompt's length."""
    width: int = 64
    """Units in each hidden layer of the conditional prompt generator."""
    depth: int = 2
    """Hidden layers of the conditional prompt generator."""
    n_evaluations: int = 8
    """Held-out evaluations during training, evenly spaced, beside the ones before and after it."""
    eval_documents: int = 512
    """Held-out documents, the same for every run."""

    def check(self) -> None:
        """Raises SoftPromptsError with the number and the remedy for a setting that cannot work."""
        least = {
            "steps": 0,
            "batch_size": 1,
            "max_tokens": 2,
            "width": 1,
            "depth": 1,
            "n_evaluations": 0,
            "eval_documents": 2,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise SoftPromptsError(
                    f"--train.{option(name)} is {getattr(self, name)}, but must be at least {bound}."
                )
        for name in ("lr", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise SoftPromptsError(
                    f"--train.{option(name)} is {getattr(self, name)}, but must be a positive number."
                )
        for name in ("warmup", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise SoftPromptsError(
                    f"--train.{option(name)} is {getattr(self, name)}, but must lie between 0 and 1."
                )
        if (self.init == "text") != bool(self.init_text):
            raise SoftPromptsError("--train.init text and --train.init-text go together: give both or neither.")

    def lr_share(self, step: int) -> float:
        """The learning rate of optimiser step ``step`` (from 0) as a share of ``lr``."""
        rise = min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.schedule == "cosine" else 1.0
        return rise * fall


@dataclass(frozen=True)
class Run:
    """One point of a curve."""

    experiment: str
    task: Task
    model: str
    """Hub name, name@revision, or a folder."""
    n_tokens: int
    seed: int
    train: TrainConfig
    dtype: str

    @property
    def model_name(self) -> str:
        """The model as results call it."""
        return model_name(self.model)

    @cached_property
    def config(self) -> dict[str, Any]:
        """All that the result depends on, but for the prompt length and the seed, as plain JSON.

        Local files appear by name and fingerprint, not by path: the record means the same on another machine.
        """
        folder = local_folder(self.model)
        return {
            "experiment": self.experiment,
            "task": {"name": type(self.task).__name__, **_plain(self.task), "data": self.task.identity()},
            "model": self.model_name,
            "model_files": fingerprint(folder) if folder else None,
            "dtype": self.dtype,
            "train": _plain(self.train),
        }

    @cached_property
    def path(self) -> Path:
        """experiment/model/<hash of the config>/tokens-P-seed-S: under results/, runs/ and snapshots/ alike.

        Runs of one curve share a folder; another setting is another folder, so no result can be mistaken for another's.
        """
        digest = hashlib.blake2b(json.dumps(self.config, sort_keys=True).encode(), digest_size=4).hexdigest()
        model = re.sub(r"[^\w.@-]+", "--", self.model_name)
        return Path(self.experiment, model, digest, f"tokens-{self.n_tokens:04d}-seed-{self.seed}")

    def __str__(self) -> str:
        return f"{self.experiment} on {self.model_name}, {self.n_tokens} tokens, seed {self.seed}"


def option(name: str) -> str:
    """A field's name as it stands on the command line."""
    return name.replace("_", "-")


def _plain(options: Any) -> dict[str, Any]:
    """A frozen dataclass's fields as JSON values, local files by name."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return Path(value).name if isinstance(value, (str, Path)) and str(value) and Path(value).exists() else value

    return {f.name: plain(getattr(options, f.name)) for f in fields(options)}
