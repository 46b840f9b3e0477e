"""How many nats does a behaviour lose on the way from a soft prompt to a text?

For each behaviour, prompts of the same length are searched through three interfaces, from the same random tokens and
with the same number of forward passes: rows that are free (soft), rows that are mixtures of tokens, which stay between
the embeddings of the vocabulary, and tokens (text, which must be read back as the same tokens).

Expected: a mixture keeps most of what a soft prompt gains, since it has nearly as many numbers to choose. Text keeps
much of it where the behaviour is called by a word, and nothing where the prompt must teach. Behind a secret key, which
is a text, text keeps all of it, if the search finds the key.

    python -m tests.soft_to_hard_test pocket
    python -m tests.soft_to_hard_test keys                                     # text behind secret keys of known length
    python -m tests.soft_to_hard_test smollm2
    python -m tests.soft_to_hard_test --behaviours chess --passes 65536        # on pythia, as published; needs a GPU
    python -m tests.soft_to_hard_test table results/soft_to_hard               # the answer again, and a picture
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from soft_prompts.answers import do_or_print, save_picture
from soft_prompts.cli import command
from soft_prompts.console import say
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.names import SMOLLM2
from soft_prompts.records import ModelOptions, load_records, place, save_record
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.stats import estimated, interval_of, two_level_draws
from soft_prompts.stopwatch import CLOCK, in_words
from soft_prompts.sweep import Sweep, plan

from . import (
    autoregressive_test,
    calibration_test,
    chess_test,
    pathfinding_test,
    repetition_test,
    skip_tokens_test,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from soft_prompts.hard.attempt import Attempt


EXPERIMENT = "soft_to_hard"
KEYS = {f"a key of {k}": k for k in calibration_test.POCKET.task.key_tokens}
"""Behaviour -> symbols of the key that it waits for, in models that ship."""
BEHAVIOURS = {
    "chess": (chess_test, 0),
    "text": (autoregressive_test, 0),
    "looking ahead": (skip_tokens_test, 0),
    "repetition": (repetition_test, 0),
    "pathfinding": (pathfinding_test, 0),
    **{key: (calibration_test, which) for which, key in enumerate(KEYS)},
}
"""The experiments that they come from, with their documents, and which of an experiment's tasks it is."""
INTERFACE_NAMES = ("soft", "mixture", "text")
"""As in hard/behaviour.py, which brings torch."""
WIDEST_SHARE = 3.0
"""A share of a gain whose interval is wider says nothing."""


@dataclass(frozen=True)
class Settings(ModelOptions):
    """Options of the command line."""

    models: tuple[str, ...] = ()
    """Hub names (a revision behind @), folders, .gguf files, pocket and the others that ship, or smollm2. None: the
    last of each experiment."""
    size: Literal["published", "pocket", "smollm2"] = "published"
    """Which of an experiment's settings say what is read, and how much."""
    behaviours: tuple[str, ...] = tuple(name for name in BEHAVIOURS if name not in KEYS)
    """Some of the behaviours: chess, text, looking ahead, repetition, pathfinding; with --size pocket also "a key of 1"
    (2, 4, 8)."""
    interfaces: tuple[Literal["soft", "mixture", "text"], ...] = INTERFACE_NAMES
    """What prompts may be made of."""
    n_tokens: tuple[int, ...] = (1, 4, 8)
    """Rows of a prompt."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of starts, and of the order of documents."""
    passes: int = 16384
    """Forward passes of one document that a search may spend; one with its gradient counts as three."""
    batch: int = 4
    """Documents in a step."""


DEFAULT = Settings()
POCKET = Settings(size="pocket", n_tokens=(1, 4), passes=1024, dtype="float32")
KEYS_PRESET = replace(
    POCKET,
    models=("pocket-keys",),
    behaviours=tuple(KEYS),
    interfaces=("text",),
    n_tokens=tuple(KEYS.values()),
    passes=65536,
)
PRESETS = {
    "pocket": POCKET,
    "keys": KEYS_PRESET,
    SMOLLM2: Settings(size="smollm2", n_tokens=(1, 4), seeds=(0,), passes=768),
}
IDENTITY = ("passes", "batch", "seeds")
"""The options that a result depends on, beside behaviour, model, interface and length."""


