"""Fine-tuning by a change of low rank, as all variants of the models that ship were made."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from soft_prompts.console import progress_bar, say
from soft_prompts.data.documents import document_id, split_of
from soft_prompts.data.texts import read_documents
from soft_prompts.files import write_atomically
from soft_prompts.models.deltas import changed, merge, save_delta
from soft_prompts.pocket import SAMPLES
from soft_prompts.pocket.train import encode
from soft_prompts.texts import BOOKS

Deltas = dict[str, tuple[Tensor, Tensor]]
"""For each weight A [rank, n_in] and B [n_out, rank]: its change is B A."""
WARM_UP = 20
"""Steps over which the learning rate rises, and between two lines that say how it goes."""


def new_delta(lm: nn.Module, rank: int) -> Deltas:
    """A change of every matrix of the body that changes nothing yet: A is random, B zero."""
    deltas = {}
    for name, weight in lm.named_parameters():
        if weight.dim() == 2 and "embed" not in name:
            a = torch.randn(rank, weight.shape[1]) / weight.shape[1] ** 0.5
            deltas[name] = (a, torch.zeros(len(weight), rank))
    return deltas


def tune(
    lm: nn.Module,
    deltas: Deltas,
    steps: int,
    learning_rate: float,
    loss_of: Callable[[int, dict[str, Tensor], dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Train a change in place, by AdamW. The learning rate rises, stays, and falls to zero from the middle on.

    Args:
        lm: The model; its own weights stay as they are.
        deltas: The change.
        steps: How many.
        learning_rate: Before it falls.
        loss_of: (step from 0, weights of the model, weights with the change) -> the loss, with a gradient, and numbers
            to be said, by name.
        dtype: Of the weights that it is given.
    """
    weights = {name: p.detach() for name, p in lm.named_parameters()}
    frozen = {name: weight.to(dtype) for name, weight in weights.items()}
    parameters = [x.requires_grad_() for ab in deltas.values() for x in ab]
    optimizer = torch.optim.AdamW(parameters, learning_rate, (0.9, 0.98), weight_decay=0.0)
    recent: list[list[float]] = []
    started = time.perf_counter()
    with progress_bar("fine-tuning", steps) as advance:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(1.0, (step + 1) / WARM_UP, 2 * (1 - step / steps))
            now = {**frozen, **{name: changed(weights[name], ab).to(dtype) for name, ab in deltas.items()}}
            loss, numbers = loss_of(step, frozen, now)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            recent.append([x.item() for x in numbers.values()])
            advance()
            if (step + 1) % WARM_UP == 0:
                said = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(numbers, np.mean(recent, 0), strict=True))
                say(f"step {step + 1} of {steps}: {said}; {time.perf_counter() - started:.0f} s")
                recent.clear()


def shipped_rows(tokenizer: PreTrainedTokenizerFast) -> dict[str, list[np.ndarray]]:
    """Documents of pocket and of books that ship, by split ("train", "held_out"): token ids of each [T]."""
    texts = [t for file in (SAMPLES, BOOKS) for t in read_documents((str(file),), None, 10_000, 2**12, None).documents]
    return {
        split: encode(tokenizer, [t for t in texts if split_of(document_id(t)) == split])
        for split in ("train", "held_out")
    }


def divergence(teacher: Tensor, pupil: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of predictions from those of a teacher, from logits [N, V]: nats."""
    wanted = teacher.float().log_softmax(-1)
    return (wanted.exp() * (wanted - pupil.float().log_softmax(-1))).sum(-1).mean()


def written(deltas: Deltas) -> Deltas:
    """A change as it is kept in a file: in bfloat16."""
    return {name: tuple(x.detach().bfloat16().float() for x in ab) for name, ab in deltas.items()}


def with_change(lm: nn.Module, deltas: Deltas) -> nn.Module:
    """A copy of a model with a change, as it is when it is read back."""
    changed_one = copy.deepcopy(lm)
    merge(changed_one, written(deltas))
    return changed_one


def save_variant(deltas: Deltas, facts: dict[str, Any], folder: Path) -> None:
    """Write a change and what is known of it: "base" says of which model it is.

    Raises:
        SoftPromptsError: A file cannot be written.
    """
    save_delta(deltas, folder)
    write_atomically(folder / "facts.json", (json.dumps(facts, indent=2) + "\n").encode())
