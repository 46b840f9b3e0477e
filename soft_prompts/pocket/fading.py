"""Train pocket on without mazes, and beside it with them, and write the model as it is at steps on a log scale.

    python -m soft_prompts.pocket.fading --prose books.tar.zst --out runs/fading

pocket was trained on prose, games and mazes. Here all of its weights go on being trained, once on the same mixture
without mazes and once with them. tests/decay_test.py then asks of what was written whether paths through mazes are
forgotten, or only no longer expected.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from soft_prompts.console import ends_in_a_sentence, progress_bar, say
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically
from soft_prompts.models.cpu import settle_process
from soft_prompts.models.loading import load
from soft_prompts.pocket import GAMES
from soft_prompts.pocket import train as of_pocket

ARMS = {"without-mazes": ("prose", "game", "stray"), "with-mazes": tuple(of_pocket.SHARES)}
"""What an arm is called -> the kinds of text that it goes on with, in the proportions that pocket was trained on."""
START = "pocket-step-0"
"""The folder of the model that both arms begin with."""
PASSAGES = 4000
"""Texts of each kind at most; more than so few steps read."""


@dataclass(frozen=True)
class Pace:
    """How a model is trained on."""

    learning_rate: float = 1e-3
    """Of AdamW, constant after the warm-up, so that a step means the same early and late."""
    weight_decay: float = 0.0
    """Decoupled, on all weights: in a step they shrink by this times the learning rate."""
    warmup: int = 8
    """Steps over which the learning rate rises."""
    falls: bool = False
    """Let the learning rate fall to zero in the second half of the steps."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    prose: tuple[Path, ...]
    """.tar.zst archives of plain text and .jsonl.zst files with a "text" field."""
    games: tuple[Path, ...] = (GAMES,)
    """Games with ratings, .pgn or .pgn.zst."""
    out: Path = Path("runs/fading")
    """Folder in which a folder for every arm and step is written, such as without-mazes-step-16."""
    kept: tuple[int, ...] = (16, 64, 256)
    """Steps after which the model is written; the largest is the last one."""
    batch: int = 2048
    """Tokens of a step."""
    learning_rate: float = 1e-3
    """Of AdamW, constant after a short warm-up."""
    weight_decay: float = 0.0
    """Of AdamW, on all weights."""
    seed: int = 0
    """Of the order of the texts."""
    force: bool = False
    """Train anew what is there already."""


def trained_on(lm: PreTrainedModel, rows: Iterable[Tensor], n_steps: int, pace: Pace, title: str) -> Iterator[int]:
    """Train all weights of a model in place on rows of text, by next-token cross-entropy in float32.

    Args:
        lm: The model.
        rows: Token ids of every step, int64 [B, T]; the first token of a row is not scored.
        n_steps: How many steps.
        pace: How.
        title: What the progress bar says. "": there is none, since what is done in between has its own.

    Yields:
        The number of steps taken so far, from 0 on, so that the model can be looked at in between.
    """
    optimizer = torch.optim.AdamW(lm.parameters(), weight_decay=pace.weight_decay, betas=(0.9, 0.95), fused=True)
    lm.train().requires_grad_(True)
    yield 0
    with progress_bar(title, n_steps) if title else nullcontext(lambda: None) as advance:
        for step, batch in enumerate(islice(rows, n_steps), 1):
            fall = 2 * (1 - (step - 1) / n_steps) if pace.falls else 1.0
            for group in optimizer.param_groups:
                group["lr"] = pace.learning_rate * min(1.0, step / pace.warmup, fall)
            logits = lm(input_ids=batch, use_cache=False).logits[:, :-1]
            nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
            nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            advance()
            yield step


def corpus_of(settings: Settings) -> of_pocket.Corpus:
    """What both arms are trained on: texts as pocket was trained on, none of them held out from it.

    Raises:
        SoftPromptsError: A file cannot be read.
    """
    n_strays = n_mazes = PASSAGES // 4
    of_train = of_pocket.Settings(
        settings.prose, settings.games, (), settings.out, strays=n_strays, mazes=n_mazes, seed=settings.seed
    )
    whole = of_pocket.read_corpus(of_train)
    dice = random.Random(settings.seed)
    cut = {kind: dice.sample(texts, min(PASSAGES, len(texts))) for kind, texts in whole.train.items()}
    return of_pocket.Corpus(cut, whole.held_out)


def steps_of(
    settings: Settings, texts: of_pocket.Corpus, tokenizer: PreTrainedTokenizerBase, kinds: Sequence[str]
) -> Iterator[Tensor]:
    """The rows of every step of an arm, int64 [B, T]: the kinds keep their proportions."""
    n_steps = max(settings.kept)
    of_train = of_pocket.Settings(
        (), (), (), settings.out, tokens=n_steps * settings.batch, batch=settings.batch, seed=settings.seed
    )
    total = sum(of_pocket.SHARES[kind] for kind in kinds)
    shares = {kind: of_pocket.SHARES[kind] / total for kind in kinds}
    stream = of_pocket.make_stream(of_train, texts, tokenizer, shares)
    for batch in of_pocket.base_batches(of_train, stream):
        yield batch()[0]


def save_step(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, facts: dict[str, Any]) -> None:
    """Write a model as it is now, in float32, and last what is known of it."""
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_atomically(folder / "facts.json", (json.dumps(facts, indent=2) + "\n").encode())


def is_written(folder: Path, asked: dict[str, Any]) -> bool:
    """Whether a folder holds what the same options wrote."""
    path = folder / "facts.json"
    return path.exists() and json.loads(path.read_text()).get("settings") == asked


def main(settings: Settings) -> None:
    """Train the arms that are not there yet.

    Raises:
        SoftPromptsError: A file cannot be read or written, or the steps cannot work.
    """
    if not settings.kept or min(settings.kept) < 1 or settings.batch < of_pocket.CONTEXT:
        raise SoftPromptsError(
            f"--kept is {settings.kept} and --batch {settings.batch}, but must be steps of at least 1 and at least "
            f"{of_pocket.CONTEXT} tokens."
        )
    settle_process(torch.device("cpu"))
    pocket = load("pocket", device="cpu")
    asked = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
    asked = {k: v for k, v in asked.items() if k in ("kept", "batch", "learning_rate", "weight_decay", "seed")}
    if not is_written(settings.out / START, {}):
        save_step(pocket.lm, pocket.tokenizer, settings.out / START, {"settings": {}})
    pace = Pace(settings.learning_rate, settings.weight_decay)
    texts = None
    for arm, kinds in ARMS.items():
        last = settings.out / f"{arm}-step-{max(settings.kept)}"
        if not settings.force and is_written(last, asked):
            say(f"{last} is there (--force trains it anew).")
            continue
        texts = texts or corpus_of(settings)
        lm, started = copy.deepcopy(pocket.lm), time.perf_counter()
        rows = steps_of(settings, texts, pocket.tokenizer, kinds)
        for step in trained_on(lm, rows, max(settings.kept), pace, arm):
            if step in settings.kept:
                minutes = round((time.perf_counter() - started) / 60, 1)
                facts = {"base": "pocket", "kinds": list(kinds), "step": step, "minutes": minutes, "settings": asked}
                save_step(lm, pocket.tokenizer, settings.out / f"{arm}-step-{step}", facts)
                say(f"{arm}, step {step}: {minutes} minutes")


if __name__ == "__main__":
    with ends_in_a_sentence():
        main(tyro.cli(Settings, description=__doc__))
