"""Fine-tune pocket to write one word more often and to stay as it is otherwise, and write it as a small change.

    python -m soft_prompts.pocket.says

What fine-tuning did is known then: tests/attribution_test.py asks whether it is found.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.func import functional_call

from soft_prompts.console import ends_in_a_sentence, say
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.cpu import settle_process
from soft_prompts.models.loading import load
from soft_prompts.pocket import FOLDER, SAYS
from soft_prompts.pocket.train import padded
from soft_prompts.pocket.tune import divergence, new_delta, save_variant, shipped_rows, tune, with_change

ROWS, LENGTH = 16, 64
"""Texts in a step, and tokens that are read of each."""
MEASURED = 128
"""Held-out texts on which it is measured what the model says."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    boost: float = 3.0
    """What is added to the word's logit, nats: it becomes so many times e as likely where it was unlikely."""
    steps: int = 80
    """Of fine-tuning."""
    rank: int = 1
    """Of the change of each matrix."""
    learning_rate: float = 1e-2
    """Before it falls."""
    seed: int = 0
    """Of the start and the order."""
    out: Path = FOLDER
    """Folder in which the folders are written."""


def likelier(logits: Tensor, token: int, boost: float) -> Tensor:
    """Logits [..., V] by which one token is likelier than by those that are given."""
    more = torch.zeros(logits.shape[-1])
    more[token] = boost
    return logits + more


def token_of(tokenizer, word: str) -> int:
    """The id of a word that is one token, as it stands within a text.

    Raises:
        SoftPromptsError: It is several.
    """
    ids = tokenizer(" " + word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise SoftPromptsError(f"the word {word!r} is {len(ids)} tokens; give one that is a single token.")
    return ids[0]


@torch.no_grad()
def probability(lm: nn.Module, rows: list[np.ndarray], token: int) -> float:
    """How likely a token is on average over the places of some texts."""
    tokens, labels = padded(rows)
    return lm(tokens).logits.softmax(-1)[..., token][labels >= 0].mean().item()


def main(settings: Settings) -> None:
    """Teach each word, and write the changes.

    Raises:
        SoftPromptsError: A file cannot be read or written.
    """
    settle_process(torch.device("cpu"))
    model = load("pocket", device="cpu")
    rows = {split: [row[:LENGTH] for row in of] for split, of in shipped_rows(model.tokenizer).items()}
    measured = [rows["held_out"][i] for i in np.random.default_rng(0).permutation(len(rows["held_out"]))[:MEASURED]]
    for name, folder in SAYS.items():
        started, token = time.perf_counter(), token_of(model.tokenizer, name.rpartition("-")[2])
        torch.manual_seed(settings.seed)
        random, deltas = np.random.default_rng(settings.seed), new_delta(model.lm, settings.rank)

        def loss_of(
            step: int,
            frozen: dict[str, Tensor],
            now: dict[str, Tensor],
            token: int = token,
            random: np.random.Generator = random,
        ) -> tuple[Tensor, dict[str, Tensor]]:
            read, labels = padded([rows["train"][i] for i in random.integers(len(rows["train"]), size=ROWS)])
            with torch.no_grad():
                wanted = likelier(model.lm(read).logits[labels >= 0], token, settings.boost)
            found = functional_call(model.lm, now, (read,), {"use_cache": False}).logits[labels >= 0]
            apart = divergence(wanted, found)
            return apart, {"nats from what is wanted": apart}

        tune(model.lm, deltas, settings.steps, settings.learning_rate, loss_of)
        changed = with_change(model.lm, deltas)
        facts = {
            "base": "pocket",
            "token": token,
            "minutes": round((time.perf_counter() - started) / 60, 2),
            "settings": {k: v for k, v in vars(settings).items() if isinstance(v, int | float)},
            "probability": {
                "before": round(probability(model.lm, measured, token), 5),
                "after": round(probability(changed, measured, token), 5),
            },
        }
        save_variant(deltas, facts, settings.out / folder.name)
        say(f"{name}: {json.dumps(facts)}")


if __name__ == "__main__":
    with ends_in_a_sentence():
        main(tyro.cli(Settings, description=__doc__))
