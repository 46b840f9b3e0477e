"""All that changes while a run trains: its intervention, its optimiser, what is known of it so far; and the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from soft_prompts.data.example import Example
from soft_prompts.engine.evaluate import TokenScores
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.base import Intervention
from soft_prompts.interventions.given import given_generator, given_prompt
from soft_prompts.interventions.lora import LoRA
from soft_prompts.interventions.noisy import NoisyPrompt
from soft_prompts.interventions.soft_prompt import PromptGenerator, SoftPrompt, TokenwiseGenerator, initial_rows
from soft_prompts.interventions.steering import Steering, layers_of
from soft_prompts.interventions.subspace import Subspace
from soft_prompts.interventions.words import Words
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.training.log import RunLog
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run

SEEDS = 1_000_003
"""What chance depends on is numbered by multiples of it, so that no two numbers meet."""


class TrainingState:
    """One run in training."""

    def __init__(self, run: Run, intervention: Intervention, log: RunLog, start: int = 0):
        self.run, self.intervention, self.log = run, intervention, log
        self.start = start
        """Which of the run's starts this is."""
        self.looks = run.recipe.looks
        """The steps after which the validation documents are looked at, the last one apart."""
        self.curve: list[dict[str, float]] = []
        """Loss on the validation documents so far: {"step", "loss"}, nats per scored token."""
        self.scores: TokenScores | None = None
        """On the held-out documents, when training is over."""
        self.n_data_tokens = 0
        """Tokens trained on, separators included, prompts not."""
        self.n_positions = 0
        """Positions computed for this run in training, prompts included."""
        self.seconds = 0.0
        """Its share of the wall clock of training, by positions."""
        self.nats_before: float | Tensor = 0.0
        """Nats of the training documents, each before it was trained on, if the recipe is prequential. A number on the
        device while training goes on."""
        self.nats_after: float | None = None
        """Those of the same documents behind the final prompt."""
        self.failure = ""
        """Why training was given up, in a sentence; "" if it was not."""
        # Adam is elementwise, so an optimiser for every run is the same mathematics as one for all.
        self.optimizer = torch.optim.AdamW(intervention.parameters(), weight_decay=run.recipe.weight_decay, fused=True)

    def begin(self, step: int) -> None:
        """Show as many of the prompt's tokens as there are in a step (0: before the first), and draw its noise."""
        self.intervention.show(self.run.recipe.shown(self.run.n_tokens, step))
        self.intervention.draw(SEEDS * (self.run.seed + 1) + step)

    def settle(self) -> None:
        """Draw the noise that it is measured with, the same at every evaluation."""
        self.intervention.draw(SEEDS * (self.run.seed + 1) - 1)

    def update(self, step: int, batch: Sequence[Example]) -> Tensor:
        """Take one optimiser step with the gradients that are there.

        Args:
            step: Which step this is, from 1.
            batch: The documents that the gradients come from.

        Returns:
            The gradients' norm before clipping, a number on the device: nothing here waits for it.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.intervention.parameters(), self.run.recipe.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        n_tokens = sum(len(e) for e in batch)
        self.n_data_tokens += n_tokens
        self.n_positions += n_tokens + len(batch) * self.intervention.n_tokens
        return norm

    def spend(self, loss: Tensor, batch: Sequence[Example]) -> None:
        """Add up what a batch cost before it is trained on, if the recipe asks for it. Nothing here waits.

        Args:
            loss: Nats per scored token.
            batch: The documents.
        """
        if self.run.recipe.prequential:
            self.nats_before = self.nats_before + loss.detach().double() * sum(e.n_scored for e in batch)

    def lr(self, step: int) -> float:
        """The learning rate of step ``step`` (from 1), in units of --train.unit."""
        return self.run.recipe.lr * self.run.recipe.lr_share(step - 1, self.curve)

    @property
    def last_step(self) -> int:
        """How many steps it is trained for, as far as is known by now. What has nothing to train takes none."""
        return self.run.recipe.last_step(self.curve) if self.intervention.trainable else 0

    @property
    def validation_loss(self) -> float:
        """The latest, nats per scored token; inf before the first."""
        return self.curve[-1]["loss"] if self.curve else math.inf

    def give_up(self, what: str, step: int) -> None:
        """Note that a number stopped being finite."""
        self.failure = (
            f"{self.run}: {what} stopped being finite by step {step}; try a smaller --train.lr "
            f"(now {self.run.recipe.lr:g}) or --train.clip-norm (now {self.run.recipe.clip_norm:g})."
        )


def make_intervention(model: LanguageModel, run: Run, n_conditions: int, start: int = 0) -> Intervention:
    """What a run starts from. Of no size, it is a prompt of no tokens, whatever is trained.

    Args:
        model: The frozen model.
        run: Its size, seed and recipe.
        n_conditions: C of the task's examples.
        start: Which of the run's starts.

    Raises:
        SoftPromptsError: The recipe does not fit the task, or the model has no such layers.
    """
    config, random = run.recipe, torch.Generator().manual_seed(run.seed + SEEDS * start)
    kind = config.intervention if run.n_tokens else "prompt"
    if kind == "lora":
        made = LoRA.on(model.lm, run.n_tokens, random)
    elif kind == "steering":
        made = Steering.on(model.lm, steered(len(layers_of(model.lm)), run.n_tokens, start, config.starts))
    else:
        made = _prompt(model, run, n_conditions, random)
    return (Subspace(made, config.subspace, run.seed) if config.subspace else made).to(model.device)


def steered(n_layers: int, n: int, start: int, n_starts: int) -> range:
    """Which ``n`` neighbouring layers are steered: the places of several starts are spread evenly over the depth.

    Raises:
        SoftPromptsError: There are not so many layers.
    """
    if n > n_layers:
        raise SoftPromptsError(f"{n} layers cannot be steered, the model has {n_layers}; use smaller --n-tokens.")
    depth = start / (n_starts - 1) if n_starts > 1 else 0.5
    first = round((n_layers - n) * depth)
    return range(first, first + n)


def _prompt(model: LanguageModel, run: Run, n_conditions: int, random: torch.Generator) -> Intervention:
    """A prompt, conditional if the task's examples have conditions."""
    config = run.recipe
    text = torch.tensor(model.tokenizer(config.init_text, add_special_tokens=False)["input_ids"], dtype=torch.long)
    rows = initial_rows(config.init, run.n_tokens, model.vocabulary, text, random)
    unit = model.scale if config.unit == "vocabulary" else 1.0
    given, trained = bool(config.init_from and run.n_tokens), None
    if given and n_conditions and (config.intervention, config.generator) == ("prompt", "shared"):
        trained = given_generator(Path(config.init_from))
    if trained:
        _stands_as_asked(config, trained[1])
    if given and not trained:
        rows = _begun(model, config, rows)
    if config.intervention == "words" and run.n_tokens:
        return Words(rows, unit, model.words)
    if given and not trained:
        return SoftPrompt(rows, unit)
    if config.noise and n_conditions:
        raise SoftPromptsError("--train.noise is for prompts without conditions; leave it out for this task.")
    if config.noise:
        return NoisyPrompt(rows, model.vocabulary, config.noise)
    if not n_conditions:
        return SoftPrompt(rows, unit)
    if config.generator == "tokenwise":
        return TokenwiseGenerator(rows.shape, n_conditions, config.width, random, unit)
    made = PromptGenerator(rows, unit, (n_conditions, *[config.width] * config.depth), random)
    if trained:
        try:
            made.begin_with(trained[0])
        except ValueError as error:
            raise SoftPromptsError(
                f"{config.init_from} is no start for this prompt: {error}; change --n-tokens, --train.width or "
                f"--train.depth."
            ) from error
    return made


