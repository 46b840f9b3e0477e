"""The training loop: soft prompts of any number, length and recipe trained together against one frozen model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from soft_prompts.batch import Example
from soft_prompts.console import progress_bar, say
from soft_prompts.curves import Clock, Curves
from soft_prompts.errors import SoftPromptsError
from soft_prompts.evaluate import Bench, Prompt, TokenScores, evaluate, pack, read
from soft_prompts.model import LanguageModel
from soft_prompts.prompts import PromptGenerator, SoftPrompt, initial_rows
from soft_prompts.run import Run
from soft_prompts.task import Task

LOG_EVERY = 10
"""Steps between two points of the training curves; only there does the loop wait for the device."""


class Trained:
    """A run in training: its prompt, its optimiser and what is known of it so far."""

    def __init__(self, run: Run, prompt: Prompt, curves: Curves):
        self.run, self.prompt, self.curves = run, prompt, curves
        self.curve: list[dict[str, float]] = []  # {"step", "loss"}: held-out nats per scored token
        self.scores: TokenScores | None = None  # of the last evaluation
        self.n_data_tokens = 0  # trained on, separators included, prompts not
        self.n_positions = 0  # computed for it, prompts included
        self.seconds = 0.0  # its share of the wall clock, by positions
        self.failure = ""  # why training was given up, or ""
        # Adam is elementwise, so an optimiser for every run is the same mathematics as one for all.
        self.optimizer = torch.optim.AdamW(prompt.parameters(), weight_decay=run.train.weight_decay, fused=True)

    def update(self, step: int, batch: Sequence[Example]) -> Tensor:
        """Optimiser step ``step`` (from 1) with the gradients that ``batch`` left; their norm before clipping, on the device."""
        norm = torch.nn.utils.clip_grad_norm_(self.prompt.parameters(), self.run.train.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        n_tokens = sum(len(e) for e in batch)
        self.n_data_tokens += n_tokens
        self.n_positions += n_tokens + len(batch) * self.prompt.n_tokens
        return norm

    def lr(self, step: int) -> float:
        return self.run.train.lr * self.run.train.lr_share(step - 1)

    def give_up(self, what: str, step: int) -> None:
        self.failure = (
            f"{self.run}: {what} stopped being finite by step {step}; try a smaller --train.lr (now {self.run.train.lr:g}) "
            f"or --train.clip-norm (now {self.run.train.clip_norm:g})."
        )


def make_prompt(model: LanguageModel, run: Run, n_conditions: int) -> Prompt:
    """The prompt a run starts from; conditional where the task's examples have conditions."""
    config, random = run.train, torch.Generator().manual_seed(run.seed)
    text = torch.tensor(model.tokenizer(config.init_text, add_special_tokens=False)["input_ids"], dtype=torch.long)
    rows = initial_rows(config.init, run.n_tokens, model.vocabulary, text, random)
    sizes = (n_conditions, *[config.width] * config.depth)
    prompt = PromptGenerator(rows, model.scale, sizes, random) if n_conditions else SoftPrompt(rows, model.scale)
    return prompt.to(model.device)


def accumulate_gradients(
    model: LanguageModel,
    task: Task,
    prompts: Sequence[Prompt],
    examples: Sequence[Sequence[Example]],
    token_budget: int,
) -> Tensor:
    """Add to each prompt's parameters the gradient of its own mean loss over ``examples[r]``; those losses, float32 [R].

    Losses are summed over runs, so the gradient of a prompt is what it would be alone, and divided by the weight of
    all of a run's scored tokens, so that how rows are packed into passes changes nothing.
    """
    totals = [sum(e.total_weight for e in of_run) for of_run in examples]
    losses = torch.zeros(len(prompts), device=model.device)
    for rows in pack(prompts, examples, token_budget):
        scoring = read(model, prompts, examples, rows)
        counts = torch.tensor(scoring.counts)
        share = torch.tensor([1 / totals[r] for r, _ in rows]).repeat_interleave(counts).to(model.device)
        run = torch.tensor([r for r, _ in rows]).repeat_interleave(counts).to(model.device)
        loss = task.loss(model.head, scoring.hidden, scoring.labels) * scoring.weights * share
        loss.sum().backward()
        losses.index_add_(0, run, loss.detach().float())
    return losses


