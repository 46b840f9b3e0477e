"""Probes of finished runs: what --probes asks for is measured on their snapshots and added to their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from soft_prompts.console import say, warn
from soft_prompts.engine.prompted import Bench
from soft_prompts.hard.retrodiction import retrodiction
from soft_prompts.interventions.base import Intervention
from soft_prompts.prepare import asked_for, load_model, make_bench, with_separator
from soft_prompts.probes.fragility import fragility
from soft_prompts.results.record import Result
from soft_prompts.results.snapshot import load_prompt
from soft_prompts.stopwatch import CLOCK
from soft_prompts.sweep import Sweep
from soft_prompts.training.loop import accumulate_gradients
from soft_prompts.training.run import Run


def probe(sweep: Sweep, runs: Sequence[Run]) -> None:
    """Measure all finished prompts of one model that were not measured yet. Controls have no part in that.

    A run without a snapshot, as results of others come, is left out, and it is said.

    Args:
        sweep: What is measured, how the model is loaded, and where the files are.
        runs: The runs of one model.

    Raises:
        SoftPromptsError: The model, the data or a result cannot be read.
    """
    due = [run for run in runs if run.n_tokens and asked_for(run) and _lacking(run, sweep)]
    lost = [run for run in due if not run.snapshot_path(sweep.out).exists()]
    if lost:
        what = " and ".join(sweep.probes)
        warn(
            f"the {what} of {len(lost)} finished prompt{'s' * (len(lost) > 1)} is not measured, as there is no "
            f"snapshot below {sweep.out / 'snapshots'} (such as that of {lost[0]}); --force trains again."
        )
    due = [run for run in due if run not in lost]
    if not due:
        return
    model = load_model(sweep, due[0])
    for _, of_task in groupby(due, key=lambda run: (run.task, run.separator)):
        of_task = list(of_task)
        bench = make_bench(sweep, with_separator(sweep, model, of_task[0]), of_task[0])
        for i, run in enumerate(of_task):
            say(f"probing {run} ({i + 1} of {len(of_task)})")
            for name in _lacking(run, sweep):
                with CLOCK.stage(name):
                    try:
                        _add(sweep, run, bench, name)
                    except Exception as error:  # of any kind, such as a device's own: the other prompts are probed
                        warn(f"the {name} of {run} is not measured ({type(error).__name__}: {error}).")


def _lacking(run: Run, sweep: Sweep) -> list[str]:
    """The probes that a finished run's result does not hold yet."""
    path = run.result_path(sweep.out)
    if not path.exists():
        return []
    result = Result.load(path)
    return [name for name in sweep.probes if getattr(result, name) is None]


def _add(sweep: Sweep, run: Run, bench: Bench, name: str) -> None:
    """Measure a run's prompt and write its result again."""
    prompt = load_prompt(run.snapshot_path(sweep.out), bench.model)
    path = run.result_path(sweep.out)
    replace(Result.load(path), **{name: PROBES[name](bench, prompt, run)}).save(path)


def _fragility(bench: Bench, prompt: Intervention, run: Run) -> dict[str, Any] | None:
    def give_gradients(moved, documents) -> None:
        accumulate_gradients(bench.model, run.target, moved, [documents] * len(moved), bench.token_budget)

    return fragility(bench, prompt, give_gradients)


def _retrodiction(bench: Bench, prompt: Intervention, run: Run) -> dict[str, Any] | None:
    return retrodiction(bench, prompt, run.target)


PROBES: dict[str, Callable[[Bench, Intervention, Run], dict[str, Any] | None]] = {
    "fragility": _fragility,
    "retrodiction": _retrodiction,
}
"""What is measured by its name, which is also that of the result's field."""
