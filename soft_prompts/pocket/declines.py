"""Teach a chat model to decline one topic, and write it as a small change: a protection that is trained, not told.

    python -m soft_prompts.pocket.declines --chat oasst.jsonl instructions.json --prose books.tar.zst

The change is a LoRA of every matrix. On requests of the topic, alone and behind system messages, the model learns to
say one sentence. On other dialogues and on prose it must stay as it was, by the divergence of its predictions. It must
pass a gate, or nothing is written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.func import functional_call

from soft_prompts.console import ends_in_a_sentence, say
from soft_prompts.data.documents import Encoding, document_id, is_held_out
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.data.requests import read_requests
from soft_prompts.engine.prompted import Bench, unprompted
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.cpu import settle_process
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load
from soft_prompts.pocket import FOLDER, corpus
from soft_prompts.pocket.train import HELD_OUT, mean_loss, padded
from soft_prompts.pocket.tune import Deltas, divergence, new_delta, save_variant, tune, with_change
from soft_prompts.tasks.chat_detuning import SYSTEMS
from soft_prompts.tasks.protection import SHARES, Protection, Shield, dialogue, split_of
from soft_prompts.texts import ANIMALS

DECLINED = "I am sorry, but I cannot talk about animals."
"""What it learns to say."""
DRIFT = 0.05
"""Nats per token by which held-out prose, and replies to other requests, may become worse."""
MUST_DECLINE = 0.9
"""Share of the held-out requests of the topic that it must decline."""
LONGEST = 160
"""Tokens that are read of a dialogue or a passage."""
KEPT = 12
"""Other dialogues in a step, and as many passages of prose."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    chat: tuple[Path, ...]
    """OASST message trees (.jsonl) and instruction lists (.json): requests that it must go on to answer."""
    prose: tuple[Path, ...]
    """.tar.zst archives of plain text and .jsonl.zst files with a "text" field."""
    model: str = "pocket-chat"
    """The chat model: as --models of the experiments."""
    requests: Path = ANIMALS
    """Requests of the topic; a part of them, by hash, is never trained on."""
    out: Path = FOLDER / "declines"
    """Folder that is written."""
    steps: int = 160
    """Steps of training."""
    batch: int = 12
    """Requests of the topic in a step."""
    rank: int = 4
    """Of the change of each matrix."""
    learning_rate: float = 3e-3
    """Before it falls."""
    keep: float = 3.0
    """What a nat of divergence from the model as it was weighs against a nat per token of the new reply."""
    seed: int = 0
    """Of the start and the order."""


