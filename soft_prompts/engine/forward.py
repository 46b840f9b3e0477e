"""Forward passes of a frozen model behind interventions: rows packed into passes, hidden states at scored positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.batch import Batch, collate, insert
from soft_prompts.engine.changes import changed
from soft_prompts.engine.memory import MEMORY
from soft_prompts.interventions.base import Intervention
from soft_prompts.models.language_model import LanguageModel

Row = tuple[int, int]
"""(which run, which of its examples)"""
WORTH_SHARING = 0.1
"""Share of the positions from which on it pays to read a beginning once for all rows of a run. On a CPU, sharing was
1.1 to 1.2 times as fast where it saves 15 %, and slower where it saves 2 %; not measured on a GPU."""


def usual_budget(device: torch.device) -> int:
    """Positions in one pass that keep a device busy.

    More takes more memory and gains little: at most 5 % on a CPU; not measured on a GPU.
    """
    return 4_096 if device.type == "cpu" else 16_384


def pack(
    interventions: Sequence[Intervention], examples: Sequence[Sequence[Example]], token_budget: int
) -> Iterator[list[Row]]:
    """Share the rows of all runs out to forward passes. Rows of like length go together, so little is padding.

    Args:
        interventions: One of each run.
        examples: ``examples[r]`` are the examples of ``interventions[r]``.
        token_budget: Positions in one pass at most. It sets the memory, whatever the number of runs. A row that is
            longer has a pass to itself.

    Yields:
        The rows of one pass, sorted. All of them have prompts of one length.
    """
    token_budget = MEMORY.allowed(token_budget)
    for n_tokens in sorted({i.n_tokens for i in interventions}):
        of_length = [r for r, intervention in enumerate(interventions) if intervention.n_tokens == n_tokens]
        rows = [(r, i) for r in of_length for i in range(len(examples[r]))]
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
class ScoredStates:
    """The scored tokens of one forward pass, row after row; N in all."""

    hidden: Tensor
    """[N, D], the hidden states that predict them."""
    labels: Tensor
    """int64 [N], the tokens wanted."""
    weights: Tensor
    """float32 [N]"""
    counts: list[int]
    """Scored tokens of each row, adding up to N."""


def forward_pass(
    model: LanguageModel,
    interventions: Sequence[Intervention],
    examples: Sequence[Sequence[Example]],
    rows: Sequence[Row],
) -> ScoredStates:
    """One pass of the frozen body. Only the states that predict a scored token are kept.

    Which position predicts a label is known on the CPU, so nothing here waits for the device.

    Args:
        model: The frozen model.
        interventions: One of each run.
        examples: ``examples[r]`` are the examples of ``interventions[r]``.
        rows: Which of them are read, sorted; their prompts have one length.
    """
    batch = collate([examples[r][i] for r, i in rows])
    n_tokens = interventions[rows[0][0]].n_tokens
    # The token at a position is predicted one position before it. Behind the prompt all positions move by P.
    row, position = (batch.labels != IGNORE).nonzero(as_tuple=True)  # [N], without the prompt
    counts = torch.bincount(row, minlength=len(rows)).tolist()
    predictor = position - 1 + n_tokens * (position >= batch.insert_at[row])  # [N], with the prompt

    # Rows are sorted, so those of a run stand together: its prompt is made once for all of them.
    run_of_row = [r for r, _ in rows]
    spans = {r: slice(run_of_row.index(r), run_of_row.index(r) + run_of_row.count(r)) for r in run_of_row}
    n_start = shared_start(model, batch, n_tokens, len(spans), predictor)

    batch, row, position, predictor = batch.to(model.device), *(x.to(model.device) for x in (row, position, predictor))
    members = [(interventions[r], span) for r, span in spans.items()]
    if n_start:
        hidden = _behind_shared_starts(model, members, batch, n_start - n_tokens)
        predictor = predictor - (n_start - 1)
    else:
        block = torch.cat([intervention(batch.condition[span]) for intervention, span in members])  # [B, P, D]
        embeddings = insert(model.embed(batch.tokens), block, batch.insert_at)  # [B, L, D]
        with changed(model.lm, members):
            hidden = model.body(embeddings)  # [B, L, D]
    return ScoredStates(hidden[row, predictor], batch.labels[row, position], batch.weights[row, position], counts)


def shared_start(model: LanguageModel, batch: Batch, n_tokens: int, n_runs: int, predictor: Tensor) -> int:
    """How many positions a run's rows begin with alike, its prompt included, if reading them once for all pays.

    Args:
        model: The frozen model.
        batch: The rows, on the CPU.
        n_tokens: P.
        n_runs: Runs that the rows belong to.
        predictor: int64 [N], the positions whose states are wanted, counted with the prompt.

    Returns:
        0 if rows differ in what stands up to the prompt's end, as conditional prompts do, or if it does not pay.
    """
    n_rows, n_text = batch.tokens.shape
    at = int(batch.insert_at[0])
    n_start = at + n_tokens
    saved = (n_rows - n_runs) * n_start / (n_rows * (n_text + n_tokens))
    if not model.shares_starts or saved < WORTH_SHARING or batch.condition.shape[1] or not 0 < at < n_text:
        return 0
    alike = (batch.insert_at == at).all() and (batch.tokens[:, :at] == batch.tokens[:1, :at]).all()
    # The last state of a start predicts what stands right behind it. Those before it are not kept.
    return n_start if alike and (predictor >= n_start - 1).all() else 0


def _behind_shared_starts(
    model: LanguageModel, members: Sequence[tuple[Intervention, slice]], batch: Batch, at: int
) -> Tensor:
    """The states [B, 1 + T - at, D] from the last position of the prompts on; each run's start is read once.

    Args:
        model: The frozen model.
        members: The interventions and their rows.
        batch: The rows, on the device.
        at: Where prompts stand in them.
    """
    blocks = torch.cat([intervention(batch.condition[:1]) for intervention, _ in members])  # [R, P, D]
    before = model.embed(batch.tokens[:1, :at]).expand(len(blocks), -1, -1)
    row_of = torch.tensor([i for i, (_, span) in enumerate(members) for _ in range(span.start, span.stop)])
    row_of = row_of.to(model.device)  # [B], which start a row has
    read = model.reader()
    with changed(model.lm, [(intervention, slice(i, i + 1)) for i, (intervention, _) in enumerate(members)]):
        last = read(torch.cat([before, blocks.to(before.dtype)], 1))[:, -1:]  # [R, 1, D]
    read.hand_out(row_of)
    with changed(model.lm, members):
        behind = read(model.embed(batch.tokens[:, at:]))
    return torch.cat([last[row_of], behind], 1)
