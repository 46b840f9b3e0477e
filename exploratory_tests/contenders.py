"""The contenders of the throughput benchmark: a naive loop, PEFT and this project. Each is a function that takes one
step.

All do the same work for a case: they compute the gradient of the mean loss of ``batch`` documents behind a prompt, and
take an optimiser step. PEFT's prompt stands before the first token, the others' prompts stand behind it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.forward import usual_budget
from soft_prompts.engine.generate import generate
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.pocket import MODELS
from soft_prompts.tasks.base import Task
from soft_prompts.training.log import Logs
from soft_prompts.training.loop import accumulate_gradients
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run
from soft_prompts.training.state import TrainingState, make_intervention

SHAPES = {
    "14m": (128, 6, 4, 512, 50_304),
    "70m": (512, 6, 8, 2048, 50_304),
    "160m": (768, 12, 12, 3072, 50_304),
    "410m": (1024, 24, 16, 4096, 50_304),
    "1b": (2048, 16, 8, 8192, 50_304),
    "tiny": (32, 2, 2, 64, 300),
}
"""Name -> width, layers, heads, MLP width and vocabulary. They are pythia's, whose embedding matrix has 50,304 rows;
"tiny" is for trying the benchmark itself."""
N_NEW = 32
"""Tokens generated."""
TRAINER_STEPS = 4
"""Steps of one of the Trainer's turns."""
Step = Callable[[], object]
"""A function that takes one step of a case. What it returns is not used."""


@dataclass(frozen=True)
class Case:
    """What a step computes: ``batch`` documents of ``length`` tokens behind prompts of ``n_tokens``."""

    shape: str
    """The model's shape: a key of SHAPES, or "pocket"."""
    batch: int
    """B, documents."""
    length: int
    """T, tokens of each document, prompt not included."""
    n_tokens: int
    """P, tokens of the prompt."""
    conditional: bool = False
    """Whether the prompt depends on a condition of two numbers."""
    scored: float = 1.0
    """Share of the tokens that is scored."""
    n_runs: int = 1
    """Prompts that are trained at the same time, all on the same documents."""
    what: str = "training"
    """training, evaluation or generation."""

    def __str__(self) -> str:
        words = f"{self.what}, {self.shape} {self.batch} x {self.length}, P = {self.n_tokens}"
        words += " conditional" * self.conditional + (f", {self.scored:.0%} scored" if self.scored < 1 else "")
        return words + (f", {self.n_runs} runs" if self.n_runs > 1 else "")

    @property
    def tokens(self) -> int:
        """Data tokens that a step works through; for generation, those written."""
        return self.n_runs * self.batch * (N_NEW if self.what == "generation" else self.length)

    def flops(self) -> float:
        """Floating-point operations that a step needs: forward and, in training, backward to the input."""
        width, layers, _, inner, vocabulary = sizes(self.shape)
        size = Size(layers, width, vocabulary, layers * (4 * width**2 + 2 * width * inner))
        row, scored = self.length + self.n_tokens, (self.length - 1) * self.scored
        ways = 2 if self.what == "training" else 1
        return self.n_runs * self.batch * size.operations(row, scored, ways)


@dataclass(frozen=True)
class Size:
    """What of a model's size tells its cost."""

    layers: int
    width: int
    vocabulary: int
    weights: int
    """Of the body's matrices."""

    def operations(self, row: int, scored: float, ways: int = 2, trained: bool = False) -> float:
        """Floating-point operations that one document needs: the body's at all positions, the head's at scored ones.

        A product with a weight takes 2 operations for each weight and position each way (Kaplan et al. 2020, arXiv
        2001.08361, section 2.1). Causal attention has two products, of which half is masked; its backward pass takes
        twice as many.

        Args:
            row: Positions, prompt included.
            scored: Positions whose logits are needed.
            ways: 1 forward only, 2 with the backward pass to the input.
            trained: Whether the gradients of the weights are computed, too, as they are where nothing is frozen.
        """
        products = 2 * (ways + trained)
        attention = self.layers * row * self.width * (2 + 4 * (ways - 1))
        return float(row * (self.weights * products + attention) + scored * self.width * self.vocabulary * products)


def sizes(shape: str) -> tuple[int, int, int, int, int]:
    """Width, layers, heads, MLP width and vocabulary.

    Args:
        shape: A key of SHAPES, or "pocket".
    """
    if shape == "pocket":
        c = transformers.AutoConfig.from_pretrained(MODELS["pocket"])
        return c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size, c.vocab_size
    return SHAPES[shape]


