"""How many nats does a target lose when its prompt must be text?

A prompt of a few legal tokens is searched that makes a model say a given string, with several searches from the same
starts and with the same number of forward passes: the tokens nearest to a trained soft prompt, the same with the
projection in the loop (PEZ), a mixture of tokens that sharpens, greedy coordinate gradient (GCG), GCG from a soft
prompt or from what the projection found, and a narrow coordinate search. A prompt is its text: only prompts count that
are read back as the same tokens. Beside each string: as many random tokens.

Expected: the nearest tokens of a soft prompt keep nothing of it. Searches over tokens come some way, and the random
strings stay far behind: text cannot force a model to say anything, as embeddings can.

    python -m tests.prompt_generation_test pocket
    python -m tests.prompt_generation_test pocket-long     # passes enough for GCG's own width
    python -m tests.prompt_generation_test smollm2
    python -m tests.prompt_generation_test table results/prompt_generation   # the answer again, and a picture
    python -m tests.prompt_generation_test --models my-model --targets-file mine.jsonl --passes 32768 --plain-ascii

Each line of mine.jsonl is a string or a list of strings; one prompt is searched for all strings of a list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_prompts.answers import do_or_print, save_picture
from soft_prompts.cli import command
from soft_prompts.console import say
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import safe_name
from soft_prompts.models.names import SMOLLM2, split_revision
from soft_prompts.records import ModelOptions, load_records, place, save_record
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.stats import rate, ratio
from soft_prompts.stopwatch import CLOCK, in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from soft_prompts.models.language_model import LanguageModel

EXPERIMENT = "prompt_generation"
TARGETS = (
    "The sun went down behind the hills.",
    "I would like a cup of coffee.",
    "She walked slowly to the river",
    "once upon a time",
    "the captain of the ship",
    "Nobody knew what to say.",
    "a small red house",
    "It was the best day of his life.",
    "They sat by the fire and talked",
    "bread and butter",
    "The dog ran after the cat.",
    "He closed the window",
    "in the middle of the night",
    "We must leave at once!",
    "my dear friend",
    "The letter never arrived.",
    "snow on the mountains",
    "What is your name?",
    "an old man with a long beard",
    "The children laughed and sang.",
)
"""Plain strings, written for this; none of them served to choose a rate or a width."""
SHOWN = 10
"""Targets whose prompts the table shows."""


@dataclass(frozen=True)
class Settings(ModelOptions):
    """Options of the command line."""

    targets: tuple[str, ...] = TARGETS
    """The strings; a space is put before each."""
    targets_file: str = ""
    """A JSONL file of strings or lists of strings instead."""
    n_tokens: tuple[int, ...] = (8,)
    """Of each prompt."""
    passes: int = 16384
    """Forward passes of one string that a search may spend; one with its gradient counts as three."""
    methods: tuple[str, ...] = ()
    """Some of the searches, by the names in the table. None: all."""
    random_with: tuple[str, ...] = ("soft, nearest tokens", "narrow")
    """The searches that are also tried on random strings."""
    banned: tuple[str, ...] = ()
    """Strings that no token of a prompt may hold."""
    plain_ascii: bool = False
    """Printable ASCII only."""
    no_overlap: bool = False
    """No prompt may use its target's own tokens."""


DEFAULT = Settings(models=("EleutherAI/pythia-410m-deduped",))
POCKET = Settings(models=("pocket",), passes=1024, dtype="float32")
BEST = "projected, then GCG"
FEW = ("soft, nearest tokens", "projected", "GCG of width 64", "narrow", BEST)
PRESETS = {
    "pocket": POCKET,
    # Enough for 16 steps of GCG with its own width.
    "pocket-long": replace(POCKET, passes=8192, methods=("projected", "GCG", "narrow", BEST), random_with=()),
    SMOLLM2: Settings(models=(SMOLLM2,), targets=TARGETS[:10], passes=256, methods=FEW, dtype="bfloat16"),
}
IDENTITY = ("targets", "passes", "banned", "plain_ascii", "no_overlap")
"""The options that a result depends on, beside model, method and length."""


def check(settings: Settings) -> None:
    """Refuse options that cannot work, before anything is loaded.

    Raises:
        SoftPromptsError: What is wrong, with the value.
    """
    from soft_prompts.hard.comparison import METHODS

    if unknown := sorted({*settings.methods, *settings.random_with} - set(METHODS)):
        raise SoftPromptsError(f"there is no search {unknown[0]!r}; known: {', '.join(METHODS)}.")
    if not settings.n_tokens or min(settings.n_tokens) < 1 or len(set(settings.n_tokens)) < len(settings.n_tokens):
        raise SoftPromptsError(f"--n-tokens is {settings.n_tokens}, but needs lengths of at least 1, none twice.")
    if settings.passes < 1:
        raise SoftPromptsError(f"--passes is {settings.passes}, but must be at least 1.")


