"""What keeps an ability alive that a model is no longer trained on?

Tiny models learn sums (A) and a second task (B), then go on with B only, and beside that with both. B shares nothing
with A, or is sums in other clothes, or that with documents that translate, or these with one digit never translated;
with weight decay and without. At steps on a log scale the held-out loss of A is measured, without a prompt and behind
new ones. The half-life is the number of steps after which half of the gain is gone, over a guess and over a twin that
was never taught A.

Expected: without a prompt the loss rises within tens of steps, and prompts bring most of it back. What B shares with A
keeps A alive, translations most; the digit that was left out fades faster. Weight decay shortens all half-lives. What
is trained on with A keeps A.

    python -m tests.overlap_test short                          # a model of each pair, for a first look
    python -m tests.overlap_test                                # makes its models, too
    python -m tests.overlap_test table results/decay_tiny       # half-lives and losses again, and a picture
    python -m tests.overlap_test --pairs translated --seeds 3 4 --on-steps 4 64 1024
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_prompts import TrainConfig
from soft_prompts.answers import do_or_print
from soft_prompts.cli import command
from soft_prompts.console import say, warn
from soft_prompts.errors import SoftPromptsError
from soft_prompts.options import plain, recorded, settle
from soft_prompts.pocket.overlap import DIGITS, FACTS, LEFT_OUT, LENGTH, MIXTURE, NEVER_A, PAIRS, WITHOUT_A
from soft_prompts.records import begin, load_records, record_seeds
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.stats import estimated, rate, two_level_draws
from soft_prompts.stopwatch import CLOCK, in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from soft_prompts.results.half_life import HalfLife

EXPERIMENT = "decay_tiny"
"""As the results are called."""
RESULT = "decay-seed-{seed}.json"
"""Name of a result's file."""
KNOWN, TAUGHT, LOOKED = 0.05, 0.25, 25
"""Learning ends when A and B cost the first share of the nats of a guess each, and the second is the most that A may
cost in the end. They are looked at after every so many steps."""
GUESS = float(np.log(DIGITS))
"""Nats of a guess among the digits."""
IDENTITY = ("weight_decays", "steps", "learning_rate", "on_steps", "on_learning_rate", "n_tokens")
"""The options that a result depends on, beside the pair, the seed and the prompts' recipe."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    pairs: tuple[str, ...] = PAIRS
    """What A and B share: soft_prompts/pocket/overlap.py says what each name means."""
    seeds: tuple[int, ...] = tuple(range(8))
    """Each is a model of its own: its start, its documents and its prompts."""
    weight_decays: tuple[float, ...] = (0.0, 1.0)
    """Of training on."""
    steps: int = 2000
    """Of learning both tasks, at most: it ends when both are known, by documents that are not held out."""
    learning_rate: float = 5e-3
    """Of learning both tasks; it falls in the second half of the steps, which most models do not need."""
    on_steps: tuple[int, ...] = (4, 16, 64, 256, 1024)
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


DEFAULT = Settings()
SHORT = replace(DEFAULT, seeds=(0,), on_steps=(4, 16, 64, 256))
"""A model of each pair, for a first look."""


def config_of(settings: Settings, pair: str) -> dict[str, Any]:
    """All that the results of a pair depend on but for the seed, as plain JSON."""
    own = {name: plain(getattr(settings, name), f"the option {name}") for name in IDENTITY}
    named = {"experiment": EXPERIMENT, "model": pair.replace(" ", "-"), "pair": pair}
    return {**named, **own, "train": recorded(settings.train)}


def run(settings: Settings) -> None:
    """Train and measure the models that have no result yet, and show what was found.

    Raises:
        SoftPromptsError: An option cannot work, or no model learned A.
    """
    settings.check()
    begin(settings.out, "cpu")
    for pair in settings.pairs:
        of_seed = partial(measure, settings, pair)
        with CLOCK.stage("training"):
            record_seeds(settings.out, config_of(settings, pair), RESULT, settings.seeds, of_seed, settings.force)
    print(table(settings.out / "results" / EXPERIMENT))
    say(f"time: {in_words(CLOCK.read())}")


def measure(settings: Settings, pair: str, seed: int) -> dict[str, Any]:
    """Teach one model both tasks, train it on in all ways, and measure A along the way, and on a twin.

    Returns:
        Plain JSON. A model that did not learn A, so that nothing can fade, is measured as it is and not trained on.
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
            if until_known and step % LOOKED == 0 and max(cost_of_a(lm), cost_of_b(lm, pair)) <= KNOWN * GUESS:
                break
        return lm, step

    start, n_steps = taught(MIXTURE, settings.steps, until_known=True)
    has_learned = cost_of_a(start) <= TAUGHT * GUESS
    look(start, "start", 0.0, 0)
    if has_learned:
        look(taught(NEVER_A, n_steps, until_known=False)[0], "never", 0.0, 0)
    else:
        warn(
            f"{pair}, seed {seed}: after {n_steps} steps A costs {cost_of_a(start):.2f} nats and may cost "
            f"{TAUGHT * GUESS:.2f}, so this model is left out; more --steps may help."
        )
    for weight_decay in settings.weight_decays if has_learned else ():
        for arm, mixture in (("without", WITHOUT_A), ("with", MIXTURE)):
            lm, pace = copy.deepcopy(start), Pace(settings.on_learning_rate, weight_decay)
            for step in learning(lm, pair, mixture, max(settings.on_steps), pace, 3 * seed + 1):
                if step in settings.on_steps and (arm == "without" or step == max(settings.on_steps)):
                    look(lm, arm, weight_decay, step)
    origin = provenance(frozen(start, "tiny"), {}, len(settings.n_tokens))
    seconds = round(time.perf_counter() - started, 1)
    return {"steps": n_steps, "seconds": seconds, "provenance": origin, "measured": found}


