"""Make samples.jsonl.zst: documents drawn from pocket itself at temperature 1, from the separator on.

    python -m soft_prompts.pocket.draw_samples

No predictor beats pocket on these in expectation. So a prompt that seems to beat it is a fault of the measurement.

A document that pocket ended closes with its end-of-text token, which belongs to what was drawn. The others are cut. If
the text of a document does not give back the tokens drawn, the document is left out: a loss on other tokens would not
be pocket's own. How many are left is printed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
import zstandard

from soft_prompts.console import say
from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.prompted import Bench, PromptedModel, unprompted
from soft_prompts.files import write_atomically
from soft_prompts.models.cpu import settle_process
from soft_prompts.models.loading import load
from soft_prompts.pocket import SAMPLES


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    out: Path = SAMPLES
    """The file to write, .jsonl.zst."""
    n_documents: int = 2400
    """Documents that are drawn."""
    n_tokens: int = 160
    """Tokens after which a document is cut."""
    seed: int = 0
    """Of the draws."""


def main(settings: Settings) -> None:
    """Draw, check and write the documents.

    Raises:
        SoftPromptsError: The file cannot be written.
    """
    settle_process(torch.device("cpu"))
    model = load("pocket")
    bench = Bench(model, Encoding(model.tokenizer, model.separator, settings.n_tokens + 1), [], 16_384)
    write(drawn(unprompted(bench), settings.n_documents, settings.n_tokens, settings.seed), settings)


def drawn(model: PromptedModel, n_documents: int, n_tokens: int, seed: int) -> list[str]:
    """Documents that a model wrote from the separator on, those that give back the tokens drawn."""
    separator, encoding = model.bench.model.separator, model.bench.encoding
    start = Example(np.array([separator]), np.array([IGNORE]), "start")
    texts = []
    for tokens in model.generate([start] * n_documents, n_tokens, temperature=1.0, seed=seed):
        ended = len(tokens) < n_tokens
        text = model.decode(tokens) + (encoding.tokenizer.eos_token if ended else "")
        again = encoding.tokens([text])[0][0][1:]
        if np.array_equal(again, [*tokens, *[separator] * ended]):
            texts.append(text)
    return texts


def write(texts: list[str], settings: Settings) -> None:
    """Write the documents, and say how many are left."""
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    data = zstandard.ZstdCompressor(level=19).compress(lines.encode())
    write_atomically(settings.out, data)
    kept = f"{len(texts)} of {settings.n_documents} documents give back their tokens"
    say(f"{kept}; {len(data):,} bytes in {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