def new_lm(shape: str, dtype: torch.dtype, device: str) -> GPTNeoXForCausalLM:
    """A random model of a real shape, the same every time.

    Args:
        shape: A key of SHAPES, or "pocket".
        dtype: Of its weights.
        device: Name of a torch device.
    """
    torch.manual_seed(0)
    width, layers, heads, inner, vocabulary = sizes(shape)
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=2048,
        attn_implementation="sdpa",
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPTNeoXForCausalLM(config).to(device, dtype)


def documents(case: Case) -> list[Example]:
    """The random documents of a case, the same every time. A share of their tokens is scored.

    Args:
        case: What a step computes.

    Returns:
        ``case.batch`` examples. Conditional ones have a condition of two numbers.
    """
    random, vocabulary = np.random.default_rng(0), sizes(case.shape)[-1]
    examples = []
    for i in range(case.batch):
        tokens = random.integers(1, vocabulary, case.length)
        labels = np.where(random.random(case.length) < case.scored, tokens, IGNORE)
        labels[0] = IGNORE
        condition = random.normal(size=2 * case.conditional).astype(np.float32)
        examples.append(Example(tokens, labels, str(i), condition=condition))
    return examples


def stacked(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    """The documents of a case as tensors.

    Args:
        case: What a step computes.
        device: Where the tensors are put.

    Returns:
        Tokens and labels, int64 [B, T] each.
    """
    examples = documents(case)
    tokens, labels = np.stack([e.tokens for e in examples]), np.stack([e.labels for e in examples])
    return torch.from_numpy(tokens).to(device), torch.from_numpy(labels).to(device)


def naive(case: Case, lm: GPTNeoXForCausalLM) -> Step:
    """The loop that one writes first.

    The weights are not frozen, rows are put together one by one, every token of a conditional prompt has a small
    network of its own, and the logits of all positions are computed.

    Args:
        case: What a step computes.
        lm: The model. For training, gradients of its weights are switched on.
    """
    if case.what == "generation":
        return _hf_generation(case, lm)
    lm.requires_grad_(True)
    examples, width = documents(case), lm.config.hidden_size
    if case.conditional:
        recipe = TrainConfig()
        widths = [2, *[recipe.width] * recipe.depth, width]
        layers = (
            nn.Sequential(*(part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.GELU())))[:-1]
            for _ in range(case.n_tokens)
        )
        generator = nn.ModuleList(layers).to(lm.device)
        parameters = list(generator.parameters())
    else:
        prompt = nn.Parameter(torch.randn(case.n_tokens, width, device=lm.device) * 0.02)
        parameters = [prompt]
    optimizer = torch.optim.AdamW(parameters)

    def loss() -> Tensor:
        rows, labels = [], []
        for e in examples:
            tokens = torch.from_numpy(e.tokens).to(lm.device)
            if case.conditional:
                condition = torch.from_numpy(e.condition).to(lm.device)
                block = torch.stack([layer(condition) for layer in generator])
            else:
                block = prompt
            embedded = lm.get_input_embeddings()(tokens)
            rows.append(torch.cat([embedded[:1], block.to(embedded.dtype), embedded[1:]]))
            labels.append(torch.cat([torch.full((case.n_tokens + 1,), IGNORE), torch.from_numpy(e.labels[1:])]))
        logits = lm(inputs_embeds=torch.stack(rows)).logits[:, :-1].float()
        wanted = torch.stack(labels)[:, 1:].to(lm.device)
        return nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), wanted.reshape(-1))

    def step() -> None:
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        lm.zero_grad()

    return step if case.what == "training" else torch.no_grad()(loss)


def _hf_generation(case: Case, lm: GPTNeoXForCausalLM) -> Step:
    """Generation by transformers' generate(), from embeddings."""
    tokens, _ = stacked(case, lm.device)
    rows = lm.get_input_embeddings()(torch.cat([tokens[:, :1].expand(-1, case.n_tokens), tokens], 1)).detach()
    mask = torch.ones(rows.shape[:2], dtype=torch.long, device=lm.device)
    length = {"max_new_tokens": N_NEW, "min_new_tokens": N_NEW}
    return lambda: lm.generate(inputs_embeds=rows, attention_mask=mask, **length, do_sample=False, pad_token_id=0)


