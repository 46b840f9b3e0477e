"""The training loop: soft prompts of any number, length and recipe, trained together against one frozen model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from soft_prompts.console import LAST, SIGNALS, Ahead, progress_bar, say
from soft_prompts.data.example import Example
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.forward import forward_pass, pack
from soft_prompts.engine.memory import within_memory
from soft_prompts.engine.prompted import Bench
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.base import Intervention
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.processes import ALONE, Crew
from soft_prompts.stopwatch import CLOCK
from soft_prompts.tasks.base import Task
from soft_prompts.training.checkpoint import Checkpoints
from soft_prompts.training.log import Logs, RunLog
from soft_prompts.training.run import Run
from soft_prompts.training.state import Clock, TrainingState, make_intervention

LOG_EVERY = 10
"""Steps between two points of the training curves. Only there does the loop wait for the device."""


def train(
    bench: Bench,
    runs: Sequence[Run],
    logs: Logs,
    checkpoints: Checkpoints | None = None,
    crew: Crew = ALONE,
    ahead: Ahead = LAST,
) -> list[TrainingState]:
    """Train the prompt of every run, watch it on the validation documents, and measure it on the held-out ones.

    The runs share task, batch size and documents. They may differ in length, seed and the rest of the recipe, and each
    ends after its own steps.
    What has no parameters, such as a prompt of no tokens, is only measured. A run whose loss stops being finite is
    given up (its ``failure`` says so) and the others go on.

    Args:
        bench: The frozen model, validation and held-out documents.
        runs: What to train.
        logs: Where each run is logged, and by what.
        checkpoints: Where training goes on from, and what is kept of it. None: nothing is.
        crew: The processes that train these runs together; the first one writes logs and checkpoints.
        ahead: What is trained behind them, for the progress bar.

    Returns:
        The final state of every run, the same in all processes.

    Raises:
        SoftPromptsError: A training document is one of validation or held out as well, or they run out.
    """
    model, task, config = bench.model, runs[0].target, runs[0].recipe
    conditions = torch.from_numpy(np.stack([e.condition for e in bench.held_out[:32]])).to(model.device)
    states, done = _begin(model, runs, conditions.shape[1], logs if crew.is_first else None, checkpoints)
    live = [s for s in states if done < s.last_step and not s.failure]
    n_steps = max((s.run.recipe.steps for s in live), default=0)
    # Runs of one seed see the same documents in the same order, whatever their length: their losses stay paired.
    streams = {s.run.seed: _batches(bench, task, s.run.seed, config.batch_size, done) for s in live}
    clock = Clock(model.device, sum(s.seconds for s in states))

    title = f"{runs[0].experiment} on {model.name}, {len(live)} prompts"
    with progress_bar(title, n_steps, done, ahead) as advance, SIGNALS.deferred(checkpoints is not None):
        # Step 0 trains nothing: it is the evaluation of the prompts that training starts from.
        for step in range(done + 1 if done else 0, n_steps + 1):
            for s in live if step else states:
                s.begin(step)
            watched = [s for s in live if step in s.looks or step == s.last_step] if step else states
            if step:
                # Every run's gradient on its own batch, all in shared forward passes; then a step of every optimiser.
                batches = {seed: next(stream) for seed, stream in streams.items()}
                losses, norms = _step(bench, task, live, [batches[s.run.seed] for s in live], step, crew)
                advance(_best(states))

                # Once in a while: log the training curves. Reading the numbers waits for the device, so not every step.
                if step % LOG_EVERY == 0 or watched:
                    _share_time(live, clock.read())
                    for s, loss, norm in zip(live, losses.tolist(), norms.tolist(), strict=True):
                        _log(s, step, loss, norm, _prompt_norm(s.intervention, conditions, model.scale))

            # Once in a while, and before and after training: look at the validation documents, off the clock.
            if watched:
                with clock.paused(), CLOCK.stage("validation"):
                    _validate(bench, watched, step, crew)
                    say(_progress_line(step, n_steps, states))

            # Of several starts of a prompt, the best on the validation documents goes on.
            states = best_starts(states, step)

            # Go on with the runs that are not at their end, and whose numbers are finite.
            live = [s for s in states if step < s.last_step and not s.failure]

            # Now and then, and if somebody wants to leave: keep what there is.
            leaving, due = _asked(checkpoints, crew)
            if checkpoints and step and (due or watched or leaving):
                _share_time(states, clock.read())
                for s in states:
                    s.log.flush()  # what goes on from here goes on with its log
                crew.first_does(partial(checkpoints.save, states, model.weight_hash, step))
                if leaving:
                    SIGNALS.leave(leaving)
            if not live:
                break
    states = best_starts(states)
    _share_time(states, clock.read())
    # The held-out documents are looked at once, when nothing is left to decide.
    with CLOCK.stage("held-out evaluation"):
        _measure(bench, [s for s in states if not s.failure], crew)
    if counted := [s for s in states if s.run.recipe.prequential and not s.failure]:
        with CLOCK.stage("prequential"):
            _spent_by_the_end(bench, counted, crew)
    return states


def _begin(
    model: LanguageModel, runs: Sequence[Run], n_conditions: int, logs: Logs | None, checkpoints: Checkpoints | None
) -> tuple[list[TrainingState], int]:
    """The states that training begins with, and how many steps were taken already."""
    found = checkpoints.latest(runs, model.weight_hash) if checkpoints else None
    entrants = [(r, start) for r in runs for start in range(r.recipe.starts if r.n_tokens else 1)]
    done, entrants = (found.step, found.entrants) if found else (0, entrants)
    states = [
        TrainingState(
            r,
            make_intervention(model, r, n_conditions, start),
            logs.of(r, start, done or None) if logs else RunLog(),
            start,
        )
        for r, start in entrants
    ]
    if found:
        found.restore(states)
        say(f"{runs[0].experiment} on {model.name}: going on from step {done}, where it was interrupted.")
    return states, done


def _step(
    bench: Bench,
    task: Task,
    live: Sequence[TrainingState],
    examples: Sequence[Sequence[Example]],
    step: int,
    crew: Crew,
) -> tuple[Tensor, Tensor]:
    """Train every run on its own batch.

    Returns:
        The mean loss of each run, nats per token, and the norm of its gradient: float32 [R] each, on the device.
    """
    interventions = [s.intervention for s in live]
    losses = accumulate_gradients(bench.model, task, interventions, examples, bench.token_budget, crew)
    for s, loss, batch in zip(live, losses, examples, strict=True):
        s.spend(loss, batch)
    return losses, torch.stack([s.update(step, batch) for s, batch in zip(live, examples, strict=True)])


def _asked(checkpoints: Checkpoints | None, crew: Crew) -> tuple[int, int]:
    """By which signal somebody wants to leave (0: nobody does), and whether it is time for a checkpoint.

    Whichever process was told to leave, all of them do after one step. When it is time, the first one knows.
    """
    due = crew.is_first and checkpoints is not None and checkpoints.due
    leaving, due = crew.largest(SIGNALS.received or 0, int(due))
    return leaving, due


def accumulate_gradients(
    model: LanguageModel,
    task: Task,
    interventions: Sequence[Intervention],
    examples: Sequence[Sequence[Example]],
    token_budget: int,
    crew: Crew = ALONE,
) -> Tensor:
    """Give each intervention's parameters, which have no gradients yet, the gradient of its own mean loss.

    Losses are summed over runs, so the gradient of an intervention is what it would be alone. They are divided by the
    weight of all of a run's scored tokens, so how rows are packed into passes changes nothing.

    Args:
        model: The frozen model.
        task: Whose loss is taken.
        interventions: One of each run.
        examples: ``examples[r]`` is the batch of run r.
        token_budget: Positions in one forward pass at most.
        crew: The processes that do this together: each computes a part of every run's batch.

    Returns:
        The mean loss of each run, nats per token, float32 [R] on the device.
    """
    # A run whose batch has nothing to score has a loss of 0 and no gradient.
    totals = [sum(e.total_weight for e in of_run) or math.inf for of_run in examples]
    dealt = [0, *accumulate(len(of_run) for of_run in examples)]
    own = [crew.part(of_run, len, n) for of_run, n in zip(examples, dealt, strict=False)]

    def undo() -> None:
        for intervention in interventions:
            intervention.zero_grad(set_to_none=True)

    passes = partial(_pass_by_pass, model, task, interventions, own, totals, token_budget)
    losses = within_memory(passes, token_budget, undo)
    for intervention in interventions if crew.is_first else ():
        if (penalty := intervention.penalty()) is not None:
            penalty.backward()
    if crew.size > 1:
        parameters = [p for intervention in interventions for p in intervention.parameters()]
        for p in parameters:  # of a run with fewer documents than there are processes, some had none
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        crew.add_up([losses, *(p.grad for p in parameters)])
    return losses


def _pass_by_pass(
    model: LanguageModel,
    task: Task,
    interventions: Sequence[Intervention],
    examples: Sequence[Sequence[Example]],
    totals: Sequence[float],
    token_budget: int,
) -> Tensor:
    """Gradients and losses of some examples; ``totals`` are the weights of their runs' whole batches."""
    losses = torch.zeros(len(interventions), device=model.device)
    for rows in pack(interventions, examples, token_budget):
        states = forward_pass(model, interventions, examples, rows)
        # For every scored token: which run it belongs to, and one over that run's total weight.
        counts = torch.tensor(states.counts)
        run = torch.tensor([r for r, _ in rows]).repeat_interleave(counts).to(model.device)
        share = torch.tensor([1 / totals[r] for r, _ in rows]).repeat_interleave(counts).to(model.device)
        loss = task.loss(model.head, states.hidden, states.labels) * states.weights * share
        loss.sum().backward()
        losses.index_add_(0, run, loss.detach().float())
    return losses