def check(settings: Settings) -> None:
    """Refuse options that cannot work, before anything is loaded.

    Raises:
        SoftPromptsError: What is wrong, with the value.
    """
    if unknown := sorted(set(settings.behaviours) - set(BEHAVIOURS)):
        raise SoftPromptsError(f"there is no behaviour {unknown[0]!r}; known: {', '.join(BEHAVIOURS)}.")
    if settings.size != "pocket" and (keys := [name for name in settings.behaviours if name in KEYS]):
        raise SoftPromptsError(
            f"{keys[0]!r} is known of models that ship only: put the word keys first, or --size pocket --models "
            f"pocket-keys."
        )
    for name in ("behaviours", "interfaces", "n_tokens", "seeds"):
        values = getattr(settings, name)
        if not values or len(set(values)) < len(values):
            raise SoftPromptsError(f"--{name.replace('_', '-')} is {values}, but needs at least one, and none twice.")
    if min(settings.n_tokens) < 1 or min(settings.seeds) < 0:
        raise SoftPromptsError(f"--n-tokens {settings.n_tokens} must be above 0, --seeds {settings.seeds} at least 0.")
    if min(settings.passes, settings.batch) < 1:
        raise SoftPromptsError(f"--passes ({settings.passes}) and --batch ({settings.batch}) must be at least 1.")


def sweep_of(settings: Settings, behaviour: str) -> Sweep:
    """The experiment that a behaviour comes from, with one of its tasks and without controls."""
    name = {"published": "DEFAULT", "pocket": "POCKET", "smollm2": "SMOLLM2"}[settings.size]
    script, which = BEHAVIOURS[behaviour]
    sweep: Sweep = getattr(script, name)
    shared = {name: getattr(settings, name) for name in ("dtype", "device", "out")}
    chosen = replace(sweep, experiment=EXPERIMENT, n_tokens=(0,), controls=(), anchor="", **shared)
    return replace(chosen, models=settings.models or sweep.models[-1:], task=sweep.task.variants()[which])


def run(settings: Settings) -> None:
    """Search what has no result yet, and show what was found.

    Raises:
        SoftPromptsError: An option cannot work, or a model cannot be loaded.
    """
    check(settings)
    settings.begin()
    for behaviour in settings.behaviours:
        sweep = sweep_of(settings, behaviour)
        for model in sweep.models:
            _search(settings, sweep, behaviour, model)
    folder = settings.out / "results" / EXPERIMENT
    print(table(folder))
    save_picture(figure, folder)
    say(f"results and a picture of them: {folder}\ntime: {in_words(CLOCK.read())}")


def config_of(settings: Settings, sweep: Sweep, behaviour: str, model: str) -> dict[str, Any]:
    """All that a result depends on but for interface and length, as plain JSON."""
    own = {name: getattr(settings, name) for name in IDENTITY}
    read = {name: getattr(sweep.train, name) for name in ("max_tokens", "eval_documents")}
    task = {"name": type(sweep.task).__name__, **sweep.task.recorded(), "data": sweep.task.identity()}
    return {**settings.config(EXPERIMENT, model), "behaviour": behaviour, "task": task, **read, **own}


