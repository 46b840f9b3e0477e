"""Controls that know nothing: models of the same shape without what training put into them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

import torch

from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.spread import copied, spread

Control = Literal["scrambled", "untrained"]


def control_of(model: LanguageModel, control: Control, seed: int = 0) -> LanguageModel:
    """A control, built in memory from the model that is measured.

    A prompt that gets the same loss on a control teaches token statistics; what it gets less on the model itself, the
    model contributed.

    Args:
        model: The model that is measured. It stays as it is.
        control: ``scrambled``: within each weight matrix of the body, all entries are permuted; embeddings,
            unembedding, norms and biases are kept. So the sizes of weights and activations are those of the trained
            model. ``untrained``: all weights are initialised anew.
        seed: Of the permutations or of the initialisation.
    """
    lm = _scrambled(model, seed) if control == "scrambled" else _untrained(model, seed)
    is_spread = hasattr(model.lm, "hf_device_map")
    lm = (spread(lm) if is_spread else lm.to(model.device)).eval().requires_grad_(False)
    return replace(model, name=f"{model.name} ({control})", lm=lm)


def _scrambled(model: LanguageModel, seed: int) -> torch.nn.Module:
    lm = copied(model.lm)
    kept = {id(module.weight) for module in (lm.get_input_embeddings(), lm.get_output_embeddings())}
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(lm.named_parameters()):
            if weight.dim() > 1 and id(weight) not in kept:
                order = torch.randperm(weight.numel(), generator=random).to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
    return lm


def _untrained(model: LanguageModel, seed: int) -> torch.nn.Module:
    config = copy.deepcopy(model.lm.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = type(model.lm)(config)
    # The weights alone: what a model computes by itself, such as the frequencies of its positions, stays exact.
    for weight in lm.parameters():
        weight.data = weight.data.to(model.dtype)
    return lm