def _begun(model: LanguageModel, config: TrainConfig, rows: Tensor) -> Tensor:
    """New rows [P, D] behind those of a trained prompt, which take their place from the front.

    Raises:
        SoftPromptsError: It cannot be read, is of another width, or has more tokens. Or it is to be measured as it is,
            but not where it stands.
    """
    path = Path(config.init_from)
    given = given_prompt(path, model.vocabulary, model.tokenizer.all_special_ids)
    n_given = len(given.rows)
    if n_given > len(rows):
        raise SoftPromptsError(f"{path} holds a prompt of {n_given} tokens; give --n-tokens of at least as many.")
    _stands_as_asked(config, given.before)
    return torch.cat([given.rows, rows[n_given:]])


def _stands_as_asked(config: TrainConfig, before: bool) -> None:
    """A start may stand anywhere. What is measured as it is must stand where it was trained.

    Raises:
        SoftPromptsError: It does not.
    """
    if not config.steps and before != config.before:
        where, remedy = ("before", "give") if before else ("behind", "leave out")
        raise SoftPromptsError(
            f"the prompt in {config.init_from} stands {where} the token that opens every text; {remedy} --train.before."
        )


class Clock:
    """Wall-clock seconds of training, without held-out evaluation."""

    def __init__(self, device: torch.device, seconds: float = 0.0):
        self.device, self.seconds, self._since = device, seconds, time.perf_counter()

    def read(self) -> float:
        """Seconds so far. Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.seconds + time.perf_counter() - self._since

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for a while."""
        self.seconds = self.read()
        yield
        self._since = time.perf_counter()