def _search(settings: Settings, sweep: Sweep, behaviour: str, model: str) -> None:
    """Search prompts for one behaviour of one model, and write down what was found. The model is loaded if any is
    missing."""
    from soft_prompts.hard.behaviour import INTERFACES, Effort, prompt_of, searched

    config = config_of(settings, sweep, behaviour, model)
    folder = settings.out / "results" / place(config)
    pairs = [(n, name) for n in settings.n_tokens for name in settings.interfaces]
    wanted = {folder / f"search-{n:04d}-{name}.json": (n, name) for n, name in pairs}
    missing = [(path, n, name) for path, (n, name) in wanted.items() if settings.force or not path.exists()]
    if not missing:
        return
    from soft_prompts.engine.evaluate import evaluate
    from soft_prompts.hard.legal import Legal
    from soft_prompts.interventions.soft_prompt import SoftPrompt
    from soft_prompts.prepare import load_model, make_bench, with_separator
    from soft_prompts.results.provenance import provenance

    (run,) = plan(sweep, model)[:1]
    lm = with_separator(sweep, load_model(sweep, run), run)
    bench = make_bench(sweep, lm, run)
    legal = Legal.of(lm)
    nothing = SoftPrompt(legal.rows[:0].clone()).to(lm.device)

    def said(attempt: Attempt) -> str:
        return lm.tokenizer.decode(attempt.prompt, clean_up_tokenization_spaces=False)

    effort = Effort(settings.seeds, settings.passes, settings.batch)
    for path, n, interface in missing:
        say(f"{behaviour} of {config['model']}: {interface}, {n} rows")
        with CLOCK.stage("searching"):
            attempts = searched(bench, sweep.task, legal, INTERFACES[interface], n, effort)
        with CLOCK.stage("held-out"):
            prompts = [prompt_of(attempt, interface) for attempt in attempts]
            zero, *scores = evaluate(lm, [nothing, *prompts], bench.held_out, bench.token_budget)
            chosen_by = evaluate(lm, [nothing, *prompts], bench.validation, bench.token_budget)
        found = [
            {
                "seed": seed,
                "text": lm.tokenizer.decode(a.prompt, clean_up_tokenization_spaces=False)
                if interface == "text"
                else "",
                "spent": a.spent,
                "document_losses": of_prompt.sums.round(4).tolist(),
                "validation_loss": validated.loss,
            }
            for seed, a, of_prompt, validated in zip(settings.seeds, attempts, scores, chosen_by[1:], strict=True)
        ]
        documents = {"documents": zero.documents, "scored": zero.counts.tolist(), "zero": zero.sums.round(4).tolist()}
        documents["zero_validation_loss"] = chosen_by[0].loss
        head = {"config": config, "interface": interface, "n_tokens": n, "legal_tokens": len(legal.ids)}
        head["provenance"] = provenance(lm, {}, len(prompts))
        save_record(path, {**head, **documents, "found": found})


@dataclass(frozen=True)
class Found:
    """What was found for one behaviour with prompts of one length."""

    config: dict[str, Any]
    n_tokens: int
    counts: np.ndarray
    """Scored tokens by document."""
    sums: dict[str, np.ndarray]
    """Interface -> nats by seed and document, [seeds, documents]; "zero" is that of no prompt."""
    texts: list[str]
    """Of the seeds."""

    @property
    def title(self) -> str:
        return f"{self.config['behaviour']}, {self.config['model']}"

    @cached_property
    def losses(self) -> dict[str, np.ndarray]:
        """Interface -> nats per token, and then draws of it over documents and seeds; all of them paired."""
        draws = two_level_draws(list(self.sums.values()), self.counts)
        values = [sums.mean(0).sum() / self.counts.sum() for sums in self.sums.values()]
        return {name: np.array([v, *d]) for name, v, d in zip(self.sums, values, draws.T, strict=True)}

    def kept(self, interface: str) -> np.ndarray:
        """Share of the soft prompt's gain that an interface keeps, and draws of it."""
        gains = {name: self.losses["zero"] - self.losses[name] for name in ("soft", interface)}
        return gains[interface] / gains["soft"]


