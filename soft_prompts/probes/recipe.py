"""How dictionaries are trained and features looked at: options, which scripts read before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from soft_prompts.errors import SoftPromptsError


@dataclass(frozen=True)
class DictionaryRecipe:
    """Size and training of a dictionary."""

    n_features: int = 1024
    """Features, F."""
    k: int = 16
    """Features that fire in one state."""
    steps: int = 300
    """Optimiser steps."""
    batch: int = 1024
    """States in a step, of each block."""
    lr: float = 5e-3
    """Learning rate of Adam, before it falls in the last fifth of the steps."""

    def check(self) -> None:
        """Raises SoftPromptsError if an option cannot work."""
        if not 1 <= self.k <= self.n_features:
            raise SoftPromptsError(
                f"--k is {self.k}, but of {self.n_features} features at least one and at most all can fire."
            )
        if min(self.steps, self.batch) < 1 or not self.lr > 0:
            raise SoftPromptsError(
                f"--steps ({self.steps}), --batch ({self.batch}) and --lr ({self.lr}) must be above 0."
            )


@dataclass(frozen=True)
class FeatureProbe:
    """How features are looked at."""

    layer: int = 1
    """What this layer passes on is taken apart; from 0."""
    dictionary: Annotated[DictionaryRecipe, tyro.conf.arg(name="")] = field(default_factory=DictionaryRecipe)
    top: int = 20
    """Features that are changed, and compared."""
    planted: int = 6
    """Features that are planted."""

    def check(self) -> None:
        """Raises SoftPromptsError if an option cannot work."""
        self.dictionary.check()
        most = self.dictionary.n_features // 4
        if not 1 <= self.top <= most:
            raise SoftPromptsError(
                f"--top is {self.top}, but of {self.dictionary.n_features} features, so many are looked at and as many "
                f"random ones beside them; give 1 to {most}."
            )
        if self.planted < 1 or self.layer < 0:
            raise SoftPromptsError(f"--planted is {self.planted} and --layer {self.layer}; give at least 1 and 0.")