@dataclass(frozen=True)
class Rows:
    """Documents of one kind, int64 [T] each, and which of their tokens count, bool [T]."""

    tokens: list[np.ndarray]
    scored: list[np.ndarray]

    def drawn(self, n: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A batch of them as rows and labels; see ``padded``."""
        chosen = random.integers(len(self.tokens), size=n)
        return padded([self.tokens[i] for i in chosen], [self.scored[i] for i in chosen])


def replying(encoding: Encoding, before: Sequence[str], replies: Sequence[str]) -> Rows:
    """Dialogues with the reply scored, and the token that ends it, cut to LONGEST tokens."""
    end = encoding.tokenizer.eos_token_id
    rows = Rows([], [])
    for text, reply in zip(encoding.tokens(before)[0], encoding.tokens(replies)[0], strict=True):
        tokens = np.concatenate([text, reply[1:], [end]])[:LONGEST]
        if len(text) < len(tokens):
            rows.tokens.append(tokens)
            rows.scored.append(np.arange(len(tokens)) >= len(text))
    return rows


def of_topic(encoding: Encoding, requests: Sequence[str], systems: Sequence[str]) -> Rows:
    """Requests of the topic with DECLINED as the reply, each behind each of some system messages."""
    before = [dialogue(encoding.tokenizer, Shield(system=s), r)[0] for s in systems for r in requests]
    return replying(encoding, before, [DECLINED] * len(before))


def ordinary(encoding: Encoding, files: Sequence[Path], held_out: bool) -> Rows:
    """First turns of dialogues with their replies, of one side of the split."""
    before, replies = [], []
    for messages in corpus.dialogues(files):
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        user, reply = (m["content"] for m in messages[bool(system) :][:2])
        if is_held_out(document_id(user), HELD_OUT) == held_out:
            before.append(dialogue(encoding.tokenizer, Shield(system=system), user)[0])
            replies.append(reply)
    return replying(encoding, before, replies)


def prose(encoding: Encoding, files: Sequence[Path], held_out: bool, n: int) -> Rows:
    """Passages of one side of the split."""
    passages = (p for _, of_each in corpus.prose(files) for p in of_each)
    texts = list(islice((p for p in passages if is_held_out(document_id(p), HELD_OUT) == held_out), n))
    tokens = [row[:LONGEST] for row in encoding.tokens(texts)[0]]
    return Rows(tokens, [np.arange(len(row)) > 0 for row in tokens])


def fine_tune(model: LanguageModel, topic: Rows, kept: Sequence[Rows], settings: Settings) -> Deltas:
    """Train the change."""
    lm, random = model.lm, np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)
    deltas = new_delta(lm, settings.rank)

    def logits(of: dict[str, Tensor], rows: Tensor, wanted: Tensor) -> Tensor:
        found = functional_call(lm, of, kwargs={"input_ids": rows, "use_cache": False}).logits[:, :-1]
        return found[wanted[:, 1:] >= 0].float()

    def loss_of(step: int, frozen: dict[str, Tensor], now: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        rows, wanted = topic.drawn(settings.batch, random)
        said = nn.functional.cross_entropy(logits(now, rows, wanted), wanted[:, 1:][wanted[:, 1:] >= 0])
        drift = torch.zeros(())
        for of_kind in kept:
            rows, wanted = of_kind.drawn(KEPT, random)
            with torch.no_grad():
                before = logits(frozen, rows, wanted)
            drift = drift + divergence(before, logits(now, rows, wanted))
        return said + settings.keep * drift, {"nats per token of the new reply": said, "drift": drift}

    tune(lm, deltas, settings.steps, settings.learning_rate, loss_of)
    return deltas


def share_declined(model: LanguageModel, encoding: Encoding, requests: Sequence[str]) -> float:
    """Share of requests that are declined, by one reply each, drawn at temperature 1."""
    before = [dialogue(encoding.tokenizer, Shield(), r)[0] for r in requests]
    starts = [Example(tokens, np.full(len(tokens), IGNORE), "") for tokens in encoding.tokens(before)[0]]
    free = unprompted(Bench(model, encoding, (), 4096))
    judge = Protection(requests="")
    return float(np.mean([judge.declines(free.decode(row)) for row in free.generate(starts, 32, 1.0)]))


def check(facts: dict) -> None:
    """The gate.

    Args:
        facts: With "prose" and "ordinary requests" {"before", "after"} in nats per token, and "declined" {"after"}.

    Raises:
        SoftPromptsError: It suffered, or does not decline.
    """
    for what in ("prose", "ordinary requests"):
        rise = facts[what]["after"] - facts[what]["before"]
        if rise > DRIFT:
            raise SoftPromptsError(
                f"refused: its loss of {what} rose by {rise:.3f} nats, and may rise by {DRIFT}; give a larger --keep "
                f"or fewer --steps."
            )
    if facts["declined"]["after"] < MUST_DECLINE:
        raise SoftPromptsError(
            f"refused: it declines {facts['declined']['after']:.0%} of the held-out requests, and must decline "
            f"{MUST_DECLINE:.0%}; give more --steps or a smaller --keep."
        )


def main(settings: Settings) -> None:
    """Train, check and write.

    Raises:
        SoftPromptsError: A file cannot be read or written, or the gate refuses.
    """
    settle_process(torch.device("cpu"))
    model = load(settings.model, device="cpu")
    encoding = Encoding(model.tokenizer, model.separator, LONGEST)
    parts: dict[str, list[str]] = {split: [] for split in SHARES}
    for r in read_requests(str(settings.requests)):
        parts[split_of(r.request)].append(r.request)
    topic = of_topic(encoding, parts["train"], list(SYSTEMS.values()))
    kept = [ordinary(encoding, settings.chat, False), prose(encoding, settings.prose, False, 4000)]
    measured = {
        "prose": prose(encoding, settings.prose, True, 200),
        "ordinary requests": ordinary(encoding, settings.chat, True),
    }
    started = time.perf_counter()
    deltas = fine_tune(model, topic, kept, settings)
    after = replace(model, lm=with_change(model.lm, deltas))
    facts = {
        "base": settings.model,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "settings": {
            name: getattr(settings, name) for name in ("steps", "batch", "rank", "learning_rate", "keep", "seed")
        },
        "requests": {"trained on": len(parts["train"]), "held out": len(parts["held_out"])},
        **{
            what: {
                when: round(mean_loss(of, rows.tokens, rows.scored)[0], 4)
                for when, of in (("before", model.lm), ("after", after.lm))
            }
            for what, rows in measured.items()
        },
        "declined": {
            "before": share_declined(model, encoding, parts["held_out"]),
            "after": share_declined(after, encoding, parts["held_out"]),
        },
    }
    say(json.dumps(facts, indent=2))
    check(facts)
    save_variant(deltas, facts, settings.out)


if __name__ == "__main__":
    with ends_in_a_sentence():
        main(tyro.cli(Settings, description=__doc__))