@dataclass(frozen=True)
class Found:
    """All models of one pair."""

    config: dict[str, Any]
    losses: dict[tuple[str, float, int, int], np.ndarray]
    """(arm, weight decay, step, prompt length) -> nats [n_seeds, documents]."""
    of_b: dict[tuple[str, float, int], float]
    """(arm, weight decay, step) -> nats per symbol that follows in B, mean over the seeds."""
    seeds: list[int]
    """Of the models that learned A, in their order in ``losses``."""
    n_left_out: int
    """Models that did not learn A."""

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

    def by_model(self, weight_decay: float, documents: slice = slice(None)) -> dict[int, np.ndarray]:
        """Prompt length -> half-life without A of each model by itself, over its own twin: float [n_seeds]."""
        from soft_prompts.results.half_life import half_gone

        steps, losses, never = self._parts("without", weight_decay, documents)
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


def found_in(folder: Path) -> list[Found]:
    """What was measured below a folder, by pair.

    Raises:
        SoftPromptsError: There is nothing, a file is none, or no model of any pair learned A.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in load_records(folder, RESULT.format(seed="*"), EXPERIMENT, ["measured"]):
        groups.setdefault(json.dumps(record["config"]), []).append(record)
    found = []
    for records in groups.values():
        learned = [r for r in records if any(of["arm"] != "start" for of in r["measured"])]
        learned.sort(key=lambda r: r["seed"])
        if not learned:
            warn(f"{records[0]['config']['pair']} is left out: none of its {len(records)} models learned A.")
            continue
        losses: dict[tuple[str, float, int, int], list[list[float]]] = {}
        of_b: dict[tuple[str, float, int], list[float]] = {}
        for record in learned:
            for of in record["measured"]:
                key = of["arm"], of["weight_decay"], of["step"], of["n_tokens"]
                losses.setdefault(key, []).append(of["losses"])
                if "B" in of:
                    of_b.setdefault(key[:3], []).append(of["B"])
        arrays = {key: np.array(x) for key, x in losses.items()}
        means = {key: float(np.mean(x)) for key, x in of_b.items()}
        seeds, n_left_out = [r["seed"] for r in learned], len(records) - len(learned)
        found.append(Found(records[0]["config"], arrays, means, seeds, n_left_out))
    if not found:
        raise SoftPromptsError(f"no model in {folder} learned A, so nothing could fade; give more --steps.")
    return sorted(found, key=lambda of: PAIRS.index(of.pair))


def table(folder: Path) -> str:
    """Markdown: half-lives, those of each model, what lengthens them, losses, and the digit that was left out."""
    found = found_in(folder)
    return "\n\n".join(part(found) for part in (_lives, _by_model, _longer, _losses, _left_out))


def _lives(found: Sequence[Found]) -> str:
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
    return markdown_table(head, body)


def _by_model(found: Sequence[Found]) -> str:
    """Half-lives of each model by itself."""
    lengths, body = found[0].config["n_tokens"], []
    for of in found:
        last = max(of.config["on_steps"])
        for weight_decay in of.config["weight_decays"]:
            lives = of.by_model(weight_decay)
            cells = [", ".join(_steps(x, last) for x in lives[n]) for n in lengths]
            body.append([of.pair, f"{weight_decay:g}", *cells, str(of.n_left_out)])
    head = ["half-life of each model", "decay", *(f"P={n}" for n in lengths), "did not learn A"]
    return markdown_table(head, body)


def _steps(half_life: float, last: int) -> str:
    """A half-life in words; without a gain to begin with there is nothing to lose."""
    return "nothing to lose" if np.isnan(half_life) else f"> {last}" if half_life == np.inf else f"{half_life:.0f}"


def _longer(found: Sequence[Found]) -> str:
    """In how many models A lasts longer: of the next pair, by digit, behind prompts, and without weight decay."""
    lengths, decays = found[0].config["n_tokens"], found[0].config["weight_decays"]
    lives = {(of.pair, decay): of.by_model(decay) for of in found for decay in decays}
    compared: dict[str, list[tuple[dict[int, np.ndarray], dict[int, np.ndarray]]]] = {}
    for decay in decays:
        for one, other in pairwise(found):
            both = sorted(set(one.seeds) & set(other.seeds))
            of_both = [
                {n: lives[of.pair, decay][n][[of.seeds.index(seed) for seed in both]] for n in lengths}
                for of in (other, one)
            ]
            compared[f"{other.pair} than {one.pair}, decay {decay:g}"] = [tuple(of_both)]
        for of in found:
            with_it, without = (of.by_model(decay, part) for part in _halves(len(of.counts) // 2))
            compared[f"{of.pair}, without digit {LEFT_OUT} than with it, decay {decay:g}"] = [(without, with_it)]
        for of in found:
            here = lives[of.pair, decay]
            of_none = {n: here[lengths[0]] for n in lengths}
            for pair in (of.pair, "all pairs"):
                name = f"{pair}, behind P tokens than behind {lengths[0]}, decay {decay:g}"
                compared.setdefault(name, []).append((here, of_none))
    for less, more in pairwise(decays):
        for of in found:
            for pair in (of.pair, "all pairs"):
                of_decays = lives[of.pair, less], lives[of.pair, more]
                compared.setdefault(f"{pair}, decay {less:g} than {more:g}", []).append(of_decays)
    body = []
    for name, parts in compared.items():
        joined = [[np.concatenate([part[which][n] for part in parts]) for which in (0, 1)] for n in lengths]
        body.append([name, *(more_often(one, other) for one, other in joined)])
    return markdown_table(["A lasts longer, models", *(f"P={n}" for n in lengths)], body)


def more_often(one: np.ndarray, other: np.ndarray) -> str:
    """In how many models a half-life is longer, of those where it differs, and the share's interval; "" if nowhere."""
    known = ~(np.isnan(one) | np.isnan(other))  # elsewhere there was nothing to lose
    differs = known & (one != other)  # two that were not seen to end do not
    if not differs.any():
        return ""
    share = rate(one[differs] > other[differs])
    low, high = share["interval"]
    return f"{(one > other)[differs].sum()} of {differs.sum()} [{low:.0%}, {high:.0%}]"


