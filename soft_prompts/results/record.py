"""A result: one run, measured, as a JSON file that describes itself."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically
from soft_prompts.options import without_paths
from soft_prompts.results.older import SCHEMA, completed, described
from soft_prompts.stats import ratio_interval

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

    from soft_prompts.engine.evaluate import TokenScores

LARGEST = 64 * 2**20
"""Bytes of a result file; thousands of documents take one MiB."""
DEEPEST = 50
"""Levels of lists and dicts within each other."""
LONGEST_INTEGER = 2**63
"""Above all integers in a field with a meaning of its own: numpy holds them."""
MOST = 1e100
"""Above all nats and counts of a document, so that their squares are finite. The schema has it for single numbers; in
long lists that would take a while."""


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
    """Where the result comes from; "not_scored" and "not_rounded" say why there are no scores or sizes, if so."""
    seconds: float
    """This run's share of the wall clock of training."""
    tokens_per_second: float | None
    """Data tokens trained on per second of that; None if nothing was trained."""
    variant: dict[str, Any] = field(default_factory=lambda: {"label": "", "options": [], "control_of": None})
    """Which of the experiment's tasks this is: soft_prompts.tasks.base.Variant as plain JSON."""
    anchor: dict[str, Any] | None = None
    """What is known to bring the behaviour out, such as a trigger text or the base model: "name", "loss",
    "document_losses", "validation_loss", and of a text its code length in "bits" and in the model's own code
    ("own_bits"). None: the task names nothing."""
    prequential: dict[str, float] | None = None
    """Nats of the training "documents", each before it was trained on ("nats_before") and all behind the final prompt
    ("nats_after"). None: not counted."""
    fragility: dict[str, Any] | None = None
    """How the prompt bears small changes: soft_prompts.probes.fragility. None: not measured."""
    retrodiction: dict[str, Any] | None = None
    """What the prompt says, in texts: soft_prompts.hard.retrodiction. None: not measured."""
    schema: int = field(default=SCHEMA)
    """Version of the file."""

    @property
    def validation_loss(self) -> float | None:
        """Nats per scored token of the validation documents; None in files that had none."""
        return self.curve[-1]["loss"] if self.config.get("splits") and self.curve else None

    @property
    def weights(self) -> str:
        """Hash of the weights that were measured, "" in old results."""
        return self.provenance.get("model", {}).get("weights", "")

    @property
    def identity(self) -> tuple[str, int, int]:
        """The same for two files of one run: what its curve shares, length and seed."""
        shared = [self.experiment, self.model, self.config, self.weights]
        return json.dumps(shared, sort_keys=True), self.n_tokens, self.seed

    def save(self, path: Path) -> None:
        """Write the JSON file, a key a line, in one step. Paths in what an error said are shortened to names.

        Raises:
            SoftPromptsError: The values do not fit the schema, or the file cannot be written.
            ValueError: A number is nan or infinite.
        """
        values = asdict(self)
        for key in ("not_scored", "not_rounded"):
            if reason := self.provenance.get(key):
                values["provenance"][key] = without_paths(reason)
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
        return cls.of_content(content_of(path), path)

    @classmethod
    def of_content(cls, content: bytes, path: Path, checked: bool = False) -> Result:
        """A result from what its file holds.

        Args:
            content: All of the file.
            path: The file, to name it in errors.
            checked: This content was found to be a result before, by the same version of the code.

        Raises:
            SoftPromptsError: It is not a result.
        """
        try:
            values = json.loads(content.decode())
            if isinstance(values, dict) and not checked:
                _check_plain(values)
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of 5,000 digits, 10,000 brackets
            raise SoftPromptsError(f"{path} is not JSON ({error}); delete it, or redo the run with --force.") from error
        if not isinstance(values, dict) or "schema" not in values:
            raise SoftPromptsError(f"{path} is JSON but not a result; delete it, or redo the run with --force.")
        if values["schema"] not in range(1, SCHEMA + 1):
            raise SoftPromptsError(
                f"{path} has schema version {str(values['schema'])[:60]}, this program reads 1 to {SCHEMA}; redo it "
                f"with --force."
            )
        checksum = values.pop("checksum", None)
        if not checked and checksum is not None and checksum != _checksum(values):
            raise SoftPromptsError(
                f"{path} is damaged or was edited: its checksum is wrong; redo the run with --force, or delete it."
            )
        version, values = values["schema"], completed(values)
        if not checked:
            _validate(values, path)
        if version < 3:
            values = described(values)
        return cls(**{**values, "held_out": HeldOut(**values["held_out"])})


