"""The command line of every experiment: presets, options, and what is shown at the end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from soft_prompts.console import ends_in_a_sentence, interrupts_end_in_a_sentence, say, warn
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import FINGERPRINTS, check_writable
from soft_prompts.measure import Measured, measure_until_flat
from soft_prompts.models.names import SMOLLM2
from soft_prompts.processes import connected, rank
from soft_prompts.results.record import Result
from soft_prompts.stopwatch import CLOCK, in_words
from soft_prompts.sweep import Sweep
from soft_prompts.tasks.base import Task
from soft_prompts.training.recipe import RECIPES
from soft_prompts.training.run import Run

SETTINGS = {"GOMP_SPINCOUNT": "10000", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
"""What the libraries below torch are told, unless the user has told them otherwise. A waiting thread looks so often
before it sleeps: by the default it burns the cores that other processes need, and then this one waits for them. And so
many kernels are kept for the shapes of passes: by the defaults memory grows for hours, since texts differ in length."""


Options = TypeVar("Options")
"""A Sweep or, in an experiment that trains nothing, another frozen dataclass of options."""


def main(default: Sweep, description: str, **presets: Sweep) -> None:
    """Run an experiment script.

    Args:
        default: What runs without arguments.
        description: The script's docstring, for --help.
        presets: Other sweeps by name; "_" is written "-". The first word of the command line may name one; options
            then change it.
    """
    command(run, default, description, presets)


def command(
    work: Callable[[Options], object], default: Options, description: str, presets: Mapping[str, Options]
) -> None:
    """Do what a command line asks for.

    Args:
        work: Does it, given the options.
        default, description, presets: As in ``main``.
    """
    interrupts_end_in_a_sentence()
    settle_libraries()
    with ends_in_a_sentence():
        by_name = {name.replace("_", "-"): preset for name, preset in presets.items()}
        work(parse(default, description, by_name, sys.argv[1:]))


def settle_libraries() -> None:
    """Set what the libraries read once, when torch is loaded; so before that."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def parse(default: Options, description: str, presets: Mapping[str, Options], arguments: Sequence[str]) -> Options:
    """The options that a command line asks for.

    Raises:
        SoftPromptsError: The first word names no preset, or --recipe no recipe.
    """
    import tyro

    trains = isinstance(default, Sweep)
    arguments, recipe = _without_recipe(arguments) if trains else (list(arguments), "")
    if arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        if name not in presets:
            raise SoftPromptsError(
                f"there is no preset {name!r}; known: {', '.join(presets) or 'none'}. Options begin with --."
            )
        default = presets[name]
    else:
        for name in presets:
            description += f"\n\nPreset: {name}, as the first word; then --help shows its options."
    if trains:
        description += (
            f"\n\nRecipes: --recipe {', '.join(RECIPES)}: where the --train options for optimiser and start begin."
        )
        default = replace(default, train=replace(default.train, **RECIPES[recipe]))
    return tyro.cli(type(default), prog=_command(), default=default, description=description, args=arguments)


def _without_recipe(arguments: Sequence[str]) -> tuple[list[str], str]:
    """A command line without --recipe NAME, and the name. It decides where the other options begin, so it comes first.

    Raises:
        SoftPromptsError: There is no such recipe.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", nargs="?", default="default")
    found, others = parser.parse_known_args(arguments)
    if found.recipe not in RECIPES:
        raise SoftPromptsError(f"--recipe is {found.recipe!r}, but must be one of {', '.join(RECIPES)}.")
    return others, found.recipe


def _command() -> str | None:
    """How the running script was called, for the usage line: python -m tests.chess_test."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else None


def run(sweep: Sweep) -> list[Result]:
    """Measure what has no result yet, and show a table, a plot and the distances of every model.

    Raises:
        SoftPromptsError: Options cannot work, something cannot be loaded, or a run diverged (then once all else is
            done).
    """
    sweep.check()
    check_writable([sweep.out / name for name in ("results", "runs", "snapshots")])
    FINGERPRINTS.folder = sweep.out / "runs" / "cache"
    from soft_prompts.models.cpu import settle_process
    from soft_prompts.models.device import pick_device

    settle_process(pick_device(sweep.device))
    with connected():
        results, failures = _measured(sweep)
    if results:
        say(f"time: {in_words(CLOCK.read())}")
    if failures and not rank():
        raise SoftPromptsError(" ".join(dict.fromkeys(failures)))  # what all models share is said once
    return results


