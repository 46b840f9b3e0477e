"""What runs need before they are trained: the model, the token that opens texts, documents, and what stands beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from soft_prompts.console import warn
from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import Example
from soft_prompts.engine.baselines import data_baselines
from soft_prompts.engine.forward import usual_budget
from soft_prompts.engine.prompted import Bench
from soft_prompts.engine.separator import best_separator, losses_behind, token_of
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.controls import control_of
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load
from soft_prompts.models.names import split_revision
from soft_prompts.options import plain, recorded
from soft_prompts.results.record import Result
from soft_prompts.stopwatch import CLOCK
from soft_prompts.sweep import Sweep
from soft_prompts.tasks.base import Task
from soft_prompts.training.anchors import anchor_of
from soft_prompts.training.run import Run

DECIMALS = 4
"""Of the data baselines' nats by document. They stand in every result, so their digits are most of its size."""
TRIED = 8
"""Training documents on which the token that opens texts is chosen."""


class Workbench:
    """The frozen model of some runs and, for one task after another, what its runs are measured with and beside."""

    def __init__(self, sweep: Sweep, runs: Sequence[Run]):
        """Load the model.

        Args:
            sweep: How it is loaded, and where files go.
            runs: All that may be trained, of one model and its controls.

        Raises:
            SoftPromptsError: It cannot be loaded, or its context is too short.
        """
        self.model = load_model(sweep, runs[0])
        check_context(self.model, runs)
        self._sweep, self._runs = sweep, runs
        self._begun: dict[Task, LanguageModel] = {}  # controls read the same texts as the model, behind the same token
        self._latest: tuple[tuple[str, Task], Bench, Beside] | None = None

    def ready_for(self, run: Run) -> tuple[Bench, Beside]:
        """What a run's task and control need. The one asked for last is kept.

        Raises:
            SoftPromptsError: There is too little data, or what the task says of it cannot be recorded.
        """
        key = run.control, run.task
        if self._latest is None or self._latest[0] != key:
            self._latest = None  # a control is as large as the model: one at a time
            self._latest = key, *self._made_ready([r for r in self._runs if (r.control, r.task) == key])
        return self._latest[1:]

    def _made_ready(self, runs: Sequence[Run]) -> tuple[Bench, Beside]:
        run = runs[0]
        if run.task not in self._begun:
            self._begun[run.task] = with_separator(self._sweep, self.model, run)
        model = self._begun[run.task]
        if run.control in ("scrambled", "untrained"):
            model = control_of(model, run.control)
        with CLOCK.stage("data"):
            bench = make_bench(self._sweep, model, run)
            facts(run, bench), variant(run)  # what cannot be saved is said before training
            if not run.control:
                run.task.check(bench, max(r.n_tokens for r in runs))
        with CLOCK.stage("baselines"):
            return bench, Beside.of(bench, runs, None if self._sweep.force else measured_anchor(run, self._sweep.out))


def load_model(sweep: Sweep, run: Run) -> LanguageModel:
    """A run's model, frozen.

    Raises:
        SoftPromptsError: It cannot be loaded.
    """
    name, revision = split_revision(run.model)
    with CLOCK.stage("loading"):
        return load(name, revision, run.dtype, sweep.device, sweep.trust_remote_code, sweep.device_map)


def with_separator(sweep: Sweep, model: LanguageModel, run: Run) -> LanguageModel:
    """The model with the token that opens its texts: the one that is asked for, or the best of its special tokens.

    Raises:
        SoftPromptsError: There is no token of this name.
    """
    if run.separator:
        return replace(model, separator=token_of(model, run.separator))
    cache = sweep.out / "runs" / "cache"

    def examples_behind(token: int) -> list[Example]:
        encoding = Encoding(model.tokenizer, token, run.recipe.max_tokens, cache)
        return list(islice(run.task.examples("train", encoding, 0), TRIED))

    losses = losses_behind(model, examples_behind, sweep.token_budget or usual_budget(model.device))
    best = best_separator(model.separator, losses)
    if best != model.separator:
        own, better = (f"{model.tokenizer.decode([i])!r} ({losses[i]:.2f} nats)" for i in (model.separator, best))
        warn(f"texts open with {better} and not {own}, by {TRIED} training documents; --separator sets it.")
    return replace(model, separator=best)


