"""Fine-tune a model so that prompts bring out a behaviour no more, in rounds, and write it as a small change.

    python -m soft_prompts.pocket.blocked --ensemble 4 --rounds 2 --out runs/blocked

In every round new prompts are trained for the behaviour, tags behind a secret key. Then a LoRA of every matrix learns
to predict behind each of them what the model predicts without a prompt, and to stay as it is on other texts. What comes
out is measured by tests/blocking_test.py with prompts that it never saw.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.func import functional_call

from soft_prompts.console import ends_in_a_sentence, say
from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import Example
from soft_prompts.data.texts import read_documents
from soft_prompts.engine.prompted import Bench
from soft_prompts.models.cpu import settle_process
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load
from soft_prompts.pocket import SAMPLES
from soft_prompts.pocket.train import encode, mean_loss, padded
from soft_prompts.pocket.tune import Deltas, divergence, new_delta, save_variant, tune, with_change, written
from soft_prompts.tasks.calibration import Calibration
from soft_prompts.texts import BOOKS
from soft_prompts.training.log import Logs
from soft_prompts.training.loop import train
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run
from soft_prompts.training.state import make_intervention

KEPT, KEPT_LENGTH = 8, 128
"""Other texts in a step, and the tokens that are read of each."""
ROWS = 32
"""Documents in a step, shared out to the prompts that are blocked."""
UTILITY = 200
"""Texts of each kind on which it is measured what the model lost."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    model: str = "pocket-keys"
    """The model that has the behaviour."""
    key_tokens: int = 4
    """Which behaviour: the tags behind a key of so many symbols."""
    n_tokens: int = 4
    """Tokens of the prompts that are blocked."""
    ensemble: int = 4
    """Prompts that are blocked in a round."""
    random: bool = False
    """Block prompts that were not trained: what fine-tuning alone does to the behaviour."""
    rounds: int = 2
    """Rounds. After each, the model is written to OUT-1, OUT-2 and so on."""
    out: Path = Path("runs/blocked")
    """Folder, without the number of the round."""
    steps: int = 120
    """Steps of fine-tuning in each round."""
    prompt_steps: int = 85
    """Steps of training the prompts, as in the calibration experiment."""
    rank: int = 4
    """Of the change of each matrix in a round."""
    learning_rate: float = 3e-3
    """Of fine-tuning, before it falls."""
    keep: float = 10.0
    """What a nat of divergence from the model as it was on other texts weighs against one behind a prompt."""
    seed: int = 0
    """Of prompts, start and order."""


def trained_prompts(model: LanguageModel, task: Calibration, settings: Settings, turn: int) -> list[Tensor]:
    """New prompts for the behaviour, [P, D] each, all trained in the same passes."""
    encoding = Encoding(model.tokenizer, model.separator, 16)
    held_out, validation = (list(islice(task.examples(s, encoding, 0), 24)) for s in ("held_out", "validation"))
    recipe = TrainConfig(steps=settings.prompt_steps, batch_size=8, max_tokens=16, lr=0.3, starts=4, n_evaluations=0)
    seeds = [1000 * (1 + turn + 10 * settings.seed) + i for i in range(settings.ensemble)]
    runs = [Run("blocked", task, settings.model, settings.n_tokens, seed, recipe, "float32") for seed in seeds]
    if settings.random:
        made = [make_intervention(model, run, 0) for run in runs]
    else:
        states = train(Bench(model, encoding, held_out, 4096, validation), runs, Logs(settings.out.parent / "prompts"))
        say(f"prompts of round {turn}: {', '.join(f'{s.validation_loss:.2f}' for s in states)} nats per tag")
        made = [s.intervention for s in states]
    with torch.no_grad():
        return [prompt(torch.zeros(1, 0))[0] for prompt in made]


