"""Sweep: every combination of model, task, recipe, prompt length and seed. Plan the runs, measure them, save the
results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from soft_prompts.console import say, warn
from soft_prompts.data.documents import Encoding
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.names import split_revision
from soft_prompts.options import option, recorded
from soft_prompts.results.record import HeldOut, Result
from soft_prompts.tasks.base import Task, TaskScores
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run

# What brings torch is imported in the functions that need it: --help and a wrong option must not wait for it.
if TYPE_CHECKING:
    from soft_prompts.models.language_model import LanguageModel
    from soft_prompts.training.state import TrainingState

BIT_TOLERANCE = 0.01
"""Nats per token by which rounding a prompt may raise its loss."""
SHARED = {"steps", "batch_size", "max_tokens", "n_evaluations", "eval_documents"}
"""What recipes that are trained together must have in common."""


@dataclass(frozen=True)
class Sweep:
    """What an experiment runs, and where its files go."""

    experiment: Annotated[str, tyro.conf.Suppress]
    task: Annotated[Task, tyro.conf.arg(name="")]
    models: tuple[str, ...]
    """Frozen models: hub names (a revision behind @, as in EleutherAI/pythia-70m-deduped@step3000) or folders."""
    n_tokens: tuple[int, ...]
    """Prompt lengths. 0 is the baseline: the model as it is."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed trains anew: other starting prompts, other order of documents. The held-out documents stay the same."""
    controls: tuple[Literal["scrambled", "untrained"], ...] = ("scrambled",)
    """Models that know nothing, measured beside each model with the same documents, seeds and steps: its weights
    permuted within each matrix, or initialised anew. What they reach, a prompt alone can teach."""
    train: TrainConfig = field(default_factory=TrainConfig)
    recipes: Annotated[tuple[dict[str, Any], ...], tyro.conf.Suppress] = ({},)
    """Training recipes to compare, as changes to ``train``; steps, batch size and evaluation must stay the same."""
    out: Path = Path(".")
    """Folder under which results/, runs/ and snapshots/ are made."""
    force: bool = False
    """Redo runs that already have a result."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen model; prompts are always float32. auto: bfloat16 on a GPU that has it."""
    device: str = "auto"
    """auto (the GPU if there is one), cpu, cuda, cuda:1 ..."""
    token_budget: int | None = None
    """Positions computed in one forward pass, which sets the memory; no result depends on it. None: 4,096 on a CPU,
    where more is hardly faster, 16,384 on a GPU. Halve it if memory runs out."""
    runs_at_once: int | None = None
    """Prompts trained together; their results appear when all of them are done. None: all prompts of a model."""
    trust_remote_code: bool = False
    """Let a model run Python code that comes with it."""

    def check(self) -> None:
        """Refuse options that cannot work, before anything is loaded.

        Raises:
            SoftPromptsError: What is wrong, with the value.
        """
        self.train.check()
        for name in ("models", "n_tokens", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise SoftPromptsError(f"--{option(name)} is {values}, but needs at least one value and none twice.")
        for name in ("n_tokens", "seeds"):
            if min(getattr(self, name)) < 0:
                raise SoftPromptsError(f"--{option(name)} holds {min(getattr(self, name))}, but must be at least 0.")
        if changed := SHARED & set().union(*self.recipes):
            raise SoftPromptsError(
                f"recipes trained together share {', '.join(sorted(changed))}: change the sweep's train."
            )
        if len(set(self.controls)) < len(self.controls):
            raise SoftPromptsError(f"--controls is {self.controls}, but must name none twice.")
        if any(count is not None and count < 1 for count in (self.token_budget, self.runs_at_once)):
            raise SoftPromptsError(
                f"--token-budget ({self.token_budget}) and --runs-at-once ({self.runs_at_once}) must be at least 1."
            )


def plan(sweep: Sweep, model: str) -> list[Run]:
    """All runs of one model and its controls: every combination of task variant, recipe, length and seed."""
    from soft_prompts.models.device import pick_device, pick_dtype

    dtype = pick_dtype(sweep.dtype, pick_device(sweep.device))
    recipes = [replace(sweep.train, **changes) for changes in sweep.recipes]
    # Without tokens nothing is trained, so one seed stands for all.
    lengths = [(n, seed) for n in sweep.n_tokens for seed in (sweep.seeds if n else sweep.seeds[:1])]
    combinations = product(("", *sweep.controls), sweep.task.variants(), recipes, lengths)
    return [
        Run(sweep.experiment, task, model, n, seed, train, dtype, control)
        for control, task, train, (n, seed) in combinations
    ]


@dataclass(frozen=True)
class Measured:
    """What became of the runs of one model."""

    results: list[Result]
    """Of all runs that have one."""
    failures: list[str]
    """Why the others have none, in sentences."""


def measure(sweep: Sweep, runs: Sequence[Run]) -> Measured:
    """Results of runs of one model and its controls: read if they are finished, else trained and saved.

    Args:
        sweep: Where files go, and how much is done at once.
        runs: What is measured. They may differ in task, length, seed and recipe, but not in steps, batch size or
            evaluation.

    Raises:
        SoftPromptsError: The model or the data cannot be loaded, or there is too little of it.
    """
    pending = [run for run in runs if sweep.force or not finished(run, sweep.out)]
    failures = {run.path: failure for run, failure in _train(sweep, pending) if failure} if pending else {}
    if len(runs) > len(pending):
        say(f"{len(runs) - len(pending)} of {len(runs)} runs were finished before (--force redoes them).")
    results = [Result.load(run.result_path(sweep.out)) for run in runs if run.path not in failures]
    return Measured(results, list(failures.values()))


def finished(run: Run, out: Path) -> bool:
    """Whether a run has a result on all of its data: what a broken connection cut short may hold out other
    documents."""
    path = run.result_path(out)
    return path.exists() and Result.load(path).provenance.get("data", {}).get("complete", True)


def _train(sweep: Sweep, runs: Sequence[Run]) -> Iterator[tuple[Run, str]]:
    """Train and save runs of one model and its controls; yields each with its failure, or ""."""
    from soft_prompts.models.controls import control_of
    from soft_prompts.models.loading import load

    name, revision = split_revision(runs[0].model)
    model = load(name, revision, runs[0].dtype, sweep.device, sweep.trust_remote_code)
    check_context(model, runs)
    for control, task in dict.fromkeys((run.control, run.task) for run in runs):
        measured = control_of(model, control) if control else model
        yield from _train_task(sweep, measured, [run for run in runs if (run.control, run.task) == (control, task)])


def _train_task(sweep: Sweep, model: LanguageModel, runs: Sequence[Run]) -> Iterator[tuple[Run, str]]:
    from soft_prompts.training.loop import train

    bench = make_bench(sweep, model, runs[0])
    if not runs[0].control:
        runs[0].task.check(bench)
    beside = Beside.of(bench, runs)
    size = sweep.runs_at_once or len(runs)
    for group in (runs[i : i + size] for i in range(0, len(runs), size)):
        for state in train(bench, group, sweep.out / "runs"):
            if not state.failure:
                save(state, bench, beside, sweep.out, len(group))
            state.log.close()
            yield state.run, state.failure


@dataclass(frozen=True)
class Beside:
    """What stands beside the losses of a task's runs, on the same held-out documents."""

    baselines: dict[int, dict[str, dict[str, Any]]]
    """Seed -> data baselines, counted on exactly the documents that the seed's prompts are trained on."""
    anchor: dict[str, Any] | None
    """What is known to bring the behaviour out, if the task names something."""

    @classmethod
    def of(cls, bench: Bench, runs: Sequence[Run]) -> Beside:
        """Measure it."""
        from soft_prompts.engine.baselines import data_baselines

        run, counts = runs[0], [e.n_scored for e in bench.held_out]
        baselines = {}
        for seed in dict.fromkeys(r.seed for r in runs):
            stream = run.task.examples("train", bench.encoding, seed)
            training = list(islice(stream, max(1, run.train.steps) * run.train.batch_size))
            measured = data_baselines(training, bench.held_out, bench.model.head.out_features)
            baselines[seed] = {b.name: _losses(b.losses, counts) for b in measured}
        anchor = None if run.control else run.task.anchor(bench)
        named = {"name": anchor[0], **_losses(anchor[1].sums, counts)} if anchor else None
        return cls(baselines, named)


def _losses(sums: np.ndarray, counts: Sequence[int]) -> dict[str, Any]:
    """Losses by document as results record them."""
    return {"loss": float(sum(sums) / sum(counts)), "document_losses": [float(x) for x in sums]}


def make_bench(sweep: Sweep, model: LanguageModel, run: Run) -> Bench:
    """The held-out documents of a run's task, tokenised for a model.

    Raises:
        SoftPromptsError: There are too few to measure anything.
    """
    from soft_prompts.engine.forward import usual_budget

    wanted = run.train.eval_documents
    encoding = Encoding(model.tokenizer, model.separator, run.train.max_tokens, sweep.out / "runs" / "cache")
    held_out = list(islice(run.task.examples("held_out", encoding, 0), wanted))
    n_scored = sum(e.n_scored for e in held_out)
    if len(held_out) < 2 or not n_scored:
        raise SoftPromptsError(
            f"there are only {len(held_out)} held-out documents with {n_scored} scored tokens; an interval needs 2 and "
            f"a trustworthy one hundreds: give more data or a larger --train.max-tokens."
        )
    if len(held_out) < wanted:
        warn(f"{len(held_out)} held-out documents instead of {wanted}: all there are.")
    return Bench(model, encoding, held_out, sweep.token_budget or usual_budget(model.device))


def save(state: TrainingState, bench: Bench, beside: Beside, out: Path, n_together: int) -> None:
    """Score a trained run and write all that it leaves: the result last, since it says that everything else is there.

    Args:
        state: The trained run.
        bench: The model and the held-out documents.
        beside: Data baselines and anchor on the held-out documents.
        out: The folder above results/ and snapshots/.
        n_together: How many runs were trained in the same forward passes.

    Raises:
        SoftPromptsError: A file cannot be written.
    """
    from soft_prompts.probes.bits import fewest_bits
    from soft_prompts.report.plots import save_picture
    from soft_prompts.results.provenance import provenance
    from soft_prompts.results.snapshot import save_prompt

    run, loss, result_path = state.run, state.scores.loss, state.run.result_path(out)
    identity = {**run.config, "n_tokens": run.n_tokens, "seed": run.seed}
    save_prompt(state.intervention, bench.model, identity, run.snapshot_path(out))
    behaviour = _behaviour(state, bench)
    state.log.samples(run.train.steps, behaviour.samples)
    state.log.scores(run.train.steps, behaviour.scores)
    state.log.pictures(run.train.steps, behaviour.pictures)
    state.log.final(run, loss, behaviour.scores)
    for name, picture in behaviour.pictures.items():
        save_picture(picture, result_path.with_suffix(f".{name}.png"))
    sizes = [] if run.control else fewest_bits(bench, state.intervention, state.scores, BIT_TOLERANCE)
    Result(
        experiment=run.experiment,
        task=type(run.task).__name__,
        model=run.model_name,
        n_tokens=run.n_tokens,
        seed=run.seed,
        held_out=HeldOut.of(state.scores),
        baselines=beside.baselines[run.seed],
        scores=behaviour.scores,
        curve=state.curve,
        samples=behaviour.samples,
        sizes=[asdict(size) | {"tolerance": BIT_TOLERANCE} for size in sizes],
        config=run.config,
        provenance=provenance(bench.model, run.task.facts(bench.encoding), n_together),
        seconds=state.seconds,
        tokens_per_second=state.n_data_tokens / state.seconds if state.n_data_tokens else None,
        variant=recorded(run.task.variant()),
        anchor=beside.anchor,
    ).save(result_path)


def _behaviour(state: TrainingState, bench: Bench) -> TaskScores:
    """What the task measures beside the loss; nothing of a control, which is there for its loss."""
    if state.run.control:
        return TaskScores({}, [])
    return state.run.task.score(PromptedModel(bench, state.intervention, state.scores), bench.held_out)


def check_context(model: LanguageModel, runs: Sequence[Run]) -> None:
    """Refuse prompts that outgrow the model's context together with a sequence.

    Raises:
        SoftPromptsError: With the numbers.
    """
    longest, max_tokens = max(run.n_tokens for run in runs), runs[0].train.max_tokens
    if longest + max_tokens > model.context:
        raise SoftPromptsError(
            f"a prompt of {longest} tokens and sequences of {max_tokens} need {longest + max_tokens} positions, but "
            f"{model.name} has {model.context}: use --n-tokens of at most {max(0, model.context - max_tokens)} or a "
            f"smaller --train.max-tokens."
        )