def best_starts(states: Sequence[TrainingState], step: int | None = None) -> list[TrainingState]:
    """Of the starts of each run, the one with the lowest validation loss so far, in the order of the runs.

    It is charged with the work that all of them took. The logs of the others are closed.

    Args:
        states: All starts of all runs.
        step: Only the runs that choose after this step have to. None: all of them.
    """
    if step is not None and all(s.run.recipe.choice != step for s in states):
        return list(states)
    by_run: dict[Path, list[TrainingState]] = {}
    for s in states:
        by_run.setdefault(s.run.path, []).append(s)
    kept = []
    for starts in by_run.values():
        if step not in (None, starts[0].run.recipe.choice):
            kept += starts
            continue
        best = min(starts, key=lambda s: (bool(s.failure), s.validation_loss))
        for other in starts:
            if other is not best:
                best.n_positions += other.n_positions
                best.n_data_tokens += other.n_data_tokens
                other.log.close()
        kept.append(best)
    return kept


def _batches(bench: Bench, task: Task, seed: int, size: int, done: int) -> Iterator[list[Example]]:
    """The training documents of one seed, ``size`` at a time, without the first ``done`` batches."""
    apart = {e.document for e in (*bench.validation, *bench.held_out)}
    examples = islice(task.examples("train", bench.encoding, seed), done * size, None)
    while batch := list(islice(examples, size)):
        if leaked := [e.document for e in batch if e.document in apart]:
            raise SoftPromptsError(
                f"training document {leaked[0]} is held out or for validation as well; the task's splits must be "
                f"disjoint."
            )
        yield batch
    raise SoftPromptsError("the training documents ran out; give more data or fewer --train.steps.")