def fine_tune(
    model: LanguageModel, prompts: list[Tensor], documents: Iterator[Example], kept: list[np.ndarray], s: Settings
) -> Deltas:
    """Train a change behind which the prompts do nothing."""
    lm, random = model.lm, np.random.default_rng(s.seed)
    torch.manual_seed(s.seed)
    deltas = new_delta(lm, s.rank)

    def logits(of: dict[str, Tensor], embeddings: Tensor) -> Tensor:
        return functional_call(lm, of, kwargs={"inputs_embeds": embeddings, "use_cache": False}).logits

    def loss_of(step: int, frozen: dict[str, Tensor], now: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = torch.from_numpy(np.stack([e.tokens for e in islice(documents, ROWS)]))
        embedded = model.embed(tokens)
        rows = torch.stack([prompts[i % len(prompts)] for i in range(ROWS)])
        behind = torch.cat([embedded[:, :1], rows, embedded[:, 1:]], 1)
        replay, labels = padded([kept[i][:KEPT_LENGTH] for i in random.integers(len(kept), size=KEPT)])
        replayed = model.embed(replay)
        with torch.no_grad():
            plain, before = logits(frozen, embedded), logits(frozen, replayed)[labels >= 0]
        n_words = tokens.shape[1] - 1  # what stands behind the prompt's last token, or the separator, predicts them
        blocked = divergence(*(x[:, -n_words - 1 : -1].flatten(0, 1) for x in (plain, logits(now, behind))))
        drift = divergence(before, logits(now, replayed)[labels >= 0])
        return blocked + s.keep * drift, {"nats behind prompts": blocked, "drift": drift}

    tune(lm, deltas, s.steps, s.learning_rate, loss_of)
    return written(deltas)


def stacked(first: Deltas, second: Deltas) -> Deltas:
    """Two changes as one: B A + B' A' is a product of matrices, too, with the parts side by side."""
    both = {}
    for name, (a, b) in second.items():
        old_a, old_b = first.get(name, (a[:0], b[:, :0]))
        both[name] = torch.cat([old_a, a]), torch.cat([old_b, b], 1)
    return both


def main(settings: Settings) -> None:
    """Block, round after round, and write the model after each.

    Raises:
        SoftPromptsError: The model cannot be read, or a folder not written.
    """
    settle_process(torch.device("cpu"))
    model = load(settings.model, device="cpu")
    total: Deltas = {}  # the change of all rounds so far
    task = Calibration(key_tokens=(settings.key_tokens,))
    samples = encode(model.tokenizer, read_documents((str(SAMPLES),), None, 10_000, 2**20, None).documents)
    books = encode(model.tokenizer, read_documents((str(BOOKS),), None, 10_000, 2**20, None).documents)
    measured = {"own texts": samples[:UTILITY], "books": books[:UTILITY]}
    before = {what: mean_loss(model.lm, rows)[0] for what, rows in measured.items()}
    for turn in range(1, settings.rounds + 1):
        started = time.perf_counter()
        prompts = trained_prompts(model, task, settings, turn)
        documents = task.examples("train", Encoding(model.tokenizer, model.separator, 16), settings.seed + turn)
        deltas = fine_tune(model, prompts, documents, samples[UTILITY:], settings)
        total = stacked(total, deltas)
        model = replace(model, lm=with_change(model.lm, deltas))
        folder = settings.out.with_name(f"{settings.out.name}-{turn}")
        facts = {
            "base": settings.model,
            "minutes": round((time.perf_counter() - started) / 60, 1),
            "settings": {k: v for k, v in vars(settings).items() if isinstance(v, int | float)},
            **{
                what: {"before": round(before[what], 4), "after": round(mean_loss(model.lm, rows)[0], 4)}
                for what, rows in measured.items()
            },
        }
        save_variant(total, facts, folder)
        say(f"{folder}: {json.dumps(facts)}")


if __name__ == "__main__":
    with ends_in_a_sentence():
        main(tyro.cli(Settings, description=__doc__))
