"""Is an ability that a model is no longer trained on gone, or only gated?

A model is trained on without what taught it something, and beside it with that. At steps on a log scale its held-out
loss is measured, without a prompt and behind new ones: what a prompt brings back was there. The half-life is the number
of steps after which half of the gain over a model that never learned is gone.

Models: pocket, trained on without mazes. And tiny models that learn sums (A) and a second task (B), then go on with B
only. B shares nothing with A, or is sums in other clothes, or that with documents that translate, or these with one
digit never translated; with weight decay and without.

Expected: the loss without a prompt rises within tens of steps, and prompts bring most of it back, so the ability is
gated long before it is gone. What B shares with A keeps A alive, translations most; the digit that was left out fades
faster. Weight decay shortens all half-lives. What is trained on with A keeps A.

    python -m soft_prompts.pocket.fading --prose books.tar.zst     # makes the models of the next line in runs/fading
    python -m tests.decay_test pocket
    python -m tests.decay_test tiny                                # makes its models, too
    python -m tests.decay_test table results/decay                 # and results/decay_tiny
    python -m tests.decay_test                                     # chess over pythia's own training; needs a GPU
    python -m tests.decay_test pocket --models EleutherAI/pythia-70m@step512 EleutherAI/pythia-70m@step4000
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_prompts import Sweep, TrainConfig, on_pocket
from soft_prompts.answers import check_folder, do_or_print
from soft_prompts.cli import command
from soft_prompts.cli import run as run_sweep
from soft_prompts.console import say
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import check_writable
from soft_prompts.options import plain, recorded, settle
from soft_prompts.pocket.mazes import Mazes
from soft_prompts.pocket.overlap import DIGITS, FACTS, LENGTH, MIXTURE, NEVER_A, PAIRS, WITHOUT_A
from soft_prompts.records import load_records, place, save_record
from soft_prompts.stats import CONFIDENCE, two_level_draws
from soft_prompts.stopwatch import CLOCK, in_words

from . import chess_test

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from soft_prompts.results.curve import Curve
    from soft_prompts.results.half_life import HalfLife

FADING = "runs/fading"
WITHOUT, WITH = "without-mazes", "with-mazes"
STEPS = (16, 64, 256)
DEFAULT = replace(
    chess_test.DEFAULT,
    experiment="decay",
    models=tuple(f"EleutherAI/pythia-70m-deduped@step{n}" for n in (1, 8, 64, 512, 4000, 32000, 143000)),
    n_tokens=(0, 1, 4, 16, 64),
)
POCKET = replace(
    on_pocket(Sweep("decay", Mazes(), (), ()), Mazes(), steps=50, n_evaluations=0, validation_documents=24),
    models=(f"{FADING}/pocket-step-0", *(f"{FADING}/{arm}-step-{n}" for arm in (WITHOUT, WITH) for n in STEPS)),
    controls=(),
)


@dataclass(frozen=True)
class Tiny:
    """Options of the tiny models."""

    pairs: tuple[str, ...] = PAIRS
    """What A and B share: soft_prompts/pocket/overlap.py says what each name means."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each is a model of its own: its start, its documents and its prompts."""
    weight_decays: tuple[float, ...] = (0.0, 1.0)
    """Of training on."""
    steps: int = 2000
    """Of learning both tasks, at most: it ends when A is known, by its validation documents."""
    learning_rate: float = 5e-3
    """Of learning both tasks; it falls in the second half of the steps, which most models do not need."""
    on_steps: tuple[int, ...] = (4, 16, 64, 256)
    """Steps of training on after which is measured; the largest is the last. The control is measured there only."""
    on_learning_rate: float = 1e-3
    """Of training on, constant."""
    n_tokens: tuple[int, ...] = (0, 1, 4)
    """Prompt lengths."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=40, batch_size=16, max_tokens=LENGTH, lr=0.3, n_evaluations=0)
    )
    """How prompts are trained; the documents that they are measured on are fixed."""
    out: Path = Path(".")
    """Folder under which results/ is made."""
    force: bool = False
    """Do again what has a result."""

    def __post_init__(self) -> None:
        settle(self)

    def check(self) -> None:
        """Refuse options that cannot work.

        Raises:
            SoftPromptsError: What is wrong, with the value.
        """
        self.train.check()
        if unknown := sorted(set(self.pairs) - set(PAIRS)):
            raise SoftPromptsError(f"there is no pair {unknown[0]!r}; known: {', '.join(PAIRS)}.")
        if not self.on_steps or min(self.on_steps) < 1 or min(self.steps, *self.seeds, *self.n_tokens) < 0:
            raise SoftPromptsError(
                f"--on-steps is {self.on_steps}, but needs steps of at least 1; --steps, --seeds and --n-tokens need "
                f"at least 0."
            )


RESULT = "decay-seed-{seed}.json"
KNOWN, TAUGHT, LOOKED = 0.05, 0.25, 25
"""Learning ends when A costs the first share of the nats of a guess, and the second is the most that it may cost in the
end. It is looked at after every so many steps."""
GUESS = float(np.log(DIGITS))
"""Nats of a guess among the digits."""


IDENTITY = ("weight_decays", "steps", "learning_rate", "on_steps", "on_learning_rate", "n_tokens")
"""The options that a tiny model's result depends on, beside the pair, the seed and the prompts' recipe."""


def config_of(settings: Tiny, pair: str) -> dict[str, Any]:
    """All that the results of a pair depend on but for the seed, as plain JSON."""
    own = {name: plain(getattr(settings, name), f"the option {name}") for name in IDENTITY}
    named = {"experiment": "decay_tiny", "model": pair.replace(" ", "-"), "pair": pair}
    return {**named, **own, "train": recorded(settings.train)}


def run(options: Sweep | Tiny) -> None:
    """Measure what has no result yet, and show what was found.

    Raises:
        SoftPromptsError: Options cannot work, or models are missing; then once those that are there are measured.
    """
    if isinstance(options, Tiny):
        run_tiny(options)
        return
    for model in options.models:
        step_of(model)  # a name without a step is refused before anything is trained
    there = tuple(m for m in options.models if not m.startswith(FADING) or Path(m).is_dir())
    if there:
        print(_of_checkpoints(_curves_of(run_sweep(replace(options, models=there)))))
    if missing := [m for m in options.models if m not in there]:
        raise SoftPromptsError(
            f"{missing[0]} is not there; make the models first: python -m soft_prompts.pocket.fading --prose FILE."
        )


def run_tiny(settings: Tiny) -> None:
    """Train and measure the tiny models that have no result yet."""
    settings.check()
    check_writable([settings.out / "results"])
    import torch

    from soft_prompts.models.cpu import settle_process

    settle_process(torch.device("cpu"))
    for pair in settings.pairs:
        config = config_of(settings, pair)
        for seed in settings.seeds:
            path = settings.out / "results" / place(config) / RESULT.format(seed=seed)
            if settings.force or not path.exists():
                with CLOCK.stage("training"):
                    values = tiny_model(settings, pair, seed)
                save_record(path, {"config": config, "seed": seed, **values})
                say(f"{pair}, seed {seed}: {path}")
    print(table(settings.out / "results" / "decay_tiny"))
    say(f"time: {in_words(CLOCK.read())}")


def tiny_model(settings: Tiny, pair: str, seed: int) -> dict[str, Any]:
    """Teach one model both tasks, train it on in all ways, and measure A along the way, and on a twin.

    Raises:
        SoftPromptsError: The model did not learn A, so that nothing can fade.
    """
    from soft_prompts.pocket.fading import Pace
    from soft_prompts.pocket.tiny import cost_of_a, cost_of_b, frozen, learning, measured, new_model
    from soft_prompts.results.provenance import provenance

    started, found = time.perf_counter(), []

    def look(lm: Any, arm: str, weight_decay: float, step: int) -> None:
        of_length = measured(lm, f"{pair}, {arm}, step {step}", settings.n_tokens, settings.train, seed)
        for n, of in of_length.items():
            numbers = {"losses": of["losses"].round(3).tolist(), "right": int(of["right"].sum())}
            found.append({"arm": arm, "weight_decay": weight_decay, "step": step, "n_tokens": n, **numbers})
        found[-1]["B"] = round(cost_of_b(lm, pair), 3)

    def taught(mixture: dict[str, int], n_steps: int, until_known: bool) -> tuple[Any, int]:
        lm, step = new_model(seed), 0
        pace = Pace(settings.learning_rate, warmup=20, falls=True)
        for step in learning(lm, pair, mixture, n_steps, pace, 3 * seed):
            if until_known and step % LOOKED == 0 and cost_of_a(lm) <= KNOWN * GUESS:
                break
        return lm, step

    start, n_steps = taught(MIXTURE, settings.steps, until_known=True)
    if cost_of_a(start) > TAUGHT * GUESS:
        raise SoftPromptsError(
            f"{pair}, seed {seed}: after {n_steps} steps A costs {cost_of_a(start):.2f} nats and may cost "
            f"{TAUGHT * GUESS:.2f}; give more --steps."
        )
    look(start, "start", 0.0, 0)
    look(taught(NEVER_A, n_steps, until_known=False)[0], "never", 0.0, 0)
    for weight_decay in settings.weight_decays:
        for arm, mixture in (("without", WITHOUT_A), ("with", MIXTURE)):
            lm, pace = copy.deepcopy(start), Pace(settings.on_learning_rate, weight_decay)
            for step in learning(lm, pair, mixture, max(settings.on_steps), pace, 3 * seed + 1):
                if step in settings.on_steps and (arm == "without" or step == max(settings.on_steps)):
                    look(lm, arm, weight_decay, step)
    origin = provenance(frozen(start, "tiny"), {}, len(settings.n_tokens))
    seconds = round(time.perf_counter() - started, 1)
    return {"steps": n_steps, "seconds": seconds, "provenance": origin, "measured": found}


def table(folder: Path) -> str:
    """Markdown: what became of the ability in the checkpoints, or in the tiny models, of a folder.

    Raises:
        SoftPromptsError: It holds neither, or both.
    """
    from soft_prompts.results import load_results
    from soft_prompts.results.record import result_files

    if list(folder.rglob(RESULT.format(seed="*"))):
        return _of_tiny(tiny_found(folder))
    if not result_files(folder):
        raise SoftPromptsError(f"there are no results of decay in {folder}.")
    check_folder(folder, {DEFAULT.experiment})
    return _of_checkpoints(_curves_of(load_results([folder])))


# --- checkpoints of one model ---


def step_of(model: str) -> tuple[str, int]:
    """The series that a checkpoint belongs to, and its step: of NAME@step1000, NAME-step-1000 or a folder step-1000.

    Raises:
        SoftPromptsError: The name has no step.
    """
    found = re.fullmatch(r"(.*?)[@/_-]?step-?(\d+)", model.rstrip("/"))
    if not found:
        raise SoftPromptsError(f"{model!r} has no step in its name; give NAME@step1000 or a folder NAME-step-1000.")
    return found[1].rpartition("/")[2] if Path(model).is_dir() else found[1], int(found[2])


def _curves_of(results: Sequence[Any]) -> dict[str, dict[int, Curve]]:
    """Series -> step -> curve. A model of step 0 begins every series."""
    from soft_prompts.results.curve import curves, without_controls

    found: dict[str, dict[int, Curve]] = {}
    for curve in without_controls(curves(results)):
        series, step = step_of(curve.model)
        found.setdefault(series, {})[step] = curve
    starts = {name: of for name, of in found.items() if set(of) == {0}}
    others = {name: of for name, of in found.items() if name not in starts} or starts
    for of_series in others.values():
        for of_start in starts.values():
            of_series.update(of_start)
    return {name: dict(sorted(of.items())) for name, of in sorted(others.items(), reverse=True)}


def _of_checkpoints(found: dict[str, dict[int, Curve]]) -> str:
    parts = [_losses(found), _lives(found)]
    parts += [_gap(found, name) for name in found if _partner(name) in found]
    return "\n\n".join(parts)


def _partner(name: str) -> str:
    """The series that kept what one went on without: with-X of without-X."""
    return name.replace("without-", "with-", 1) if name.startswith("without-") else ""


def _losses(found: dict[str, dict[int, Curve]]) -> str:
    """Loss by step and length, and how far the series' best loss is."""
    lengths = _lengths(found)
    body = []
    for name, series in found.items():
        goal = min(series.values(), key=lambda curve: curve.points[0].results[0].validation_loss)
        for step, curve in series.items():
            cells = [f"{p.loss:.3f} ±{(p.interval[1] - p.interval[0]) / 2:.3f}" for p in _points(curve, lengths)]
            body.append([name, str(step), *cells, _distance(curve, goal)])
    return _rows(["series", "step", *(f"P={n}" for n in lengths), "tokens to the best loss"], body, 1)


