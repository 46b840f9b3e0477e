"""Sweep: every combination of model, prompt length and seed, trained together, one result per run, finished runs skipped."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from soft_prompts.console import fail, say, warn
from soft_prompts.distance import TOLERANCE
from soft_prompts.errors import SoftPromptsError
from soft_prompts.evaluate import Bench, Prompted, usual_budget
from soft_prompts.model import LanguageModel, load, pick_device, pick_dtype
from soft_prompts.plots import saturation_figure, save_figure, save_picture
from soft_prompts.quantise import fewest_bits
from soft_prompts.results import HeldOut, Result, baselines, provenance, save_prompt
from soft_prompts.run import Run, TrainConfig, option
from soft_prompts.summary import summarise
from soft_prompts.tables import curves, difference, print_table
from soft_prompts.task import Encoding, Task
from soft_prompts.train import Trained, train

BASELINE_EXAMPLES = 2048
"""Training documents whose token frequencies make the unigram baseline."""


@dataclass(frozen=True)
class Sweep:
    """What an experiment runs, and where its files go."""

    experiment: Annotated[str, tyro.conf.Suppress]
    task: Annotated[Task, tyro.conf.arg(name="")]
    models: tuple[str, ...]
    """Frozen models: hub names (a revision behind @, as in EleutherAI/pythia-70m-deduped@step3000) or folders."""
    n_tokens: tuple[int, ...]
    """Prompt lengths. 0 is the baseline: the model as it is."""
    seeds: tuple[int, ...] = (0,)
    """Each seed trains anew: other starting prompts, other order of documents. The held-out documents stay the same."""
    train: TrainConfig = field(default_factory=TrainConfig)
    changes: Annotated[tuple[dict[str, Any], ...], tyro.conf.Suppress] = ({},)
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
    """Positions computed in one pass, which sets the memory; no result depends on it. None: 4,096 on a CPU, which more makes
    hardly faster, 16,384 on a GPU. Halve it if memory runs out."""
    runs_at_once: int | None = None
    """Prompts trained together; their results appear when all of them are done. None: all prompts of a model."""
    trust_remote_code: bool = False
    """Let a model run Python code that comes with it."""

    def runs(self, model: str, task: Task | None = None) -> list[Run]:
        """Every combination of recipe, length and seed for one model and task (None: the sweep's own)."""
        task = task or self.task
        dtype = pick_dtype(self.dtype, pick_device(self.device))
        recipes = [replace(self.train, **change) for change in self.changes]
        combinations = product(recipes, self.n_tokens, self.seeds)
        return [Run(self.experiment, task, model, n, seed, train, dtype) for train, n, seed in combinations]

    def check(self) -> None:
        """Raises SoftPromptsError for options that cannot work, before anything is loaded."""
        self.train.check()
        for name in ("models", "n_tokens", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise SoftPromptsError(f"--{option(name)} is {values}, but needs at least one value and none twice.")
        for name, least in (("n_tokens", 0), ("seeds", 0)):
            if min(getattr(self, name)) < least:
                raise SoftPromptsError(
                    f"--{option(name)} holds {min(getattr(self, name))}, but must be at least {least}."
                )
        fixed = {"steps", "batch_size", "max_tokens", "n_evaluations", "eval_documents"}
        if shared := fixed & set().union(*self.changes):
            raise SoftPromptsError(
                f"recipes trained together share {', '.join(sorted(shared))}: change the sweep's train."
            )
        if any(count is not None and count < 1 for count in (self.token_budget, self.runs_at_once)):
            raise SoftPromptsError(
                f"--token-budget ({self.token_budget}) and --runs-at-once ({self.runs_at_once}) must be at least 1."
            )

    def result_path(self, run: Run) -> Path:
        return self.out / "results" / run.path.with_name(run.path.name + ".json")

    def snapshot_path(self, run: Run) -> Path:
        return self.out / "snapshots" / run.path.with_name(run.path.name + ".safetensors")

    def run(self) -> list[Result]:
        """Measure what has no result yet and print a table for every model."""
        self.check()
        found = []
        for model in self.models:
            found += self.measure([run for task in self.task.variants() for run in self.runs(model, task)])
        return found

    def measure(self, runs: Sequence[Run]) -> list[Result]:
        """Results of runs of one model: read where they are finished, else trained.

        The runs may differ in task, length, seed and training recipe, but not in steps, batch size or evaluation.

        Raises SoftPromptsError once all else is done if a run diverged.
        """
        pending = [run for run in runs if self.force or not self._finished(run)]
        failures = {run.path: failure for run, failure in self._train(pending) if failure} if pending else {}
        results = [Result.load(self.result_path(run)) for run in runs if run.path not in failures]
        if len(runs) > len(pending):
            say(f"{len(runs) - len(pending)} of {len(runs)} runs were finished before (--force redoes them).")
        self._show(results, runs)
        if failures:
            raise SoftPromptsError(" ".join(failures.values()))
        return results

    def _show(self, results: Sequence[Result], runs: Sequence[Run]) -> None:
        """The table, the plot and where everything is."""
        headline = runs[0].task.headline
        print_table(results, headline)
        folders = {run.path.parent for run in runs}
        where = folders.pop() if len(folders) == 1 else folders.pop().parent
        if results:
            save_figure(saturation_figure(results, headline), self.out / "results" / where / "saturation.png")
        found = curves(results)
        for curve in found:
            what = difference(curve, found)
            if summary := summarise(curve):
                say(f"{what + ': ' if what else ''}{summary}")
        say(
            f"results and a plot of them: {self.out / 'results' / where}\n"
            f"curves: tensorboard --logdir {self.out / 'runs' / where}\n"
            f"the table again: python -m soft_prompts.report {self.out / 'results' / where}"
        )

    def _finished(self, run: Run) -> bool:
        """Whether a run has a result on all of its data: what a broken connection cut short may hold out other documents."""
        path = self.result_path(run)
        return path.exists() and Result.load(path).provenance.get("data", {}).get("complete", True)

    def _train(self, runs: Sequence[Run]) -> Iterator[tuple[Run, str]]:
        """Train and save ``runs``; yields each with its failure, or ""."""
        name, revision = _split_revision(runs[0].model)
        model = load(name, revision, runs[0].dtype, self.device, self.trust_remote_code)
        check_context(model, runs)
        for task in dict.fromkeys(run.task for run in runs):
            yield from self._train_task(model, [run for run in runs if run.task == task])

    def _train_task(self, model: LanguageModel, runs: Sequence[Run]) -> Iterator[tuple[Run, str]]:
        bench = self.bench(model, runs[0])
        runs[0].task.check(bench)
        training = islice(runs[0].task.examples("train", bench.encoding, 0), BASELINE_EXAMPLES)
        trivial = baselines(list(training), bench.held_out, model.head.out_features)
        size = self.runs_at_once or len(runs)
        for group in (runs[i : i + size] for i in range(0, len(runs), size)):
            for trained in train(bench, group, self.out / "runs"):
                if not trained.failure:
                    self._save(trained, bench, trivial, len(group))
                trained.curves.close()
                yield trained.run, trained.failure

    def bench(self, model: LanguageModel, run: Run) -> Bench:
        """The held-out documents for a model. Raises SoftPromptsError where there are too few to measure anything."""
        wanted = run.train.eval_documents
        encoding = Encoding(model.tokenizer, model.separator, run.train.max_tokens, self.out / "runs" / "cache")
        held_out = list(islice(run.task.examples("held_out", encoding, 0), wanted))
        if len(held_out) < 2 or not sum(e.n_scored for e in held_out):
            raise SoftPromptsError(
                f"only {len(held_out)} held-out documents with {sum(e.n_scored for e in held_out)} scored tokens are to be "
                f"had; an interval needs 2 and a trustworthy one hundreds: give more data or a larger --train.max-tokens."
            )
        if len(held_out) < wanted:
            warn(f"{len(held_out)} held-out documents instead of {wanted}: all there are.")
        return Bench(model, encoding, held_out, self.token_budget or usual_budget(model.device))

    def _save(self, trained: Trained, bench: Bench, trivial: dict[str, float], n_together: int) -> None:
        """Snapshot first, result last: a result says that everything else is there."""
        run = trained.run
        identity = {**run.config, "n_tokens": run.n_tokens, "seed": run.seed}
        save_prompt(trained.prompt, bench.model, identity, self.snapshot_path(run))
        scored = run.task.score(Prompted(bench, trained.prompt, trained.scores), bench.held_out)
        trained.curves.samples(run.train.steps, scored.samples)
        trained.curves.scores(run.train.steps, scored.scores)
        trained.curves.pictures(run.train.steps, scored.pictures)
        trained.curves.final(run, trained.scores.loss, scored.scores)
        for name, picture in scored.pictures.items():
            save_picture(picture, self.result_path(run).with_suffix(f".{name}.png"))
        sizes = fewest_bits(bench, trained.prompt, trained.scores, TOLERANCE)
        Result(
            experiment=run.experiment,
            task=type(run.task).__name__,
            model=run.model_name,
            n_tokens=run.n_tokens,
            seed=run.seed,
            held_out=HeldOut.of(trained.scores),
            baselines=trivial,
            scores=scored.scores,
            curve=trained.curve,
            samples=scored.samples,
            sizes=[asdict(size) | {"tolerance": TOLERANCE} for size in sizes],
            config=run.config,
            provenance=provenance(bench.model, run.task.facts(bench.encoding), n_together),
            seconds=trained.seconds,
            tokens_per_second=trained.n_data_tokens / trained.seconds if trained.n_data_tokens else None,
        ).save(self.result_path(run))


def check_context(model: LanguageModel, runs: Sequence[Run]) -> None:
    """Raises SoftPromptsError if a prompt and a sequence together outgrow the model's context."""
    longest, max_tokens = max(run.n_tokens for run in runs), runs[0].train.max_tokens
    if longest + max_tokens > model.context:
        raise SoftPromptsError(
            f"a prompt of {longest} tokens and sequences of {max_tokens} need {longest + max_tokens} positions, but {model.name} has "
            f"{model.context}: use --n-tokens of at most {max(0, model.context - max_tokens)} or a smaller --train.max-tokens."
        )


def _split_revision(model: str) -> tuple[str, str]:
    name, at, revision = model.rpartition("@")
    return (name, revision) if at and not Path(model).is_dir() else (model, "main")


def main(default: Sweep, description: str, **presets: Sweep) -> None:
    """Run an experiment script: its default or the preset that the first word names, changed by the rest of the command line."""
    arguments = sys.argv[1:]
    try:
        if arguments and not arguments[0].startswith("-"):
            name = arguments.pop(0)
            if name not in presets:
                raise SoftPromptsError(
                    f"there is no preset {name!r}; known: {', '.join(presets) or 'none'}. Options begin with --."
                )
            default = presets[name]
        else:
            description += "".join(
                f"\n\nPreset: {name}, as the first word; then --help shows its options." for name in presets
            )
        tyro.cli(Sweep, default=default, description=description, args=arguments).run()
    except SoftPromptsError as error:
        fail(error)
    except KeyboardInterrupt:
        say("interrupted; finished runs are kept and will be skipped next time.")
        sys.exit(130)
