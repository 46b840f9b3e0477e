"""Results as data frames."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft_prompts.console import shown_only
from soft_prompts.files import write_atomically
from soft_prompts.results.record import LONGEST_INTEGER, Result

if TYPE_CHECKING:
    import pandas as pd

FORMULA = tuple("=+-@\t")
"""How a cell begins that a spreadsheet computes."""


def frame(results: Sequence[Result]) -> pd.DataFrame:
    """A row for every result.

    Columns: experiment, model, the hash of its weights, control, variant, n_tokens, seed, loss with low and high,
    baselines, every single score with its ends (score.move_match, score.move_match.low ...), bits, and the options of
    task and training (task.*, train.*).
    """
    import pandas as pd

    table = pd.DataFrame([_row(r) for r in results])
    for name in table.columns:
        kinds = {type(value) for value in table[name].dropna()}
        if len(kinds) > 1 and not kinds <= {int, float}:  # a column of a data base holds one kind
            table[name] = table[name].map(str, na_action="ignore")
    return table


def _row(r: Result) -> dict[str, Any]:
    low, high = r.held_out.interval
    row: dict[str, Any] = {
        "experiment": r.experiment,
        "model": r.model,
        "weights": r.weights,
        "variant": r.variant["label"],
        "n_tokens": r.n_tokens,
        "seed": r.seed,
        "loss": r.held_out.loss,
        "loss.low": low,
        "loss.high": high,
        "n_documents": len(r.held_out.documents),
        "n_scored": r.held_out.n_scored,
        "control": r.config.get("control", ""),
        "seconds": r.seconds,
        "tokens_per_second": r.tokens_per_second,
        "bits": r.sizes[-1]["bits"] if r.sizes else None,
    }
    row |= {f"baseline.{name}" if name in row else name: b["loss"] for name, b in r.baselines.items()}
    for name, score in r.scores.items():
        if "value" in score:
            ends = score["interval"] or (None, None)
            row |= {f"score.{name}": score["value"], f"score.{name}.low": ends[0], f"score.{name}.high": ends[1]}
    for part in ("task", "train"):
        row |= {f"{part}.{k}": _plain(v) for k, v in r.config[part].items()}
    return row


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    is_long = isinstance(value, int) and abs(value) >= LONGEST_INTEGER
    return str(value) if isinstance(value, dict) or is_long else value


def _in_csv(value: Any) -> Any:
    """A text as readers of CSV take it: without what would end the line, and with ' before what a spreadsheet would
    take for a formula."""
    if not isinstance(value, str):
        return value
    return shown_only(f"'{value}" if value.startswith(FORMULA) else value)


def write(results: Sequence[Result], kind: str, folder: Path) -> Path:
    """Write results.csv or results.parquet (the ``kind``) into ``folder``.

    Returns:
        The file's path.

    Raises:
        SoftPromptsError: It cannot be written.
    """
    path = folder / f"results.{kind}"
    table, content = frame(results), io.BytesIO()
    if kind == "csv":
        table.rename(columns=_in_csv).map(_in_csv).to_csv(content, index=False)
    else:
        table.to_parquet(content, index=False)
    write_atomically(path, content.getvalue())
    return path