def _losses(found: Sequence[Found]) -> str:
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
            scores = [estimated(of.loss(*key, n), draws[:, k]) for k, n in enumerate(lengths)]
            cells = [with_interval(score, ".2f") for score in scores]
            body.append([f"{of.pair}, {name}", *cells, f"{of.of_b[tuple(key)]:.2f}"])
    return markdown_table(["nats per sum", *(f"P={n}" for n in lengths), "B"], body)


def _left_out(found: Sequence[Found]) -> str:
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
    return markdown_table(head, body)


def _halves(half: int) -> Iterator[slice]:
    """The documents with the digit in every sum, which come first, and those with it in none."""
    yield slice(0, half)
    yield slice(half, None)


def figure(folder: Path) -> Figure:
    """Loss over steps, a panel for each pair of tasks."""
    from matplotlib.figure import Figure

    found = found_in(folder)
    drawn = Figure(figsize=(2 + 3 * len(found), 4.4), layout="constrained")
    axes = drawn.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for ax, of in zip(axes, found, strict=True):
        _draw(ax, of)
        ax.set_xlabel("steps of training on")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("held-out nats per sum")
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize="small")
    return drawn


def _draw(ax: Axes, of: Found) -> None:
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
    do_or_print(lambda: command(run, DEFAULT, __doc__, {"short": SHORT}), table, figure)
