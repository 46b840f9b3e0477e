"""Does the default recipe find lower losses than the published one and PEFT's, after the same training tokens?

Every behaviour is a preset on pocket. Its recipes are trained in the same passes, on the same documents: the default,
the default with a quarter of the steps, the published one, PEFT's, the default until its loss is flat, and prompts that
grow from a quarter of their tokens.

Expected: from 4 tokens on the default is lowest everywhere, and a quarter of its steps is as good as the published
recipe with all of them.

    python -m exploratory_tests.rivals_test chess
    python -m exploratory_tests.rivals_test table results/rivals     # who is lower, by how much
"""

from dataclasses import replace
from pathlib import Path

from soft_prompts import Sweep
from soft_prompts.answers import run_or_print
from soft_prompts.options import recorded
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.training.recipe import RECIPES
from tests import (
    autoregressive_test,
    calibration_test,
    chat_detuning_test,
    chess_test,
    pathfinding_test,
    repetition_test,
    skip_tokens_test,
)

KEYS = replace(
    calibration_test.POCKET,
    train=replace(
        calibration_test.POCKET.train, steps=100, n_evaluations=1, eval_documents=300, validation_documents=64
    ),
)
UNTIL_FLAT = {"schedule": "until_flat", "n_evaluations": 15}


def between_rivals(pocket: Sweep, model: str = "pocket", **task: object) -> Sweep:
    """An experiment's short form with all recipes beside each other."""
    rivals = (
        {},
        {"steps": pocket.train.steps // 4},
        RECIPES["nordby2024"],
        RECIPES["peft"],
        UNTIL_FLAT,
        {"grow": True},
    )
    return replace(
        pocket,
        experiment="rivals",
        task=replace(pocket.task, **task),
        models=(model,),
        n_tokens=(0, 1, 4, 16),
        controls=(),
        recipes=tuple(dict(rival) for rival in rivals),
    )


BEHAVIOURS = {
    "chess": between_rivals(chess_test.POCKET),
    "text": between_rivals(autoregressive_test.POCKET, "pocket-chat"),
    "detuning": between_rivals(chat_detuning_test.POCKET, "pocket-chat"),
    "skip": between_rivals(skip_tokens_test.POCKET, skip=(1,)),
    "repetition": between_rivals(repetition_test.POCKET, targets=(0,)),
    "pathfinding": between_rivals(pathfinding_test.POCKET),
    "keys": between_rivals(KEYS, "pocket-keys", key_tokens=(4,)),
}


def table(folder: Path) -> str:
    """Markdown: a row for every behaviour and length; the default's loss, and by how much each rival's is higher, with
    its paired interval over documents and seeds."""
    from soft_prompts.results import load_results
    from soft_prompts.results.curve import curves

    found = curves(load_results([folder]))
    head = ["behaviour", "P", "default", "a quarter of the steps", "nordby2024", "peft", "until flat", "growing"]
    body = []
    for name, sweep in BEHAVIOURS.items():
        of_task = [c for c in found if c.experiment == "rivals" and c.task["name"] == type(sweep.task).__name__]
        wanted = [recorded(replace(sweep.train, **changes)) for changes in sweep.recipes]
        by_recipe = [next((c for c in of_task if c.recipe == recipe), None) for recipe in wanted]
        default, *rivals = by_recipe
        for point in default.points if default else ():
            if point.n_tokens:
                others = [rival and rival.point(point.n_tokens) for rival in rivals]
                cells = [_behind(point.gain_over(other)) if other else "" for other in others]
                body.append([name, str(point.n_tokens), f"{point.loss:.3f}", *cells])
    return markdown_table(head, body, texts=range(len(head)))


def _behind(gain: dict | None) -> str:
    return with_interval(gain, "+.3f") if gain else ""


if __name__ == "__main__":
    run_or_print(table, BEHAVIOURS["chess"], __doc__, **BEHAVIOURS)
