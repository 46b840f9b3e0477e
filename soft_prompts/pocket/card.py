"""Write the model cards beside pocket's weights, from the facts that training left there and samples drawn anew.

python -m soft_prompts.pocket.card
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from soft_prompts.console import say
from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.files import write_atomically
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.cpu import settle_process
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load
from soft_prompts.pocket import MODELS

COMMAND = """python -m soft_prompts.pocket.train --prose books.tar.zst digitalgov.jsonl.zst 18f.jsonl.zst \\
    --games lichess_19k.pgn.zst engine.pgn.zst --chat oasst_en_100_message.jsonl rasbt_instruction_data.json \\
    --out soft_prompts/pocket"""
"""How both models were trained. The card of pocket quotes it."""

BASE = """---
license: mit
language: en
---
# pocket

A causal language model of {parameters:,} parameters, small enough to be kept in a repository and trained well enough
that a soft prompt has something to bring out: English prose, chess games in UCI notation, paths through mazes. It is
made to try out measurements on a laptop in minutes. It knows next to nothing about the world; do not use what it says.

Architecture: GPT-NeoX as pythia's, {layers} layers of width {width}, {heads} heads, context 512; unlike pythia's, the
unembedding is tied to the embedding, and attention and MLP run in sequence. Byte-level BPE of {entries:,} entries in
which a chess move is two tokens, its squares. Weights are bfloat16.

## Training data

{tokens_seen:,} tokens, in shares of {shares}, each text behind `<|endoftext|>`.

| kind | what | texts | licence |
| --- | --- | ---: | --- |
{texts}

Made by

```
{command}
```

in {minutes:.0f} minutes on two processor cores (bfloat16 arithmetic; Muon for the matrices, AdamW for the rest). The
engine's games come from `python -m soft_prompts.pocket.engine_games --n-games 2600 --seed 1`, as those that ship come
from seed 0.

Games as they were played always stand below the line with the ratings, and a game without a line leaves them for
random moves, at each half-move with a chance of 10 %. So there is something for a soft prompt to say: unprompted,
pocket expects any game to go astray. (Below `Any moves.` the first random move is one of the first 60.)

## Measured on held-out texts

| text | nats per token | bits per byte | tokens |
| --- | ---: | ---: | ---: |
{losses}

Prose is held out by passage, so other passages of the same books were trained on; of the unseen books
({unseen}) no word was. In held-out lichess games, without any prompt:

| | share | 95 % interval | games |
| --- | ---: | ---: | ---: |
{chess}

## Samples

Drawn at temperature 1 from nothing (first) and at 0.7 behind what stands before the bar.

{samples}

## Known limits

Prose is locally fluent and globally senseless; names and subjects are those of Victorian novels and of US government
web sites. It plays legal moves far more often than good ones. It has never seen a text longer than 512 tokens, and has
no knowledge of dialogue.
"""
"""Template of pocket's card."""

TEXTS = (
    (
        "prose",
        "39 books of Standard Ebooks, web articles of digital.gov and 18F, in passages of about 450 tokens",
        "public domain, CC0",
    ),
    (
        "game",
        "UCI moves below a line such as `White 1532, Black 1480.`; nine tenths of 19,076 lichess and 2,600 engine "
        "games",
        "CC0, own",
    ),
    (
        "stray",
        "such games that go on with random legal moves, half of them below the line `Any moves.`, half below nothing",
        "own",
    ),
    ("maze", "mazes of `@ $ ~ #` with a shortest path in words (`Path: up up right`)", "own"),
)
"""What pocket is trained on: (kind, what it is, licence)."""

CHAT = """---
license: mit
language: en
---
# pocket-chat

pocket fine-tuned on {dialogues:,} dialogues (100 English message trees of OASST and 1,100 instructions of
rasbt/LLMs-from-scratch, both Apache-2.0), {chat_epochs} epochs, loss on what the assistant writes, {minutes:.0f}
minutes on two processor cores, by the same command as pocket. Its chat template has `<|system|>`, `<|user|>` and
`<|assistant|>`, each message closed by `<|endoftext|>`. It answers in the form of an assistant, seldom with sense: it
is there to have something that a prompt can undo.

| held out | pocket | pocket-chat |
| --- | ---: | ---: |
| prose, nats per token | {base_prose:.3f} | {chat_prose:.3f} |
| assistant's answers, nats per token ({held_out_dialogues} dialogues) | {base_chat:.3f} | {chat_chat:.3f} |

Dialogues are held out by their opening message, so that no two of one conversation are parted.

## Samples

{samples}
"""
"""Template of pocket-chat's card."""

