"""All that a finished run leaves: snapshot, log, pictures and, last, the result."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from soft_prompts.console import warn
from soft_prompts.data.example import IGNORE
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.options import plain
from soft_prompts.prepare import Beside, asked_for, facts, variant
from soft_prompts.probes.bits import Size, rounded_sizes
from soft_prompts.report.plots import save_picture
from soft_prompts.results.provenance import provenance
from soft_prompts.results.record import HeldOut, Result, check_behaviour
from soft_prompts.results.snapshot import Use, save_prompt
from soft_prompts.stopwatch import CLOCK
from soft_prompts.sweep import Sweep
from soft_prompts.tasks.base import Conditions, TaskScores
from soft_prompts.training.state import TrainingState


def save(state: TrainingState, bench: Bench, beside: Beside, sweep: Sweep, n_together: int) -> None:
    """Score a trained run and write all that it leaves: the result last, since it says that everything else is there.

    Args:
        state: The trained run.
        bench: The model and the held-out documents.
        beside: Data baselines and anchor on the held-out documents.
        sweep: Where files go, and whether results keep samples.
        n_together: How many runs were trained in the same forward passes.

    Raises:
        SoftPromptsError: A file cannot be written.
    """
    run, loss, result_path = state.run, state.scores.loss, state.run.result_path(sweep.out)
    identity = {**run.config, "n_tokens": run.n_tokens, "seed": run.seed}
    save_prompt(state.intervention, bench.model, identity, run.snapshot_path(sweep.out), _use(state, bench))
    with CLOCK.stage("scores"):
        behaviour, not_scored = _behaviour(state, bench, result_path, sweep.samples)
    with CLOCK.stage("bits"):
        sizes, not_rounded = _sizes(state, bench)
    state.log.final(run, loss, behaviour.scores)
    Result(
        experiment=run.experiment,
        task=type(run.task).__name__,
        model=run.model_name,
        n_tokens=run.n_tokens,
        seed=run.seed,
        held_out=HeldOut.of(state.scores),
        baselines=beside.baselines[run.seed, run.recipe.steps],
        scores=behaviour.scores,
        curve=state.curve,
        samples=behaviour.samples,
        sizes=[asdict(size) for size in sizes],
        config=run.config,
        provenance={**provenance(bench.model, facts(run, bench), n_together), **not_scored, **not_rounded},
        seconds=state.seconds,
        tokens_per_second=state.n_data_tokens / state.seconds if state.n_data_tokens else None,
        variant=variant(run),
        anchor=beside.anchor,
        prequential=_prequential(state),
    ).save(result_path)


def _use(state: TrainingState, bench: Bench) -> Use:
    """What a snapshot must tell so that its prompt can be used without the task."""
    n_conditions = len(bench.held_out[0].condition)
    as_they_are = Conditions(tuple(f"condition {i + 1}" for i in range(n_conditions))) if n_conditions else None
    conditions = state.run.task.conditions or as_they_are
    places = {e.insert_at for e in bench.held_out}
    # Behind a text, what is scored follows at once.
    ends = all(e.insert_at == len(e) or e.labels[e.insert_at] != IGNORE for e in bench.held_out)
    elsewhere = "text" if ends else "within"
    behind = {0: "nothing", 1: "separator"}.get(max(places), elsewhere) if len(places) == 1 else elsewhere
    return Use(bench.model.separator, behind, asdict(conditions) if conditions else None)


def _prequential(state: TrainingState) -> dict[str, float] | None:
    """What the training documents cost before and after, if it was counted."""
    if state.nats_after is None:
        return None
    n_documents = state.last_step * state.run.recipe.batch_size
    return {"documents": n_documents, "nats_before": float(state.nats_before), "nats_after": state.nats_after}


def _behaviour(
    state: TrainingState, bench: Bench, result_path: Path, with_samples: bool
) -> tuple[TaskScores, dict[str, str]]:
    """What the task measures beside the loss, logged; nothing of a control, which is there for its loss.

    Whatever goes wrong in a task, the trained prompt and its loss are kept.

    Returns:
        The scores; and, if there are none because something went wrong, "not_scored": why.
    """
    run, steps = state.run, state.last_step
    if not asked_for(run):
        return TaskScores({}, []), {}
    try:
        scored = run.task.score(PromptedModel(bench, state.intervention, state.scores), bench.held_out)
        if not with_samples:
            scored = TaskScores(scored.scores, [])
        scores, samples = plain(scored.scores, "a score"), plain(scored.samples, "a sample")
        check_behaviour(scores, samples)
        for name, picture in scored.pictures.items():
            save_picture(picture, result_path.with_suffix(f".{name}.png"))
        state.log.samples(steps, samples)  # of what can be saved only: a log is not to be blamed for a task
        state.log.scores(steps, scores)
        state.log.pictures(steps, scored.pictures)
    except Exception as error:  # of any kind: a task may be anybody's code
        reason = f"{type(error).__name__}: {error}"
        warn(f"{run} is saved without scores, because {type(run.task).__name__}.score failed ({reason}).")
        return TaskScores({}, []), {"not_scored": reason}
    return TaskScores(scores, samples, scored.pictures), {}


def _sizes(state: TrainingState, bench: Bench) -> tuple[list[Size], dict[str, str]]:
    """What the prompt is worth with its numbers rounded; nothing of a control.

    Whatever goes wrong, the trained prompt and its loss are kept.

    Returns:
        The sizes; and, if there are none because something went wrong, "not_rounded": why.
    """
    if not asked_for(state.run):
        return [], {}
    try:
        return rounded_sizes(bench, state.intervention, state.scores, state.curve[-1]["loss"]), {}
    except Exception as error:  # of any kind, such as a device's own
        reason = f"{type(error).__name__}: {error}"
        warn(f"{state.run} is saved without its bits, because rounding its prompt failed ({reason}).")
        return [], {"not_rounded": reason}
