"""Does one learning rate serve all behaviours?

Every behaviour is a preset on pocket: its short form, with four learning rates in the same passes, on the same
documents. Three are presets on a real model, too.

Expected: 0.1 is near the best everywhere, as it was for chess on a model of stories.

    python -m exploratory_tests.rates_test chess
    python -m exploratory_tests.rates_test chess-smollm2           # make real installs the model
    python -m exploratory_tests.rates_test table results/rates     # loss by behaviour, length and rate
"""

from dataclasses import replace
from pathlib import Path

from exploratory_tests.rivals_test import BEHAVIOURS as RIVALS
from exploratory_tests.rivals_test import between_rivals
from soft_prompts import Sweep
from soft_prompts.answers import run_or_print
from soft_prompts.report.markdown import markdown_table
from tests import autoregressive_test, chess_test, repetition_test

RATES = (0.03, 0.1, 0.3, 1.0)


def on_smollm2(sweep: Sweep, **task: object) -> Sweep:
    """A preset on the real model with fewer steps, since four rates are tried."""
    train = replace(sweep.train, steps=40, eval_documents=48, validation_documents=16)
    return between_rivals(replace(sweep, train=train), "smollm2", **task)


ON_SMOLLM2 = {
    "chess_smollm2": on_smollm2(chess_test.SMOLLM2, continued_games=64),
    "text_smollm2": on_smollm2(autoregressive_test.SMOLLM2),
    "repetition_smollm2": on_smollm2(repetition_test.SMOLLM2, targets=(0,)),
}
# The keys have a rate of their own, found in the same way.
BEHAVIOURS = {
    name: replace(sweep, experiment="rates", seeds=(0,), recipes=tuple({"lr": lr} for lr in RATES))
    for name, sweep in {**RIVALS, **ON_SMOLLM2}.items()
    if name != "keys"
}


def table(folder: Path) -> str:
    """Markdown: a row for every behaviour and length, a column for every rate; the lowest validation loss is bold."""
    from soft_prompts.results import load_results

    losses: dict[tuple[str, int], dict[float, tuple[float, float]]] = {}
    behaviours = {(sweep.task.__class__.__name__, sweep.models): name for name, sweep in BEHAVIOURS.items()}
    for r in load_results([folder]):
        if r.n_tokens:
            name = behaviours[r.config["task"]["name"], (r.model,)]
            of_both = (r.validation_loss, r.held_out.loss)
            losses.setdefault((name, r.n_tokens), {})[r.config["train"]["lr"]] = of_both
    body = []
    for name, n_tokens in sorted(losses, key=lambda one: (list(BEHAVIOURS).index(one[0]), one[1])):
        by_rate = losses[name, n_tokens]
        best = min(by_rate, key=lambda rate: by_rate[rate][0])
        shown = {rate: f"{held_out:.3f}" for rate, (_, held_out) in by_rate.items()}
        cells = [f"**{shown[rate]}**" if rate == best else shown.get(rate, "") for rate in RATES]
        body.append([name.replace("_", " on "), str(n_tokens), *cells])
    return markdown_table(["behaviour", "P", *map(str, RATES)], body)


if __name__ == "__main__":
    run_or_print(table, BEHAVIOURS["chess"], __doc__, **BEHAVIOURS)
