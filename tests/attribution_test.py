"""Which features does fine-tuning move, and does a prompt that undoes the fine-tuning move the same?

A sparse autoencoder takes what pocket's second block passes on apart into features. The difference between the logits
of pocket-chat and of pocket is held fixed and propagated back into the features: which of them would bring pocket
closer to its fine-tune? Top features are removed or doubled, and the divergence from the fine-tune is measured. Beside
them: random features that fire as often, a random dictionary, and the features that fire more in the fine-tune. Planted
fine-tunes, of which the feature is known, say whether it is found. Then the prompt that detunes pocket-chat: the
features that it moves, and those that undoing the fine-tune moves.

Expected: planted features are among the first ten. Top features close some of the gap, more than random ones, and the
gradient finds better ones than the difference of activations does. The prompt moves half of the features that undoing
moves.

    python -m tests.attribution_test pocket     # needs sparsify: pip install --no-deps -r requirements-features.txt
    python -m tests.attribution_test table results/attribution      # what was found again, and a picture
    python -m tests.attribution_test --models my-model --tuned my-fine-tune --layer 5
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from soft_prompts.answers import do_or_print
from soft_prompts.cli import command
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.names import local_path, model_files, model_name
from soft_prompts.pocket import SAYS
from soft_prompts.probes.recipe import FeatureProbe
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.stats import rate
from soft_prompts.stopwatch import CLOCK

from .dictionaries import EXPERIMENT, PairOptions, found_in, run_seeds, share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from soft_prompts.models.language_model import LanguageModel
    from soft_prompts.probes.moved import Pair

ASK = "features"
FOUND_AMONG = 10
"""A planted feature is found if it is among so many."""


@dataclass(frozen=True)
class Settings(PairOptions):
    """Options of the command line."""

    says: tuple[str, ...] = tuple(SAYS)
    """Fine-tunes of the model that say one token more often (its id is in their facts.json): is it found?"""
    probe: Annotated[FeatureProbe, tyro.conf.arg(name="")] = field(default_factory=FeatureProbe)
    prompt_tokens: int = 16
    """Tokens of the prompt that detunes."""
    prompt_steps: int = 100
    """Steps of its training."""

    def check(self) -> None:
        """Raises SoftPromptsError if an option cannot work."""
        super().check()
        self.probe.check()
        if self.prompt_tokens < 1:
            raise SoftPromptsError(f"--prompt-tokens is {self.prompt_tokens}; give at least one.")


POCKET = Settings(models=("pocket",), dtype="float32")


def config_of(settings: Settings, model: str) -> dict[str, Any]:
    """All that a result depends on but for the seed, as plain JSON."""
    probe = settings.probe
    return {
        **settings.asked(model, ASK, probe.dictionary),
        "tuned": model_name(settings.tuned),
        "tuned_files": model_files(settings.tuned),
        "says": [model_name(one) for one in settings.says],
        "says_files": [model_files(one) for one in settings.says],
        "layer": probe.layer,
        "top": probe.top,
        "planted": probe.planted,
        "prompt_tokens": settings.prompt_tokens,
        "prompt_steps": settings.prompt_steps,
    }


def run(settings: Settings) -> None:
    """Measure what has no result yet, and show what was found.

    Raises:
        SoftPromptsError: An option cannot work, or a model cannot be loaded.
    """

    def measure(pair: Pair, config: dict[str, Any], seed: int) -> dict[str, Any]:
        from soft_prompts.probes.moved import features_moved

        if settings.probe.layer >= (n := pair.model.lm.config.get_text_config().num_hidden_layers):
            raise SoftPromptsError(
                f"--layer is {settings.probe.layer}, but {pair.model.name} has {n} layers; count from 0."
            )
        with CLOCK.stage("loading"):
            others = [_says(one, config["dtype"]) for one in settings.says]
        with CLOCK.stage("training prompts"):
            prompts, nats = _prompts(settings, pair, seed)
        with CLOCK.stage("measuring"):
            return {**features_moved(pair, settings.probe, seed, prompts, others), "prompt": nats}

    run_seeds(settings, lambda model: config_of(settings, model), measure, table)


def _says(name: str, dtype: str) -> tuple[LanguageModel, int]:
    """A fine-tune that says one token more often, and the token's id.

    Raises:
        SoftPromptsError: It does not say which.
    """
    from soft_prompts.models.loading import load

    path = local_path(name)
    try:
        token = int(json.loads((path / "facts.json").read_text())["token"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SoftPromptsError(
            f"{name} does not say which token it says more often ({error!r}); its facts.json must have it: "
            f'{{"token": 17}}.'
        ) from error
    return load(name, dtype=dtype, device="cpu"), token


def _prompts(settings: Settings, pair: Pair, seed: int) -> tuple[dict[str, Any], dict[str, float]]:
    """The prompt that detunes, random tokens beside it, and the held-out losses that say how far it goes."""
    import torch

    from soft_prompts.data.documents import Encoding
    from soft_prompts.engine.prompted import Bench
    from soft_prompts.tasks.chat_detuning import ChatDetuning
    from soft_prompts.training.log import Logs
    from soft_prompts.training.loop import train
    from soft_prompts.training.recipe import TrainConfig
    from soft_prompts.training.run import Run

    tuned = pair.tuned
    task = ChatDetuning(text=settings.text[:1], base=pair.model.name)
    encoding = Encoding(tuned.tokenizer, tuned.separator, settings.max_tokens)
    held_out, validation = (list(islice(task.examples(s, encoding, 0), 64)) for s in ("held_out", "validation"))
    recipe = TrainConfig(steps=settings.prompt_steps, batch_size=8, max_tokens=settings.max_tokens, n_evaluations=0)
    runs = [Run(EXPERIMENT, task, settings.tuned, n, seed, recipe, "float32") for n in (0, settings.prompt_tokens)]
    bench = Bench(tuned, encoding, held_out, 4096, validation)
    without, behind = train(bench, runs, Logs(settings.out / "runs", ()))
    with torch.no_grad():
        prompt = behind.intervention(torch.zeros(1, 0))[0]
    random = torch.randint(
        len(tuned.vocabulary), (settings.prompt_tokens,), generator=torch.Generator().manual_seed(seed)
    )
    nats = {"without": without.scores.loss, "behind": behind.scores.loss, "the model": task.anchor(bench).scores.loss}
    return {"the prompt": prompt, "random tokens": tuned.vocabulary[random]}, nats


def table(folder: Path) -> str:
    """Markdown: how good the dictionary is, which features are found, what they do, and what the prompt moves."""
    results = found_in(folder, ASK)
    parts = (_quality, _planted, _words, _closed, _features, _stability, _overlap)
    return "\n\n".join(part(results) for part in parts)


def _quality(results: list[dict[str, Any]]) -> str:
    config, tokens = results[0]["config"], results[0]["tokens"]
    of = [result["dictionary"] for result in results]
    explained = with_interval(share([d["error"] for d in of], [d["variance"] for d in of], tokens), ".0%")
    costs = [np.array([np.array(d[name]) - np.array(d["clean"]) for d in of]) for name in ("rebuilt", "mean state")]
    recovered = with_interval(share(*costs, tokens), ".0%")
    whole = np.array([result["gaps"][""] for result in results])
    kinds = np.array(results[0]["kinds"])
    apart = ", ".join(
        f"{whole[0, kinds == kind].sum() / np.array(tokens)[kinds == kind].sum():.3f} on {kind}"
        for kind in dict.fromkeys(kinds)
    )
    dead, median = (np.mean([d[name] for d in of]) for name in ("never fires", "median rate"))
    return (
        f"{config['dictionary']['n_features']:,} features of layer {config['layer']} of {config['model']}, "
        f"{config['dictionary']['k']} at a time, {len(results)} seeds; {len(tokens)} held-out documents, "
        f"{sum(tokens):,} tokens. Variance explained: {explained}. Loss recovered: {recovered}. "
        f"Features that never fire there: {dead:.0%}; the median one fires at {median:.1%} of the tokens. "
        f"{config['tuned']} is away by {whole[0].sum() / sum(tokens):.3f} nats per token: {apart}."
    )


def _planted(results: list[dict[str, Any]]) -> str:
    plants = [one for result in results for one in result["planted"]]
    kinds = list(dict.fromkeys(one["plant"] for one in plants))
    ways = list(plants[0]["found"])
    head = ["ranked by", *(f"{kind} ({sum(one['plant'] == kind for one in plants)})" for kind in kinds)]
    body = []
    for way in ways:
        cells = [way]
        for kind in kinds:
            own = [one["found"][way] for one in plants if one["plant"] == kind]
            among = rate(np.array([place <= FOUND_AMONG for place, _ in own]))
            right = sum(is_right for _, is_right in own) / len(own)
            cells.append(f"{with_interval(among, '.0%')}, sign {right:.0%}")
        body.append(cells)
    return markdown_table(head, body)


def _words(results: list[dict[str, Any]]) -> str:
    if not results[0]["words"]:
        return "No fine-tune of one token was looked at."
    ways = list(results[0]["words"][0]["found"])
    head = ["ranked by", *(one["model"] for one in results[0]["words"])]
    known = ["correlation with the token that comes"]
    body = [[way] for way in ways]
    for k in range(len(results[0]["words"])):
        own = [result["words"][k] for result in results]
        known.append(", ".join(f"{one['correlation']:.2f}" for one in own))
        for row, way in zip(body, ways, strict=True):
            places = ", ".join(f"{one['found'][way][0]}{'' if one['found'][way][1] else ' (-)'}" for one in own)
            row.append(f"{places}; {np.mean([one['of ten'][way] for one in own]):.1f} of ten")
    return markdown_table(head, [known, *body])


def _closed(results: list[dict[str, Any]]) -> str:
    tokens = results[0]["tokens"]
    whole = [result["gaps"][""] for result in results]
    names = list(dict.fromkeys(name.partition(": ")[0] for name in results[0]["gaps"] if name))
    what = ("with", "against", "moved")
    head = [f"the top {results[0]['config']['top']} by", "with the sign", "against it", "as in the fine-tune"]
    body = []
    for name in names:
        edits = [f"{name}: {one}" for one in what]
        shown = [
            with_interval(share([result["gaps"][edit] for result in results], whole, tokens), ".1%")
            if edit in results[0]["gaps"]
            else ""
            for edit in edits
        ]
        body.append([name, *shown])
    return markdown_table(head, body)


def _features(results: list[dict[str, Any]]) -> str:
    first = results[0]
    body = []
    for one, contexts in zip(first["tops"]["gradient"], first["contexts"], strict=False):
        said = " / ".join(repr(text).strip("'\"").replace("`", "'") for text in contexts[:3])
        body.append([str(one["feature"]), f"{one['score']:+.2f}", f"{one['rate']:.1%}", said])
    return markdown_table(["feature", "gradient", "fires", "strongest at"], body)


def closest(first: dict[str, Any], second: dict[str, Any], of: str, to: str) -> float:
    """Mean over the directions of one result of the largest cosine with a direction of another."""
    one, other = np.array(first[of]), np.array(second[to])
    return float((one @ other.T).max(1).mean())


def _stability(results: list[dict[str, Any]]) -> str:
    pairs = [(a, b) for a in results for b in results if a is not b]
    if not pairs:
        return "One seed says nothing of what is stable."
    top = np.mean([closest(a, b, "directions", "directions") for a, b in pairs])
    other = np.mean([closest(a, b, "directions", "other directions") for a, b in pairs])
    ways = list(results[0]["tops"])
    shared = [
        np.mean([len(_signed(r, ways[0]) & _signed(r, way)) / len(r["tops"][way]) for r in results]) for way in ways[1:]
    ]
    agreed = "; ".join(f"{way} {x:.0%}" for way, x in zip(ways[1:], shared, strict=True))
    return (
        f"Over seeds: a top feature's direction has a cosine of {top:.2f} with the nearest of another dictionary's top "
        f"features, and of {other:.2f} with the nearest of as many others that fire as often. Of the top by gradient, "
        f"so many are also in the top by: {agreed}."
    )


def _signed(result: dict[str, Any], way: str) -> set[tuple[int, bool]]:
    return {(one["feature"], one["score"] > 0) for one in result["tops"][way]}


def _overlap(results: list[dict[str, Any]]) -> str:
    head = ["moved by", "seed", "size", f"of the top {results[0]['config']['top']} of undoing", "rank correlation"]
    body = []
    for k, one in enumerate(results[0]["overlap"]):
        for result in results:
            of = result["overlap"][k]
            shown = [with_interval(of["shared"], ".0%"), with_interval(of["correlation"], ".2f")]
            body.append([one["name"], str(result["seed"]), f"{of['size']:.2f}", *shown])
    closed = [
        (r["prompt"]["without"] - r["prompt"]["behind"]) / (r["prompt"]["without"] - r["prompt"]["the model"])
        for r in results
    ]
    shares = ", ".join(f"{x:.0%}" for x in closed)
    return f"{markdown_table(head, body)}\n\nThe prompts close {shares} of the gap in loss."


def figure(folder: Path) -> Figure:
    """How far top features close the gap, by ranking, and where planted features are found."""
    from matplotlib.figure import Figure

    results = found_in(folder, ASK)
    tokens, whole = results[0]["tokens"], [result["gaps"][""] for result in results]
    drawn = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = drawn.subplots(1, 2)
    names = list(
        dict.fromkeys(
            name.partition(": ")[0]
            for name in results[0]["gaps"]
            if f"{name.partition(': ')[0]}: with" in results[0]["gaps"]
        )
    )
    for k, (what, label) in enumerate(
        (("with", "with the sign"), ("against", "against it"), ("moved", "as in the fine-tune"))
    ):
        of = [share([r["gaps"][f"{name}: {what}"] for r in results], whole, tokens) for name in names]
        values = np.array([one["value"] for one in of])
        ends = np.abs(np.array([one["interval"] for one in of]).T - values)
        left.errorbar(values, np.arange(len(names)) + 0.15 * (k - 1), xerr=ends, fmt="o", capsize=2, label=label)
    left.axvline(0, color="black", linewidth=0.8)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel("share of the gap to the fine-tune that is closed")
    plants = [one for result in results for one in result["planted"]]
    kinds = list(dict.fromkeys(one["plant"] for one in plants))
    ways = list(plants[0]["found"])
    for k, kind in enumerate(kinds):
        found = [[one["found"][way][0] for one in plants if one["plant"] == kind] for way in ways]
        right.plot([np.median(places) for places in found], np.arange(len(ways)) + 0.12 * (k - 1.5), "o", label=kind)
    right.axvline(FOUND_AMONG, color="black", linewidth=0.8, linestyle=":")
    right.set_xscale("log")
    ticks = [10**i for i in range(4)]
    right.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    right.minorticks_off()
    right.set_yticks(range(len(ways)), ways)
    right.invert_yaxis()
    right.set_xlabel("median place of the planted feature")
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.3, -0.14), ncols=4)
    return drawn


if __name__ == "__main__":
    do_or_print(lambda: command(run, POCKET, __doc__, {"pocket": POCKET}), table, figure)
