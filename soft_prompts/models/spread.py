"""Models that are larger than one GPU: accelerate puts their layers on all GPUs of the machine."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from accelerate import dispatch_model
from accelerate.utils import align_module_device, get_max_memory
from torch import Tensor, nn
from transformers import PreTrainedModel

from soft_prompts.console import warn
from soft_prompts.errors import SoftPromptsError

FREE = 0.2
"""Share of each GPU's memory that is left to activations."""


def spread(lm: PreTrainedModel) -> PreTrainedModel:
    """Put a model that lies in memory on all GPUs of the machine. What does not fit stays in memory, with a warning.

    Raises:
        SoftPromptsError: There is no GPU, or the first one is too small for embeddings and unembedding.
    """
    if not torch.cuda.is_available():
        raise SoftPromptsError("--device-map auto needs a GPU, and there is none here; leave it out.")
    memory = get_max_memory()
    memory = {where: size if where == "cpu" else int((1 - FREE) * size) for where, size in memory.items()}
    devices = device_map(lm, memory)
    if n_left := sum(where == "cpu" for where in devices.values()):
        warn(
            f"{n_left} of {len(devices)} parts of the model do not fit on {len(memory) - 1} GPUs: every pass copies "
            f"them there, which is slow, and training keeps the copies until a pass is over."
        )
    return dispatch_model(lm, devices)


def device_map(lm: PreTrainedModel, memory: Mapping[int | str, int]) -> dict[str, int | str]:
    """Where each part of a model goes. Embeddings and unembedding share the first device: there prompts are trained.

    Args:
        lm: The model.
        memory: Device -> bytes that may be used; "cpu" is the machine's memory.

    Returns:
        Name of a module -> its device.

    Raises:
        SoftPromptsError: The first device is too small.
    """
    main, *_ = memory
    ends = [part for part in (lm.get_input_embeddings(), lm.get_output_embeddings()) if part is not None]
    weights = {id(weight): weight for part in ends for weight in part.parameters()}  # one, if they are tied
    n_bytes = sum(weight.nbytes for weight in weights.values())
    if memory[main] < n_bytes:
        raise SoftPromptsError(
            f"embeddings and unembedding take {n_bytes / 2**30:.1f} GiB, but device {main} has only "
            f"{memory[main] / 2**30:.1f} GiB for them; use a larger GPU."
        )
    # accelerate's own rule keeps room for one more of the largest part, which the embeddings of a large vocabulary are:
    # a model that fits would be left in memory.
    devices, at, left, found = list(memory), 0, memory[main] - n_bytes, {}
    for name, part in _blocks(lm, "", lm):
        if any(part is end for end in ends):
            found[name] = main
            continue
        n_bytes = sum(x.nbytes for x in (*part.parameters(), *part.buffers()))
        while n_bytes > left and at < len(devices) - 1:
            at, left = at + 1, memory[devices[at + 1]]
        left -= n_bytes
        found[name] = devices[at]
    return found


def _blocks(lm: PreTrainedModel, name: str, part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a model that stay whole, in order: its layers, and what is in none of them."""
    is_whole = type(part).__name__ in (lm._no_split_modules or ()) or any(True for _ in part.parameters(recurse=False))
    children = list(part.named_children())
    if is_whole or not children:
        yield name, part
        return
    for own, child in children:
        yield from _blocks(lm, f"{name}.{own}".lstrip("."), child)


def weight_of(lm: PreTrainedModel, name: str) -> Tensor:
    """A weight of a model by its name, also one that is only brought to its device for a pass."""
    module, _, own = name.rpartition(".")
    holder = lm.get_submodule(module)
    with align_module_device(holder):
        return getattr(holder, own).detach()


def copied(lm: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model; of one that is spread, in memory."""
    if not hasattr(lm, "hf_device_map"):
        return copy.deepcopy(lm)
    whole = type(lm)._from_config(copy.deepcopy(lm.config), dtype=lm.dtype)
    for name, weight in whole.named_parameters():
        weight.data = weight_of(lm, name).to("cpu", copy=True)
    for (_, buffer), (_, other) in zip(whole.named_buffers(), lm.named_buffers(), strict=True):
        buffer.data = other.to("cpu", copy=True)
    return whole
