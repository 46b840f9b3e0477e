"""Steer pocket by a vector from prose to games, and draw texts from the steered model: what a prompt is to imitate.

    python -m soft_prompts.pocket.steered

The vector is the difference of what a layer passes on, on average, on games and mazes and on prose, all of them texts
that pocket wrote itself (Marks and Tegmark 2023, arXiv 2310.06824, call it mass-mean; Turner et al. 2023, arXiv
2308.10248, steer so).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from soft_prompts.console import ends_in_a_sentence, say
from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.data.texts import read_documents
from soft_prompts.engine.prompted import Bench, PromptedModel, unprompted
from soft_prompts.interventions.steering import Steering
from soft_prompts.models.cpu import settle_process
from soft_prompts.models.loading import load
from soft_prompts.pocket import SAMPLES, STEERED, STEERED_TEXTS, draw_samples
from soft_prompts.tasks.calibration import NOT_PROSE
from soft_prompts.tasks.imitation import passed_on, save_vector

COMPARED = 300
"""Documents of each kind."""


@dataclass(frozen=True)
class Settings(draw_samples.Settings):
    """Options of the command line: those of drawing, and of the vector."""

    out: Path = STEERED_TEXTS
    n_documents: int = 2000
    n_tokens: int = 47
    vector: Path = STEERED
    """The vector that is written."""
    layer: int = 1
    """Number of the layer, from 0."""
    strength: float = 2.0
    """By which the difference of the means is multiplied."""


def main(settings: Settings) -> None:
    """Make the vector, draw, and write both.

    Raises:
        SoftPromptsError: A file cannot be written.
    """
    settle_process(torch.device("cpu"))
    model = load("pocket")
    encoding = Encoding(model.tokenizer, model.separator, settings.n_tokens + 1)
    bench = Bench(model, encoding, [], 16_384)
    plain = unprompted(bench)
    texts = read_documents((str(SAMPLES),), None, 10_000, 2**20, None).documents
    means = []
    for of_games in (True, False):
        kind = [t for t in texts if bool(NOT_PROSE.search(t)) == of_games][:COMPARED]
        rows = [row[: settings.n_tokens + 1] for row in encoding.tokens(kind)[0]]
        examples = [Example(row, np.full(len(row), IGNORE), "") for row in rows]
        heard = [passed_on(model, plain.intervention, e)[settings.layer, 1:] for e in examples]
        means.append(np.concatenate(heard).mean(0))
    steering = Steering.on(model.lm, [settings.layer])
    difference = torch.from_numpy(means[0] - means[1]) * settings.strength
    steering.vectors.data = difference[None] / steering.scales[:, None]
    say(f"the vector is {steering.vectors.square().mean().sqrt():.2f} of what the layer passes on, in root mean square")
    save_vector(steering, settings.vector)
    steered = PromptedModel(bench, steering)
    written = draw_samples.drawn(steered, settings.n_documents, settings.n_tokens, settings.seed)
    tokens = encoding.tokens(written[:200])[0]
    examples = [Example(row, np.array([IGNORE, *row[1:]]), str(i)) for i, row in enumerate(tokens)]
    losses = [x.scores(examples).loss for x in (steered, plain)]
    say(f"nats per token of its own texts: {losses[0]:.3f} steered, {losses[1]:.3f} without the vector")
    say(f"{sum(bool(NOT_PROSE.search(t)) for t in written) / len(written):.0%} hold moves or walls")
    draw_samples.write(written, settings)


if __name__ == "__main__":
    with ends_in_a_sentence():
        main(tyro.cli(Settings, description=__doc__))
