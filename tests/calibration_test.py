"""Does the measured distance come out where it is known?

pocket-keys was taught to write tags behind a secret key: every token of the key decides one tag, from its own place.
So a prompt of k tokens brings out the tags of a key of k tokens, and a shorter one has no place for all of them.
pocket-keys-untaught read the same rows and was never taught the tags.

Expected: on pocket-keys the loss falls until P = k and no further, for k = 1, 2, 4 and 8, down to the loss behind the
key itself. On its twin no prompt brings anything that counting does not.

    python -m tests.calibration_test pocket          # the same as without the word: these models are changes to pocket
    python -m tests.calibration_test table results/calibration       # measured distances by planted ones, and a picture
    python -m tests.calibration_test --key-tokens 4 --n-tokens 0 1 2 3 4 5 6
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from soft_prompts import Sweep, on_pocket
from soft_prompts.answers import run_or_print
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.results.summary import SHARE
from soft_prompts.stats import estimated
from soft_prompts.tasks.calibration import Calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from soft_prompts.results.curve import Curve

PUBLISHED = Sweep(experiment="calibration", task=Calibration(), models=("pocket-keys",), n_tokens=(0, 1, 2, 4, 8, 16))
# A start that gets stuck finds the tag of all places but one; four starts and large steps hardly ever do.
SEARCH = {"steps": 85, "lr": 0.3, "starts": 4, "n_evaluations": 0}
POCKET = replace(
    on_pocket(PUBLISHED, Calibration(), **SEARCH, max_tokens=16, eval_documents=280, validation_documents=24),
    models=("pocket-keys", "pocket-keys-untaught"),
    n_tokens=(0, 1, 2, 4, 8, 16),
    control_seeds=1,  # counting is ahead of the scrambled model everywhere, so its luck changes nothing
)
DEFAULT = POCKET


def _measured(folder: Path) -> list[Curve]:
    """The curves of a folder but for controls, in the order of the preset's models."""
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves, without_controls

    order = {model: i for i, model in enumerate(POCKET.models)}
    found = without_controls(curves(load_results([folder])))
    return sorted(found, key=lambda curve: order.get(curve.model, len(order)))


def table(folder: Path) -> str:
    """Markdown: the distance that was measured of each key by its length, and the rank correlation of the two."""
    body, by_model = [], {}
    for curve in _measured(folder):
        k = curve.task["key_tokens"][0]
        distance = curve.paired.distance_to_anchor(SHARE)
        body.append([curve.model, str(k), str(distance)])
        if not distance.why:
            by_model.setdefault(curve.model, {})[k] = places(curve)
    head = ["model", "planted", f"measured, {SHARE:.0%} of the gap to the key"]
    said = [_ranked(model, of_keys) for model, of_keys in by_model.items() if len(of_keys) > 1]
    return "\n\n".join([markdown_table(head, body), *said])


def places(curve: Curve) -> np.ndarray:
    """Where a curve comes to its share of the gap to the anchor, in tokens: the value, then the draws."""
    from soft_prompts.results.distance import crossings

    losses = curve.paired
    rows = np.concatenate([losses.losses[None], losses.draws])
    targets = rows[:, 0] - SHARE * (rows[:, 0] - curve.anchor["loss"])
    return crossings(losses.n_tokens, rows, targets)


def rank_correlation(planted: Sequence[int], measured: np.ndarray) -> np.ndarray:
    """Spearman's, of planted distances [K] and each row of measured ones [rows, K]."""
    from scipy.stats import rankdata

    x, y = rankdata(planted)[None], rankdata(measured, axis=1)
    x, y = (ranks - ranks.mean(1, keepdims=True) for ranks in (x, y))
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return (x * y).sum(1) / np.where(spread > 0, spread, 1.0)


def _ranked(model: str, of_keys: dict[int, np.ndarray]) -> str:
    of_draws = rank_correlation(list(of_keys), np.stack(list(of_keys.values()), 1))
    shown = with_interval(estimated(of_draws[0], of_draws[1:]), ".2f")
    return f"{model}: rank correlation of planted and measured {shown}, {len(of_keys)} keys."


def figure(folder: Path) -> Figure:
    """The distance that was measured of each key, by its length."""
    from matplotlib.figure import Figure

    found = _measured(folder)
    drawn = Figure(figsize=(7, 4.4), layout="constrained")
    ax = drawn.subplots()
    for model in dict.fromkeys(curve.model for curve in found):
        reached = [(c.task["key_tokens"][0], c.paired.distance_to_anchor(SHARE)) for c in found if c.model == model]
        shown = [(k, d.at, d.at - d.low, d.high - d.at) for k, d in reached if d.value is not None]
        if shown:
            k, at, down, up = np.array(shown).T
            ax.errorbar(k, at, [down, np.where(np.isfinite(up), up, 0)], fmt="o", capsize=2, label=model)
            ax.plot(k, k, "k:", linewidth=0.8)
    ax.set_xlabel("tokens of the key")
    ax.set_ylabel("tokens of the prompt that reaches 95 % of its gain")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return drawn


if __name__ == "__main__":
    run_or_print(table, DEFAULT, __doc__, figure, pocket=POCKET)
