"""What clusters do a model's token embeddings form, and which tokens break the model?

k-means clusters the input embeddings, and also a Gaussian cloud of the same extent, which has no clusters. Tokens that
the model hardly saw in training are found by their embeddings (Land and Bartolo 2024, arXiv 2405.05417) and verified:
the model is asked to repeat each, and an ordinary token of about the same frequency beside it.

Expected: few clusters, and hardly more of them than in the Gaussian, since meanings shade into each other. Tokens that
no training text has lie together. A model that can repeat at all fails on most of them, and on few others.

    python -m tests.vocabulary_test pocket
    python -m tests.vocabulary_test smollm2
    python -m tests.vocabulary_test table results/vocabulary        # the tables of what was found, and a picture
    python -m tests.vocabulary_test --models my-model --look-at 64 --candidates 1000
    python -m tests.vocabulary_test --models my-model --unused "<unused_1>" "<unused_2>"

What is known of every token, such as its cluster and its distance from the centroid, is written to runs/vocabulary, as
a table (.csv).
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from soft_prompts.answers import do_or_print
from soft_prompts.cli import command
from soft_prompts.console import say
from soft_prompts.files import write_atomically
from soft_prompts.models.names import SMOLLM2, split_revision
from soft_prompts.options import recorded
from soft_prompts.probes.vocabulary import VocabularyProbe
from soft_prompts.records import ModelOptions, load_records, place, save_record
from soft_prompts.report.markdown import in_markdown, markdown_table, with_interval
from soft_prompts.stopwatch import CLOCK, in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENT = "vocabulary"
RESULT = "vocabulary.json"
"""Name of a result's file."""
SHOWN = 40
"""Candidates that the table lists."""


@dataclass(frozen=True)
class Settings(ModelOptions):
    """Options of the command line."""

    probe: Annotated[VocabularyProbe, tyro.conf.arg(name="")] = field(default_factory=VocabularyProbe)


DEFAULT = Settings(models=("EleutherAI/pythia-410m-deduped",))
POCKET = Settings(models=("pocket",), dtype="float32")
PRESETS = {"pocket": POCKET, SMOLLM2: Settings(models=(SMOLLM2,), dtype="bfloat16")}


def config_of(settings: Settings, model: str) -> dict[str, Any]:
    """All that a result depends on, as plain JSON."""
    return {**settings.config(EXPERIMENT, model), "probe": recorded(settings.probe)}


def run(settings: Settings) -> None:
    """Look at the models that have no result yet, and show what was found.

    Raises:
        SoftPromptsError: An option cannot work, or a model cannot be loaded.
    """
    settings.probe.check()
    settings.begin()

    for model in settings.models:
        config = config_of(settings, model)
        folder = settings.out / "results" / place(config)
        if settings.force or not (folder / RESULT).exists():
            _look(settings, model, config)
        print(table(folder))
        say(f"results: {folder}\nevery token: {settings.out / 'runs' / place(config) / 'tokens.csv'}")
    say(f"time: {in_words(CLOCK.read())}")


def _look(settings: Settings, model: str, config: dict[str, Any]) -> None:
    """Look at one model and write down what was found."""
    from soft_prompts.models.loading import load
    from soft_prompts.probes.vocabulary import vocabulary
    from soft_prompts.results.provenance import provenance

    with CLOCK.stage("loading"):
        loaded = load(*split_revision(model), dtype=config["dtype"], device=settings.device)
    with CLOCK.stage("looking"):
        found = vocabulary(loaded, settings.probe)
    text = io.StringIO()
    csv.writer(text).writerows([list(found.by_token), *zip(*found.by_token.values(), strict=True)])
    write_atomically(settings.out / "runs" / place(config) / "tokens.csv", text.getvalue().encode())
    values = {"config": config, **found.record, "provenance": provenance(loaded, {}, 1)}
    save_record(settings.out / "results" / place(config) / RESULT, values)


def found_in(folder: Path) -> list[dict[str, Any]]:
    """The results below a folder, by model.

    Raises:
        SoftPromptsError: There are none, or a file is none.
    """
    found = load_records(folder, RESULT, EXPERIMENT, ["clusters", "undertrained"])
    return sorted(found, key=lambda result: result["config"]["model"])


def table(folder: Path) -> str:
    """Markdown: for each model its clusters, the clusters' tokens, and the under-trained tokens."""
    parts = (_facts, _silhouettes, _members, _rates, _candidates, _centroid)
    return "\n\n".join(part(result) for result in found_in(folder) for part in parts)


def _shown(*tokens: str) -> str:
    """Tokens in a line of Markdown: none of their characters means anything there."""
    return in_markdown(_plain(*tokens))


def _plain(*tokens: str) -> str:
    """Tokens in a cell of a table, which sees to what would end the cell."""
    return " ".join(re.sub(r"([\\`*_~$\[\]#])", r"\\\1", token) for token in tokens)


