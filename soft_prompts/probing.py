"""Probes of finished runs: what --probes asks for is measured on their snapshots and added to their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from soft_prompts.console import say, warn
from soft_prompts.engine.prompted import Bench
from soft_prompts.prepare import asked_for, load_model, make_bench, with_separator
from soft_prompts.probes.fragility import fragility
from soft_prompts.results.record import Result
from soft_prompts.results.snapshot import load_prompt
from soft_prompts.stopwatch import CLOCK
from soft_prompts.sweep import Sweep
from soft_prompts.training.loop import accumulate_gradients
from soft_prompts.training.run import Run


def probe(sweep: Sweep, runs: Sequence[Run]) -> None:
    """Measure the fragility of all finished prompts of one model that have none yet. Controls have none.

    A run without a snapshot, as results of others come, is left out, and it is said.

    Args:
        sweep: How the model is loaded, and where the files are.
        runs: The runs of one model.

    Raises:
        SoftPromptsError: The model, the data or a result cannot be read.
    """
    due = [run for run in runs if run.n_tokens and asked_for(run) and _is_due(run, sweep)]
    lost = [run for run in due if not run.snapshot_path(sweep.out).exists()]
    if lost:
        warn(
            f"the fragility of {len(lost)} finished prompt{'s' * (len(lost) > 1)} is not measured, as there is no "
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
            with CLOCK.stage("fragility"):
                try:
                    _add(sweep, run, bench)
                except Exception as error:  # of any kind, such as a device's own: the other prompts are probed
                    warn(f"the fragility of {run} is not measured ({type(error).__name__}: {error}).")


def _is_due(run: Run, sweep: Sweep) -> bool:
    path = run.result_path(sweep.out)
    return path.exists() and Result.load(path).fragility is None


def _add(sweep: Sweep, run: Run, bench: Bench) -> None:
    """Measure a run's prompt and write its result again."""

    def give_gradients(moved, documents) -> None:
        accumulate_gradients(bench.model, run.target, moved, [documents] * len(moved), bench.token_budget)

    prompt = load_prompt(run.snapshot_path(sweep.out), bench.model)
    path = run.result_path(sweep.out)
    replace(Result.load(path), fragility=fragility(bench, prompt, give_gradients)).save(path)
