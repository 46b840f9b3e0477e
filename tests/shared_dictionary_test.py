"""Does one dictionary of features serve all blocks of a model?

A sparse autoencoder takes what pocket's blocks pass on apart into features: one for all blocks, against one for each,
which are as large together, or each as large. How much of each block's states do they explain, how much of its loss do
they recover, and does a feature that fires in one block fire in the next, at the same token?

Expected: a shared dictionary loses little beside four as large as it together, since blocks add to what they are given.

    python -m tests.shared_dictionary_test     # needs sparsify: pip install --no-deps -r requirements-features.txt
    python -m tests.shared_dictionary_test table results/attribution
    python -m tests.shared_dictionary_test --models my-model --tuned my-fine-tune --n-features 4096
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from soft_prompts.answers import do_or_print
from soft_prompts.cli import command
from soft_prompts.probes.recipe import DictionaryRecipe
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.stopwatch import CLOCK

from .dictionaries import PairOptions, found_in, run_seeds, share

if TYPE_CHECKING:
    from soft_prompts.probes.moved import Pair

ASK = "blocks"


@dataclass(frozen=True)
class Settings(PairOptions):
    """Options of the command line."""

    dictionary: Annotated[DictionaryRecipe, tyro.conf.arg(name="")] = field(
        default_factory=lambda: DictionaryRecipe(n_features=512, steps=200)
    )

    def check(self) -> None:
        """Raises SoftPromptsError if an option cannot work."""
        super().check()
        self.dictionary.check()


POCKET = Settings(models=("pocket",), dtype="float32")


def config_of(settings: Settings, model: str) -> dict[str, Any]:
    """All that a result depends on but for the seed, as plain JSON."""
    return settings.asked(model, ASK, settings.dictionary)


def run(settings: Settings) -> None:
    """Measure what has no result yet, and show what was found.

    Raises:
        SoftPromptsError: An option cannot work, or a model cannot be loaded.
    """

    def measure(pair: Pair, config: dict[str, Any], seed: int) -> dict[str, Any]:
        from soft_prompts.probes.moved import blocks_shared

        with CLOCK.stage("measuring"):
            return blocks_shared(pair, settings.dictionary, seed)

    run_seeds(settings, lambda model: config_of(settings, model), measure, table)


def table(folder: Path) -> str:
    """Markdown: what each arrangement of dictionaries keeps of every block, and which features fire together."""
    results = found_in(folder, ASK)
    return f"{_rebuilt(results)}\n\n{_together(results)}"


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


if __name__ == "__main__":
    do_or_print(lambda: command(run, POCKET, __doc__, {"pocket": POCKET}), table)
