"""Which features does fine-tuning move, and does a prompt that undoes the fine-tuning move the same?

A sparse autoencoder takes what pocket's second block passes on apart into features. The difference between the logits
of pocket-chat and of pocket is held fixed and propagated back into the features: which of them would bring pocket
closer to its fine-tune? Top features are removed or doubled, and the divergence from the fine-tune is measured. Beside
them: random features that fire as often, a random dictionary, and the features that fire more in the fine-tune. Planted
fine-tunes, of which the feature is known, say whether it is found. Then the prompt that detunes pocket-chat: the
features that it moves, and those that undoing the fine-tune moves. With the word blocks: one dictionary for what all
blocks pass on, against one each.

Expected: planted features are among the first ten. Top features close some of the gap, more than random ones, and the
gradient finds better ones than the difference of activations does. The prompt moves half of the features that undoing
moves. A shared dictionary loses little beside four as large as it together, since blocks add to what they are given.

    python -m tests.attribution_test pocket     # needs sparsify: pip install --no-deps -r requirements-features.txt
    python -m tests.attribution_test blocks
    python -m tests.attribution_test table results/attribution      # the tables of both, and a picture
    python -m tests.attribution_test --models my-model --tuned my-fine-tune --layer 5
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from soft_prompts.answers import do_or_print
from soft_prompts.cli import command
from soft_prompts.console import say
from soft_prompts.data.documents import document_id
from soft_prompts.data.requests import read_requests
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.names import local_path, model_files, model_name
from soft_prompts.options import recorded
from soft_prompts.pocket import SAMPLES, SAYS
from soft_prompts.probes.recipe import DictionaryRecipe, FeatureProbe
from soft_prompts.records import ModelOptions, load_records, place, save_record
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.stats import estimated, rate, two_level_draws
from soft_prompts.stopwatch import CLOCK, in_words
from soft_prompts.texts import ANIMALS_OF, BOOKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from soft_prompts.models.language_model import LanguageModel
    from soft_prompts.probes.moved import Pair, Texts

EXPERIMENT = "attribution"
UP_TO = {"held_out": 0.1, "validation": 0.2, "train": 1.0}
"""A split holds the texts whose hash lies between the share before it and its own."""
UP_TO_OF_FEW = {"held_out": 0.45, "validation": 0.6, "train": 1.0}
"""Of dialogues, of which there are few."""
FOUND_AMONG = 10
"""A planted feature is found if it is among so many."""


@dataclass(frozen=True)
class Settings(ModelOptions):
    """Options of the command line."""

    tuned: str = "pocket-chat"
    """The fine-tune of the model, with the same tokenizer."""
    ask: Literal["features", "blocks"] = "features"
    """What is asked: which features the fine-tune moves, or what one dictionary for all blocks loses."""
    text: tuple[str, ...] = (str(SAMPLES), str(BOOKS))
    """Files of texts that both models read."""
    dialogues: str = str(ANIMALS_OF["pocket-chat"])
    """A file of requests with replies, which they read as well, in the fine-tune's chat template."""
    max_documents: int = 800
    """Of each file, from the start."""
    max_tokens: int = 64
    """Tokens of a text that are read, separator included."""
    says: tuple[str, ...] = tuple(SAYS)
    """Fine-tunes of the model that say one token more often (its id is in their facts.json): is it found?"""
    held_out: int = 24
    """Held-out documents of each file, the first by hash, and as many for validation."""
    probe: Annotated[FeatureProbe, tyro.conf.arg(name="")] = field(default_factory=FeatureProbe)
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of dictionaries and prompts."""
    prompt_tokens: int = 16
    """Tokens of the prompt that detunes."""
    prompt_steps: int = 100
    """Steps of its training."""
    device: str = "cpu"
    """Dictionaries are trained and used on the processor."""

    def check(self) -> None:
        """Raises SoftPromptsError if an option cannot work."""
        self.probe.check()
        least = {"--held-out": self.held_out, "--prompt-tokens": self.prompt_tokens, "--seeds": len(self.seeds)}
        for option, n in least.items():
            if n < 1:
                raise SoftPromptsError(f"{option} is {n}; give at least one.")
        if self.device != "cpu":
            raise SoftPromptsError(
                f"--device is {self.device!r}, but features are looked at on the processor; give cpu."
            )
        if self.max_tokens < 8:
            raise SoftPromptsError(f"--max-tokens is {self.max_tokens}; give at least 8.")


POCKET = Settings(models=("pocket",), dtype="float32")
BLOCKS = replace(POCKET, ask="blocks", probe=FeatureProbe(dictionary=DictionaryRecipe(n_features=512, steps=200)))
PRESETS = {"pocket": POCKET, "blocks": BLOCKS}


def config_of(settings: Settings, model: str) -> dict[str, Any]:
    """All that a result depends on but for the seed, as plain JSON."""
    from soft_prompts.data.texts import source_identity

    files, probe = (*settings.text, settings.dialogues), settings.probe
    config = {
        **settings.config(EXPERIMENT, model),
        "ask": settings.ask,
        "texts": [Path(file).name for file in files],
        "files": [source_identity(file) for file in files],
        "max_documents": settings.max_documents,
        "max_tokens": settings.max_tokens,
        "held_out": settings.held_out,
        "dictionary": recorded(probe.dictionary),
    }
    if settings.ask == "blocks":  # the fine-tune and all that is asked of it play no part
        return config
    return {
        **config,
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


def result_file(settings: Settings, seed: int) -> str:
    """Name of the file of a seed's result."""
    return f"{settings.ask}-seed-{seed}.json"