def train(bench: Bench, runs: Sequence[Run], curves: Path) -> list[Trained]:
    """Train every run's prompt, evaluating it on the bench; TensorBoard files go below ``curves``.

    The runs share task, steps, batch size and evaluation, and may differ in length, seed and the rest of the recipe. A
    prompt of no tokens has nothing to train and is only evaluated. A run whose loss stops being finite is given up (its
    ``failure`` says so); the others go on. Raises SoftPromptsError if training meets a held-out document.
    """
    model, task, config = bench.model, runs[0].task, runs[0].train
    conditions = torch.from_numpy(np.stack([e.condition for e in bench.held_out[:32]])).to(model.device)
    trained = [Trained(run, make_prompt(model, run, conditions.shape[1]), Curves(run, curves)) for run in runs]
    live = [t for t in trained if t.run.n_tokens]
    n_steps = config.steps if live else 0
    streams = {t.run.seed: _batches(bench, task, t.run.seed, config.batch_size) for t in live}
    evaluation_steps = {round(x) for x in np.linspace(0, n_steps, config.n_evaluations + 2)}
    clock = Clock(model.device)

    with progress_bar(f"{runs[0].experiment} on {model.name}, {len(live)} prompts", n_steps) as advance:
        for step in range(n_steps + 1):
            if step:
                batches = {seed: next(stream) for seed, stream in streams.items()}
                prompts, examples = [t.prompt for t in live], [batches[t.run.seed] for t in live]
                losses = accumulate_gradients(model, task, prompts, examples, bench.token_budget)
                norms = [t.update(step, batches[t.run.seed]) for t in live]
                if step % LOG_EVERY == 0 or step in evaluation_steps:
                    _log(live, step, losses.tolist(), torch.stack(norms).tolist(), clock.read(), conditions)
                advance()
            if step in evaluation_steps:
                with clock.paused():
                    _evaluate(bench, live if step else trained, step)
                    say(_line(step, n_steps, trained))
            live = [t for t in live if not t.failure]
            if step and not live:
                break
    _share_time(trained, clock.read())
    return trained


def _batches(bench: Bench, task: Task, seed: int, size: int) -> Iterator[list[Example]]:
    """The training documents of one seed, ``size`` at a time."""
    forbidden = {e.document for e in bench.held_out}
    examples = task.examples("train", bench.encoding, seed)
    while batch := list(islice(examples, size)):
        if leaked := [e.document for e in batch if e.document in forbidden]:
            raise SoftPromptsError(
                f"training document {leaked[0]} is held out as well; the task's splits must be disjoint."
            )
        yield batch
    raise SoftPromptsError("the training documents ran out; give more data or fewer --train.steps.")


def _evaluate(bench: Bench, due: Sequence[Trained], step: int) -> None:
    found = evaluate(bench.model, [t.prompt for t in due], bench.held_out, bench.token_budget)
    for t, scores in zip(due, found, strict=True):
        if not math.isfinite(scores.loss):
            t.give_up("the held-out loss", step)
            continue
        t.scores = scores
        t.curve.append({"step": step, "loss": scores.loss})
        t.curves.held_out(step, scores.loss)


@torch.no_grad()
def _log(
    live: Sequence[Trained], step: int, losses: list[float], norms: list[float], seconds: float, conditions: Tensor
) -> None:
    """A point of the training curves; ``conditions`` [B, C] are where a prompt's size is taken."""
    _share_time(live, seconds)
    for t, loss, norm in zip(live, losses, norms, strict=True):
        if not math.isfinite(loss):
            t.give_up("the training loss", step)
            continue
        size = (t.prompt(conditions) / t.prompt.scale).square().mean().sqrt().item()
        t.curves.training(step, loss, norm, t.lr(step), size, t.n_data_tokens / max(t.seconds, 1e-9))


def _share_time(trained: Sequence[Trained], seconds: float) -> None:
    """Runs share passes; each is charged by the positions computed for it."""
    total = sum(t.n_positions for t in trained)
    for t in trained:
        t.seconds = seconds * t.n_positions / max(1, total)


def _line(step: int, n_steps: int, trained: Sequence[Trained]) -> str:
    """Held-out loss by prompt length at one step, seeds averaged."""
    by_length: dict[int, list[float]] = {}
    for t in trained:
        if t.curve:
            by_length.setdefault(t.run.n_tokens, []).append(t.curve[-1]["loss"])
    losses = "  ".join(f"{n}: {np.mean(values):.4f}" for n, values in sorted(by_length.items()))
    return f"step {step}/{n_steps}  held-out nats per token by prompt length  {losses}"