def _measured(sweep: Sweep) -> tuple[list[Result], list[str]]:
    """Results of all models, shown one model after another by the first process; and what went wrong."""
    results, failures = [], []
    for model in sweep.models:
        try:
            runs, measured = measure_until_flat(sweep, model)
        except SoftPromptsError as error:  # the models behind it are measured all the same
            failures.append(str(error))
            if rank():  # the first process may know nothing of it
                warn(str(error))
            continue
        measured = _probed(sweep, runs, measured)
        results += measured.results
        failures += measured.failures
        if measured.results and not rank():
            with CLOCK.stage("report"):
                show(sweep, runs, measured.results)
    return results, failures


def _probed(sweep: Sweep, runs: Sequence[Run], measured: Measured) -> Measured:
    """What became of the runs, with what --probes asks for; the first process measures it."""
    if not sweep.probes or rank():
        return measured
    from soft_prompts.probing import probe

    known = {result.identity for result in measured.results}  # the old result of a run that was given up is not
    paths = {run: run.result_path(sweep.out) for run in runs}
    finished = [run for run, path in paths.items() if path.exists() and Result.load(path).identity in known]
    probe(sweep, finished)
    return Measured([Result.load(paths[run]) for run in finished], measured.failures)


def show(sweep: Sweep, runs: Sequence[Run], results: Sequence[Result]) -> None:
    """The table, the plot, what the curves say, and where everything lies."""
    from soft_prompts.report.plots import saturation_figure, save_figure
    from soft_prompts.report.tables import print_table
    from soft_prompts.results.curve import curves, without_controls, without_random_targets
    from soft_prompts.results.summary import summarise

    everything, headline = curves(results), sweep.task.headline
    of_runs = without_controls(everything)
    print_table(of_runs, headline)
    folders = {run.path.parent for run in runs}
    place = folders.pop() if len(folders) == 1 else folders.pop().parent  # of several variants: the folder above
    save_figure(saturation_figure(of_runs, headline), sweep.out / "results" / place / "saturation.png")
    for curve in without_random_targets(of_runs):
        if summary := summarise(curve, everything):
            say(f"{curve.difference + ': ' if curve.difference else ''}{summary}")
    say(
        f"results and a plot of them: {sweep.out / 'results' / place}\n"
        f"{sweep.logs.shown(place)}"
        f"the table again: python -m soft_prompts.report {sweep.out / 'results' / place}"
    )


def on_pocket(published: Sweep, task: Task, **train: float) -> Sweep:
    """An experiment on the model that ships: a few minutes on two processor cores.

    Args:
        published: The experiment with published settings.
        task: Its task on data that ship.
        train: Further changes to its recipe.
    """
    # All but training takes time by the document: so many keep it below a fifth, and enough for intervals.
    small = {"steps": 100, "batch_size": 8, "n_evaluations": 1, "eval_documents": 64, "validation_documents": 32}
    # A model this small gains little by bfloat16, and its results are the same everywhere.
    return _short(published, task, "pocket", "float32", {**small, **train})


def probed(sweep: Sweep, probe: Literal["fragility", "retrodiction"], **task: object) -> Sweep:
    """An experiment whose prompts are probed. Controls have no part in that.

    Args:
        sweep: The experiment.
        probe: What is measured on its prompts.
        task: Changes to its task.
    """
    changed = replace(sweep.task, **task)
    return replace(sweep, experiment=f"{probe}_{sweep.experiment}", task=changed, controls=(), probes=(probe,))


def on_smollm2(published: Sweep, task: Task, **train: int) -> Sweep:
    """An experiment on a real pretrained model, which a package brings: minutes on two processor cores.

    Args:
        published: The experiment with published settings.
        task: Its task on data that ship.
        train: Further changes to its recipe.
    """
    # A document is costly in every way, and training must be most of it.
    small = {"steps": 100, "batch_size": 4, "n_evaluations": 1, "eval_documents": 32, "validation_documents": 8}
    in_bfloat16 = _short(published, task, SMOLLM2, "bfloat16", {**small, **train})  # twice as fast as float32
    return replace(in_bfloat16, seeds=(0,))


def _short(published: Sweep, task: Task, model: str, dtype: str, train: dict[str, float]) -> Sweep:
    """An experiment with few, short prompts and short texts."""
    recipe = replace(published.train, **{"max_tokens": 128, **train})
    return replace(published, task=task, models=(model,), n_tokens=(0, 1, 4, 16), train=recipe, dtype=dtype)


def in_full(pocket: Sweep, **train: int) -> Sweep:
    """The same with longer prompts, more documents, all controls, and as many steps as help, up to eight times as many:
    hours.

    Args:
        pocket: The short experiment.
        train: Further changes to its recipe.
    """
    documents = {"n_evaluations": 2, "eval_documents": 200, "validation_documents": 128}
    recipe = replace(pocket.train, **{**documents, **train})
    controls = ("scrambled", "untrained", "permuted")
    return replace(pocket, n_tokens=(0, 1, 4, 16, 64), controls=controls, doublings=3, train=recipe)
