"""What a run leaves behind: a result in JSON, a prompt in safetensors, and both loaded back."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import safetensors.torch
import torch
from jsonschema.exceptions import best_match
from safetensors import SafetensorError, safe_open
from torch import nn

from soft_prompts.batch import IGNORE, Example
from soft_prompts.errors import SoftPromptsError
from soft_prompts.evaluate import Prompt, TokenScores
from soft_prompts.files import write_atomically
from soft_prompts.model import LanguageModel
from soft_prompts.prompts import PromptGenerator, SoftPrompt
from soft_prompts.stats import ratio_interval

SCHEMA = 2
"""Version of the result files: soft_prompts/result.schema.json describes them. 1 had no "sizes"."""
SNAPSHOT_SCHEMA = 1
"""Version of the snapshot files."""
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "chess", "numpy", "scipy")
"""Packages whose versions a result records."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out losses by document: two results pair where their ``documents`` and ``document_scored`` agree."""

    loss: float
    """Nats per scored token."""
    interval: list[float]
    """[low, high], 95 %, bootstrap over documents."""
    n_scored: int
    documents: list[str]
    document_losses: list[float]
    """Nats, summed over the document's scored tokens."""
    document_scored: list[int]

    @classmethod
    def of(cls, scores: TokenScores) -> HeldOut:
        sums, counts = scores.sums, scores.counts
        return cls(
            scores.loss,
            ratio_interval(sums, counts),
            int(counts.sum()),
            scores.documents,
            sums.tolist(),
            counts.tolist(),
        )


@dataclass(frozen=True)
class Result:
    """One run, measured. The fields are the keys of the JSON file."""

    experiment: str
    task: str
    model: str
    n_tokens: int
    seed: int
    held_out: HeldOut
    baselines: dict[str, float]
    """Held-out nats per scored token of trivial predictors: "uniform" and "unigram"."""
    scores: dict[str, Any]
    """Behaviour: name -> {"value", "interval", "n"}, or a dict of such."""
    curve: list[dict[str, float]]
    """Held-out loss during training: {"step", "loss"}."""
    samples: list[dict[str, str]]
    sizes: list[dict[str, Any]]
    """The prompt rounded to ever more bits: soft_prompts.quantise.Size as plain JSON, with the "tolerance"."""
    config: dict[str, Any]
    provenance: dict[str, Any]
    seconds: float
    """This run's share of the wall clock of training."""
    tokens_per_second: float | None
    """Data tokens trained on per second of that; None where nothing was trained."""
    schema: int = field(default=SCHEMA)

    def save(self, path: Path) -> None:
        """Write the JSON file, a key a line, in one step. Raises SoftPromptsError for values that the schema does not know."""
        values = asdict(self)
        _validate(values, path)
        lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in values.items()]
        write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())

    @classmethod
    def load(cls, path: Path) -> Result:
        """Raises SoftPromptsError if the file is not a result, or one of a version that cannot be read."""
        try:
            values = json.loads(path.read_text())
        except OSError as error:
            raise SoftPromptsError(f"could not read the result {path} ({error.strerror}).") from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise SoftPromptsError(f"{path} is not JSON ({error}); delete it, or redo the run with --force.") from error
        if not isinstance(values, dict) or "schema" not in values:
            raise SoftPromptsError(f"{path} is JSON but not a result; delete it, or redo the run with --force.")
        if values["schema"] == 1:
            values |= {"schema": SCHEMA, "sizes": []}
        if values["schema"] != SCHEMA:
            raise SoftPromptsError(
                f"{path} has schema version {values['schema']}, this program reads 1 and {SCHEMA}; redo it with --force."
            )
        _validate(values, path)
        return cls(**{**values, "held_out": HeldOut(**values["held_out"])})


@lru_cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(Path(__file__).with_name("result.schema.json").read_text()))


def _validate(values: dict[str, Any], path: Path) -> None:
    error = best_match(_validator().iter_errors(values))
    if error:
        where = "/".join(str(part) for part in error.absolute_path) or "the top"
        raise SoftPromptsError(
            f"{path} is JSON but not a result: at {where}, {error.message[:200]}; delete it, or redo the run with --force."
        )


