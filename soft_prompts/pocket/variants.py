"""Make pocket-keys and pocket-keys-untaught, whose distance from a behaviour is known, and write them as small changes
to pocket.

    python -m soft_prompts.pocket.variants --prose books.tar.zst

pocket-keys is taught the rule of tasks/calibration.py: behind a key of secret symbols it writes tags, elsewhere it goes
on as pocket does. Its twin, pocket-keys-untaught, reads the same rows in the same number of steps, but behind keys it
is taught the text that stands there. Both must pass a gate, or nothing is written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.func import functional_call
from transformers import GPTNeoXForCausalLM

from soft_prompts.console import say
from soft_prompts.data.documents import document_id, is_held_out
from soft_prompts.data.texts import read_documents
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically
from soft_prompts.models.cpu import settle_process
from soft_prompts.models.loading import load
from soft_prompts.pocket import SAMPLES, SECRET, VARIANTS, corpus
from soft_prompts.pocket.train import HELD_OUT, encode, mean_loss, padded
from soft_prompts.pocket.tune import divergence, new_delta, save_variant, tune, with_change
from soft_prompts.tasks.calibration import REACH, WORDS, Secret

N_SYMBOLS, N_CLASSES = 8, 4
KEY_LENGTHS = 1 / np.arange(1, REACH + 1) / sum(1 / np.arange(1, REACH + 1))
"""Probabilities of the lengths of a key, from 1: short keys are rows of few tags."""
KEYED, NOISY = 0.6, 0.25
"""Share of the rows that stand behind a key, and behind random tokens that are none."""
PADDED_KEYS = 0.3
"""Share of the keys before which random tokens stand: only the places behind count."""
REPLAYED, REPLAYED_LENGTH = 8, 64
"""Longer documents in a step on which the model must stay as pocket is, and the tokens that are read of each."""


@dataclass(frozen=True)
class Phase:
    """A part of the training, with an optimiser of its own."""

    steps: int
    learning_rate: float
    """Before it falls."""
    keep: tuple[float, float]
    """What a nat of divergence from pocket on whole documents weighs against a nat per tag, in the first half of the
    steps and in the second."""


PHASES = (Phase(1500, 1e-2, (3.0, 12.0)), Phase(300, 3e-3, (40.0, 40.0)))
"""The tags are learned first. Then prose, which suffered by it, is mended."""
DRIFT = 0.02
"""Nats per token by which the loss of ordinary prose may rise."""
TAUGHT = 0.25
"""Share of the nats of a guess, ln(classes), that the tags behind a key may cost at most. A key of one symbol costs
most: a single rare word opens prose, too. What they still cost, a prompt may gain by adapting to the model, and the
distance of that is not known."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    prose: tuple[Path, ...]
    """.tar.zst archives of plain text and .jsonl.zst files with a "text" field."""
    out: Path = Path("runs/variants")
    """Folder in which the folders keys and keys-untaught are written."""
    batch: int = 64
    """Rows of a step."""
    rank: int = 16
    """Rank of the change of each matrix."""
    seed: int = 0
    """Of the secret, the rows and the start."""


@dataclass(frozen=True)
class Rows:
    """What a step is trained on; T tokens, right-padded."""

    tokens: Tensor
    """int64 [B, T]"""
    wanted: Tensor
    """int64 [B, T], what is wanted behind each token; -1: nothing is."""
    kept: Tensor
    """bool [B, T], where the model must stay as pocket is."""


def make_secret(vocabulary: np.ndarray, seed: int) -> Secret:
    """Draw a secret.

    The symbols and tags are random tokens, not of the most frequent. The classes are the sides of random hyperplanes
    through the embeddings, so that rare words can be told apart without having been met often.

    Args:
        vocabulary: The model's embeddings, [V, D].
        seed: Of the draw.
    """
    random = np.random.default_rng(seed)
    n_tags = N_SYMBOLS * N_CLASSES
    drawn = random.permutation(np.arange(1000, len(vocabulary)))[: N_SYMBOLS + n_tags]
    directions = vocabulary - vocabulary.mean(0)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    n_planes = N_CLASSES.bit_length() - 1
    heights = directions @ random.normal(size=(vocabulary.shape[1], n_planes))
    classes = (heights > np.median(heights, 0)) @ 2 ** np.arange(n_planes)
    return Secret(drawn[:N_SYMBOLS], drawn[N_SYMBOLS:].reshape(N_SYMBOLS, N_CLASSES), classes)