def targets_of(settings: Settings) -> list[tuple[str, ...]]:
    """The completions of each target, a space before each.

    Raises:
        SoftPromptsError: There are none, or a line of the file is neither a string nor a list of strings.
    """
    found: list[Any] = list(settings.targets)
    if settings.targets_file:
        try:
            lines = Path(settings.targets_file).read_text(encoding="utf-8").splitlines()
            found = [json.loads(line) for line in lines if line.strip()]
        except (OSError, ValueError) as error:
            raise SoftPromptsError(f"{settings.targets_file} cannot be read as JSON lines ({error}).") from error
    made = []
    for one in found:
        strings = one if isinstance(one, list) else [one]
        if not strings or not all(isinstance(text, str) and text.strip() for text in strings):
            raise SoftPromptsError(f"a target is a string or a list of strings, none empty, but one is {one!r}.")
        made.append(tuple(" " + text.strip() for text in strings))
    if not made:
        raise SoftPromptsError("there is no target; give some with --targets or --targets-file.")
    return made


def config_of(settings: Settings, model: str) -> dict[str, Any]:
    """All that results depend on but for method and length, as plain JSON."""
    own = {name: getattr(settings, name) for name in IDENTITY}
    return {**settings.config(EXPERIMENT, model), **own, "targets": targets_of(settings)}


def run(settings: Settings) -> None:
    """Search what has no result yet, and show what was found.

    Raises:
        SoftPromptsError: An option cannot work, or a model cannot be loaded.
    """
    check(settings)
    settings.begin()
    from soft_prompts.hard.comparison import METHODS

    for model in settings.models:
        config = config_of(settings, model)
        folder = settings.out / "results" / place(config)
        loaded: list[LanguageModel] = []
        for n in settings.n_tokens:
            for method in settings.methods or METHODS:
                path = folder / f"search-{n:04d}-{safe_name(method)}.json"
                if settings.force or not _is_done(path, with_random=method in settings.random_with):
                    _search(settings, model, config, method, n, path, loaded)
        print(table(folder))
        save_picture(figure, folder)
        say(f"results and a picture of them: {folder}")
    say(f"time: {in_words(CLOCK.read())}")


def _is_done(path: Path, with_random: bool) -> bool:
    """Whether a result is there, with random strings if they are asked for."""
    if not path.exists():
        return False
    (result,) = load_records(path.parent, path.name, EXPERIMENT, ["found"])
    return not with_random or any(one["random"] for one in result["found"])


def _search(
    settings: Settings, model: str, config: dict[str, Any], method: str, n: int, path: Path, loaded: list[LanguageModel]
) -> None:
    """Search with one method, and write down what was found. A model is loaded once, when it is first needed."""
    from soft_prompts.hard.comparison import Target, compare
    from soft_prompts.hard.legal import Legal
    from soft_prompts.models.loading import load
    from soft_prompts.results.provenance import provenance

    if not loaded:
        with CLOCK.stage("loading"):
            loaded.append(load(*split_revision(model), dtype=config["dtype"], device=settings.device))
    with CLOCK.stage("searching"):
        lm = loaded[0]
        legal = Legal.of(lm, settings.banned, settings.plain_ascii)
        targets = [Target(completions) for completions in config["targets"]]
        if method in settings.random_with:
            targets += [target.control(legal, seed) for seed, target in enumerate(targets)]
        found = compare(lm, targets, legal, method, n, settings.passes, settings.no_overlap)
    origin = provenance(lm, {}, len(targets))
    save_record(path, {"config": config, "method": method, "n_tokens": n, "provenance": origin, "found": found})


def comparisons(folder: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, list[dict[str, Any]]]]]:
    """What can be compared: a title, the options, and what each search found.

    Raises:
        SoftPromptsError: There are none, or a file is none.
    """
    from soft_prompts.hard.comparison import METHODS

    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for result in load_records(folder, "search-*.json", EXPERIMENT, ["method", "n_tokens", "found"]):
        key = json.dumps([result["config"], result["n_tokens"]])
        groups.setdefault(key, {})[result["method"]] = result
    for group in groups.values():
        in_order = {method: group[method]["found"] for method in METHODS if method in group}
        one = next(iter(group.values()))
        config = one["config"]
        targets, passes = f"{len(config['targets'])} targets", f"{config['passes']:,} passes for each"
        yield f"{config['model']}, {one['n_tokens']} tokens, {targets}, {passes}", config, in_order


def table(folder: Path) -> str:
    """Markdown: what each search found, and some of the prompts."""
    return "\n\n".join(
        f"**{title}**\n\n{_searches(found)}\n\n{_prompts(found)}" for title, _, found in comparisons(folder)
    )