def _distance(curve: Curve, goal: Curve) -> str:
    """Tokens until a prompt has come 95 % of the way to what the goal does without one."""
    if curve is goal:
        return "it is the best"
    if not curve.points[0].pairs_with(goal.points[0]):
        return "other documents"
    return str(replace(curve.paired, anchor=goal.points[0].by_seed).distance_to_anchor(CONFIDENCE))


def lives_of(series: dict[int, Curve]) -> dict[int, HalfLife]:
    """Prompt length -> half-life of the gain over the best data baseline, as counted for the first checkpoint."""
    from soft_prompts.results.half_life import half_lives

    first = next(iter(series.values()))
    lengths = _lengths({"": series})
    losses = {n: [curve.point(n).by_seed for curve in series.values()] for n in lengths}
    return half_lives(list(series), losses, dict.fromkeys(lengths, first.paired.baselines), first.points[0].counts)


def _lives(found: dict[str, dict[int, Curve]]) -> str:
    lengths = _lengths(found)
    body = []
    for name, series in found.items():
        lives = lives_of(series)
        ratios = [lives[n].times(lives[0]) for n in lengths[1:]]
        body.append([name, *(str(lives[n]) for n in lengths), *ratios])
    head = ["half-life in steps", *(f"P={n}" for n in lengths), *(f"P={n} by P=0" for n in lengths[1:])]
    return _rows(head, body, 1)


