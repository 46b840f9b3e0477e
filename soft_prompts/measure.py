"""Measuring: the runs that have no result yet are shared out to the processes that are at work, trained and saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING

from soft_prompts.console import Ahead, say, warn
from soft_prompts.errors import SoftPromptsError
from soft_prompts.locks import Locks
from soft_prompts.processes import ALONE, Crew, are_connected, copied, folder_leaders, n_processes, rank, told
from soft_prompts.results.record import Result
from soft_prompts.shares import shares, times
from soft_prompts.stats import tolerance
from soft_prompts.stopwatch import CLOCK
from soft_prompts.sweep import Sweep, plan
from soft_prompts.training.run import Run

if TYPE_CHECKING:
    from soft_prompts.prepare import Workbench
    from soft_prompts.training.checkpoint import Checkpoints
    from soft_prompts.training.state import TrainingState

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
        runs: What is measured. They may differ in task, length, seed and recipe, but not in batch size or documents.

    Raises:
        SoftPromptsError: The model or the data cannot be loaded, or there is too little of it.
    """
    work = Work(sweep, runs)
    n_before = len(runs) - len(work.pending)
    work.do()
    if n_before:
        say(f"{n_before} of {len(runs)} runs were finished before (--force redoes them).")
    results = [Result.load(run.result_path(sweep.out)) for run in runs if run.path not in work.failures]
    return Measured(results, list(work.failures.values()))


