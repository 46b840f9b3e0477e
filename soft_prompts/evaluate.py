"""Running a frozen model behind soft prompts: packing rows into passes, hidden states at scored places, held-out scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from soft_prompts.batch import IGNORE, Example, collate
from soft_prompts.generate import generate
from soft_prompts.loss import score_tokens
from soft_prompts.model import LanguageModel
from soft_prompts.prompts import PromptGenerator, SoftPrompt, insert
from soft_prompts.task import Encoding

Prompt = SoftPrompt | PromptGenerator
Row = tuple[int, int]
"""(which run, which of its examples)"""


def usual_budget(device: torch.device) -> int:
    """Positions in one pass that keep a device busy; more takes memory and gains little (a CPU: at most 5 %; a GPU: not measured)."""
    return 4_096 if device.type == "cpu" else 16_384


def pack(prompts: Sequence[Prompt], examples: Sequence[Sequence[Example]], token_budget: int) -> Iterator[list[Row]]:
    """Share the rows of all runs out to passes of prompts of one length and at most ``token_budget`` positions each.

    ``examples[r]`` are the examples of ``prompts[r]``. Rows of like length go together, so little is padding; memory is set by
    the budget, not by the number of runs. A row longer than the budget has a pass to itself.
    """
    for n_tokens in sorted({p.n_tokens for p in prompts}):
        rows = [(r, i) for r, p in enumerate(prompts) if p.n_tokens == n_tokens for i in range(len(examples[r]))]
        rows.sort(key=lambda row: len(examples[row[0]][row[1]]))
        batch: list[Row] = []
        for r, i in rows:  # ascending, so the newest row is the widest
            if batch and (len(batch) + 1) * (len(examples[r][i]) + n_tokens) > token_budget:
                yield sorted(batch)
                batch = []
            batch.append((r, i))
        if batch:
            yield sorted(batch)


@dataclass(frozen=True)
class Scoring:
    """The scored tokens of one pass, row after row."""

    hidden: Tensor  # [N, D], the states that predict
    labels: Tensor  # int64 [N], the tokens wanted
    weights: Tensor  # float32 [N]
    counts: list[int]  # scored tokens of each row, adding up to N


def read(
    model: LanguageModel, prompts: Sequence[Prompt], examples: Sequence[Sequence[Example]], rows: Sequence[Row]
) -> Scoring:
    """One pass of the frozen body over ``rows`` (of prompts of one length), keeping only the states that predict something.

    The place before a label is known on the CPU, so nothing here waits for the device.
    """
    batch = collate([examples[r][i] for r, i in rows])
    row, place = (batch.labels != IGNORE).nonzero(as_tuple=True)  # [N], in the unprompted sequence
    counts = torch.bincount(row, minlength=len(rows)).tolist()
    n_tokens = prompts[rows[0][0]].n_tokens
    predictor = place - 1 + n_tokens * (place >= batch.insert_at[row])  # behind the prompt: moved by P

    batch, row, place, predictor = batch.to(model.device), *(x.to(model.device) for x in (row, place, predictor))
    which = [r for r, _ in rows]  # sorted: the rows of a run stand together
    spans = [(r, which.index(r), which.index(r) + which.count(r)) for r in dict.fromkeys(which)]
    block = torch.cat([prompts[r](batch.condition[start:end]) for r, start, end in spans])  # [B, P, D]
    hidden = model.body(insert(model.embed(batch.tokens), block, batch.insert_at))  # [B, L, D]
    return Scoring(hidden[row, predictor], batch.labels[row, place], batch.weights[row, place], counts)


@dataclass(frozen=True)
class TokenScores:
    """Held-out scores of one prompt, per document and scored token (in the order of the example's scored places)."""

    documents: list[str]
    losses: list[np.ndarray]  # nats, float32 [n scored]
    correct: list[np.ndarray]  # was the label the most likely token, bool [n scored]

    @property
    def sums(self) -> np.ndarray:
        """Nats of each document, float64 [documents]."""
        return np.array([x.sum(dtype=np.float64) for x in self.losses])

    @property
    def counts(self) -> np.ndarray:
        """Scored tokens of each document, int [documents]."""
        return np.array([len(x) for x in self.losses])

    @property
    def loss(self) -> float:
        """Nats per scored token."""
        return float(self.sums.sum() / self.counts.sum())


@torch.no_grad()
def evaluate(
    model: LanguageModel, prompts: Sequence[Prompt], examples: Sequence[Example], token_budget: int
) -> list[TokenScores]:
    """The scores of every prompt on the same examples."""
    n = len(examples)
    losses, correct = ([[np.empty(0)] * n for _ in prompts] for _ in range(2))
    everyone = [examples] * len(prompts)
    for rows in pack(prompts, everyone, token_budget):
        scoring = read(model, prompts, everyone, rows)
        ends = np.cumsum(scoring.counts)[:-1]
        found = (np.split(x.cpu().numpy(), ends) for x in score_tokens(model.head, scoring.hidden, scoring.labels))
        for (r, i), row_losses, row_correct in zip(rows, *found, strict=True):
            losses[r][i], correct[r][i] = row_losses, row_correct
    documents = [e.document for e in examples]
    return [TokenScores(documents, x, y) for x, y in zip(losses, correct, strict=True)]


@dataclass(frozen=True)
class Bench:
    """What every prompt for one model is measured on: the frozen model and the held-out documents."""

    model: LanguageModel
    encoding: Encoding
    held_out: Sequence[Example]
    token_budget: int
    """Positions computed in one pass."""


@dataclass(frozen=True)
class Prompted:
    """A frozen model behind one trained prompt: what a task's behavioural scores are made with."""

    bench: Bench
    prompt: Prompt
    measured: TokenScores | None = None
    """What is known of the bench's held-out documents already."""

    def scores(self, examples: Sequence[Example]) -> TokenScores:
        if examples is self.bench.held_out and self.measured:
            return self.measured
        return evaluate(self.bench.model, [self.prompt], examples, self.bench.token_budget)[0]

    def generate(
        self, starts: Sequence[Example], n_new: int, temperature: float = 0.0, seed: int = 0
    ) -> list[np.ndarray]:
        """Up to ``n_new`` tokens behind each start (fewer where the model ends the text); greedy at temperature 0."""
        longest = max((len(e) for e in starts), default=0) + self.prompt.n_tokens + n_new
        size = max(1, self.bench.token_budget // max(1, longest))
        random = torch.Generator(self.bench.model.device).manual_seed(seed)
        parts = (starts[i : i + size] for i in range(0, len(starts), size))
        return [
            row for part in parts for row in generate(self.bench.model, self.prompt, part, n_new, temperature, random)
        ]

    def decode(self, tokens: np.ndarray) -> str:
        """Text as the model wrote it: special tokens stay visible, spaces untouched."""
        return self.bench.encoding.tokenizer.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