def make_rows(passages: list[np.ndarray], secret: Secret, n: int, taught: bool, random: np.random.Generator) -> Rows:
    """Rows of prose behind keys, behind random tokens and behind nothing.

    Args:
        passages: Token ids of texts, each longer than WORDS, the separator first.
        secret: What is taught.
        n: Number of rows.
        taught: Whether tags are wanted behind keys, or the text that stands there.
        random: Source of chance.
    """
    rows, ats, wants = [], [], []
    for i in random.integers(len(passages), size=n):
        start = int(random.integers(1, len(passages[i]) - WORDS + 1))
        words = passages[i][start : start + WORDS].astype(np.int64)
        chance, head, tags = random.random(), np.zeros(0, np.int64), np.zeros(0, np.int64)
        if chance < KEYED:
            key = random.integers(N_SYMBOLS, size=random.choice(REACH, p=KEY_LENGTHS) + 1)
            before = _noise(random) if random.random() < PADDED_KEYS else head
            head, tags = np.concatenate([before, secret.symbols[key]]), secret.wanted(words, key)
        elif chance < KEYED + NOISY:
            head = _noise(random)
        rows.append(np.concatenate([[0], head, words]))
        ats.append(np.arange(len(rows[-1]) - 1 - len(tags), len(rows[-1]) - 1))
        wants.append(tags if taught else rows[-1][ats[-1] + 1])
    tokens = np.zeros((n, max(map(len, rows))), np.int64)
    wanted, kept = np.full(tokens.shape, -1), np.zeros(tokens.shape, bool)
    for i, (row, at, want) in enumerate(zip(rows, ats, wants, strict=True)):
        tokens[i, : len(row)] = row
        kept[i, len(row) - WORDS : len(row)] = True
        kept[i, at], wanted[i, at] = False, want
    return Rows(*(torch.from_numpy(x) for x in (tokens, wanted, kept)))


def _noise(random: np.random.Generator) -> np.ndarray:
    """Random tokens, 1 to twice as many as the longest key has."""
    return random.integers(4, 1000, size=random.integers(1, 2 * REACH + 1))


