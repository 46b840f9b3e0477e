"""Anchors that any task can be given: what is known to bring a behaviour out, for distances to go by."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from soft_prompts.console import progress_bar
from soft_prompts.data.example import Example
from soft_prompts.engine.behind import behind_tokens, scores_behind
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.lora import LoRA
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.loading import load
from soft_prompts.tasks.base import Anchor
from soft_prompts.training.loop import accumulate_gradients
from soft_prompts.training.run import Run

RANK = 8
"""Of a LoRA."""
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
"""Learning rates of LoRAs, of which the best on the validation documents is taken."""
SHOWN = 60
"""Characters of a text that names and messages show."""


def anchor_of(run: Run, bench: Bench) -> Callable[[Bench], Anchor | None]:
    """What measures a run's anchor on a bench's held-out documents.

    Args:
        run: ``run.anchor`` says which: "" is what the task names, "lora" a fine-tune on the same training documents,
            "text:..." a text in the prompt's place, "texts:..." the best of those in a file, "model:..." another model
            of the same tokenizer.
        bench: The model and the validation documents.

    Raises:
        SoftPromptsError: There is no such kind, the other model cannot be loaded, or it has another tokenizer; or a
            text is too long for the model, or the file holds none.
    """
    kind, _, what = run.anchor.partition(":")
    if kind == "lora":
        return _fine_tuned(run, bench)
    if kind == "text":
        return lambda of: _of_text(of, what)
    if kind == "texts":
        return _of_best_text(bench, written(what))
    if kind == "model":
        return _of_model(run, bench, what)
    return run.task.anchor


def _of_text(bench: Bench, text: str, name: str = "the text", tried: dict[str, float] | None = None) -> Anchor:
    scored = behind_tokens(bench, [_tokens(bench, text)] * len(bench.held_out))
    return Anchor(f"{name} {shortened(text)!r}", *scored, tried)


def _tokens(bench: Bench, text: str) -> np.ndarray:
    """A text as tokens, int [n].

    Raises:
        SoftPromptsError: The model cannot read it in front of the longest document.
    """
    tokens = bench.encoding.tokens([text])[0][0][1:]  # without the separator
    longest, context = bench.encoding.max_tokens, bench.model.context
    if len(tokens) + longest > context:
        raise SoftPromptsError(
            f"the text {shortened(text)!r} has {len(tokens)} tokens, and documents {longest}, but {bench.model.name} "
            f"reads {context} at most; choose a shorter text for --anchor."
        )
    return tokens


def _of_best_text(bench: Bench, texts: list[str]) -> Callable[[Bench], Anchor]:
    """Of the text with the lowest validation loss."""
    validation = bench.for_choices
    n = len(validation.held_out)
    losses = {text: scores_behind(validation, [_tokens(bench, text)] * n).loss for text in texts}
    best = min(texts, key=lambda text: losses[text])
    return lambda of: _of_text(of, best, f"the best of {len(texts)} texts,", losses)


def written(path: str) -> list[str]:
    """Texts that a person wrote: a JSON file that holds a list of them.

    Raises:
        SoftPromptsError: It cannot be read, or holds something else.
    """
    try:
        texts = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is not JSON in UTF-8"
        raise SoftPromptsError(f"--anchor texts:{path} cannot be read: {reason}; check the file.") from error
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) and text for text in texts)):
        raise SoftPromptsError(f'--anchor texts:{path} must hold a list of texts, such as ["A game of chess: "].')
    return list(dict.fromkeys(texts))


def shortened(text: str) -> str:
    """A text's first characters, for names and messages."""
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _of_model(run: Run, bench: Bench, name: str) -> Callable[[Bench], Anchor]:
    other = load(name, dtype=run.dtype, device=str(bench.model.device))
    if other.tokenizer_hash != bench.model.tokenizer_hash:
        raise SoftPromptsError(f"--anchor model:{name}: it has another tokenizer, so losses per token do not compare.")
    no_prompt = SoftPrompt(other.vocabulary[:0].float()).to(other.device)
    return lambda of: Anchor(f"the model {other.name}", evaluate(other, [no_prompt], of.held_out, of.token_budget)[0])


def _fine_tuned(run: Run, bench: Bench) -> Callable[[Bench], Anchor]:
    """A LoRA trained on the run's documents in its order, for as many steps; learning rate chosen on validation."""
    model, recipe = bench.model, run.recipe
    loras = [LoRA.on(model.lm, RANK, torch.Generator().manual_seed(run.seed)).to(model.device) for _ in RATES]
    optimizers = [torch.optim.AdamW(lora.parameters(), rate) for lora, rate in zip(loras, RATES, strict=True)]
    stream = run.target.examples("train", bench.encoding, run.seed)
    with progress_bar(f"{len(loras)} LoRAs as anchor", recipe.steps) as advance:
        for step in range(recipe.steps):
            batch: list[Example] = list(islice(stream, recipe.batch_size))
            accumulate_gradients(model, run.target, loras, [batch] * len(loras), bench.token_budget)
            for lora, optimizer, rate in zip(loras, optimizers, RATES, strict=True):
                torch.nn.utils.clip_grad_norm_(lora.parameters(), recipe.clip_norm)
                optimizer.param_groups[0]["lr"] = rate * recipe.lr_share(step)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            advance()
    losses = [scores.loss for scores in evaluate(model, loras, bench.validation, bench.token_budget)]
    finite = [(loss, i) for i, loss in enumerate(losses) if loss < float("inf")]  # nan is not below it either
    if not finite:
        raise SoftPromptsError("every LoRA diverged, at all learning rates; choose another --anchor.")
    _, best = min(finite)
    name = f"a LoRA of rank {RANK} (learning rate {RATES[best]:g})"
    return lambda of: Anchor(name, evaluate(model, [loras[best]], of.held_out, of.token_budget)[0])
