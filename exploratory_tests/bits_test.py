"""Which measure of bits tells what was planted?

pocket-keys writes tags behind keys of 1, 2, 4 and 8 secret symbols. A prompt of 8 tokens is trained in three ways: all
of its numbers, rounded afterwards; d numbers along random directions, rounded afterwards; and under noise, with a price
on what the noise leaves of it. Each has its fewest bits that reach 95 % of the way to the key. So has a prompt of text,
as `python -m tests.soft_to_hard_test keys` searches it.

Expected: all of them grow in proportion to the length of the key. Rounding all numbers needs most, as most of them say
nothing. Text needs fewest, as the key is a text, if the search finds it.

    python -m exploratory_tests.bits_test
    python -m exploratory_tests.bits_test table results/bits     # the fewest bits of every key, by each measure
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exploratory_tests import learned_test
from soft_prompts.answers import run_or_print
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.stats import estimated
from tests import calibration_test, soft_to_hard_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from soft_prompts.results.dimensions import Dimensions

MEASURES = {
    "rounded": [{}],
    "subspace": [{"subspace": 2**i} for i in range(5, 10)],
    "noise": [{"noise": tokens} for tokens in (1000.0, 10_000.0)],
}
"""Name -> the recipes that it takes the fewest bits of. Which of them it was has to be told as well."""
DEFAULT = replace(
    calibration_test.POCKET,
    experiment="bits",
    models=("pocket-keys",),
    n_tokens=(0, 8),
    controls=(),
    train=replace(calibration_test.POCKET.train, steps=100, eval_documents=100, validation_documents=64),
    recipes=tuple(recipe for recipes in MEASURES.values() for recipe in recipes),
)


ANY_LENGTH = "rounded, any length"
TEXT = "text, any length"
SYMBOL_BITS = 3
"""A symbol of a key is one of eight."""


def fewest_bits(folder: Path) -> dict[str, dict[int, tuple[float, dict]]]:
    """Measure -> symbols of the key -> the fewest bits, and what of the recipe they were found with.

    Args:
        folder: Of the results. Beside it are the calibration's, with prompts of all lengths, so the length is chosen,
            too; and texts.
    """
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves, without_controls
    from soft_prompts.results.enough_bits import enough_bits
    from soft_prompts.results.summary import SHARE

    def fewest(found: list, recipes: list[dict]) -> dict[int, tuple[float, dict]]:
        by_key: dict[int, list] = {}
        for curve in (c for c in found if _of(c.recipe) in recipes):
            if enough := enough_bits(curve, SHARE, None):
                bits = enough.bits + math.log2(len(recipes))  # which of them it was has to be told as well
                by_key.setdefault(curve.task["key_tokens"][0], []).append((bits, _of(curve.recipe)))
        return {key: min(found, key=lambda one: one[0]) for key, found in by_key.items()}

    found = curves(load_results([folder]))
    calibration = without_controls(curves(load_results([folder.parent / "calibration" / "pocket-keys"])))
    of_all = {f"{name}, 8 tokens": fewest(found, recipes) for name, recipes in MEASURES.items()}
    anchors = {c.task["key_tokens"][0]: c.anchor["validation_loss"] for c in calibration}
    texts = folder.parent / "soft_to_hard" / "pocket-keys"
    of_text = {TEXT: fewest_in_text(texts, anchors)} if texts.is_dir() else {}
    return {ANY_LENGTH: fewest(calibration, [{}]), **of_all, **of_text}


def fewest_in_text(folder: Path, anchors: dict[int, float]) -> dict[int, tuple[float, dict]]:
    """Symbols of the key -> the fewest bits of a text that reaches the share of the way to the key on the validation
    documents: log2 of the legal tokens for each of its own, and which length of those searched it is.

    Args:
        folder: Of texts that were searched. Of several searches of a length, the best on the validation documents
            counts.
        anchors: Symbols of the key -> validation nats behind the key itself.
    """
    from soft_prompts.records import load_records
    from soft_prompts.results.summary import SHARE

    needed = ["found", "zero_validation_loss", "legal_tokens"]
    enough: dict[int, list[tuple[int, float]]] = {}
    lengths = set()
    for one in load_records(folder, "search-*-text.json", soft_to_hard_test.EXPERIMENT, needed):
        key, zero = soft_to_hard_test.KEYS.get(one["config"]["behaviour"]), one["zero_validation_loss"]
        if key not in anchors:
            continue  # another behaviour of the same model
        best = min(attempt["validation_loss"] for attempt in one["found"])
        lengths.add(one["n_tokens"])
        if zero - best >= SHARE * (zero - anchors[key]):
            enough.setdefault(key, []).append((one["n_tokens"], math.log2(one["legal_tokens"])))
    shortest = {key: min(found) for key, found in enough.items()}
    return {key: (n * each + math.log2(len(lengths)), {"tokens": n}) for key, (n, each) in shortest.items()}


def slope(bits: dict[int, tuple[float, dict]]) -> float:
    """By how many doublings the bits grow when the key doubles; 1 is right. A straight line through the logarithms."""
    return float(np.polyfit(np.log2(list(bits)), np.log2([found for found, _ in bits.values()]), 1)[0])


def smooth_bits(folder: Path) -> dict[int, Dimensions]:
    """Symbols of the key -> the fewest bits in a subspace, by a logistic curve through all numbers of directions."""
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves
    from soft_prompts.results.dimensions import dimensions
    from soft_prompts.results.summary import SHARE

    by_key: dict[int, list] = {}
    for curve in curves(load_results([folder])):
        if curve.recipe.get("subspace"):
            by_key.setdefault(curve.task["key_tokens"][0], []).append(curve)
    found = {key: dimensions(of_key, SHARE) for key, of_key in sorted(by_key.items())}
    return {key: of_key for key, of_key in found.items() if of_key}


def table(folder: Path) -> str:
    """Markdown: for every key the fewest bits by each measure, and the recipe that they were found with; then those of
    a subspace by a logistic curve."""
    smooth = smooth_bits(folder)
    return "\n\n".join([_by_measure(folder), *([_smooth(smooth)] if len(smooth) > 1 else [])])


def _smooth(found: dict[int, Dimensions]) -> str:
    """The bits of each key with their interval, and how they grow with it."""
    head = ["key", "subspace, 8 tokens, by a logistic curve"]
    body = [[str(key), str(of_key)] for key, of_key in found.items()]
    draws = np.stack([of_key.draws for of_key in found.values()], 1)
    keys, seen = np.log2(list(found)), np.isfinite(draws).all(1)
    value = slope({key: (of_key.bits, {}) for key, of_key in found.items()})
    shown = with_interval(estimated(value, np.polyfit(keys, np.log2(draws[seen].T), 1)[0]), ".2f")
    body.append(["slope", f"{shown}, {1 - seen.mean():.0%} of the draws left out as beyond"])
    return markdown_table(head, body, texts=(1,))


def _by_measure(folder: Path) -> str:
    measured = fewest_bits(folder)
    body = []
    for key in sorted({key for of_measure in measured.values() for key in of_measure}):
        cells = []
        for of_measure in measured.values():
            bits, recipe = of_measure.get(key, (math.inf, {}))
            by = "".join(f" ({name} {value:g})" for name, value in recipe.items())
            cells.append(f"{bits:,.0f}{by}" if key in of_measure else "not reached")
        body.append([str(key), *cells])
    slopes = [f"{slope(of_measure):z.2f}" if len(of_measure) > 1 else "" for of_measure in measured.values()]
    return markdown_table(["key", *measured], [*body, ["slope", *slopes]], texts=())


def figure(folder: Path) -> Figure:
    """Planted against measured: the fewest bits by each measure over the key's length, beside the bits that choose a
    key and those that prompts learned from 800 documents."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9.5, 4.4), layout="constrained")
    ax = drawn.subplots()
    measured = fewest_bits(folder)
    for name, of_measure in measured.items():
        keys = sorted(of_measure)
        label = f"{name} (slope {slope(of_measure):z.2f})" if len(keys) > 1 else name
        ax.plot(keys, [of_measure[key][0] for key in keys], "o-", label=label)
    keys = sorted({key for of_measure in measured.values() for key in of_measure})
    learned = learned_test.bits_learned(folder.parent / "learned")["pocket-keys", ""][learned_test.STEPS[-1]]
    ax.plot([4] * len(learned), learned, "x", color="black", label="learned from 800 documents (each seed)")
    ax.plot(keys, [SYMBOL_BITS * key for key in keys], "--", color="gray", label="planted: 3 bits a symbol")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(keys, [str(key) for key in keys])
    ticks = [4**i for i in range(1, 7)]
    ax.set_yticks(ticks, [f"{bits:,}" for bits in ticks])
    ax.set_xlabel("symbols in the key")
    ax.set_ylabel("bits")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))  # lines are everywhere
    return drawn


def _of(recipe: dict) -> dict:
    """What of a recipe belongs to a measure."""
    return {name: recipe[name] for name in ("subspace", "noise") if name in recipe}


if __name__ == "__main__":
    run_or_print(table, DEFAULT, __doc__, figure)
