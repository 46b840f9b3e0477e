"""Draw replies to requests from a chat model: those that answer become what a prompt is trained towards.

    python -m soft_prompts.texts.replies soft_prompts/texts/animals.jsonl --model pocket-chat

The model is asked without any protection, several times each. Of its replies, the first that has the pattern and no
refusal is kept; requests that it never answers are left out and counted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from soft_prompts.console import ends_in_a_sentence, say
from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.data.requests import read_requests
from soft_prompts.engine.prompted import Bench, unprompted
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically
from soft_prompts.models.cpu import settle_process
from soft_prompts.models.device import pick_device
from soft_prompts.models.loading import load
from soft_prompts.tasks.protection import Protection, Shield, dialogue


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    requests: tyro.conf.Positional[Path]
    """JSON Lines with a "request" each, and a "pattern" that replies must have."""
    model: str = "pocket-chat"
    """The unprotected chat model: as --models of the experiments."""
    pattern: str = ""
    """The pattern of requests that have none."""
    out: Path | None = None
    """File that is written. None: REQUESTS-MODEL.jsonl, beside the requests."""
    tries: int = 32
    """Replies drawn to each request, at temperature 1."""
    reply_tokens: int = 48
    """Tokens of a reply at most."""
    device: str = "auto"
    """auto (the GPU if there is one), cpu, cuda, cuda:1 ..."""


def main(settings: Settings) -> None:
    """Draw, choose and write.

    Raises:
        SoftPromptsError: The requests or the model cannot be read, or it answers none.
    """
    requests = read_requests(str(settings.requests))
    settle_process(pick_device(settings.device))
    model = load(settings.model, device=settings.device)
    encoding = Encoding(model.tokenizer, model.separator, model.context)
    free = unprompted(Bench(model, encoding, (), 4096))
    texts = [dialogue(model.tokenizer, Shield(), r.request)[0] for r in requests]
    starts = [Example(tokens, np.full(len(tokens), IGNORE), "") for tokens in encoding.tokens(texts)[0]]
    judge = Protection(requests=str(settings.requests), pattern=settings.pattern)
    found: dict[str, str] = {}
    for i in range(settings.tries):
        open_ones = [k for k, r in enumerate(requests) if r.request not in found]
        if not open_ones:
            break
        drawn = free.generate([starts[k] for k in open_ones], settings.reply_tokens, 1.0, seed=i)
        for k, tokens in zip(open_ones, drawn, strict=True):
            reply = free.decode(tokens)
            if judge.answers(requests[k], reply):
                found[requests[k].request] = reply
        say(f"{i + 1} replies each: {len(found)} of {len(requests)} requests are answered")
    if not found:
        raise SoftPromptsError(f"{settings.model} answers none of the requests; look at their patterns.")
    lines = [
        {name: value for name, value in {**vars(r), "reply": found[r.request]}.items() if value}
        for r in requests
        if r.request in found
    ]
    name = f"{settings.requests.stem}-{model.name}.jsonl"
    out = settings.out or settings.requests.with_name(name)
    write_atomically(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    say(f"{len(lines)} requests with replies in {out}")


if __name__ == "__main__":
    with ends_in_a_sentence():
        main(tyro.cli(Settings, description=__doc__))
