"""Measuring: the runs that have no result yet are shared out to the processes that are at work, trained and saved."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from soft_prompts.console import say, warn
from soft_prompts.locks import Locks
from soft_prompts.results.record import Result
from soft_prompts.stopwatch import CLOCK
from soft_prompts.sweep import Sweep, plan
from soft_prompts.training.run import Run

if TYPE_CHECKING:
    from soft_prompts.prepare import Workbench

FLAT_NATS, FLAT_SHARE = 0.005, 0.02
"""Twice the steps do not help if no length's validation loss falls by more than both: so many nats per token, and this
share of the largest gain."""
PAUSE = 1.0
"""Seconds between two looks at what other processes do, while there is nothing else to do."""


@dataclass(frozen=True)
class Measured:
    """What became of the runs of one model."""

    results: list[Result]
    """Of all runs that have one."""
    failures: list[str]
    """Why the others have none, in sentences."""


def measure(sweep: Sweep, runs: Sequence[Run]) -> Measured:
    """Results of runs of one model and its controls: read if they are finished, else trained and saved.

    Other processes may be at work on the same runs: each is trained by one of them, and all wait for the last one.

    Args:
        sweep: Where files go, and how much is done at once.
        runs: What is measured. They may differ in task, length, seed and recipe, but not in steps, batch size or
            evaluation.

    Raises:
        SoftPromptsError: The model or the data cannot be loaded, or there is too little of it.
    """
    work = Work(sweep, runs)
    pending = work.pending()
    if pending:
        work.do()
    if len(runs) > len(pending):
        say(f"{len(runs) - len(pending)} of {len(runs)} runs were finished before (--force redoes them).")
    results = [Result.load(run.result_path(sweep.out)) for run in runs if run.path not in work.failures]
    return Measured(results, list(work.failures.values()))


class Work:
    """Runs that other processes may be at work on, too, and what is known of them."""

    def __init__(self, sweep: Sweep, runs: Sequence[Run]):
        self.sweep, self.runs = sweep, runs
        self.failures: dict[Path, str] = {}
        """Of runs that were given up, by path: why."""
        self._before = {run.path: self._result(run) for run in runs}  # first: it must not change while we look
        self._pending = [run for run in runs if sweep.force or not finished(run, sweep.out)]
        self._seen: set[str] = set()

    def pending(self) -> list[Run]:
        """What no process has finished or given up yet. A result that changed since the beginning is a new one."""
        self._pending = [
            run
            for run in self._pending
            if run.path not in self.failures and self._result(run) == self._before[run.path]
        ]
        return self._pending

    def do(self) -> None:
        """Train and save all that is pending, until nothing is.

        Raises:
            SoftPromptsError: As ``measure``.
        """
        from soft_prompts.prepare import Workbench

        bench = None
        with Locks(self.sweep.out / "runs" / "locks") as locks:
            while pending := self.pending():
                idle = True
                for group in self._groups(pending):
                    if mine := self._taken(locks, group):
                        bench = bench or Workbench(self.sweep, pending)
                        self._train(locks, bench, mine)
                        idle = False
                if idle:
                    self._wait(locks)

    def _groups(self, runs: Sequence[Run]) -> Iterator[list[Run]]:
        """Runs that are trained together: of one task and control, and not too many."""
        for control, task in dict.fromkeys((run.control, run.task) for run in runs):
            of_task = [run for run in runs if (run.control, run.task) == (control, task)]
            size = self.sweep.runs_at_once or len(of_task)
            yield from (of_task[i : i + size] for i in range(0, len(of_task), size))

    def _taken(self, locks: Locks, group: Sequence[Run]) -> list[Run]:
        """Those of a group that are this process's to train from now on."""
        taken = [run for run in group if locks.take(run.path)]
        while locks.taken_over:
            holder, n = locks.taken_over.popitem()
            say(f"{holder} is gone or stands still; {n} of its runs {'are' if n > 1 else 'is'} taken over.")
        self._note_failures(locks)
        # Another process may have finished a run just before this one took its lock.
        pending = {run.path for run in self.pending()}
        for run in taken:
            if run.path not in pending:
                locks.release(run.path)
        if len(taken) < len(group):
            self._say_who(locks, group, "")
        return [run for run in taken if run.path in pending]

    def _train(self, locks: Locks, workbench: Workbench, runs: Sequence[Run]) -> None:
        """Train and save runs that this process has taken."""
        from soft_prompts.save import save
        from soft_prompts.training.checkpoint import Checkpoints
        from soft_prompts.training.loop import train

        out = self.sweep.out
        bench, beside = workbench.ready_for(runs[0])
        checkpoints = Checkpoints(out / "runs" / "checkpoints", self.sweep.checkpoint_minutes)
        if self.sweep.force:
            for run in runs:
                checkpoints.forget(run)
        for group in checkpoints.in_step(runs):
            with CLOCK.stage("training"):
                trained = train(bench, group, out / "runs", checkpoints)
            for state in trained:
                run = state.run
                if state.failure:
                    self.failures[run.path] = state.failure
                elif locks.is_held(run.path):
                    save(state, bench, beside, out, len(group))
                state.log.close()
                if locks.is_held(run.path):
                    checkpoints.forget(run)
                else:
                    warn(f"{run} was taken over by another process, since this one stood still; its result counts.")
                locks.release(run.path, state.failure)

    def _wait(self, locks: Locks) -> None:
        """Let other processes work, for a moment."""
        self._say_who(locks, self._pending, "; waiting for them")
        with CLOCK.stage("waiting for other processes"):
            time.sleep(PAUSE)
        self._note_failures(locks)

    def _note_failures(self, locks: Locks) -> None:
        """Take note of the runs that other processes gave up."""
        found = ((run.path, locks.failure(run.path)) for run in self._pending)
        self.failures |= {path: failure for path, failure in found if failure}

    def _say_who(self, locks: Locks, runs: Sequence[Run], more: str) -> None:
        """Say once who is at work on runs."""
        for holder, n in locks.holders(run.path for run in runs).items():
            sentence = f"{n} run{'s are' if n > 1 else ' is'} being trained by {holder}{more}."
            if sentence not in self._seen:
                self._seen.add(sentence)
                say(sentence)

    def _result(self, run: Run) -> tuple[int, int] | None:
        """What changes when a run's result is written."""
        try:
            file = run.result_path(self.sweep.out).stat()
        except FileNotFoundError:
            return None
        return file.st_mtime_ns, file.st_ino