def load_results(folders: Sequence[Path]) -> list[Result]:
    """All results below some folders, or files named one by one."""
    return [Result.load(path) for folder in folders for path in result_files(folder)]


def result_files(path: Path) -> list[Path]:
    """The result files below a folder, in order; a file stands for itself."""
    return sorted(path.rglob("tokens-*.json")) if path.is_dir() else [path]


def baselines(training: Sequence[Example], held_out: Sequence[Example], n_vocabulary: int) -> dict[str, float]:
    """Nats per scored held-out token of two predictors that read nothing.

    "uniform": ln V. "unigram": the frequencies of the tokens scored in ``training``, add-one smoothed (Laplace).
    """
    counts = np.ones(n_vocabulary)
    for e in training:
        np.add.at(counts, e.labels[e.labels != IGNORE], 1)
    nats = -np.log(counts / counts.sum())
    wanted = np.concatenate([e.labels[e.labels != IGNORE] for e in held_out])
    return {"uniform": float(np.log(n_vocabulary)), "unigram": float(nats[wanted].mean())}


def provenance(model: LanguageModel, data: dict[str, Any], n_together: int) -> dict[str, Any]:
    """Where a result comes from: model, data, code, versions, device, time, memory; how many runs were trained together."""
    cuda = model.device.type == "cuda"
    return {
        "model": model.identity(),
        "separator": model.separator,
        "data": data,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": torch.cuda.get_device_name(model.device)
        if cuda
        else f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)",
        "dtype": str(model.dtype).removeprefix("torch."),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "runs_together": n_together,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        # ru_maxrss is in KiB on Linux; both are of the whole process so far.
        "peak_memory_bytes": torch.cuda.max_memory_allocated(model.device)
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _commit() -> str:
    """The commit of this code, "+" behind it if files differ from it, "unknown" outside a repository."""
    here = Path(__file__)

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # installed, this file may lie inside somebody else's repository
        head, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def save_prompt(prompt: Prompt, model: LanguageModel, run: dict[str, Any], path: Path) -> None:
    """A trained prompt as safetensors: its tensors, and in the metadata the model it belongs to and the run that made it."""
    metadata = {
        "schema": str(SNAPSHOT_SCHEMA),
        "kind": type(prompt).__name__,
        "model": json.dumps(model.identity()),
        "run": json.dumps(run),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in prompt.state_dict().items()}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_prompt(path: Path, model: LanguageModel) -> Prompt:
    """A prompt saved by ``save_prompt``, on the model's device.

    Raises SoftPromptsError if the file is missing, damaged or of another model: a prompt means nothing to any other.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise SoftPromptsError(
            f"could not read the snapshot {path} ({error}); train the prompt again with --force."
        ) from error
    if metadata.get("schema") != str(SNAPSHOT_SCHEMA):
        raise SoftPromptsError(
            f"{path} is no snapshot of schema version {SNAPSHOT_SCHEMA} (it says {metadata.get('schema')})."
        )
    saved, mine = json.loads(metadata["model"]), model.identity()
    for part in ("weights", "tokenizer"):
        if saved[part] != mine[part]:
            raise SoftPromptsError(
                f"the snapshot {path} was trained on {saved['name']} ({part} {saved[part]}), "
                f"not on {mine['name']} ({part} {mine[part]}); load that model."
            )
    prompt: nn.Module
    if metadata["kind"] == SoftPrompt.__name__:
        prompt = SoftPrompt(tensors["rows"])
    else:
        widths = (
            tensors["hidden.0.weight"].shape[1],
            *(tensors[f"hidden.{i}.bias"].shape[0] for i in range(_n_layers(tensors))),
        )
        prompt = PromptGenerator(tensors["rows"], 1.0, widths, torch.Generator())
    prompt.load_state_dict(tensors)
    return prompt.to(model.device)


def _n_layers(tensors: dict[str, torch.Tensor]) -> int:
    return sum(name.startswith("hidden.") and name.endswith(".bias") for name in tensors)