def _gap(found: dict[str, dict[int, Curve]], name: str) -> str:
    """By how much a series is behind the one that kept the ability, and what share of that prompts bring back."""
    lengths, kept, body = _lengths(found), found[_partner(name)], []
    for step in [step for step in found[name] if step and step in kept]:
        values, draws = gaps(found[name][step], kept[step], lengths)
        cells = [f"{x:.3f} {_ends(draws[:, k], 3)}" for k, x in enumerate(values)]
        back, of_draws = 1 - values / values[0], 1 - draws / draws[:, :1]
        lost = np.quantile(draws[:, 0], (1 - CONFIDENCE) / 2) > 0  # of what was not lost nothing can come back
        shares = (f"{back[k]:.0%} {_percent(of_draws[:, k])}" if lost else "" for k in range(1, len(lengths)))
        body.append([str(step), *cells, *shares])
    head = ["lost by step", *(f"nats, P={n}" for n in lengths), *(f"brought back, P={n}" for n in lengths[1:])]
    return _rows(head, body, 1)


def gaps(without: Curve, kept: Curve, lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Loss of one model minus that of another by prompt length, paired by document: values [K] and draws
    [resamples, K]."""
    pairs = [(without.point(n), kept.point(n)) for n in lengths]
    draws = two_level_draws([p.by_seed for pair in pairs for p in pair], without.points[0].counts)
    return np.array([a.loss - b.loss for a, b in pairs]), draws[:, ::2] - draws[:, 1::2]


def _lengths(found: dict[str, dict[int, Curve]]) -> list[int]:
    """The lengths that all checkpoints have."""
    of_all = [{p.n_tokens for p in curve.points} for series in found.values() for curve in series.values()]
    return sorted(set.intersection(*of_all))


def _points(curve: Curve, lengths: Sequence[int]) -> list[Any]:
    return [curve.point(n) for n in lengths]


def _ends(draws: np.ndarray, decimals: int) -> str:
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return f"[{low:.{decimals}f}, {high:.{decimals}f}]"


def _percent(draws: np.ndarray) -> str:
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return f"[{low:.0%}, {high:.0%}]"


def _rows(head: Sequence[str], body: Sequence[Sequence[str]], n_left: int) -> str:
    """A table of Markdown whose first columns are texts."""
    rules = [" --- " if i < n_left else " ---: " for i in range(len(head))]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "|".join(rules) + "|"] + [_line(row) for row in body])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# --- tiny models ---


@dataclass(frozen=True)
class Found:
    """All models of one pair."""

    config: dict[str, Any]
    losses: dict[tuple[str, float, int, int], np.ndarray]
    """(arm, weight decay, step, prompt length) -> nats [n_seeds, documents]."""
    of_b: dict[tuple[str, float, int], float]
    """(arm, weight decay, step) -> nats per symbol that follows in B, mean over the seeds."""

    @property
    def pair(self) -> str:
        return self.config["pair"]

    @property
    def counts(self) -> np.ndarray:
        """Scored sums by document."""
        return np.full(next(iter(self.losses.values())).shape[1], FACTS)

    def loss(self, *key: str | float) -> float:
        """Nats per sum, mean over the seeds."""
        return float(self.losses[key].mean() / FACTS)

    def lives(
        self, arm: str, weight_decay: float, documents: slice = slice(None), seed: int = 0
    ) -> dict[int, HalfLife]:
        """Prompt length -> half-life of what A gains over a guess and over the twin that was never taught it."""
        from soft_prompts.results.half_life import half_lives

        steps, losses, never = self._parts(arm, weight_decay, documents)
        return half_lives(steps, losses, never, self.counts[documents], seed)

    def by_model(self, arm: str, weight_decay: float) -> dict[int, np.ndarray]:
        """Prompt length -> half-life of each model by itself, over its own twin: float [n_seeds]."""
        from soft_prompts.results.half_life import half_gone

        steps, losses, never = self._parts(arm, weight_decay, slice(None))
        rivals = {n: np.minimum(*(x.sum(1) for x in never[n])) for n in never}
        of_steps = {n: np.stack([x.sum(1) for x in losses[n]], 1) for n in losses}
        return {n: half_gone(np.array(steps), rivals[n][:, None] - of_steps[n]) for n in losses}

    def _parts(self, arm: str, weight_decay: float, documents: slice) -> tuple[list[int], dict, dict]:
        """Steps; and by prompt length the losses at each of them, and those of a guess and of the twin."""
        steps = [0, *sorted({step for a, decay, step, _ in self.losses if (a, decay) == (arm, weight_decay)})]

        def at(step: int, n: int) -> np.ndarray:
            key = (arm, weight_decay, step, n) if step else ("start", 0.0, 0, n)
            return self.losses[key][:, documents]

        losses = {n: [at(step, n) for step in steps] for n in self.config["n_tokens"]}
        guess = (GUESS * self.counts[documents])[None]
        return steps, losses, {n: [guess, self.losses["never", 0.0, 0, n][:, documents]] for n in losses}


def tiny_found(folder: Path) -> list[Found]:
    """What was measured of the tiny models below a folder, by pair.

    Raises:
        SoftPromptsError: There is nothing, or a file is none.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in load_records(folder, RESULT.format(seed="*"), "decay_tiny", ["measured"]):
        groups.setdefault(json.dumps(record["config"]), []).append(record)
    found = []
    for records in groups.values():
        losses: dict[tuple[str, float, int, int], list[list[float]]] = {}
        of_b: dict[tuple[str, float, int], list[float]] = {}
        for record in sorted(records, key=lambda r: r["seed"]):
            for of in record["measured"]:
                key = of["arm"], of["weight_decay"], of["step"], of["n_tokens"]
                losses.setdefault(key, []).append(of["losses"])
                if "B" in of:
                    of_b.setdefault(key[:3], []).append(of["B"])
        arrays = {key: np.array(x) for key, x in losses.items()}
        found.append(Found(records[0]["config"], arrays, {key: float(np.mean(x)) for key, x in of_b.items()}))
    return sorted(found, key=lambda of: PAIRS.index(of.pair))


def _of_tiny(found: Sequence[Found]) -> str:
    return "\n\n".join([of(found) for of in (_tiny_lives, _tiny_by_model, _tiny_losses, _tiny_left_out)])


def _tiny_lives(found: Sequence[Found]) -> str:
    """Half-lives by pair, weight decay and prompt length."""
    lengths, body = found[0].config["n_tokens"], []
    for of in found:
        for weight_decay in of.config["weight_decays"]:
            for arm in ("without", "with"):
                lives = of.lives(arm, weight_decay)
                ratios = [lives[n].times(lives[0]) for n in lengths[1:]]
                name = f"{of.pair}, {arm} A"
                body.append([name, f"{weight_decay:g}", *(str(lives[n]) for n in lengths), *ratios])
    head = ["half-life in steps", "decay", *(f"P={n}" for n in lengths), *(f"P={n} by P=0" for n in lengths[1:])]
    return _rows(head, body, 1)


def _tiny_by_model(found: Sequence[Found]) -> str:
    """Half-lives of each model by itself, and in how many the longest prompt finds A for longer than none."""
    lengths, body = found[0].config["n_tokens"], []
    for of in found:
        last = max(of.config["on_steps"])
        for weight_decay in of.config["weight_decays"]:
            lives = of.by_model("without", weight_decay)
            cells = [", ".join(f"> {last}" if x == np.inf else f"{x:.0f}" for x in lives[n]) for n in lengths]
            longer = int((lives[lengths[-1]] > lives[lengths[0]]).sum())
            body.append([of.pair, f"{weight_decay:g}", *cells, f"{longer} of {len(lives[lengths[0]])}"])
    head = ["half-life of each model", "decay", *(f"P={n}" for n in lengths), f"longer at P={lengths[-1]}"]
    return _rows(head, body, 1)


def _tiny_losses(found: Sequence[Found]) -> str:
    """Losses before, after and beside."""
    lengths, body = found[0].config["n_tokens"], []
    for of in found:
        last = max(of.config["on_steps"])
        rows = [("as taught", "start", 0.0, 0), ("never taught A", "never", 0.0, 0)]
        rows += [
            (f"{last} steps {arm} A, decay {weight_decay:g}", arm, weight_decay, last)
            for weight_decay in of.config["weight_decays"]
            for arm in ("without", "with")
        ]
        for name, *key in rows:
            losses = [of.losses[*key, n] for n in lengths]
            draws = two_level_draws(losses, of.counts)
            cells = [f"{of.loss(*key, n):.2f} {_ends(draws[:, k], 2)}" for k, n in enumerate(lengths)]
            body.append([f"{of.pair}, {name}", *cells, f"{of.of_b[tuple(key)]:.2f}"])
    return _rows(["nats per sum", *(f"P={n}" for n in lengths), "B"], body, 1)


def _tiny_left_out(found: Sequence[Found]) -> str:
    """Half-lives of sums with the digit that one pair leaves out of translation, and of sums without it."""
    lengths, body = found[0].config["n_tokens"], []
    for of in found:
        half = len(of.counts) // 2
        for weight_decay in of.config["weight_decays"]:
            parts = [of.lives("without", weight_decay, part, i) for i, part in enumerate(_halves(half))]
            ratios = [parts[0][n].times(parts[1][n]) for n in lengths]
            lives = [str(of_part[n]) for n in lengths for of_part in parts]
            body.append([of.pair, f"{weight_decay:g}", *lives, *ratios])
    names = [f"{what} it, P={n}" for n in lengths for what in ("with", "without")]
    head = ["half-life by the digit left out", "decay", *names, *(f"with by without, P={n}" for n in lengths)]
    return _rows(head, body, 1)


def _halves(half: int) -> Iterator[slice]:
    """The documents with the digit in every sum, which come first, and those with it in none."""
    yield slice(0, half)
    yield slice(half, None)


# --- pictures ---


def figure(folder: Path) -> Figure:
    """Loss over steps: a panel for each pair of tasks, or one for the checkpoints."""
    from matplotlib.figure import Figure

    from soft_prompts.results import load_results

    if list(folder.rglob(RESULT.format(seed="*"))):
        found = tiny_found(folder)
        drawn = Figure(figsize=(2 + 3 * len(found), 4.4), layout="constrained")
        axes = drawn.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for ax, of in zip(axes, found, strict=True):
            _draw_tiny(ax, of)
        label = "held-out nats per sum"
    else:
        drawn = Figure(figsize=(8, 4.4), layout="constrained")
        axes, label = [drawn.subplots()], "held-out nats per token"
        _draw_checkpoints(axes[0], _curves_of(load_results([folder])))
    for ax in axes:
        ax.set_xlabel("steps of training on")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(label)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize="small")
    return drawn