def _facts(result: dict[str, Any]) -> str:
    classes = ", ".join(f"{n:,} {name}" for name, n in result["classes"].items() if n)
    lost = f" Unreachable: {_shown(*result['unreachable'])}." if result["unreachable"] else ""
    tied = "tied" if result["tied"] else "untied"
    return (
        f"**{result['config']['model']}**: {result['entries']:,} tokens ({classes}), embeddings of width "
        f"{result['width']}, {tied}.{lost}"
    )


def _silhouettes(result: dict[str, Any]) -> str:
    found = result["clusters"]
    head = ["clusters", "silhouette", "of a Gaussian", "agreement", "of a Gaussian"]
    body = []
    for fit, control in zip(found["tried"], found["control"], strict=True):
        name = f"{fit['k']}, chosen" if fit["k"] == found["chosen"] else str(fit["k"])
        numbers = [one[of] for of in ("silhouette", "agreement") for one in (fit, control)]
        body.append([name, *(f"{x:.3f}" for x in numbers)])
    return markdown_table(head, body)


def _members(result: dict[str, Any]) -> str:
    blocks = []
    for one in result["clusters"]["shown"]:
        body = [[_plain(*of["tokens"]), f"{of['size']:,}", f"{of['indicator']:.4f}"] for of in one["members"]]
        title = f"{one['k']} clusters of all tokens; the starts agree to {one['agreement']:.2f}:"
        head = ["nearest to the centre", "tokens", f"median {result['undertrained']['indicator']}"]
        blocks.append(f"{title}\n\n{markdown_table(head, body)}")
    return "\n\n".join(blocks)


def _rates(result: dict[str, Any]) -> str:
    found = result["undertrained"]
    names = ["first quarter", "second", "third", "last", "all"]
    head = [f"by {found['indicator']}", "n", "not repeated", "others not repeated", "repeated less than the other"]
    body = [
        [name, str(part["fails"]["n"]), *(with_interval(part[of], ".0%") for of in ("fails", "others_fail", "below"))]
        for name, part in zip(names, found["parts"], strict=True)
    ]
    return markdown_table(head, body)


def _candidates(result: dict[str, Any]) -> str:
    found = result["undertrained"]
    head = ["token", "id", found["indicator"], "repeated", "nearer to the centroid than"]
    body = [
        [
            _plain(one["token"]),
            str(one["id"]),
            f"{one['indicator']:.4f}",
            f"{one['repeated']:.2%}",
            f"{1 - one['centroid_rank']:.0%}",
        ]
        for one in found["candidates"][:SHOWN]
    ]
    return markdown_table(head, body)


def _centroid(result: dict[str, Any]) -> str:
    low, _, middle, _, high = result["centroid"]["quantiles"]
    nearest, farthest = (_shown(*(one["token"] for one in result["centroid"][of])) for of in ("nearest", "farthest"))
    special = ", ".join(f"{_shown(one['token'])} {one['value']:.4f}" for one in result["undertrained"]["special"])
    found = result["undertrained"]
    unused = f" ({found['n_unused']} known to be unused: {_shown(*found['unused'])})" if found["n_unused"] else ""
    return (
        f"- {found['indicator'].capitalize()}{unused}: median of all tokens {found['median']:.4f}; special tokens: "
        f"{special or 'none'}.\n"
        f"- Distance from the centroid: {low:.2f} to {high:.2f}, median {middle:.2f}. Nearest: {nearest}. Farthest: "
        f"{farthest}."
    )


def figure(folder: Path) -> Figure:
    """For each model: silhouettes beside those of the Gaussian, and how well candidates are repeated."""
    from matplotlib.figure import Figure

    results = found_in(folder)
    drawn = Figure(figsize=(10, 3.4 * len(results)), layout="constrained")
    axes = drawn.subplots(len(results), 2, squeeze=False)
    for (left, right), result in zip(axes, results, strict=True):
        for name, of, style in (("embeddings", "tried", "o-"), ("Gaussian of the same extent", "control", "o--")):
            fits = result["clusters"][of]
            left.plot([fit["k"] for fit in fits], [fit["silhouette"] for fit in fits], style, label=name)
        left.set_xscale("log", base=2)
        ks = [fit["k"] for fit in result["clusters"]["tried"]]
        left.set_xticks(ks, [str(k) for k in ks])
        left.set_xlabel("clusters")
        left.set_ylabel("silhouette")
        left.set_title(result["config"]["model"], loc="left")
        candidates = result["undertrained"]["candidates"]
        at = np.arange(1, len(candidates) + 1)
        for of, name in (("repeated", "candidates"), ("beside_repeated", "tokens of like frequency")):
            probability = np.maximum([one[of] for one in candidates], 1e-8)
            right.plot(at, probability, ".", label=name)
        right.axhline(0.01, color="black", linewidth=0.8, linestyle=":")
        right.set_yscale("log")
        right.yaxis.set_major_formatter("{x:g}")
        right.set_xlabel(f"rank by {result['undertrained']['indicator']}")
        right.set_ylabel("probability where it must be repeated")
        for ax in (left, right):
            ax.spines[["top", "right"]].set_visible(False)
            ax.legend(frameon=False, fontsize="small")
    return drawn


if __name__ == "__main__":
    do_or_print(lambda: command(run, DEFAULT, __doc__, PRESETS), table, figure)
