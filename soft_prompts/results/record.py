"""A result: one run, measured, as a JSON file that describes itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically
from soft_prompts.results.older import SCHEMA, completed, described
from soft_prompts.stats import ratio_interval

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

    from soft_prompts.engine.evaluate import TokenScores


@dataclass(frozen=True)
class HeldOut:
    """Held-out losses by document. Two results pair if their ``documents`` and ``document_scored`` agree."""

    loss: float
    """Nats per scored token."""
    interval: list[float]
    """[low, high], 95 %, bootstrap over documents."""
    n_scored: int
    """Scored tokens in all."""
    documents: list[str]
    """Identity of each document."""
    document_losses: list[float]
    """Nats, summed over the document's scored tokens."""
    document_scored: list[int]
    """Scored tokens of the document."""

    @classmethod
    def of(cls, scores: TokenScores) -> HeldOut:
        """The record of a held-out evaluation."""
        sums, counts = scores.sums, scores.counts
        return cls(
            loss=scores.loss,
            interval=ratio_interval(sums, counts),
            n_scored=int(counts.sum()),
            documents=scores.documents,
            document_losses=sums.tolist(),
            document_scored=counts.tolist(),
        )


@dataclass(frozen=True)
class Result:
    """One run, measured. The fields are the keys of the JSON file."""

    experiment: str
    """Name of the experiment, the first folder below results/."""
    task: str
    """Class of the task."""
    model: str
    """The model as tables call it."""
    n_tokens: int
    """Prompt length P."""
    seed: int
    held_out: HeldOut
    baselines: dict[str, dict[str, Any]]
    """Data baselines, counted on the training documents that the prompt saw: name -> "loss", nats per scored token, and
    "document_losses", nats by document, and "validation_loss", on the validation documents. Files of version 3 and
    older have the loss only."""
    scores: dict[str, Any]
    """Behaviour: name -> {"value", "interval", "n"}, or a dict of such."""
    curve: list[dict[str, float]]
    """Loss on the validation documents during training: {"step", "loss"}. In files of version 3 and older it is that on
    the held-out documents."""
    samples: list[dict[str, str]]
    """Readable samples: name of a part -> its text; the part "kind" says how it is drawn."""
    sizes: list[dict[str, Any]]
    """The prompt rounded to ever more bits: soft_prompts.probes.bits.Size as plain JSON."""
    config: dict[str, Any]
    """All that the result depends on but length and seed."""
    provenance: dict[str, Any]
    """Where the result comes from; "not_scored" says why there are no scores, if the task's score failed."""
    seconds: float
    """This run's share of the wall clock of training."""
    tokens_per_second: float | None
    """Data tokens trained on per second of that; None if nothing was trained."""
    variant: dict[str, Any] = field(default_factory=lambda: {"label": "", "options": [], "control_of": None})
    """Which of the experiment's tasks this is: soft_prompts.tasks.base.Variant as plain JSON."""
    anchor: dict[str, Any] | None = None
    """What is known to bring the behaviour out, such as a trigger text or the base model: "name", "loss",
    "document_losses", "validation_loss", and of a text its code length in "bits". None: the task names nothing."""
    schema: int = field(default=SCHEMA)
    """Version of the file."""

    @property
    def validation_loss(self) -> float | None:
        """Nats per scored token of the validation documents; None in files that had none."""
        return self.curve[-1]["loss"] if self.config.get("splits") and self.curve else None

    @property
    def identity(self) -> tuple[str, int, int]:
        """The same for two files of one run: what its curve shares, length and seed."""
        return json.dumps([self.experiment, self.model, self.config], sort_keys=True), self.n_tokens, self.seed

    def save(self, path: Path) -> None:
        """Write the JSON file, a key a line, in one step.

        Raises:
            SoftPromptsError: The values do not fit the schema, or the file cannot be written.
            ValueError: A number is nan or infinite.
        """
        values = asdict(self)
        _validate(values, path)
        values["checksum"] = _checksum(values)
        lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in values.items()]
        write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read a result of this or an older version.

        Raises:
            SoftPromptsError: The file cannot be read or is not a result.
        """
        try:
            values = json.loads(path.read_text())
        except OSError as error:
            raise SoftPromptsError(f"could not read the result {path} ({error.strerror}).") from error
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of 5,000 digits, 10,000 brackets
            raise SoftPromptsError(f"{path} is not JSON ({error}); delete it, or redo the run with --force.") from error
        if not isinstance(values, dict) or "schema" not in values:
            raise SoftPromptsError(f"{path} is JSON but not a result; delete it, or redo the run with --force.")
        if values["schema"] not in range(1, SCHEMA + 1):
            raise SoftPromptsError(
                f"{path} has schema version {values['schema']}, this program reads 1 to {SCHEMA}; redo it with --force."
            )
        if (checksum := values.pop("checksum", None)) is not None and checksum != _checksum(values):
            raise SoftPromptsError(
                f"{path} is damaged or was edited: its checksum is wrong; redo the run with --force, or delete it."
            )
        version, values = values["schema"], completed(values)
        _validate(values, path)
        if version < 3:
            values = described(values)
        return cls(**{**values, "held_out": HeldOut(**values["held_out"])})


def _checksum(values: dict[str, Any]) -> str:
    """32 hex digits over the content of a result, however it is laid out. Files of before have none.

    Raises:
        ValueError: A number is nan or infinite.
    """
    content = json.dumps(values, sort_keys=True, allow_nan=False)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


@lru_cache
def _validator() -> Draft202012Validator:
    import jsonschema

    schema = json.loads(Path(__file__).with_name("result.schema.json").read_text())
    return jsonschema.Draft202012Validator(schema)


def _validate(values: dict[str, Any], path: Path) -> None:
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(values))
    if error:
        where = "/".join(str(part) for part in error.absolute_path) or "the top"
        raise SoftPromptsError(
            f"{path} is JSON but not a result: at {where}, {error.message[:200]}; delete it, or redo the run with "
            f"--force."
        )


def check_behaviour(scores: dict[str, Any], samples: list[dict[str, str]]) -> None:
    """Raises:
    SoftPromptsError: A result cannot hold these scores or samples.
    """
    from jsonschema.exceptions import best_match

    of_field = _validator().schema["properties"]
    for name, values in (("scores", scores), ("samples", samples)):
        if error := best_match(_validator().descend(values, of_field[name], path=name)):
            where = "/".join(str(part) for part in error.absolute_path)
            raise SoftPromptsError(f"a result cannot hold them: at {where}, {error.message[:200]}.")


def load_results(folders: Sequence[Path]) -> list[Result]:
    """All results below some folders, or files named one by one."""
    return [Result.load(path) for folder in folders for path in result_files(folder)]


def result_files(path: Path) -> list[Path]:
    """The result files below a folder, in order; a file stands for itself."""
    return sorted(path.rglob("tokens-*.json")) if path.is_dir() else [path]