def _draw_checkpoints(ax: Axes, found: dict[str, dict[int, Curve]]) -> None:
    steps = sorted({step for series in found.values() for step in series})
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])
    for style, (name, series) in zip(("o-", "s--", "^:") * len(found), found.items(), strict=False):
        for k, n in enumerate(_lengths(found)):
            points = [curve.point(n) for curve in series.values()]
            losses, ends = np.array([p.loss for p in points]), np.array([p.interval for p in points])
            at, widths, label = [steps.index(step) for step in series], np.abs(ends.T - losses), f"{name}, P={n}"
            ax.errorbar(at, losses, widths, fmt=style, color=f"C{k}", capsize=2, markersize=4, label=label)


def _draw_tiny(ax: Axes, of: Found) -> None:
    steps = [0, *of.config["on_steps"]]
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])
    arms = [*(("without", x) for x in of.config["weight_decays"]), ("with", of.config["weight_decays"][0])]
    for style, (arm, weight_decay) in zip(("o-", "s--", "^:", "v-."), arms, strict=False):
        for k, n in enumerate(of.config["n_tokens"]):
            seen = [s for a, decay, s, m in of.losses if (a, decay, m) == (arm, weight_decay, n)]
            losses = [of.loss("start", 0.0, 0, n), *(of.loss(arm, weight_decay, step, n) for step in seen)]
            label = f"{arm} A, decay {weight_decay:g}, P={n}"
            at = [steps.index(step) for step in (0, *seen)]
            ax.plot(at, losses, style, color=f"C{k}", markersize=4, label=label)
    ax.axhline(GUESS, color="black", linewidth=0.8, linestyle=":")
    ax.set_title(of.pair)


if __name__ == "__main__":
    do_or_print(lambda: command(run, DEFAULT, __doc__, {"pocket": POCKET, "tiny": Tiny()}), table, figure)
