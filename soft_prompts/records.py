"""Experiments that are no sweeps of soft prompts: their common options, and their records, JSON files of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from soft_prompts.console import say
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import check_writable, safe_name, write_atomically
from soft_prompts.models.names import model_files, model_name
from soft_prompts.options import settle


def begin(out: Path, device: str) -> None:
    """Refuse folders that cannot be written, and set the process up for the device.

    Raises:
        SoftPromptsError: A folder cannot be written, or there is no such device.
    """
    check_writable([out / name for name in ("results", "runs")])
    from soft_prompts.models.cpu import settle_process
    from soft_prompts.models.device import pick_device

    settle_process(pick_device(device))


@dataclass(frozen=True)
class ModelOptions:
    """What such an experiment asks of its models."""

    models: tuple[str, ...]
    """Hub names (a revision behind @), folders, .gguf files, pocket and the others that ship, or smollm2."""
    out: Path = Path(".")
    """Folder under which results/ and runs/ are made."""
    force: bool = False
    """Do again what has a result."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the model. auto: bfloat16 where the GPU or processor multiplies it."""
    device: str = "auto"
    """auto (the GPU if there is one), cpu, cuda, cuda:1 ..."""

    def __post_init__(self) -> None:
        settle(self)

    def begin(self) -> None:
        """Refuse folders that cannot be written, and set the process up for the device.

        Raises:
            SoftPromptsError: A folder cannot be written, or there is no such device.
        """
        begin(self.out, self.device)

    def config(self, experiment: str, model: str) -> dict[str, Any]:
        """What every record on a model depends on, as plain JSON."""
        from soft_prompts.models.device import pick_device, pick_dtype

        return {
            "experiment": experiment,
            "model": model_name(model),
            "model_files": model_files(model),
            "dtype": pick_dtype(self.dtype, pick_device(self.device)),
        }


def place(config: dict[str, Any]) -> Path:
    """The folder of records, below results/ and runs/ alike: experiment/model/<hash of the config>."""
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=4).hexdigest()
    return Path(config["experiment"], safe_name(config["model"]), digest)


def save_record(path: Path, values: dict[str, Any]) -> None:
    """Write a record, a line for every value, and one for every entry of a value that is a list of objects.

    Raises:
        SoftPromptsError: The file cannot be written.
    """

    def said(value: Any) -> str:
        if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            return "[\n" + ",\n".join(map(said, value)) + "\n]"
        return json.dumps(value, allow_nan=False)

    lines = [f"{json.dumps(key)}: {said(value)}" for key, value in values.items()]
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def record_seeds(
    out: Path,
    config: dict[str, Any],
    name: str,
    seeds: Sequence[int],
    measure: Callable[[int], dict[str, Any]],
    force: bool,
) -> None:
    """Measure, seed by seed, what has no record yet, and write it down.

    Args:
        out: The folder above results/.
        config: As for ``place``.
        name: Of the files, with "{seed}" in it.
        seeds: Which are wanted.
        measure: Gives what the record of a seed holds beside both.
        force: Do again what has a record.

    Raises:
        SoftPromptsError: A file cannot be written.
    """
    for seed in seeds:
        path = out / "results" / place(config) / name.format(seed=seed)
        if force or not path.exists():
            save_record(path, {"config": config, "seed": seed, **measure(seed)})
            say(f"seed {seed}: {path}")


def load_records(folder: Path, pattern: str, experiment: str, needed: Sequence[str]) -> list[dict[str, Any]]:
    """The records of an experiment below a folder, by the names of their files.

    Args:
        folder: Where they lie.
        pattern: Of their files' names.
        experiment: Its name.
        needed: Keys that none may lack.

    Raises:
        SoftPromptsError: There are none, or a file is none.
    """
    records = []
    for path in sorted(folder.rglob(pattern)):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["config"]["experiment"] != experiment:
                raise ValueError("it is of another experiment")
            if lacking := [key for key in needed if not record.get(key)]:
                raise ValueError(f"it lacks {lacking[0]}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SoftPromptsError(f"{path} cannot be read as a result ({error}); delete it and run again.") from error
        records.append(record)
    if not records:
        raise SoftPromptsError(f"there are no results of {experiment} in {folder}.")
    return records
