"""Dictionaries: sparse autoencoders that take what a layer passes on apart into features, k of which fire at a time."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from soft_prompts.console import progress_bar
from soft_prompts.errors import SoftPromptsError
from soft_prompts.probes.recipe import DictionaryRecipe

SPARSIFY_COMMAND = "pip install --no-deps -r requirements-features.txt"
"""Installs what trains dictionaries."""
REVIVING = 1 / 32
"""Weight of the loss by which features that do not fire learn (Gao et al. 2024, arXiv 2406.04093)."""
IDLE = 100
"""Steps without firing after which a feature counts as dead."""
FALL = 0.2
"""Share of the steps, the last ones, in which the learning rate falls to zero."""


@dataclass(frozen=True)
class Dictionary:
    """F directions of a layer's output, and how strongly each is in a state; all in the layer's own units."""

    encoder: Tensor
    """[F, D]"""
    bias: Tensor
    """[F]"""
    decoder: Tensor
    """[F, D], rows of length 1: the directions."""
    centre: Tensor
    """[D]: what is left of a state without features."""
    k: int
    """Features that fire at most in one state."""

    @property
    def n_features(self) -> int:
        """F"""
        return len(self.decoder)

    def encode(self, states: Tensor) -> Tensor:
        """States [..., D] to activations [..., F]: the k largest positive ones, the others 0."""
        activations = ((states - self.centre) @ self.encoder.T + self.bias).relu()
        kept = activations.topk(self.k, dim=-1)
        return torch.zeros_like(activations).scatter(-1, kept.indices, kept.values)

    def decode(self, activations: Tensor) -> Tensor:
        """Activations [..., F] to states [..., D]."""
        return activations @ self.decoder + self.centre


def is_installed() -> bool:
    """Whether dictionaries can be trained here."""
    return importlib.util.find_spec("sparsify") is not None


def sparsify() -> Any:
    """EleutherAI's library of that name.

    Raises:
        SoftPromptsError: It is not installed.
    """
    if not is_installed():
        raise SoftPromptsError(
            f"dictionaries are trained with sparsify, which is not installed here: {SPARSIFY_COMMAND}"
        )
    # It says on the screen that it does without Triton, which only GPUs have. Its kernel would refuse other devices.
    quiet = contextlib.redirect_stdout(io.StringIO())
    disabled = patch.dict(os.environ, {} if torch.cuda.is_available() else {"SPARSIFY_DISABLE_TRITON": "1"})
    with quiet, disabled:
        import sparsify

    return sparsify


def trained(blocks: Sequence[Tensor], recipe: DictionaryRecipe, seed: int) -> list[Dictionary]:
    """Train one dictionary on what some blocks pass on, as sparsify's sparse coder.

    The states of each block are centred and brought to a root mean square of 1, so that all count alike. A step takes
    as many of each block.

    Args:
        blocks: For each block its states [N, D].
        recipe: Size and training.
        seed: Of the start and the order.

    Returns:
        For each block the dictionary in the units of its states. All have the same directions.

    Raises:
        SoftPromptsError: sparsify is not installed.
    """
    library = sparsify()
    centres = [states.mean(0) for states in blocks]
    sizes = [(states - centre).square().mean().sqrt() for states, centre in zip(blocks, centres, strict=True)]
    even = [(states - c) / size for states, c, size in zip(blocks, centres, sizes, strict=True)]
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = library.SparseCoderConfig(num_latents=recipe.n_features, k=recipe.k)
        coder = library.SparseCoder(blocks[0].shape[1], config, blocks[0].device)
    optimizer = torch.optim.Adam(coder.parameters(), recipe.lr)
    idle = torch.zeros(recipe.n_features, dtype=torch.long)
    with progress_bar(f"dictionary of {recipe.n_features:,} features", recipe.steps) as advance:
        for step in range(recipe.steps):
            optimizer.param_groups[0]["lr"] = recipe.lr * min(1.0, (1 - step / recipe.steps) / FALL)
            batch = torch.cat([x[torch.randint(len(x), (recipe.batch,), generator=random)] for x in even])
            coder.set_decoder_norm_to_unit_norm()
            found = coder(batch, dead_mask=idle >= IDLE)
            (found.fvu + REVIVING * found.auxk_loss).backward()
            coder.remove_gradient_parallel_to_decoder_directions()
            optimizer.step()
            optimizer.zero_grad()
            idle += 1
            idle[found.latent_indices.detach().flatten()] = 0
            advance()
    coder.set_decoder_norm_to_unit_norm()
    encoder, bias, decoder, left = (
        x.detach() for x in (coder.encoder.weight, coder.encoder.bias, coder.W_dec, coder.b_dec)
    )
    # Activations in the layer's own units: a state's coordinates are so many times as large, and so are its features.
    return [
        Dictionary(encoder, bias * size, decoder, centre + left * size, recipe.k)
        for centre, size in zip(centres, sizes, strict=True)
    ]


def random_dictionary(like: Dictionary, seed: int) -> Dictionary:
    """Random directions in the place of learned ones: as many features, of which as many fire.

    Args:
        like: The dictionary that it stands beside.
        seed: Of the directions.
    """
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(like.decoder.shape, generator=random).to(like.decoder)
    directions = rows / rows.norm(dim=1, keepdim=True)
    return Dictionary(directions, torch.zeros_like(like.bias), directions, like.centre, like.k)
