"""Was the search exhausted? What half the steps reach, and what the best of several starts reaches, against a curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from soft_prompts.results.record import Result
from soft_prompts.stats import tolerance

UNTIL_FLAT = "until_flat"
"""The schedule of prompts that are trained until their validation loss is flat."""


@dataclass(frozen=True)
class Exhaustion:
    """How far a curve still moves when its prompts are searched for harder."""

    second_half: dict[int, float]
    """P -> held-out nats per token that all of the steps are better than half of them, with the first seed. Empty: half
    the steps were not tried."""
    cut_off: dict[int, int]
    """P -> the most steps that were allowed, where a seed took them all and its validation loss was still falling."""
    steps: int | None
    """The most steps that a prompt took, if each was trained until its validation loss was flat. None: all were trained
    for as long as was asked for."""
    longest: int
    """The longest P with several seeds."""
    best_start: float | None
    """Held-out nats per token that the seed with the lowest validation loss is better than the mean of the seeds, at
    the longest P. A seed is another start. None: there is one seed."""
    n_starts: int
    tolerance: float
    """Nats per token that count as nothing."""

    @property
    def flags(self) -> dict[int, list[str]]:
        """P -> why its loss is not the lowest that can be had, in words."""
        words = {
            n: [f"search not exhausted: twice the steps gained {gain:.3f}"]
            for n, gain in self.second_half.items()
            if gain > self.tolerance
        }
        for n, steps in self.cut_off.items():
            words.setdefault(n, []).append(f"search not exhausted: still falling after {steps:,} steps")
        if self.best_start is not None and self.best_start > self.tolerance:
            reason = f"search not exhausted: the best of {self.n_starts} starts is {self.best_start:.3f} lower"
            words.setdefault(self.longest, []).append(reason)
        return words

    def __str__(self) -> str:
        """The verdict with its numbers; "" if half the steps were not tried and none was trained until it was flat."""
        seen = []
        if self.second_half:
            at = max(self.second_half, key=self.second_half.__getitem__)
            seen.append(f"twice the steps gained at most {max(0.0, self.second_half[at]):.3f} nats (P={at})")
        if self.steps is not None:
            seen.append("still falling" if self.cut_off else f"flat after at most {self.steps:,} steps")
        if not seen:
            return ""
        if self.best_start is not None:
            seen.append(f"the best of {self.n_starts} starts {max(0.0, self.best_start):.3f} (P={self.longest})")
        return f"search {'not ' if self.flags else ''}exhausted: {', '.join(seen)}"


def exhaustion(
    own: Mapping[int, Sequence[Result]], half: Mapping[int, Sequence[Result]], contribution: float | None = None
) -> Exhaustion:
    """How far a curve still moves with more steps and more starts.

    Args:
        own: P -> the results of a curve's seeds, all on the same held-out documents.
        half: P -> results of the same with half the steps; of those on the same documents, one is compared.
        contribution: The largest one, nats per token; None if it is not known. A verdict on the model hangs on it, so
            a loss that moves by a part of it has moved, however large the gain over P = 0 is.
    """
    means = {n: _mean(results) for n, results in own.items()}
    gains = [means[0] - loss for n, loss in means.items() if n and 0 in means]
    several = [n for n, results in own.items() if n and len(results) > 1]
    longest = max(several, default=0)
    best = _best_start(own[longest]) if several else None
    trained = [r for n, results in own.items() if n for r in results]
    by_rule = [r for r in trained if r.config["train"].get("schedule") == UNTIL_FLAT and r.curve]
    pairs = {n: _of_one_seed(results, half.get(n, ())) for n, results in own.items() if n}
    return Exhaustion(
        second_half={n: pair[1].held_out.loss - pair[0].held_out.loss for n, pair in pairs.items() if pair},
        cut_off={r.n_tokens: r.config["train"]["steps"] for r in by_rule if _steps(r) >= r.config["train"]["steps"]},
        steps=max((_steps(r) for r in by_rule), default=None),
        longest=longest,
        best_start=means[longest] - best.held_out.loss if best else None,
        n_starts=len(own[longest]) if several else 0,
        tolerance=tolerance(min(max(gains, default=0.0), math.inf if contribution is None else contribution)),
    )


def _steps(result: Result) -> int:
    """How many steps were taken."""
    return int(result.curve[-1]["step"])


def _mean(results: Sequence[Result]) -> float:
    return sum(r.held_out.loss for r in results) / len(results)


def _of_one_seed(results: Sequence[Result], after_half: Sequence[Result]) -> tuple[Result, Result] | None:
    """The results of all and of half the steps with the same seed and documents."""
    for full, half in product(results, after_half):
        documents = (full.held_out.documents, full.held_out.document_scored)
        if full.seed == half.seed and documents == (half.held_out.documents, half.held_out.document_scored):
            return full, half
    return None


def _best_start(results: Sequence[Result]) -> Result | None:
    """The seed with the lowest validation loss; None if some have none."""
    if any(r.validation_loss is None for r in results):
        return None
    return min(results, key=lambda r: r.validation_loss)