@dataclass(frozen=True)
class Beside:
    """What stands beside the losses of a task's runs, on the same held-out documents."""

    baselines: dict[tuple[int, int], dict[str, dict[str, Any]]]
    """Seed and steps -> data baselines, counted on exactly the documents that the seed's prompts are trained on in so
    many steps."""
    anchor: dict[str, Any] | None
    """What is known to bring the behaviour out, if the task names something."""

    @classmethod
    def of(cls, bench: Bench, runs: Sequence[Run], anchor: dict[str, Any] | None = None) -> Beside:
        """Measure it; an anchor that is known already is not measured again."""
        run, baselines = runs[0], {}
        for seed, steps in dict.fromkeys((r.seed, r.recipe.steps) for r in runs):
            stream = run.target.examples("train", bench.encoding, seed)
            training = list(islice(stream, max(1, steps) * run.recipe.batch_size))
            n, wanted = len(bench.held_out), [*bench.held_out, *bench.validation]
            measured = data_baselines(training, wanted, bench.model.head.out_features)
            baselines[seed, steps] = {
                b.name: {
                    "loss": float(b.losses[:n].sum() / b.counts[:n].sum()),
                    "document_losses": b.losses[:n].round(DECIMALS).tolist(),
                    "validation_loss": float(b.losses[n:].sum() / b.counts[n:].sum()),
                }
                for b in measured
            }
        if anchor or not asked_for(run):
            return cls(baselines, anchor)
        with CLOCK.stage("anchor"):
            return cls(baselines, _anchor(run, bench))


def measured_anchor(run: Run, out: Path) -> dict[str, Any] | None:
    """The anchor of finished runs of the same curve, if there are any.

    Each point of a curve is measured beside one anchor. To train a LoRA again for a seed that is added would take time,
    and give another one.

    Args:
        run: One of the curve.
        out: The folder above results/.
    """
    for path in sorted(run.result_path(out).parent.glob("tokens-*.json")):
        result = Result.load(path)
        if result.anchor and result.provenance.get("data", {}).get("complete", True):
            return result.anchor
    return None


def _anchor(run: Run, bench: Bench) -> dict[str, Any] | None:
    """A run's anchor as results record it."""
    measured = anchor_of(run, bench)
    held_out, validation = measured(bench), measured(bench.for_choices)
    if held_out is None or validation is None:
        return None
    tried = {"tried": held_out.tried} if held_out.tried else {}
    return {
        "name": held_out.name,
        "loss": held_out.scores.loss,
        "document_losses": held_out.scores.sums.tolist(),
        "validation_loss": validation.scores.loss,
        "bits": held_out.bits,
        "own_bits": held_out.own_bits,
        **tried,
    }


def make_bench(sweep: Sweep, model: LanguageModel, run: Run) -> Bench:
    """The validation and held-out documents of a run's task, tokenised for a model.

    Raises:
        SoftPromptsError: There are too few to measure anything.
    """
    recipe = run.recipe
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


def asked_for(run: Run) -> bool:
    """Whether a run is what was asked for, and not a control or a random target that stands beside it."""
    return not run.control and not run.task.variant().control_of


def facts(run: Run, bench: Bench) -> dict[str, Any]:
    """What a run's task says of its data, as results record it."""
    return plain(run.task.facts(bench.encoding), f"what {type(run.task).__name__}.facts returns")


def variant(run: Run) -> dict[str, Any]:
    """Which of the experiment's tasks a run's is, as results record it."""
    return recorded(run.task.variant())


def check_context(model: LanguageModel, runs: Sequence[Run]) -> None:
    """Refuse prompts that outgrow the model's context together with a sequence.

    Raises:
        SoftPromptsError: With the numbers.
    """
    longest, max_tokens = max(run.n_tokens for run in runs), runs[0].recipe.max_tokens
    if longest + max_tokens > model.context:
        raise SoftPromptsError(
            f"a prompt of {longest} tokens and sequences of {max_tokens} need {longest + max_tokens} positions, but "
            f"{model.name} has {model.context}: use --n-tokens of at most {max(0, model.context - max_tokens)} or a "
            f"smaller --train.max-tokens."
        )
