"""The log of one run by Weights & Biases: on its server, or below the run's folder until `wandb sync` sends it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft_prompts.console import warn
from soft_prompts.training.writer import Place, Writer

if TYPE_CHECKING:
    import wandb

SETTINGS = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "save_code": False,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
}
"""Of a run: nothing is said on the screen, and nothing is recorded but what the other logs hold, too."""


class WandbWriter(Writer):
    """Writes what W&B's own process, which is started with the first run, stores and sends."""

    def __init__(self, place: Place):
        """
        Raises:
            OSError: The folder cannot be made.
            wandb.Error: W&B does not write there.
        """
        # Without a folder that it can write to, W&B would take a temporary one.
        place.folder.mkdir(parents=True, exist_ok=True)
        for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            os.environ.setdefault(variable, str((place.root / "wandb").resolve()))
        experiment, *within = place.within.parts
        self._run = SERVER.begun(
            project=experiment,
            name="/".join(within),
            id=_earlier(place.folder),
            resume="allow",
            config=place.options,
            dir=str(place.folder),
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each name."""
        self._run.log(dict(values), step=int(step))

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text."""
        self._run.log({name: text}, step=int(step))

    def flush(self) -> None:
        """Nothing: W&B's process writes by itself, and a step when the next one comes."""

    def close(self) -> None:
        """Wait until all is written, or sent."""
        self._run.finish()


def _earlier(folder: Path) -> str | None:
    """The id of the run that was logged here last, to go on with. None: there is none."""
    begun = sorted((folder / "wandb").glob("*run-*-*"), key=lambda path: path.name.partition("run-")[2])
    return begun[-1].name.partition("run-")[2].split("-")[1] if begun else None


class Server:
    """W&B's server, as far as this process knows it."""

    def __init__(self) -> None:
        self._is_away = False

    def begun(self, **options: Any) -> wandb.Run:
        """A run beside others: where W&B's environment variables and login say; offline where they say nothing, and
        from then on when the server has not taken one.

        Raises:
            wandb.Error: It cannot be begun offline either.
        """
        import wandb

        begin = partial(wandb.init, **options, reinit="create_new", settings=wandb.Settings(**SETTINGS))
        if not self._is_away:
            try:
                if os.environ.get("WANDB_MODE") or wandb.login(prompt=False):
                    return begin()
            except wandb.Error as error:
                reason = " ".join(str(error).split())[:200]
                warn(f"Weights & Biases takes no logs ({reason}); they are kept offline, and `wandb sync` sends them.")
                self._is_away = True
        return begin(mode="offline")


SERVER = Server()
"""That of this process."""