def _validate(bench: Bench, due: Sequence[TrainingState], step: int, crew: Crew) -> None:
    """Validation losses of some runs, noted in their states and logs."""
    for state in due:
        state.settle()
    scores = evaluate(bench.model, [s.intervention for s in due], bench.validation, bench.token_budget, crew)
    for state, own in zip(due, scores, strict=True):
        if not math.isfinite(own.loss):
            state.give_up("the validation loss", step)
            continue
        state.curve.append({"step": step, "loss": own.loss})
        state.log.validation(step, own.loss)


def _measure(bench: Bench, trained: Sequence[TrainingState], crew: Crew) -> None:
    """Held-out scores of trained runs, noted in their states and logs."""
    for state in trained:
        state.settle()
    scores = evaluate(bench.model, [s.intervention for s in trained], bench.held_out, bench.token_budget, crew)
    for state, own in zip(trained, scores, strict=True):
        if not math.isfinite(own.loss):
            state.give_up("the held-out loss", state.last_step)
            continue
        state.scores = own
        state.log.held_out(state.last_step, own.loss)


def _spent_by_the_end(bench: Bench, trained: Sequence[TrainingState], crew: Crew) -> None:
    """Nats of the documents that each run was trained on, behind its final prompt."""
    alike: dict[tuple[int, int], list[TrainingState]] = {}
    for s in trained:
        if s.last_step:
            alike.setdefault((s.run.seed, s.last_step), []).append(s)
    for (seed, steps), states in alike.items():
        stream = states[0].run.target.examples("train", bench.encoding, seed)
        documents = list(islice(stream, steps * states[0].run.recipe.batch_size))
        if any(e.weights is not None for e in documents):  # they would count differently before and after
            continue
        scores = evaluate(bench.model, [s.intervention for s in states], documents, bench.token_budget, crew)
        for state, own in zip(states, scores, strict=True):
            state.nats_after = float(own.sums.sum())


