"""Fine-tune pocket to say what came before a passage, and write it as a small change.

    python -m soft_prompts.pocket.backwards

A row is a passage, the separator and, behind it, the tokens that stood before the passage in its document, and the
separator again where the passage begins. Only these are scored. On held-out documents the passage must help: behind
another document's passage the loss must be higher, or nothing is written. hard/retrodiction.py asks the result what a
soft prompt says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedTokenizerFast

from soft_prompts.console import ends_in_a_sentence, say
from soft_prompts.errors import SoftPromptsError
from soft_prompts.hard.retrodiction import LENGTH, READ, question
from soft_prompts.models.cpu import settle_process
from soft_prompts.models.loading import load
from soft_prompts.pocket import BACKWARDS, FOLDER
from soft_prompts.pocket.tune import new_delta, save_variant, shipped_rows, tune, with_change
from soft_prompts.stats import ratio

SHORTEST = 8
"""Tokens of a passage at least."""
MEASURED = 256
"""Held-out documents on which it is measured whether the passage helps."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    steps: int = 600
    """Of fine-tuning."""
    rows: int = 32
    """Passages in a step."""
    rank: int = 16
    """Of the change of each matrix."""
    learning_rate: float = 5e-3
    """Before it falls."""
    seed: int = 0
    """Of the start and the order."""
    out: Path = FOLDER
    """Folder in which the folder is written."""


def rows_of(tokenizer: PreTrainedTokenizerFast) -> dict[str, list[np.ndarray]]:
    """What ships, by split: documents that are long enough for a passage and what comes before it."""
    return {split: [row for row in rows if len(row) > LENGTH + READ] for split, rows in shipped_rows(tokenizer).items()}


def pair(document: np.ndarray, at: int, n_read: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a document [T]: the tokens before a place, LENGTH at most, and the passage of ``n_read`` that begins there."""
    return document[max(1, at - LENGTH) : at], document[at : at + n_read]


def before(lm: nn.Module, weights: dict[str, Tensor], pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Tensor]:
    """Nats of each token of what came before [n], and of the token that ends it, told behind the passage."""
    asked = [question(0, passage.tolist()) for _, passage in pairs]
    told = [[*wanted.tolist(), 0] for wanted, _ in pairs]
    rows = [torch.tensor(first + second) for first, second in zip(asked, told, strict=True)]
    read = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    logits = functional_call(lm, weights, (read,), {"use_cache": False}).logits.float()
    return [
        nn.functional.cross_entropy(of[len(first) - 1 : len(row) - 1], row[len(first) :], reduction="none")
        for of, first, row in zip(logits, asked, rows, strict=True)
    ]


@torch.no_grad()
def helps(lm: nn.Module, documents: Sequence[np.ndarray]) -> dict[str, float | list[float]]:
    """What the passage brings: the beginnings of documents told behind their own passage, and behind another one's.

    Returns:
        Nats per token: "own", "others", and what is "gained" by the own one, paired by document, with its "interval".
    """
    weights = dict(lm.named_parameters())
    pairs = [pair(document, 1 + LENGTH, READ) for document in documents]
    shifted = [(wanted, pairs[i - 1][1]) for i, (wanted, _) in enumerate(pairs)]
    own, others = (torch.stack(before(lm, weights, of)).mean(1).numpy() for of in (pairs, shifted))
    gained = ratio(others - own, np.ones(len(own)))
    return {
        "own": round(float(own.mean()), 3),
        "others": round(float(others.mean()), 3),
        "gained": round(gained["value"], 3),
        "interval": [round(x, 3) for x in gained["interval"]],
    }


def main(settings: Settings) -> None:
    """Teach it, and write the change.

    Raises:
        SoftPromptsError: The passages do not help it, or a file cannot be read or written.
    """
    settle_process(torch.device("cpu"))
    started = time.perf_counter()
    model = load("pocket", device="cpu")
    rows = rows_of(model.tokenizer)
    torch.manual_seed(settings.seed)
    random, deltas = np.random.default_rng(settings.seed), new_delta(model.lm, settings.rank)

    def loss_of(_step: int, _frozen: dict[str, Tensor], now: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        n_read, pairs = int(random.integers(SHORTEST, READ + 1)), []
        for i in random.integers(len(rows["train"]), size=settings.rows):
            document = rows["train"][i]
            # Half of them begin where the document does, as prompts do.
            first, last = (1 + LENGTH, len(document) - n_read) if random.random() < 0.5 else (2, 1 + LENGTH)
            pairs.append(pair(document, int(random.integers(first, last + 1)), n_read))
        loss = torch.cat(before(model.lm, now, pairs)).mean()
        return loss, {"nats per token of what came before": loss}

    tune(model.lm, deltas, settings.steps, settings.learning_rate, loss_of)
    chosen = np.random.default_rng(0).permutation(len(rows["held_out"]))[:MEASURED]
    documents = [rows["held_out"][i] for i in chosen]
    facts = {
        "base": "pocket",
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "settings": {k: v for k, v in vars(settings).items() if isinstance(v, int | float)},
        "held_out_documents": len(documents),
        "pocket": helps(model.lm, documents),
        "backwards": helps(with_change(model.lm, deltas), documents),
    }
    say(json.dumps(facts, indent=2))
    if facts["backwards"]["interval"][0] <= 0:
        raise SoftPromptsError(
            f"a passage does not help to say what came before it (it brings {facts['backwards']['gained']} nats, "
            f"interval {facts['backwards']['interval']}), so nothing is written; give more --steps."
        )
    (folder,) = BACKWARDS.values()
    save_variant(deltas, facts, settings.out / folder.name)


if __name__ == "__main__":
    with ends_in_a_sentence():
        main(tyro.cli(Settings, description=__doc__))