class Work:
    """Runs that other processes may be at work on, too, and what is known of them.

    Processes of one launch have each a share of the runs. Whoever has done its own goes on with what is left of the
    others'. In a crew, all train the same runs: the first process looks at files and decides, the others follow.
    """

    def __init__(self, sweep: Sweep, runs: Sequence[Run]):
        """
        Raises:
            SoftPromptsError: The other processes cannot be reached, or a result cannot be read.
        """
        self.sweep, self.runs = sweep, runs
        self.failures: dict[Path, str] = {}
        """Of runs that were given up, by path: why."""
        self._said: set[str] = set()
        self._before = {run.path: self._result(run) for run in runs}  # first: it must not change while we look
        self.pending = [run for run in runs if sweep.force or not finished(run, sweep.out)]
        """What no process has finished or given up yet."""
        n = n_processes()
        # Machines without a common folder know each other's results only if they are sent.
        self._leaders = folder_leaders(sweep.out / "runs" / "locks") if are_connected() else [0] * n
        self._exchange()
        self.crew = self._found_crew()
        self._shares = shares(self.pending, n if self.crew is ALONE else 1)

    def _found_crew(self) -> Crew:
        """The processes that train the same runs as this one."""
        n, shard = n_processes(), self.sweep.shard
        if are_connected():
            fewest = told(len(self.pending))[0]
            return Crew(rank(), n) if shard == "documents" or (shard == "auto" and fewest < n) else ALONE
        if n > 1 and shard == "documents":
            raise SoftPromptsError(
                "--shard documents needs processes that can reach each other: start them with accelerate launch, or "
                "set MASTER_ADDR and MASTER_PORT."
            )
        return ALONE

    def do(self) -> None:
        """Train and save all that is pending, until nothing is.

        Raises:
            SoftPromptsError: As ``measure``.
        """
        try:
            if self.crew.decides(lambda: bool(self.pending)):
                self._do()
        except SoftPromptsError:
            self._exchange()
            raise
        self._exchange()
        for run in self._left():
            self.failures[run.path] = f"{run} was not trained, since the process that had it stopped; run again."

    def _do(self) -> None:
        from soft_prompts.prepare import Workbench

        workbench = None
        with Locks(self.sweep.out / "runs" / "locks") as locks:
            while pending := self._decided(self._within_reach):
                idle = True
                for group in self._groups(pending):
                    if mine := self._decided(lambda group=group: self._taken(locks, group)):
                        workbench = workbench or self.crew.together(lambda of=pending: Workbench(self.sweep, of))
                        self._train(locks, workbench, mine)
                        idle = False
                if idle and self.crew.is_first:
                    self._wait(locks, pending)
        self.failures = {Path(path): why for path, why in self.crew.decides(self._given_up).items()}

    def _given_up(self) -> dict[str, str]:
        """Failures as JSON can hold them."""
        return {str(path): why for path, why in self.failures.items()}

    def _decided(self, choose: Callable[[], list[Run]]) -> list[Run]:
        """Runs that the first process of the crew chooses."""
        if self.crew is ALONE:
            return choose()
        chosen = set(self.crew.decides(lambda: [str(run.path) for run in choose()]))
        return [run for run in self.runs if str(run.path) in chosen]

    def _left(self) -> list[Run]:
        """What is still pending. A result that changed since the beginning is a new one."""
        self.pending = [
            run for run in self.pending if run.path not in self.failures and self._result(run) == self._before[run.path]
        ]
        return self.pending

    def _within_reach(self) -> list[Run]:
        """What is pending and can come from this process's folder: the shares of those who share it."""
        if self.crew is not ALONE:
            return self._left()
        here = [share for share, of in zip(self._shares, self._leaders, strict=True) if of == self._leaders[rank()]]
        paths = {run.path for share in here for run in share}
        return [run for run in self._left() if run.path in paths]

    def _groups(self, runs: Sequence[Run]) -> Iterator[list[Run]]:
        """Runs that are trained together, this process's own first: of one task and control, and not too many."""
        paths = {run.path for run in runs}
        own = rank() if self.crew is ALONE else 0
        for share in self._shares[own:] + self._shares[:own]:
            left = [run for run in share if run.path in paths]
            for control, task in dict.fromkeys((run.control, run.task) for run in left):
                of_task = [run for run in left if (run.control, run.task) == (control, task)]
                size = self.sweep.runs_at_once or len(of_task)
                yield from (of_task[i : i + size] for i in range(0, len(of_task), size))

    def _taken(self, locks: Locks, group: Sequence[Run]) -> list[Run]:
        """Those of a group that are this process's to train from now on."""
        taken = [run for run in group if locks.take(run.path)]
        while locks.taken_over:
            holder, n = locks.taken_over.popitem()
            warn(f"{holder} is gone or stands still; {n} of its runs {'are' if n > 1 else 'is'} taken over.")
        self._note_failures(locks)
        # Another process may have finished a run just before this one took its lock.
        pending = {run.path for run in self._left()}
        for run in taken:
            if run.path not in pending:
                locks.release(run.path)
        if len(taken) < len(group):
            self._say_who(locks, group, "")
        return [run for run in taken if run.path in pending]

    def _train(self, locks: Locks, workbench: Workbench, runs: Sequence[Run]) -> None:
        """Train and save runs that this process or its crew has taken."""
        from soft_prompts.save import save
        from soft_prompts.training.checkpoint import Checkpoints
        from soft_prompts.training.loop import train

        out, crew = self.sweep.out, self.crew
        bench, beside = crew.together(lambda: workbench.ready_for(runs[0]))
        checkpoints = Checkpoints(out / "runs" / "checkpoints", self.sweep.checkpoint_minutes)
        if self.sweep.force and crew.is_first:
            for run in runs:
                checkpoints.forget(run)
        if crew is not ALONE:
            self._copy_checkpoints(checkpoints, runs)
        groups = crew.decides(lambda: [[runs.index(run) for run in group] for group in checkpoints.in_step(runs)])
        for group in ([runs[i] for i in members] for members in groups):
            with CLOCK.stage("training"):
                trained = train(bench, group, self.sweep.logs, checkpoints, crew, self._ahead(group))
            for state in trained:
                saved = partial(save, state, bench, beside, self.sweep, len(group))
                crew.first_does(partial(self._finish, locks, checkpoints, state, saved))
                if state.failure:
                    self.failures[state.run.path] = state.failure

    def _ahead(self, group: Sequence[Run]) -> Ahead:
        """What this process or its crew has to train behind a group: what is left of its share, and other models, whose
        speed nobody knows yet."""
        own = {run.path for run in self._shares[rank() if self.crew is ALONE else 0]} - {run.path for run in group}
        models = list(dropwhile(lambda model: model != group[0].model, self.sweep.models))[1:]
        then = f"{len(models)} more model{'s' if len(models) > 1 else ''}" if models else ""
        return Ahead(times(group, [run for run in self._left() if run.path in own]), then)

    def _finish(self, locks: Locks, checkpoints: Checkpoints, state: TrainingState, save: Callable[[], None]) -> None:
        """Save a trained run, unless it was given up, and let go of it."""
        run = state.run
        if not locks.is_held(run.path):
            warn(f"{run} was taken over by another process, since this one stood still; its result counts.")
        elif not state.failure:
            save()
        state.log.close()
        if locks.is_held(run.path):
            checkpoints.forget(run)
        locks.release(run.path, state.failure)

    def _copy_checkpoints(self, checkpoints: Checkpoints, runs: Sequence[Run]) -> None:
        """Let a crew go on from the checkpoints of its first process, whatever folders the others have."""
        if not any(self._leaders):
            return
        wanted = self._leaders[rank()] == rank() and not self.crew.is_first
        for run in runs:
            if wanted:
                checkpoints.forget(run)
            files = sorted((checkpoints.folder / run.path).glob("*.safetensors")) if self.crew.is_first else []
            copied(checkpoints.folder, [str(path.relative_to(checkpoints.folder)) for path in files], 0, wanted)
        told(None)  # all are there

    def _exchange(self) -> None:
        """Give the finished runs of each folder to those that lack them, and failures to all."""
        if not any(self._leaders):
            return
        out, left = self.sweep.out, {run.path for run in self._left()}
        for failures in told(self._given_up()):
            self.failures |= {Path(path): why for path, why in failures.items()}
        have = told([i for i, run in enumerate(self.runs) if run.path not in left and run.path not in self.failures])
        leads = self._leaders[rank()] == rank()
        for i, run in enumerate(self.runs):
            sources = [number for number in sorted(set(self._leaders)) if i in have[number]]
            if sources and len(sources) < len(set(self._leaders)):
                files = self._files(run) if rank() == sources[0] else []
                copied(out, [str(path.relative_to(out)) for path in files], sources[0], leads and i not in have[rank()])
        told(None)  # all files are there
        self._left()

    def _files(self, run: Run) -> list[Path]:
        """All that a finished run left but its log and, last, its result."""
        result = run.result_path(self.sweep.out)
        return [run.snapshot_path(self.sweep.out), *sorted(result.parent.glob(f"{result.stem}.*.png")), result]

    def _wait(self, locks: Locks, pending: Sequence[Run]) -> None:
        """Let other processes work, for a moment."""
        self._say_who(locks, pending, "; waiting for them")
        with CLOCK.stage("waiting for other processes"):
            time.sleep(PAUSE)
        self._note_failures(locks)

    def _note_failures(self, locks: Locks) -> None:
        """Take note of the runs that other processes gave up."""
        found = ((run.path, locks.failure(run.path)) for run in self.pending)
        self.failures |= {path: failure for path, failure in found if failure}

    def _say_who(self, locks: Locks, runs: Sequence[Run], more: str) -> None:
        """Say once who is at work on runs."""
        for holder, n in locks.holders(run.path for run in runs).items():
            sentence = f"{n} run{'s are' if n > 1 else ' is'} being trained by {holder}{more}."
            if sentence not in self._said:
                self._said.add(sentence)
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
    else:
        if sweep.doublings:
            warn(
                f"more than {first.train.steps} steps may still help {model}: --doublings {sweep.doublings} allows no "
                f"more, so its curve may end too high."
            )
    sweep = replace(sweep, train=first.train)
    runs = plan(sweep, model)
    return runs, measure(sweep, runs)


def is_flat(shorter: Sequence[Result], longer: Sequence[Result]) -> bool:
    """Whether twice the steps leave the validation losses where they were, at every length and in every curve."""
    before, after = (_validation_losses(results) for results in (shorter, longer))
    gains = [before[task, 0] - loss for (task, n), loss in before.items() if n and (task, 0) in before]
    allowed = tolerance(max(gains, default=0.0))
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


if __name__ == "__main__":
    from soft_prompts.readback import command

    command()