def peft_loop(case: Case, lm: GPTNeoXForCausalLM) -> Step:
    """PEFT's prompt tuning in a plain loop.

    Args:
        case: What a step computes, in training and without conditions.
        lm: The model. PEFT freezes it.
    """
    model = _prompt_tuning(case, lm)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters)
    tokens, labels = stacked(case, lm.device)
    mask = torch.ones_like(tokens)

    def step() -> None:
        model(input_ids=tokens, labels=labels, attention_mask=mask).loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def peft_trainer(case: Case, lm: GPTNeoXForCausalLM) -> Step:
    """PEFT's prompt tuning with transformers' Trainer.

    Args:
        case: What a step computes, in training and without conditions.
        lm: The model. PEFT freezes it.

    Returns:
        A function that does a whole short training of TRAINER_STEPS steps, its set-up included.
    """
    tokens, labels = stacked(case, torch.device("cpu"))
    rows = [{"input_ids": t, "labels": y} for t, y in zip(tokens, labels, strict=True)] * TRAINER_STEPS
    silent = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    arguments = transformers.TrainingArguments(
        tempfile.mkdtemp(),
        per_device_train_batch_size=case.batch,
        max_steps=TRAINER_STEPS,
        use_cpu=lm.device.type == "cpu",
        **silent,
    )
    trainer = transformers.Trainer(_prompt_tuning(case, lm), arguments, train_dataset=rows)
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    return trainer.train


def _prompt_tuning(case: Case, lm: GPTNeoXForCausalLM) -> peft.PeftModel:
    """The model behind PEFT's prompt."""
    config = peft.PromptTuningConfig(task_type=peft.TaskType.CAUSAL_LM, num_virtual_tokens=case.n_tokens)
    return peft.get_peft_model(lm, config)


class _NoText:
    """A tokenizer without text: it has all that the engine asks for."""

    eos_token_id = None

    def __init__(self, size: int):
        self.size = size

    def get_vocab(self) -> dict[str, int]:
        return {"": self.size - 1}

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": []}


def bare(case: Case, lm: GPTNeoXForCausalLM) -> Step:
    """Nothing but the kernels that a training step cannot do without. No step made of torch's kernels can be faster.

    These are the products with the model's weights that ``Case.flops`` counts, each in one call, and torch's attention;
    both forward and backward to the input.

    Args:
        case: What a step computes, in training.
        lm: The model.
    """
    linear = [m.weight for m in lm.base_model.modules() if isinstance(m, nn.Linear)]
    row, scored = case.length + case.n_tokens, round(case.batch * (case.length - 1) * case.scored)
    used = [(w, case.batch * row) for w in linear] + [(lm.get_output_embeddings().weight, scored)]
    states = [(w, torch.randn(n, w.shape[1], device=lm.device, dtype=lm.dtype)) for w, n in used]
    width, layers, heads, *_ = sizes(case.shape)
    shape = case.batch, heads, row, width // heads
    *qkv, upstream = (torch.randn(shape, device=lm.device, dtype=lm.dtype, requires_grad=True) for _ in range(4))

    def step() -> None:
        with torch.no_grad():
            for weight, hidden in states:
                (hidden @ weight.T) @ weight
        for _ in range(layers):
            out = nn.functional.scaled_dot_product_attention(*qkv, is_causal=True)
            torch.autograd.grad(out, qkv, upstream)

    return step


def random_model(case: Case, lm: GPTNeoXForCausalLM) -> LanguageModel:
    """The model as the engine takes it: frozen, and with an end of text that never comes.

    Args:
        case: What a step computes.
        lm: The model. It is frozen in place.
    """
    vocabulary = sizes(case.shape)[-1]
    lm.generation_config.eos_token_id = None
    return LanguageModel("random", "", lm.requires_grad_(False).eval(), _NoText(vocabulary), vocabulary)


def ours(case: Case, lm: GPTNeoXForCausalLM, together: bool = True) -> Step:
    """This project's step.

    Args:
        case: What a step computes.
        lm: The model. It is frozen in place.
        together: Whether all runs of the case share forward passes; else they take their steps one after another.
    """
    model = random_model(case, lm)
    examples, budget = documents(case), usual_budget(lm.device)
    if case.what != "training":
        prompt = SoftPrompt(model.vocabulary[: case.n_tokens].float(), 1.0)
        if case.what == "evaluation":
            return lambda: evaluate(model, [prompt], examples, budget)
        return lambda: generate(model, prompt, examples, N_NEW, 0.0, torch.Generator())
    runs = [Run("throughput", Task(), "random", case.n_tokens, seed, TrainConfig(), "") for seed in range(case.n_runs)]
    folder = Path(tempfile.mkdtemp())
    states = [
        TrainingState(run, make_intervention(model, run, 2 * case.conditional), Logs(folder).of(run)) for run in runs
    ]
    groups = [states] if together else [[state] for state in states]

    def step() -> None:
        for group in groups:
            interventions = [state.intervention for state in group]
            accumulate_gradients(model, runs[0].task, interventions, [examples] * len(group), budget)
            for state in group:
                state.update(1, examples)

    return step
