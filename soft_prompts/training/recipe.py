"""The recipe: how an intervention is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from soft_prompts.errors import SoftPromptsError
from soft_prompts.options import added_later, option, settle
from soft_prompts.stats import tolerance

LEAST = {
    "steps": 0,
    "batch_size": 1,
    "max_tokens": 2,
    "starts": 1,
    "subspace": 0,
    "width": 1,
    "depth": 1,
    "patience": 1,
    "n_evaluations": 0,
    "eval_documents": 2,
    "validation_documents": 2,
}
"""Smallest value of each count."""
MOST_DOCUMENTS = 100_000
"""Held-out documents that a result can hold."""
CHOSEN_AFTER = 0.25
"""Share of the steps after which one of a prompt's starts is chosen."""
FALL = 0.25
"""With the schedule until_flat: how long the learning rate falls, as a share of the steps before."""
Curve = Sequence[Mapping[str, float]]
"""Validation losses so far: {"step", "loss"} each, nats per scored token."""


@dataclass(frozen=True)
class TrainConfig:
    """How a prompt is trained. docs/recipe.md says how the defaults were chosen."""

    steps: int = 4096
    """Optimiser steps (4,096 as published for chess); the most that are taken, if the schedule is until_flat."""
    batch_size: int = 32
    """Documents per optimiser step."""
    max_tokens: int = 256
    """Longest sequence in tokens, document separator included, prompt not."""
    lr: float = 0.3
    """Peak learning rate of AdamW, in units of --train.unit (0.3: a step moves a coordinate by about a third of an
    embedding's size at most)."""
    intervention: Literal["prompt", "words", "lora", "steering"] = added_later("prompt")
    """What is trained, and what --n-tokens counts: a prompt of so many tokens; one that is made of the vocabulary's own
    tokens; a LoRA of this rank on every matrix of the body; or a vector on each of so many neighbouring layers, with
    --train.starts as the places that are tried. --recipe words, lora and steering have the learning rates for these."""
    unit: Literal["vocabulary", "one"] = added_later("vocabulary")
    """What a prompt's numbers are counted in: the root mean square of the vocabulary's embeddings, so that a learning
    rate means the same in every model, or the model's own numbers."""
    schedule: Literal["cosine", "linear", "constant", "until_flat"] = "cosine"
    """Learning rate after the warm-up: falling to zero along a half cosine or a line, or constant as published. Or each
    prompt for as long as it needs: constant until the validation loss is flat, then falling to zero in a quarter of the
    steps so far."""
    patience: int = added_later(2)
    """With the schedule until_flat: a loss is flat if so many evaluations (--train.n-evaluations are spread over
    --train.steps) bring less than 0.005 nats, or less than 2 % of what the prompt has gained so far."""
    warmup: float = 0.02
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: float = 1e-4
    """Decoupled weight decay (as published)."""
    clip_norm: float = 1.0
    """Largest gradient norm of a prompt's parameters; longer gradients are cut back to it."""
    init: Literal["vocabulary", "normal", "unit_normal", "text", "zeros"] = "vocabulary"
    """Where training starts: sampled vocabulary embeddings, normal with the vocabulary's moments or with those 0 and 1,
    the tokens of --train.init-text, or zeros (as published)."""
    init_text: str = ""
    """Text whose tokens a prompt starts from with --train.init text, repeated or cut to the prompt's length."""
    init_from: str = added_later("")
    """A trained prompt to start from: a snapshot, or a folder of PEFT's prompt tuning. It may be shorter; the tokens
    behind it start as --train.init says. With --train.steps 0 it is measured as it is. A prompt with conditions begins
    as one with the same layers; in a task with conditions, one without them stays without."""
    before: bool = added_later(False)
    """The prompt stands before the token that opens every text, not behind it: as PEFT does it with tokenizers that
    open texts by themselves. Only for tasks whose prompt stands at the front."""
    grow: bool = added_later(False)
    """Train a prompt as a shorter one first: a quarter of its tokens for the first half of the steps, a sixteenth for
    the first quarter, and so on. The others wait behind them where they start."""
    starts: int = added_later(1)
    """Random starts of each prompt. After a quarter of the steps, the one with the lowest validation loss goes on.
    Training can get stuck, above all a short prompt that has to say several things."""
    subspace: int = added_later(0)
    """Train only so many numbers of a prompt: it is its start, moved along as many fixed random directions. The fewest
    that bring a behaviour out say how much it takes, whatever the model's width. 0: all of its numbers are trained."""
    noise: float = added_later(0.0)
    """Train a prompt that is right on average under noise, and pays for what the noise leaves of it: its bits are
    shared among so many scored tokens (1,000 to 100,000; the more, the better it may be). 0: no noise."""
    width: int = 64
    """Units in each hidden layer of the conditional prompt generator."""
    depth: int = 2
    """Hidden layers of the conditional prompt generator."""
    generator: Literal["shared", "tokenwise"] = added_later("shared")
    """The conditional prompt generator: one network for all tokens, or one hidden layer for each (as published)."""
    n_evaluations: int = 8
    """Evaluations on the validation documents during training, evenly spaced, beside the ones before and after it."""
    validation_documents: int = 128
    """Validation documents, on which choices are made: how long to train, how coarsely to round."""
    prequential: bool = added_later(False)
    """Also count the nats of every training document before it was trained on, against those behind the final prompt:
    how much was learned from them. Takes a third more time."""
    eval_documents: int = 512
    """Held-out documents, the same for every run. The trained prompts are measured on them, once."""

    def __post_init__(self) -> None:
        settle(self)

    def check(self) -> None:
        """Raises:
        SoftPromptsError: A setting cannot work; the sentence has the number and the remedy.
        """

        def refuse(name: str, needed: str) -> None:
            raise SoftPromptsError(f"--train.{option(name)} is {getattr(self, name)}, but must {needed}.")

        for name, least in LEAST.items():
            if getattr(self, name) < least:
                refuse(name, f"be at least {least}")
        if self.eval_documents > MOST_DOCUMENTS:
            refuse("eval_documents", f"be at most {MOST_DOCUMENTS:,}")
        for name in ("lr", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                refuse(name, "be a positive number")
        if not 0 <= self.noise < math.inf:
            refuse("noise", "be 0 or a positive number")
        for name in ("warmup", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                refuse(name, "lie between 0 and 1")
        if self.grow and self.schedule == "until_flat":
            raise SoftPromptsError(
                "--train.grow goes by --train.steps, but --train.schedule until_flat may end before a prompt has all "
                "its tokens: give one of them."
            )
        if self.intervention == "words" and (self.noise or self.subspace):
            raise SoftPromptsError(
                "--train.intervention words is told by its tokens, so --train.noise and --train.subspace mean nothing "
                "for it: leave them out."
            )
        has_tokens = self.intervention in ("prompt", "words")
        if not has_tokens and (self.noise or self.grow or self.init_text or self.init_from):
            raise SoftPromptsError(
                f"--train.intervention {self.intervention} has no tokens, so --train.noise, --train.grow, "
                f"--train.init-text and --train.init-from mean nothing for it: leave them out."
            )
        if self.init_from and not Path(self.init_from).exists():
            raise SoftPromptsError(f"there is no {self.init_from!r}; check the path behind --train.init-from.")
        if self.noise and (self.subspace or self.grow):
            raise SoftPromptsError("--train.noise goes with neither --train.subspace nor --train.grow: give one.")
        if (self.init == "text") != bool(self.init_text):
            raise SoftPromptsError("--train.init text and --train.init-text go together: give both or neither.")

    def shown(self, n_tokens: int, step: int) -> int:
        """How many of a prompt's tokens are there in optimiser step ``step`` (from 1)."""
        until = self.steps / 2
        while self.grow and n_tokens >= 4 and 1 <= until >= step:
            n_tokens, until = n_tokens // 4, until / 2
        return n_tokens

    @property
    def choice(self) -> int | None:
        """The step after which one of several starts is chosen; None if there is one."""
        return math.ceil(CHOSEN_AFTER * self.steps) if self.starts > 1 else None

    @property
    def looks(self) -> set[int | None]:
        """The steps after which the validation documents are looked at, the last one apart."""
        return {round(x) for x in np.linspace(0, self.steps, self.n_evaluations + 2)} | {self.choice}

    def lr_share(self, step: int, curve: Curve = ()) -> float:
        """The learning rate of optimiser step ``step`` (from 0) as a share of ``lr``.

        Args:
            step: Which step.
            curve: The validation losses so far; the schedule until_flat depends on them.
        """
        rise = min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))
        if self.schedule == "until_flat":
            flat, end = self.flat_after(curve), self.last_step(curve)
            return rise * min(1.0, max(0.0, (end - step) / (end - flat)))
        done = step / self.steps
        falls = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
        return rise * falls[self.schedule]

    def flat_after(self, curve: Curve) -> int:
        """The step from which on the learning rate falls, with the schedule until_flat.

        It is the first evaluation that, with those of its ``patience``, brought no more than ``tolerance`` below the
        best one before; or the last step that leaves time to fall.
        """
        latest = math.floor(self.steps / (1 + FALL))
        for k in range(self.patience, len(curve)):
            before = min(point["loss"] for point in curve[: k + 1 - self.patience])
            recent = min(point["loss"] for point in curve[k + 1 - self.patience : k + 1])
            flat = before - recent <= tolerance(curve[0]["loss"] - min(before, recent))
            if flat and 0 < curve[k]["step"] < latest:
                return int(curve[k]["step"])
        return latest

    def last_step(self, curve: Curve) -> int:
        """How many steps are taken, as far as the validation losses so far say."""
        if self.schedule != "until_flat" or not self.steps:
            return self.steps
        flat = self.flat_after(curve)
        return max(flat + 1, min(self.steps, math.ceil(flat * (1 + FALL))))


RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    # Nordby, arXiv 2505.14943, and the code published with it: no clipping, a network of its own for every token.
    "nordby2024": {
        "lr": 1e-3,
        "unit": "one",
        "schedule": "constant",
        "warmup": 0.0,
        "weight_decay": 1e-4,
        "clip_norm": 1e9,
        "init": "zeros",
        "generator": "tokenwise",
        "width": 128,
        "depth": 1,
    },
    # PEFT's PromptTuningConfig as it is, trained as in PEFT's guide to prompt tuning of causal language models.
    "peft": {
        "lr": 3e-2,
        "unit": "one",
        "schedule": "linear",
        "warmup": 0.0,
        "weight_decay": 0.01,
        "clip_norm": 1e9,
        "init": "unit_normal",
    },
    # The rate of projection in the loop in hard/search.py.
    "words": {"intervention": "words", "lr": 1.0},
    # Rates: docs/recipe.md.
    "lora": {"intervention": "lora", "lr": 1e-2, "starts": 1},
    "steering": {"intervention": "steering", "lr": 1e-1, "starts": 6},
}
"""Name -> what it changes in TrainConfig. Steps, documents and evaluation stay as the experiment has them."""
