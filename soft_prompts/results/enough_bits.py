"""The fewest bits that reach a target, over prompt lengths and roundings. Chosen on validation documents, then checked
on held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from soft_prompts.results.curve import Curve
from soft_prompts.results.record import Result

CHOSEN_BY = {"validation_loss", "numbers", "trained_numbers"}
"""What older results do not say of the sizes of a prompt."""


@dataclass(frozen=True)
class EnoughBits:
    """How many bits a prompt needs to reach a target; means over the seeds, each of which chooses for itself."""

    bits: float
    """Of the prompt in one condition."""
    lengths: tuple[int, ...]
    """The prompt lengths that were chosen, ascending."""
    reached: float
    """Share of the target that the chosen prompts reach on the held-out documents. If the choice carries over it is at
    least the share that was asked for, but for the noise of both sets of documents."""
    documents: float | None = None
    """Documents after which the prompts have saved, by lower losses than without a prompt, as many bits as they have.
    None: they save none."""
    trained_numbers: int | None = None
    """Weights of the generator that makes the prompts of all conditions; None if the prompt has no conditions."""
    text: str = ""
    """The best hard text known and its code length, in words; "" if there is none."""

    def __str__(self) -> str:
        lengths = "/".join(str(n) for n in self.lengths)
        where = (
            f" in one condition (of a generator of {self.trained_numbers:,} weights)" if self.trained_numbers else ""
        )
        paid = f", saved again by {self.documents:,.1f} documents" if self.documents else ""
        text = f"; {self.text}" if self.text else ""
        return f"{self.bits / 1000:.2f} kbit{where} at P={lengths}, {self.reached:.1%} of it held out{paid}{text}"


Reached = Callable[[Result, float, str], float]
"""The share of the target that a prompt with this loss reaches: (its result, loss, "validation" or "held_out")."""


def enough_bits(curve: Curve, share: float, settled: int | None) -> EnoughBits | None:
    """The fewest bits over all lengths and roundings of a curve that reach ``share`` of its target.

    The target is the gap between L(0) and the anchor or, without one, the contribution.

    Args:
        curve: The curve.
        share: Of the target.
        settled: The length from which on the curve is saturated; the contribution wanted is the mean from there on.
            None: without an anchor there is no target.

    Returns:
        None if there is no target, a seed has no size that reaches it, or the results are of an older version.
    """
    sized = [r for r in curve.results if r.sizes]
    if not sized or any(not size.keys() >= CHOSEN_BY for r in sized for size in r.sizes):
        return None
    reached = _of_gap(curve) if curve.anchor else _of_contribution(curve, settled)
    if reached is None:
        return None
    chosen = []
    for seed in sorted({r.seed for r in sized}):
        fit = [
            (size["bits"], r, size)
            for r in sized
            for size in r.sizes
            if r.seed == seed and reached(r, size["validation_loss"], "validation") >= share
        ]
        if not fit:
            return None
        chosen.append(min(fit, key=lambda one: one[0]))
    *_, size = chosen[0]
    conditional = size["trained_numbers"] != size["numbers"]
    return EnoughBits(
        bits=float(np.mean([bits for bits, _, _ in chosen])),
        lengths=tuple(sorted({r.n_tokens for _, r, _ in chosen})),
        reached=float(np.mean([reached(r, size["loss"], "held_out") for _, r, size in chosen])),
        documents=_documents(curve, [(bits, size["loss"]) for bits, _, size in chosen]),
        trained_numbers=size["trained_numbers"] if conditional else None,
        text=_of_text(curve.anchor or {}),
    )


def _of_text(anchor: Mapping[str, Any]) -> str:
    """How long a text is that brings the behaviour out, in words; "" if the anchor is none."""
    if not anchor.get("bits"):
        return ""
    own = f", {anchor['own_bits']:.0f} in the model's own code" if anchor.get("own_bits") is not None else ""
    return f"{anchor['name']} has {anchor['bits']:.0f} bits{own}"


def _documents(curve: Curve, chosen: list[tuple[int, float]]) -> float | None:
    """After how many documents bits are saved again: bits / (bits that a document costs less), means over the seeds.

    Args:
        curve: The curve.
        chosen: Bits and held-out loss of each seed's rounded prompt.
    """
    zero = curve.point(0)
    if not zero:
        return None
    per_document = curve.n_scored / len(zero.documents) / np.log(2)
    saved = np.mean([zero.loss - loss for _, loss in chosen]) * per_document
    return float(np.mean([bits for bits, _ in chosen]) / saved) if saved > 0 else None


def _of_gap(curve: Curve) -> Reached | None:
    """(L(0) - loss) / (L(0) - anchor)."""
    zero, anchor = curve.point(0), curve.anchor
    if not zero or not anchor or zero.results[0].validation_loss is None or "validation_loss" not in anchor:
        return None
    ends = {
        "validation": (zero.results[0].validation_loss, anchor["validation_loss"]),
        "held_out": (zero.loss, anchor["loss"]),
    }
    if any(start == end for start, end in ends.values()):
        return None
    return lambda result, loss, split: (ends[split][0] - loss) / (ends[split][0] - ends[split][1])


def _of_contribution(curve: Curve, settled: int | None) -> Reached | None:
    """(rival - loss) / (mean of rival - L(P) over the lengths that are saturated), where the rival is the better of the
    control at this length and the best data baseline."""
    of_controls = curve.knows_nothing.results if curve.knows_nothing else ()
    control = {(r.n_tokens, r.seed): r for r in of_controls}
    # Controls may have fewer seeds than the model: the first stands for those that were not measured.
    of_any_seed = {r.n_tokens: r for r in sorted(of_controls, key=lambda r: -r.seed)}
    if any("validation_loss" not in baseline for r in curve.results for baseline in r.baselines.values()):
        return None
    if any(r.validation_loss is None for r in (*curve.results, *control.values())):
        return None

    def loss_of(r: Result, split: str) -> float:
        return r.held_out.loss if split == "held_out" else r.validation_loss

    def rival(r: Result, split: str) -> float:
        key = "loss" if split == "held_out" else "validation_loss"
        known = [baseline[key] for baseline in r.baselines.values()]
        beside = control.get((r.n_tokens, r.seed), of_any_seed.get(r.n_tokens))
        return min([*known, loss_of(beside, split)] if beside else known)

    saturated = [r for r in curve.results if settled is not None and r.n_tokens >= max(1, settled)]
    if not saturated:
        return None
    wanted = {
        split: float(np.mean([rival(r, split) - loss_of(r, split) for r in saturated]))
        for split in ("validation", "held_out")
    }
    if min(wanted.values()) <= 0:
        return None
    return lambda result, loss, split: (rival(result, split) - loss) / wanted[split]
