"""Deltas: a fine-tuned model as a change of low rank to each matrix of the model that it was made from.

The weights are W + B A, with A [rank, n_in] and B [n_out, rank] (LoRA: Hu et al. 2021, arXiv 2106.09685).
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically
from soft_prompts.models.names import DELTA


def changed(weight: Tensor, delta: tuple[Tensor, Tensor]) -> Tensor:
    """A weight with its change: W + B A.

    Args:
        weight: W, [n_out, n_in].
        delta: A [rank, n_in] and B [n_out, rank].
    """
    a, b = delta
    return weight + b @ a


def save_delta(deltas: dict[str, tuple[Tensor, Tensor]], folder: Path) -> None:
    """Write the changes of a model's weights, by name, in bfloat16.

    Raises:
        SoftPromptsError: The file cannot be written.
    """
    parts = {f"{name}.{part}": x for name, ab in deltas.items() for part, x in zip("ab", ab, strict=True)}
    kept = {name: x.detach().to(torch.bfloat16).contiguous() for name, x in parts.items()}
    write_atomically(folder / DELTA, safetensors.torch.save(kept))


def load_delta(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The changes in a folder, by the name of the weight.

    Raises:
        SoftPromptsError: The file is damaged.
    """
    try:
        kept = safetensors.torch.load_file(folder / DELTA)
        names = sorted({name.rpartition(".")[0] for name in kept})
        return {name: (kept[f"{name}.a"], kept[f"{name}.b"]) for name in names}
    except (OSError, SafetensorError, KeyError) as error:
        raise SoftPromptsError(f"{folder / DELTA} is no delta ({error}); make it again or copy it again.") from error


@torch.no_grad()
def merge(lm: nn.Module, deltas: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Change a model's weights in place. The products are made in float32.

    Raises:
        SoftPromptsError: The model has no such weights.
    """
    weights = dict(lm.named_parameters())
    for name, ab in deltas.items():
        a, b = ab
        fits = a.dim() == b.dim() == 2 and len(a) == b.shape[1]
        if name not in weights or not fits or weights[name].shape != (len(b), a.shape[1]):
            raise SoftPromptsError(f"the delta changes {name}, which the model does not have in this shape.")
        a, b = (x.to(weights[name].device, torch.float32) for x in (a, b))
        weights[name].copy_(changed(weights[name].float(), (a, b)))