def _searches(found: dict[str, list[dict[str, Any]]]) -> str:
    from soft_prompts.hard.comparison import GCG, SOFT

    head = ["search", "nats", "says it", "random strings", "lost to soft", "passes for GCG's loss", "in half of them"]
    body = []
    strings, controls = (_of_strings(next(iter(found.values())), random) for random in (False, True))
    for name, of in (("no prompt", "at_zero"), ("random tokens (the start)", "at_start")):
        body.append([name, _nats(strings, of), "", _nats(controls, of), "", "", ""])
    if SOFT in found:
        strings, controls = (_of_strings(found[SOFT], random) for random in (False, True))
        body.append(["soft prompt", _nats(strings, "soft_loss"), "", _nats(controls, "soft_loss"), "", "", ""])
    for method, of_method in found.items():
        strings, controls = _of_strings(of_method), _of_strings(of_method, random=True)
        lost, sooner = "", ["", ""]
        if SOFT in found:
            soft = [one["soft_loss"] for one in _of_strings(found[SOFT])]
            lost = _mean(strings, [one["loss"] - ideal for one, ideal in zip(strings, soft, strict=True)])
        if GCG in found and method != GCG:
            shares = [shared_passes(one, gcg) for one, gcg in zip(strings, _of_strings(found[GCG]), strict=True)]
            median = float(np.median(shares))
            sooner = [f"{median:.2f}" if np.isfinite(median) else "never", f"{np.sum(np.array(shares) <= 0.5)}"]
        exact = rate(np.array([one["exact"] for one in strings]))
        says = with_interval(exact, ".0%")
        body.append([method, _nats(strings, "loss"), says, _nats(controls, "loss"), lost, *sooner])
    return markdown_table(head, body)


def shared_passes(one: dict[str, Any], gcg: dict[str, Any]) -> float:
    """The passes that a search spent until it had the loss that GCG ended with, over those that GCG spent until then;
    inf if it never had it."""
    spent, loss = gcg["history"][-1] if gcg["history"] else (1, gcg["at_start"])
    return next((own / spent for own, reached in one["history"] if reached <= loss), np.inf)


def _of_strings(of_method: list[dict[str, Any]], random: bool = False) -> list[dict[str, Any]]:
    """What was found for the strings, or for the random ones."""
    return [one for one in of_method if one["random"] == random]


def _nats(records: list[dict[str, Any]], of: str) -> str:
    return _mean(records, [one[of] for one in records]) if records else ""


def _mean(records: list[dict[str, Any]], values: list[float]) -> str:
    """Mean over the targets' tokens, with its interval over targets."""
    counts = np.array([one["target_tokens"] for one in records])
    return with_interval(ratio(np.array(values) * counts, counts), ".2f")


def _prompts(found: dict[str, list[dict[str, Any]]]) -> str:
    """The best prompt of each of the first targets."""
    body = []
    for k in range(min(SHOWN, len(_of_strings(next(iter(found.values())))))):
        method, best = min(((m, _of_strings(of)[k]) for m, of in found.items()), key=lambda pair: pair[1]["loss"])
        target = " / ".join(text.strip() for text in best["target"])
        body.append([target, best["text"], f"{best['at_zero']:.2f}", f"{best['loss']:.2f}", method])
    return markdown_table(["target", "best prompt", "nats, without", "nats, behind it", "by"], body, texts=(0, 1, 4))


def figure(folder: Path) -> Figure:
    """The lowest loss so far by passes spent, means over targets."""
    from matplotlib.figure import Figure

    from soft_prompts.hard.comparison import SOFT

    shown = list(comparisons(folder))
    drawn = Figure(figsize=(7, 4 * len(shown)), layout="constrained")
    for ax, (title, config, found) in zip(np.ravel(drawn.subplots(len(shown))), shown, strict=True):
        at = np.unique(np.geomspace(4, config["passes"], 100).astype(int))
        for method, of_method in found.items():
            strings = _of_strings(of_method)
            counts = np.array([one["target_tokens"] for one in strings])
            ax.plot(at, counts @ np.array([lowest(one, at) for one in strings]) / counts.sum(), label=method)
        if SOFT in found:
            strings = _of_strings(found[SOFT])
            counts = [one["target_tokens"] for one in strings]
            soft = np.average([one["soft_loss"] for one in strings], weights=counts)
            ax.axhline(soft, color="black", linestyle=":", linewidth=0.8, label="soft prompt, not of text")
        ax.set_xscale("log")
        ticks = [4**i for i in range(1, 12) if 4**i <= config["passes"]]
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
        ax.minorticks_off()
        ax.set_xlabel("forward passes of one string")
        ax.set_ylabel("nats per token of the target")
        ax.set_title(title, loc="left", fontsize="medium")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize="small")
    return drawn


def lowest(one: dict[str, Any], at: np.ndarray) -> np.ndarray:
    """The lowest loss of a search by so many passes for each completion: [...] -> nats [...]."""
    spent = np.array([0, *(spent / len(one["target"]) for spent, _ in one["history"])])
    losses = np.minimum.accumulate([one["at_start"], *(loss for _, loss in one["history"])])
    return losses[np.searchsorted(spent, at, side="right") - 1]


if __name__ == "__main__":
    do_or_print(lambda: command(run, DEFAULT, __doc__, PRESETS), table, figure)