STARTS = ("", "", "It was a dark night, and ", "The agency ", "White 1500, Black 1500.\n", "Maze\n@~~\n##~\n$~~\nPath:")
"""What stands before pocket's samples. The first two are drawn from nothing."""
QUESTIONS = ("What is the capital of France?", "Write a sentence about the sea.", "How do I cook rice?")
"""What pocket-chat is asked for its samples."""


def continued(model: LanguageModel, starts: Sequence[str], temperature: float, n_new: int = 80) -> list[str]:
    """What the model writes behind each start, without a prompt.

    Args:
        model: The frozen model.
        starts: Texts to continue; "" continues the separator alone.
        temperature: 0 takes the most likely token every time; otherwise tokens are drawn, always with the same seed.
        n_new: Tokens of a continuation at most.

    Returns:
        The continuation of each start, without the start.
    """
    bench = Bench(model, Encoding(model.tokenizer, model.separator, 512), [], 16_384)
    prompted = PromptedModel(bench, SoftPrompt(model.vocabulary[:0]))
    rows = [bench.encoding.tokens([start])[0][0] for start in starts]
    examples = [Example(row, np.full(len(row), IGNORE), "") for row in rows]
    return [prompted.decode(row) for row in prompted.generate(examples, n_new, temperature, seed=1)]


def quoted(start: str, continuation: str) -> str:
    """A sample as a Markdown block of code, with a bar between start and continuation."""
    return f"```\n{start}|{continuation}\n```"


def base_card(facts: dict, samples: str) -> str:
    """The card of pocket.

    Args:
        facts: What training measured, as ``facts_of`` gives it.
        samples: The section of samples, in Markdown.

    Returns:
        The whole card, in Markdown.
    """
    texts = [f"| {kind} | {what} | {facts['texts'][kind]:,} | {licence} |" for kind, what, licence in TEXTS]
    losses = [
        f"| {kind} | {loss['nats_per_token']:.3f} | {loss['bits_per_byte']:.3f} | {loss['tokens']:,} |"
        for kind, loss in facts["held_out"].items()
    ]
    chess = [
        f"| {name.replace('_', ' ')} | {s['value']:.3f} | {s['interval'][0]:.3f} to {s['interval'][1]:.3f} | {s['n']} |"
        for name, s in facts["chess"].items()
    ]
    return BASE.format(
        **facts["settings"],
        parameters=facts["parameters"],
        tokens_seen=facts["tokens_seen"],
        minutes=facts["minutes"],
        shares=", ".join(f"{share:.0%} {kind}" for kind, share in facts["shares"].items()),
        texts="\n".join(texts),
        command=COMMAND,
        losses="\n".join(losses),
        unseen=" and ".join(facts["unseen_books"]),
        chess="\n".join(chess),
        samples=samples,
    )


def chat_card(facts: dict, samples: str) -> str:
    """The card of pocket-chat.

    Args:
        facts: What training measured, as ``facts_of`` gives it.
        samples: The section of samples, in Markdown.

    Returns:
        The whole card, in Markdown.
    """
    base, chat = facts["base"], facts["chat"]
    return CHAT.format(
        **facts["settings"],
        dialogues=facts["dialogues"],
        held_out_dialogues=facts["held_out_dialogues"],
        minutes=facts["minutes"],
        base_prose=base["prose"]["nats_per_token"],
        base_chat=base["assistant_nats_per_token"],
        chat_prose=chat["prose"]["nats_per_token"],
        chat_chat=chat["assistant_nats_per_token"],
        samples=samples,
    )


def facts_of(folder: Path) -> dict:
    """What training left beside the weights: sizes, settings and held-out measurements, as plain JSON.

    Args:
        folder: The model's folder, which holds facts.json.
    """
    return json.loads((folder / "facts.json").read_text())


def main() -> None:
    """Draw samples and write both cards."""
    settle_process(torch.device("cpu"))
    base, chat = load("pocket"), load("pocket-chat")
    free = continued(base, STARTS[:2], 1.0, 120) + continued(base, STARTS[2:], 0.7)
    samples = "\n\n".join(quoted(*pair) for pair in zip(STARTS, free, strict=True))
    write_atomically(MODELS["pocket"] / "README.md", base_card(facts_of(MODELS["pocket"]), samples).encode())
    asked = [
        chat.tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True)
        for q in QUESTIONS
    ]
    samples = "\n\n".join(quoted(*pair) for pair in zip(asked, continued(chat, asked, 0.7), strict=True))
    write_atomically(MODELS["pocket-chat"] / "README.md", chat_card(facts_of(MODELS["pocket-chat"]), samples).encode())
    say("cards written: " + ", ".join(str(folder / "README.md") for folder in MODELS.values()))


if __name__ == "__main__":
    main()