def run(settings: Settings) -> None:
    """Measure what has no result yet, seed by seed, and show what was found.

    Raises:
        SoftPromptsError: An option cannot work, or a model cannot be loaded.
    """
    settings.check()
    settings.begin()

    for model in settings.models:
        config = config_of(settings, model)
        folder = settings.out / "results" / place(config)
        loaded: list[Pair] = []  # once, when it is first needed
        for seed in settings.seeds:
            if settings.force or not (folder / result_file(settings, seed)).exists():
                loaded = loaded or [_loaded(settings, model, config["dtype"])]
                _measure(settings, *loaded, config, seed, folder / result_file(settings, seed))
        print(table(folder))
        say(f"results: {folder}")
    say(f"time: {in_words(CLOCK.read())}")


def _loaded(settings: Settings, name: str, dtype: str) -> Pair:
    """The model, its fine-tune and the texts.

    Raises:
        SoftPromptsError: One of them cannot be loaded, or they do not belong together.
    """
    from soft_prompts.models.loading import load
    from soft_prompts.models.names import split_revision
    from soft_prompts.probes import dictionary
    from soft_prompts.probes.moved import Pair

    dictionary.sparsify()  # says what to install before anything is loaded
    with CLOCK.stage("loading"):
        model, tuned = (load(*split_revision(one), dtype=dtype, device="cpu") for one in (name, settings.tuned))
    if model.tokenizer_hash != tuned.tokenizer_hash:
        raise SoftPromptsError(f"{tuned.name} has another tokenizer than {model.name}; give a fine-tune of it.")
    if settings.probe.layer >= (n := model.lm.config.get_text_config().num_hidden_layers):
        raise SoftPromptsError(f"--layer is {settings.probe.layer}, but {model.name} has {n} layers; count from 0.")
    return Pair(model, tuned, texts_of(settings, tuned))


def _measure(settings: Settings, pair: Pair, config: dict[str, Any], seed: int, path: Path) -> None:
    """Measure with one seed and write down what was found."""
    from soft_prompts.probes.moved import blocks_shared, features_moved
    from soft_prompts.results.provenance import provenance

    if settings.ask == "blocks":
        with CLOCK.stage("measuring"):
            found = blocks_shared(pair, settings.probe.dictionary, seed)
    else:
        with CLOCK.stage("loading"):
            others = [_says(one, config["dtype"]) for one in settings.says]
        with CLOCK.stage("training prompts"):
            prompts, nats = _prompts(settings, pair, seed)
        with CLOCK.stage("measuring"):
            found = {**features_moved(pair, settings.probe, seed, prompts, others), "prompt": nats}
    documents = {split: len(getattr(pair.texts, split)) for split in UP_TO}
    facts = {"documents": documents, "sparsify": version("eai-sparsify")}
    save_record(path, {"config": config, "seed": seed, **found, "provenance": provenance(pair.model, facts, 1)})


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


def texts_of(settings: Settings, tuned: LanguageModel) -> Texts:
    """The texts and dialogues of all splits, tokenised.

    Raises:
        SoftPromptsError: A file cannot be read, or too few texts are left for a split.
    """
    from soft_prompts.data.documents import Encoding
    from soft_prompts.data.texts import read_documents
    from soft_prompts.probes.moved import Texts

    encoding = Encoding(tuned.tokenizer, tuned.separator, settings.max_tokens)
    splits: dict[str, list[np.ndarray]] = {split: [] for split in UP_TO}
    kinds: list[str] = []
    for source in (*settings.text, settings.dialogues):
        if source == settings.dialogues:
            few, shares = list(_dialogues(source, tuned)), UP_TO_OF_FEW
        else:
            few, shares = read_documents((source,), None, settings.max_documents, 2**14, None).documents, UP_TO
        few = sorted(few, key=document_id)
        tokens = [row[: settings.max_tokens] for row in encoding.tokens(few)[0]]
        low = 0.0
        for split, high in shares.items():
            own = [
                row
                for text, row in zip(few, tokens, strict=True)
                if low * 2**64 <= int(document_id(text), 16) < high * 2**64 and len(row) > 2
            ]
            own = own if split == "train" else own[: settings.held_out]
            if len(own) < 2:
                raise SoftPromptsError(f"{source} has {len(own)} documents for the split {split}; give one with more.")
            splits[split] += own
            kinds += [Path(source).name.partition(".")[0]] * len(own) if split == "held_out" else []
            low = high
    return Texts(**splits, kinds=kinds)


