"""pocket: a small trained model, its chat version, games and texts that ship with the project, so that nothing need be downloaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soft_prompts.sweep import Sweep
    from soft_prompts.task import Task

FOLDER = Path(__file__).parent
MODELS = {"pocket": FOLDER / "base", "pocket-chat": FOLDER / "chat"}
"""Folders of the models that are loaded by these names."""
GAMES = FOLDER / "games.pgn.zst"
"""Games of a chess engine against itself at many strengths, in lichess's headers."""
SAMPLES = FOLDER / "samples.jsonl.zst"
"""Documents drawn from pocket itself at temperature 1, which no prompt can predict better than pocket does."""


def quick(published: Sweep, task: Task, **train: int) -> Sweep:
    """An experiment on pocket that takes two processor cores a few minutes; ``train`` changes its training further."""
    small = {"steps": 150, "batch_size": 8, "n_evaluations": 2, "eval_documents": 200, **train}
    return replace(
        published, task=task, models=("pocket",), n_tokens=(0, 1, 4, 16, 64), train=replace(published.train, **small)
    )