def _log(state: TrainingState, step: int, loss: float, gradient_norm: float, prompt_norm: float) -> None:
    """A point of a run's training curves."""
    if not math.isfinite(loss):
        state.give_up("the training loss", step)
        return
    tokens_per_second = state.n_data_tokens / max(state.seconds, 1e-9)
    state.log.training(step, loss, gradient_norm, state.lr(step), prompt_norm, tokens_per_second)


@torch.no_grad()
def _prompt_norm(intervention: Intervention, conditions: Tensor, scale: float) -> float:
    """Root mean square of the inserted tokens under some conditions [B, C], in units of the vocabulary's; 0 for no
    tokens."""
    tokens = intervention(conditions)
    return (tokens / scale).square().mean().sqrt().item() if tokens.numel() else 0.0


def _share_time(states: Sequence[TrainingState], seconds: float) -> None:
    """Runs share forward passes; each is charged by the positions computed for it."""
    total = sum(s.n_positions for s in states)
    for s in states:
        s.seconds = seconds * s.n_positions / max(1, total)


def _best(states: Sequence[TrainingState]) -> str:
    """The lowest validation loss so far, of all runs that are trained together."""
    loss, n_tokens = min(((p["loss"], s.run.n_tokens) for s in states for p in s.curve), default=(math.inf, 0))
    return f"best {loss:.4f} nats at P={n_tokens}" if loss < math.inf else ""


def _progress_line(step: int, n_steps: int, states: Sequence[TrainingState]) -> str:
    """Validation loss by prompt length at one step, seeds averaged."""
    by_length: dict[int, list[float]] = {}
    for s in states:
        if s.curve:
            by_length.setdefault(s.run.n_tokens, []).append(s.curve[-1]["loss"])
    losses = "  ".join(f"{n}: {np.mean(values):.4f}" for n, values in sorted(by_length.items()))
    return f"step {step}/{n_steps}  validation nats per token by prompt length  {losses}"