def measure_until_flat(sweep: Sweep, model: str) -> tuple[list[Run], Measured]:
    """Measure a model with as many steps as ``sweep.doublings`` allows and the validation losses ask for.

    The number of steps is chosen with the first seed of the model itself. Then all is measured with it.

    Returns:
        The runs of the number of steps that was chosen, and what became of them.

    Raises:
        SoftPromptsError: As ``measure``.
    """
    first = replace(sweep, controls=(), seeds=sweep.seeds[:1])
    measured = measure(first, plan(first, model)) if sweep.doublings else None
    for _ in range(sweep.doublings):
        steps = 2 * first.train.steps
        twice = replace(first, train=replace(first.train, steps=steps))
        shorter, measured = measured, measure(twice, plan(twice, model))
        flat = is_flat(shorter.results, measured.results)
        say(f"{steps} steps instead of {steps // 2}: {'no better' if flat else 'better'} on validation.")
        if flat:
            break
        first = twice
    sweep = replace(sweep, train=first.train)
    runs = plan(sweep, model)
    return runs, measure(sweep, runs)


def is_flat(shorter: Sequence[Result], longer: Sequence[Result]) -> bool:
    """Whether twice the steps leave the validation losses where they were, at every length and in every curve."""
    before, after = (_validation_losses(results) for results in (shorter, longer))
    gains = [before[task, 0] - loss for (task, n), loss in before.items() if n and (task, 0) in before]
    allowed = max(FLAT_NATS, FLAT_SHARE * max(gains, default=0.0))
    return all(before[key] - after[key] <= allowed for key in before.keys() & after.keys())


def _validation_losses(results: Sequence[Result]) -> dict[tuple[str, int], float]:
    """(variant, length) -> validation loss of the model itself, mean over the seeds."""
    by_length: dict[tuple[str, int], list[float]] = {}
    for r in results:
        if not r.config.get("control") and r.validation_loss is not None:
            by_length.setdefault((r.variant["label"], r.n_tokens), []).append(r.validation_loss)
    return {key: sum(losses) / len(losses) for key, losses in by_length.items()}


def finished(run: Run, out: Path) -> bool:
    """Whether a run has a result on all of its data: what a broken connection cut short may hold out other
    documents."""
    path = run.result_path(out)
    return path.exists() and Result.load(path).provenance.get("data", {}).get("complete", True)
