"""Results as data frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft_prompts.results.record import Result

if TYPE_CHECKING:
    import pandas as pd


def frame(results: Sequence[Result]) -> pd.DataFrame:
    """A row for every result.

    Columns: experiment, model, control, variant, n_tokens, seed, loss with low and high, baselines, every single score
    with its ends (score.move_match, score.move_match.low ...), bits, and the options of task and training (task.*,
    train.*).
    """
    import pandas as pd

    return pd.DataFrame([_row(r) for r in results])


def _row(r: Result) -> dict[str, Any]:
    low, high = r.held_out.interval
    row: dict[str, Any] = {
        "experiment": r.experiment,
        "model": r.model,
        "variant": r.variant["label"],
        "n_tokens": r.n_tokens,
        "seed": r.seed,
        "loss": r.held_out.loss,
        "loss.low": low,
        "loss.high": high,
        "n_documents": len(r.held_out.documents),
        "n_scored": r.held_out.n_scored,
        "control": r.config.get("control", ""),
        **{name: baseline["loss"] for name, baseline in r.baselines.items()},
        "seconds": r.seconds,
        "tokens_per_second": r.tokens_per_second,
        "bits": r.sizes[-1]["bits"] if r.sizes else None,
    }
    for name, score in r.scores.items():
        if "value" in score:
            ends = score["interval"] or (None, None)
            row |= {f"score.{name}": score["value"], f"score.{name}.low": ends[0], f"score.{name}.high": ends[1]}
    for part in ("task", "train"):
        row |= {f"{part}.{k}": _plain(v) for k, v in r.config[part].items()}
    return row


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value) if isinstance(value, dict) else value


def write(results: Sequence[Result], kind: str, folder: Path) -> Path:
    """Write results.csv or results.parquet (the ``kind``) into ``folder``.

    Returns:
        The file's path.
    """
    path = folder / f"results.{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    table = frame(results)
    if kind == "csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)
    return path