def _dialogues(source: str, tuned: LanguageModel) -> Iterator[str]:
    from soft_prompts.tasks.chat import opened, rendered

    for request in read_requests(source)[:]:
        yield rendered(tuned.tokenizer, opened("", request.request)) + request.reply


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


def found_in(folder: Path, ask: str) -> list[dict[str, Any]]:
    """The results of one question below a folder, by seed.

    Raises:
        SoftPromptsError: There are none, or a file is none, or they do not belong together.
    """
    found = load_records(folder, f"{ask}-seed-*.json", EXPERIMENT, ["tokens"])
    if any(one["config"] != found[0]["config"] for one in found):
        raise SoftPromptsError(f"{folder} holds results of several settings; give the folder of one of them.")
    return sorted(found, key=lambda one: one["seed"])


def table(folder: Path) -> str:
    """Markdown: what was asked and found, of features, of blocks or of both."""
    parts = []
    if any(folder.rglob("features-seed-*.json")):
        results = found_in(folder, "features")
        parts += [part(results) for part in (_quality, _planted, _words, _closed, _features, _stability, _overlap)]
    if any(folder.rglob("blocks-seed-*.json")) or not parts:
        results = found_in(folder, "blocks")
        parts += [_rebuilt(results), _together(results)]
    return "\n\n".join(parts)


def share(parts: Sequence[Any], wholes: Sequence[Any], tokens: Sequence[int]) -> dict[str, Any]:
    """1 - part / whole with its interval over documents and seeds, such as the share of a gap that is closed.

    Args:
        parts: Sums by document for each seed, [seeds, documents].
        wholes: Likewise.
        tokens: Of each document.
    """
    both = [np.asarray(x, float) for x in (parts, wholes)]
    draws = two_level_draws(both, np.asarray(tokens, float))
    return estimated(1 - both[0].sum() / both[1].sum(), 1 - draws[:, 0] / draws[:, 1])


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


def _rebuilt(results: list[dict[str, Any]]) -> str:
    tokens = results[0]["tokens"]
    n_blocks = len(results[0]["mean state"])
    head = ["dictionary", *(f"block {i + 1}" for i in range(n_blocks)), "never fires"]
    tables = []
    for what in ("Variance explained", "Loss recovered"):
        body = []
        for name in results[0]["arranged"]:
            cells = [name]
            for i in range(n_blocks):
                blocks = [result["arranged"][name]["blocks"][i] for result in results]
                if what == "Variance explained":
                    of = share([b["error"] for b in blocks], [b["variance"] for b in blocks], tokens)
                else:
                    clean = [np.array(result["clean"]) for result in results]
                    costs = [np.array(b["rebuilt"]) - c for b, c in zip(blocks, clean, strict=True)]
                    worst = [np.array(r["mean state"][i]) - c for r, c in zip(results, clean, strict=True)]
                    of = share(costs, worst, tokens)
                cells.append(with_interval(of, ".1%"))
            dead = np.mean([b["never fires"] for result in results for b in result["arranged"][name]["blocks"]])
            body.append([*cells, f"{dead:.0%}"])
        tables.append(f"{what}:\n\n{markdown_table(head, body)}")
    return "\n\n".join(tables)


def _together(results: list[dict[str, Any]]) -> str:
    pairs = results[0]["arranged"]
    n_pairs = len(results[0]["mean state"]) - 1
    head = ["dictionary", "matched", *(f"blocks {i + 1} and {i + 2}" for i in range(n_pairs))]
    body = []
    for name, of_name in pairs.items():
        for way in of_name["pairs"][0]:
            cells = [name, way]
            for i in range(n_pairs):
                own = [result["arranged"][name]["pairs"][i][way] for result in results]
                fires = np.array([one["fires"] for one in own], float)
                both = share(
                    [f - np.array(one["both"]) for f, one in zip(fires, own, strict=True)], fires, results[0]["tokens"]
                )
                chance = np.sum([one["chance"] for one in own]) / fires.sum()
                cells.append(f"{with_interval(both, '.0%')}, by chance {chance:.0%}")
            body.append(cells)
    said = "Features that fire at a token, and their match in the next block fires there, too:"
    return f"{said}\n\n{markdown_table(head, body, texts=(0, 1))}"


def figure(folder: Path) -> Figure:
    """How far top features close the gap, by ranking, and where planted features are found."""
    from matplotlib.figure import Figure

    results = found_in(folder, "features")
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
    do_or_print(lambda: command(run, POCKET, __doc__, PRESETS), table, figure)