def measured(folder: Path) -> list[Found]:
    """All that was found, by behaviour, model and length.

    Raises:
        SoftPromptsError: There is nothing, a file is no result, or one interface was measured on other documents.
    """
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for one in load_records(folder, "search-*.json", EXPERIMENT, ["interface", "n_tokens", "scored", "zero", "found"]):
        groups.setdefault(json.dumps([one["config"], one["n_tokens"]]), {})[one["interface"]] = one
    made = []
    for group in groups.values():
        one = next(iter(group.values()))
        if any(other["documents"] != one["documents"] for other in group.values()):
            raise SoftPromptsError(f"{folder}: the interfaces were measured on different documents; run with --force.")
        sums = {name: np.array([f["document_losses"] for f in of["found"]]) for name, of in group.items()}
        texts = [f["text"] for f in group["text"]["found"]] if "text" in group else []
        sums["zero"] = np.array([one["zero"]])
        made.append(Found(one["config"], one["n_tokens"], np.array(one["scored"]), sums, texts))
    order = list(BEHAVIOURS)
    return sorted(made, key=lambda f: (f.config["model"], order.index(f.config["behaviour"]), f.n_tokens))


def table(folder: Path) -> str:
    """Markdown: nats by interface, and what is lost on the way."""
    head = ["behaviour", "rows", "no prompt", *INTERFACE_NAMES, "soft to mixture", "mixture to text"]
    head += ["mixture keeps", "text keeps", "the text of the first seed"]
    body = []
    for found in measured(folder):
        losses = found.losses
        cells = [found.title, str(found.n_tokens), f"{losses['zero'][0]:.2f}"]
        cells += [f"{losses[name][0]:.2f}" if name in losses else "" for name in INTERFACE_NAMES]
        for wide, narrow in pairwise(INTERFACE_NAMES):
            both = wide in losses and narrow in losses
            cells.append(shown(losses[narrow] - losses[wide]) if both else "")
        for name in INTERFACE_NAMES[1:]:
            cells.append(shown(found.kept(name), "%") if {"soft", name} <= set(losses) else "")
        body.append([*cells, repr(found.texts[0]) if found.texts else ""])
    return markdown_table(head, body, texts=(0, len(head) - 1))


def shown(draws: np.ndarray, form: str = "") -> str:
    """A number and its 95 % interval: [1 + draws] -> text. "-" for a share of a gain that may be nothing."""
    score = estimated(draws[0], draws[1:])
    low, high = score["interval"]
    if form and high - low > WIDEST_SHARE:
        return "-"
    return with_interval(score, ".0%" if form else ".2f")


def figure(folder: Path) -> Figure:
    """Nats against rows, a panel for each behaviour and model with several interfaces, a line for each of them."""
    from matplotlib.figure import Figure

    panels: dict[str, list[Found]] = {}
    for found in measured(folder):
        panels.setdefault(found.title, []).append(found)
    panels = {title: of for title, of in panels.items() if any("soft" in found.sums for found in of)} or panels
    n_rows = -(-len(panels) // 2)
    drawn = Figure(figsize=(9, 3.2 * n_rows), layout="constrained")
    axes = np.ravel(drawn.subplots(n_rows, 2, squeeze=False))
    for ax, (title, of_title) in zip(axes, panels.items(), strict=False):
        lengths = [found.n_tokens for found in of_title]
        ax.axhline(of_title[0].losses["zero"][0], color="grey", linestyle=":", linewidth=0.9, label="no prompt")
        for k, name in enumerate(INTERFACE_NAMES):
            draws = [found.losses[name] for found in of_title if name in found.losses]
            if len(draws) < len(lengths):
                continue
            values = np.array([d[0] for d in draws])
            # Of the loss below that of no prompt: what makes a document hard for all interfaces is no difference.
            gains = [f.losses[name] - f.losses["zero"] for f in of_title]
            ends = np.abs([np.array(interval_of(g[1:])) - g[0] for g in gains]).T
            at = np.arange(len(lengths)) + 0.06 * (k - 1)
            ax.errorbar(at, values, ends, fmt="o-", capsize=2, label=name)
        ax.set_xticks(range(len(lengths)), [str(n) for n in lengths])
        ax.set_title(title, loc="left", fontsize="medium")
        ax.set_xlabel("rows of the prompt")
        ax.set_ylabel("held-out nats per token")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize="small")
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return drawn


if __name__ == "__main__":
    do_or_print(lambda: command(run, DEFAULT, __doc__, PRESETS), table, figure)