def content_of(path: Path) -> bytes:
    """All of a result file.

    Raises:
        SoftPromptsError: It cannot be read, is no file, or is larger than any result.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # reading a pipe would wait for ever
            raise SoftPromptsError(f"{path} is no file; move it away.")
        if facts.st_size > LARGEST:
            raise SoftPromptsError(
                f"{path} has {facts.st_size:,} bytes, more than any result ({LARGEST:,}); delete it, or redo the run "
                f"with --force."
            )
        return path.read_bytes()
    except OSError as error:
        raise SoftPromptsError(f"could not read the result {path} ({error.strerror}).") from error


def _check_plain(values: dict[str, Any]) -> None:
    """Raises:
    ValueError: A number is nan or infinite, a text is not Unicode, or lists lie in lists in lists.
    RecursionError: Deeper still.
    """
    json.dumps(values, allow_nan=False, ensure_ascii=False).encode()
    level: list[Any] = [values]
    for _ in range(DEEPEST):
        level = [
            below
            for part in level
            if isinstance(part, (list, dict))
            for below in (part.values() if isinstance(part, dict) else part)
        ]
    if level:
        raise ValueError(f"more than {DEEPEST} levels of lists within lists")


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
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number})
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, {"items": _items}, type_checker=types)(schema)


def _items(validator: Draft202012Validator, items: dict[str, Any], instance: object, schema: dict[str, Any]):
    """What is wrong with the items of a list. Results hold millions of numbers, and by jsonschema's own rule each costs
    as much as a file's other parts. So a list of nothing but plain numbers or strings is looked at as a whole."""
    import jsonschema

    plain = {"string": {str}, "integer": {int}, "number": {int, float}}.get(items.get("type", ""), set())
    if items.keys() <= {"type", "minimum"} and isinstance(instance, list) and set(map(type, instance)) <= plain:
        least = items.get("minimum", 1 - LONGEST_INTEGER)
        if not instance or str in plain or (least <= min(instance) and max(instance) < LONGEST_INTEGER):
            return
    yield from jsonschema.Draft202012Validator.VALIDATORS["items"](validator, items, instance, schema)


def _is_integer(_: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LONGEST_INTEGER


def _is_number(_: object, value: object) -> bool:
    return isinstance(value, float) or _is_integer(_, value)


def _validate(values: dict[str, Any], path: Path) -> None:
    """Raises:
    SoftPromptsError: The content of the file at ``path`` is not that of a result.
    """
    from jsonschema.exceptions import best_match

    # A large file could have a million errors, each with a long text.
    error = best_match(islice(_validator().iter_errors(values), 10))
    if error:
        where = "/".join(str(part) for part in error.absolute_path) or "the top"
        wrong = f"at {where[:200]}, {error.message[:200]}"
    elif not (wrong := next(_disagreements(values), "")):
        return
    raise SoftPromptsError(f"{path} is JSON but not a result: {wrong}; delete it, or redo the run with --force.")


def _disagreements(values: dict[str, Any]) -> Iterator[str]:
    """What in a result that fits the schema contradicts the rest of it, in words."""
    held_out = values["held_out"]
    scored, n = held_out["document_scored"], len(held_out["documents"])
    by_document = {f"held_out/{name}": held_out[name] for name in ("document_losses", "document_scored")}
    beside = {f"baselines/{name}": baseline for name, baseline in values["baselines"].items()}
    by_document |= {f"{place}/document_losses": b["document_losses"] for place, b in beside.items()}
    by_document |= {"anchor/document_losses": values["anchor"]["document_losses"]} if values["anchor"] else {}
    if fragility := values.get("fragility"):
        if unknown := set(fragility["documents"]) - set(held_out["documents"]):
            yield f"fragility/documents has {len(unknown)} that are not held out"
        levels = [fragility["unmoved"], *fragility["noise"], *fragility["left_out"]]
        levels += [fragility["shuffled"]] if fragility["shuffled"] else []
        if any(len(level["document_losses"]) != len(fragility["documents"]) for level in levels):
            yield "the numbers of losses and documents in fragility differ"
    if retrodiction := values.get("retrodiction"):
        if unknown := set(retrodiction["documents"]) - set(held_out["documents"]):
            yield f"retrodiction/documents has {len(unknown)} that are not held out"
        numbers = [one[of] for one in retrodiction["texts"] for of in ("document_losses", "document_divergences")]
        if any(len(of_one) != len(retrodiction["documents"]) for of_one in numbers):
            yield "the numbers of losses and documents in retrodiction differ"
    for place, numbers in by_document.items():
        if numbers is not None and len(numbers) != n:
            yield f"at {place[:200]} are {len(numbers)} numbers for {n} documents"
        if numbers and max(map(abs, numbers)) > MOST:
            yield f"at {place[:200]} is a number above {MOST:g}"
    if sum(scored) != held_out["n_scored"]:
        yield f"held_out/n_scored is {held_out['n_scored']}, but the documents have {sum(scored)} scored tokens"
    if sum(count > 0 for count in scored) < 2:
        yield "at held_out/document_scored, fewer than 2 documents have scored tokens, and an interval needs 2"


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
