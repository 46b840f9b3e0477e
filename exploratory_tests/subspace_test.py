"""How few numbers bring a planted behaviour out, and do their bits tell what was planted?

pocket-keys writes tags behind keys of 1, 2, 4 and 8 secret symbols. A prompt of 8 tokens is trained in random subspaces
of 1, 2, 4, ... dimensions, so that d numbers are all it is told. The bits of a key are d times the bits of a rounded
number, at the fewest that reach 95 % of the way to the key.

Expected: bits grow in proportion to the length of the key, and do not depend on the width of the model.

    python -m exploratory_tests.subspace_test
    python -m exploratory_tests.subspace_test table results/subspace     # the fewest bits of every key
"""

import math
import sys
from dataclasses import replace
from pathlib import Path

from soft_prompts import main
from tests import calibration_test

DIMENSIONS = tuple(2**i for i in range(3, 11))
DEFAULT = replace(
    calibration_test.POCKET,
    experiment="subspace",
    models=("pocket-keys",),
    n_tokens=(0, 8),
    controls=(),
    recipes=tuple({"subspace": d} for d in DIMENSIONS),
)


def table(folder: Path) -> str:
    """Markdown: for every key the fewest bits over all subspaces, with the dimensions that they were found in."""
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves
    from soft_prompts.results.enough_bits import enough_bits
    from soft_prompts.results.summary import SHARE

    by_key: dict[int, list] = {}
    for curve in curves(load_results([folder])):
        by_key.setdefault(curve.task["key_tokens"][0], []).append(curve)
    lines = ["| key | symbols' bits | fewest bits | dimensions | reached, held out |", "|" + " ---: |" * 5]
    for key, of_key in sorted(by_key.items()):
        found = [(enough, curve) for curve in of_key if (enough := enough_bits(curve, SHARE, None))]
        if not found:
            lines.append(f"| {key} | {3 * key} | more than was tried | | |")
            continue
        enough, curve = min(found, key=lambda one: one[0].bits)
        # Which of the subspaces it was has to be told as well.
        bits = enough.bits + math.log2(len(of_key))
        lines.append(f"| {key} | {3 * key} | {bits:.0f} | {curve.recipe['subspace']} | {enough.reached:.1%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["table"]:
        print(table(Path(sys.argv[2])))
    else:
        main(DEFAULT, __doc__)
