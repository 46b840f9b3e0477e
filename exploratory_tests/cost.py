"""What does each published experiment cost on one GPU of 24 GB? An estimate; nothing of it was measured here.

    python -m exploratory_tests.cost                # prints the table of docs/cost.md

Operations are counted. How many a second such a GPU does is taken from the published runs, model by model: their speed
times the operations of their step, in which nothing was frozen and every position had logits. What the autograd graph
keeps for the backward pass is counted in layers of the real shapes.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from statistics import median

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PretrainedConfig, PreTrainedModel

from exploratory_tests.contenders import SHAPES, Size
from soft_prompts.engine.forward import usual_budget
from soft_prompts.engine.loss import SLICE_LOGITS
from soft_prompts.report.reference import reference
from soft_prompts.report.tables import as_markdown
from soft_prompts.sweep import Sweep, plan
from tests import (
    autoregressive_test,
    chat_detuning_test,
    chess_test,
    pathfinding_test,
    repetition_test,
    skip_tokens_test,
)

SWEEPS = (chess_test, skip_tokens_test, repetition_test, autoregressive_test, chat_detuning_test, pathfinding_test)
SHARING = {"skip_tokens", "autoregressive", "chat_detuning"}
"""Prompts without conditions, right behind the separator: a step reads them once for all documents."""
TINYLLAMA = LlamaConfig(
    hidden_size=2048,
    num_hidden_layers=22,
    num_attention_heads=32,
    num_key_value_heads=4,
    intermediate_size=5632,
    vocab_size=32_000,
)
"""The shape of TinyLlama-1.1B (its config.json)."""
GIB = 2**30


def config_of(model: str) -> PretrainedConfig:
    """The shape of a published model by its name."""
    if "TinyLlama" in model:
        return TINYLLAMA
    width, layers, heads, inner, vocabulary = SHAPES[model.split("-")[1]]
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return GPTNeoXConfig(**sizes, intermediate_size=inner, vocab_size=vocabulary)


@lru_cache
def without_numbers(model: str) -> PreTrainedModel:
    """A published model's shape, without any weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config_of(model))


def size_of(model: str) -> Size:
    """The size of a published model."""
    config = config_of(model)
    body = without_numbers(model).base_model
    weights = sum(m.weight.numel() for m in body.modules() if isinstance(m, nn.Linear))
    return Size(config.num_hidden_layers, config.hidden_size, config.vocab_size, weights)


def n_parameters(model: str) -> int:
    """Of the whole of a published model."""
    return sum(p.numel() for p in without_numbers(model).parameters())


@lru_cache
def kept_bytes(model: str, dtype: torch.dtype, positions: int = 32) -> float:
    """Bytes that one layer keeps of one position for the backward pass: those of two layers less those of one."""
    by_layers = []
    for layers in (1, 2):
        config = config_of(model)
        config = type(config)(**{**config.to_dict(), "num_hidden_layers": layers, "vocab_size": 64})
        lm = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype).requires_grad_(False)
        own = {p.untyped_storage().data_ptr() for p in lm.parameters()}
        kept: dict[int, Tensor] = {}  # holds the tensors, so that no storage is freed and its address used again

        def keep(tensor: Tensor, own: set = own, kept: dict = kept) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        embeddings = torch.zeros(1, positions, config.hidden_size, dtype=dtype, requires_grad=True)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            lm.base_model(inputs_embeds=embeddings, use_cache=False)
        by_layers.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
    return (by_layers[1] - by_layers[0]) / positions


def gib(model: str, dtype: torch.dtype) -> float:
    """GiB that training needs: the weights, what a pass keeps, and the logits that exist at once, twice in float32."""
    size, itemsize = size_of(model), torch.tensor([], dtype=dtype).element_size()
    kept = usual_budget(torch.device("cuda")) * size.layers * kept_bytes(model, dtype)
    return (n_parameters(model) * itemsize + kept + 2 * 4 * SLICE_LOGITS["cuda"]) / GIB


def documents(experiment: str) -> tuple[int, float]:
    """Documents of a step, and the mean tokens of one, of the published runs."""
    (sweep,) = (module.DEFAULT for module in SWEEPS if module.DEFAULT.experiment == experiment)
    curves = [c for c in reference()["curves"] if c["experiment"] == experiment]
    batch = sweep.train.batch_size
    return batch, median(c["trained_tokens"] / c["steps"] / batch for c in curves)


def speeds() -> dict[str, float]:
    """Model -> operations a second of the published runs of plain text with one token, which have no generator."""
    found = defaultdict(list)
    for c in reference()["curves"]:
        if c["experiment"] in ("autoregressive", "chat_detuning"):
            batch, length = documents(c["experiment"])
            row = round(length) + 1
            step = batch * size_of(c["model"]).operations(row, row, trained=True)
            found[c["model"]].append(step * c["steps_per_second"]["1"])
    return {model: median(of) for model, of in found.items()}


def hours(sweep: Sweep, model: str, seeds_and_controls: bool) -> tuple[int, float]:
    """How many prompts are trained, and how many hours that takes at the published runs' operations a second.

    Args:
        sweep: An experiment with published settings.
        model: One of its models.
        seeds_and_controls: Whether the default's seeds and controls are counted, or one prompt of each kind.
    """
    batch, length = documents(sweep.experiment)
    size, row = size_of(model), round(length)
    runs = [r for r in plan(sweep, model) if r.n_tokens]
    if not seeds_and_controls:
        labels = {c["variant"] for c in reference()["curves"]}
        first = [r for r in runs if r.seed == sweep.seeds[0] and not r.control]
        runs = [r for r in first if r.task.variant().label in labels]
    # Where documents stand behind the same prompt, separator and prompt are read once a step.
    saved = batch - 1 if sweep.experiment in SHARING else 0
    of_all = sum(
        r.recipe.steps
        * (batch * size.operations(row + r.n_tokens, row - 1) - saved * size.operations(1 + r.n_tokens, 0))
        for r in runs
    )
    return len(runs), of_all / speeds()[model] / 3600


def published_hours(experiment: str, model: str, corpus: str) -> float:
    """Hours that the published runs took in training, by their steps and speeds."""
    of = [c for c in reference()["curves"] if (c["experiment"], c["model"]) == (experiment, model)]
    of = [c for c in of if corpus in c["dataset"]]
    return sum(c["steps"] / speed for c in of for speed in c["steps_per_second"].values()) / 3600


def table() -> str:
    """The table as Markdown."""
    header = [
        "experiment",
        "model",
        "published, hours",
        "the same here",
        "runs by default",
        "hours",
        "GiB at least",
        "in bfloat16",
    ]
    cells = [header]
    for sweep in (module.DEFAULT for module in SWEEPS):
        corpus = "Pile" if sweep.experiment == "autoregressive" else ""
        for model in sweep.models:
            (_, same), (n, by_default) = hours(sweep, model, False), hours(sweep, model, True)
            took = published_hours(sweep.experiment, model, corpus)
            memory = [f"{gib(model, dtype):.1f}" for dtype in (torch.float32, torch.bfloat16)]
            name = model.split("/")[1].removesuffix("-deduped")
            numbers = [f"{took:.1f}", f"{same:.1f}", str(n), f"{by_default:,.0f}"]
            cells.append([sweep.experiment, name, *numbers, *memory])
    return as_markdown("Estimated, on one GPU of 24 GB in float32", cells)


if __name__ == "__main__":
    print(table())
