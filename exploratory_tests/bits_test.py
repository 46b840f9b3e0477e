"""Which measure of bits tells what was planted?

pocket-keys writes tags behind keys of 1, 2, 4 and 8 secret symbols. A prompt of 8 tokens is trained in three ways: all
of its numbers, rounded afterwards; d numbers along random directions, rounded afterwards; and under noise, with a price
on what the noise leaves of it. Each has its fewest bits that reach 95 % of the way to the key.

Expected: all three grow in proportion to the length of the key. Rounding all numbers needs most, as most of them say
nothing.

    python -m exploratory_tests.bits_test
    python -m exploratory_tests.bits_test table results/bits     # the fewest bits of every key, by each measure
"""

import math
from dataclasses import replace
from pathlib import Path

from exploratory_tests.answers import run_or_print
from tests import calibration_test

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
    train=replace(calibration_test.POCKET.train, steps=100, validation_documents=64, eval_documents=100),
    recipes=tuple(recipe for recipes in MEASURES.values() for recipe in recipes),
)


def table(folder: Path) -> str:
    """Markdown: for every key the fewest bits by each measure, and the recipe that they were found with."""
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves
    from soft_prompts.results.enough_bits import enough_bits
    from soft_prompts.results.summary import SHARE

    found = curves(load_results([folder]))
    lines = ["| key | " + " | ".join(MEASURES) + " |", "|" + " ---: |" * (1 + len(MEASURES))]
    for key in sorted({curve.task["key_tokens"][0] for curve in found}):
        cells = []
        for recipes in MEASURES.values():
            bits = []
            for curve in (c for c in found if c.task["key_tokens"] == [key] and _of(c.recipe) in recipes):
                enough = enough_bits(curve, SHARE, None)
                bits += [(enough.bits, _of(curve.recipe))] if enough else []
            fewest, recipe = min(bits, key=lambda one: one[0], default=(math.inf, {}))
            told = fewest + math.log2(len(recipes))
            by = "".join(f" ({name} {value:g})" for name, value in recipe.items())
            cells.append(f"{told:,.0f}{by}" if bits else "not reached")
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _of(recipe: dict) -> dict:
    """What of a recipe belongs to a measure."""
    return {name: recipe[name] for name in ("subspace", "noise") if name in recipe}


if __name__ == "__main__":
    run_or_print(table, DEFAULT, __doc__)