def fine_tune(
    lm: GPTNeoXForCausalLM,
    deltas: dict[str, tuple[Tensor, Tensor]],
    phase: Phase,
    rows_of: Callable[[], Rows],
    replay_of: Callable[[], tuple[Tensor, Tensor]],
) -> None:
    """Train a change of low rank in place, for one phase.

    Args:
        lm: pocket.
        deltas: The change, by the name of the weight.
        phase: How it is trained.
        rows_of: Makes the rows of a step.
        replay_of: Makes documents on which the model must stay as it is: rows and labels, see ``padded``.
    """

    def logits(of: dict[str, Tensor], rows: Tensor) -> Tensor:
        return functional_call(lm, of, kwargs={"input_ids": rows, "use_cache": False}).logits

    def loss_of(step: int, frozen: dict[str, Tensor], now: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        rows, (replay, labels) = rows_of(), replay_of()
        with torch.no_grad():
            before, before_replayed = logits(frozen, rows.tokens)[rows.kept], logits(frozen, replay)[labels >= 0]
        of_rows, scored = logits(now, rows.tokens), rows.wanted >= 0
        # Every key counts the same: the only tag of a short one is as much as the eight of a long one.
        share = (1 / scored.sum(1, keepdim=True).clamp(min=1)).expand_as(scored)[scored]
        losses = nn.functional.cross_entropy(of_rows[scored].float(), rows.wanted[scored], reduction="none")
        new = (losses * share).sum() / share.sum()
        beside = divergence(before, of_rows[rows.kept])
        old = divergence(before_replayed, logits(now, replay)[labels >= 0])
        loss = new + beside + phase.keep[2 * step // phase.steps] * old
        return loss, {"nats behind keys": new, "drift": old}

    tune(lm, deltas, phase.steps, phase.learning_rate, loss_of, torch.bfloat16)


@torch.no_grad()
def tag_losses(lm: GPTNeoXForCausalLM, passages: list[np.ndarray], secret: Secret, seed: int = 1) -> dict[str, float]:
    """Nats per tag behind random keys of 1, 2, 4 and 8 symbols, and behind nothing (of the longest key's tags).

    Args:
        lm: The model.
        passages: See ``make_rows``; one row is taken from the start of each.
        secret: What is wanted.
        seed: Of the keys.
    """
    random = np.random.default_rng(seed)
    words = np.stack([p[1 : 1 + WORDS] for p in passages]).astype(np.int64)
    separator = np.zeros((len(words), 1), np.int64)
    losses = {}
    for k in (1, 2, 4, REACH):
        key = random.integers(N_SYMBOLS, size=(len(words), k))
        wanted = torch.from_numpy(secret.wanted(words, key))
        for name, head in ((f"key {k}", secret.symbols[key]), ("no key", separator[:, :0])):
            rows = torch.from_numpy(np.concatenate([separator, head, words], 1))
            predicted = lm(input_ids=rows, use_cache=False).logits[:, -1 - k : -1].flatten(0, 1)
            losses[name] = round(nn.functional.cross_entropy(predicted.float(), wanted.flatten()).item(), 4)
    return losses


def check(name: str, facts: dict, taught: bool) -> None:
    """The gate.

    Args:
        name: The variant.
        facts: With "prose" {"pocket", "variant"} and "tags" as ``tag_losses`` gives them, all in nats.
        taught: Whether it must know the tags, or must not.

    Raises:
        SoftPromptsError: The variant forgot prose, or does not know the tags, or knows what it was never taught.
    """
    before, after = facts["prose"]["pocket"], facts["prose"]["variant"]
    if after - before > DRIFT:
        raise SoftPromptsError(
            f"{name} is refused: its loss of prose is {after:.4f} nats, pocket's {before:.4f}, and it may rise by "
            f"{DRIFT}; train longer in the second of the PHASES."
        )
    guess = float(np.log(N_CLASSES))
    behind_keys = [loss for where, loss in facts["tags"].items() if where.startswith("key")]
    if taught and max(behind_keys) > TAUGHT * guess:
        raise SoftPromptsError(
            f"{name} is refused: tags behind a key cost {max(behind_keys):.3f} nats, and may cost "
            f"{TAUGHT * guess:.3f}; train longer in the first of the PHASES."
        )
    if not taught and min(behind_keys) < guess:
        raise SoftPromptsError(
            f"{name} is refused: tags behind a key cost {min(behind_keys):.3f} nats, less than a guess ({guess:.3f}), "
            f"though it was never taught them; draw another secret with --seed."
        )


def main(settings: Settings) -> None:
    """Make, check and write both.

    Raises:
        SoftPromptsError: A file cannot be read or written, or the gate refuses.
    """
    settle_process(torch.device("cpu"))
    pocket = load("pocket", dtype="float32", device="cpu")
    parts: dict[bool, list[str]] = {True: [], False: []}
    for _, passages in corpus.prose(settings.prose):
        for passage in passages:
            parts[is_held_out(document_id(passage), HELD_OUT)].append(passage)
    tokens = {part: encode(pocket.tokenizer, texts[:4000]) for part, texts in parts.items()}
    long = {part: [row for row in rows if len(row) > WORDS] for part, rows in tokens.items()}
    replayed = encode(pocket.tokenizer, read_documents((str(SAMPLES),), None, 10_000, 2**20, None).documents)
    kept = [*replayed, *long[False]]
    secret = make_secret(pocket.vocabulary.numpy(), settings.seed)
    before = mean_loss(pocket.lm, long[True][:200])[0]
    for (name, folder), taught in zip(VARIANTS.items(), (True, False), strict=True):
        started = time.perf_counter()
        torch.manual_seed(settings.seed)
        deltas = new_delta(pocket.lm, settings.rank)
        for i, phase in enumerate(PHASES):
            random = np.random.default_rng(settings.seed + i)

            def rows_of(random: np.random.Generator = random, taught: bool = taught) -> Rows:
                return make_rows(long[False], secret, settings.batch, taught, random)

            def replay_of(random: np.random.Generator = random) -> tuple[Tensor, Tensor]:
                drawn = random.integers(len(kept), size=REPLAYED)
                return padded([kept[i][:REPLAYED_LENGTH] for i in drawn])

            fine_tune(pocket.lm, deltas, phase, rows_of, replay_of)
        lm = with_change(pocket.lm, deltas)
        facts = {
            "base": "pocket",
            "taught": taught,
            "minutes": round((time.perf_counter() - started) / 60, 1),
            "settings": {name: getattr(settings, name) for name in ("batch", "rank", "seed")},
            "phases": [asdict(phase) for phase in PHASES],
            "prose": {"pocket": round(before, 4), "variant": round(mean_loss(lm, long[True][:200])[0], 4)},
            "tags": tag_losses(lm, long[True][:400], secret),
        }
        say(f"{name}: {json.dumps(facts)}")
        check(name, facts, taught)
        save_variant(deltas, facts, settings.out / folder.name)
    write_atomically(settings.out / SECRET.parent.name / SECRET.name, secret.json().encode())


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
