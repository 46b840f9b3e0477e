"""What a curve says, in a few numbers: conditional distance in tokens and bits, saturation, and what to be wary of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from soft_prompts.results.curve import Curve, Point, control_of
from soft_prompts.results.distance import TOLERANCE, Distance
from soft_prompts.stats import ratio, seed_interval

SHARES = (0.5, 0.95)
"""Of the gap between no prompt and the plateau, for which a conditional distance is given."""


@dataclass(frozen=True)
class Summary:
    """The product of an experiment: one curve in numbers."""

    distances: dict[float, Distance]
    """Share of the gap -> conditional distance in tokens."""
    bits: dict[float, int | None]
    """Share of the gap -> fewest bits of the prompt of that length, mean over seeds; None if no rounding kept the
    loss."""
    saturation: Distance
    """The length beyond which nothing improves."""
    bits_saved: dict[str, Any]
    """Bits per document that the best prompt saves over none: value, interval, n."""
    flags: list[str]
    """What makes the curve suspect, in words."""

    def __str__(self) -> str:
        share = SHARES[-1]
        bits = self.bits[share]
        size = "" if bits is None else f", {bits / 1000:.1f} kbit"
        line = f"conditional distance ({share * 100:.0f} % of gap): {self.distances[share]} tokens{size}"
        return f"{line}; saturation {self.saturation}" + (f" ({'; '.join(self.flags)})" if self.flags else "")


def summarise(curve: Curve, among: Sequence[Curve] = ()) -> Summary | None:
    """A curve in numbers.

    Args:
        curve: The curve. Points on other documents than its first are left out of the numbers.
        among: Curves of the same experiment and model; its control is found among them.

    Returns:
        None if the curve has no P = 0 or nothing longer on the same documents.
    """
    losses = curve.paired
    if len(losses.n_tokens) < 2 or losses.n_tokens[0] != 0:
        return None
    distances = {share: losses.distance_to_share(share) for share in SHARES}
    best = int(losses.n_tokens[losses.losses.argmin()])
    return Summary(
        distances=distances,
        bits={share: _bits(curve, distance.value) for share, distance in distances.items()},
        saturation=losses.saturation(TOLERANCE),
        bits_saved=ratio(losses.bits_saved(best), np.ones(len(losses.counts))),
        flags=warnings(curve, control_of(curve, among)),
    )


def _bits(curve: Curve, n_tokens: int | None) -> int | None:
    """The fewest bits that keep the loss of the prompt of a length, averaged over seeds."""
    point = curve.point(n_tokens) if n_tokens is not None else None
    last = [r.sizes[-1] for r in point.results if r.sizes] if point else []
    kept = [size["bits"] for size in last if size["increase"]["interval"][1] <= size.get("tolerance", TOLERANCE)]
    return round(float(np.mean(kept))) if kept and len(kept) == len(last) else None


def warnings(curve: Curve, control: Curve | None = None) -> list[str]:
    """What makes a curve suspect, by prompt length."""
    words = []
    for point, flags in zip(curve.points, curve.flags, strict=True):
        words += [f"P={point.n_tokens} {flag}" for flag in flags]
        if seeds_disagree(point):
            words.append(f"P={point.n_tokens} seeds disagree ({min(point.losses):.3f} to {max(point.losses):.3f})")
    return words + (_not_beyond(curve, control) if control else [])


def seeds_disagree(point: Point) -> bool:
    """Whether training luck moves the loss more than the choice of documents does: its interval is more than twice as
    wide."""
    interval = seed_interval(np.array(point.losses))
    low, high = point.interval
    return interval is not None and interval[1] - interval[0] > 2 * (high - low)


def _not_beyond(curve: Curve, control: Curve) -> list[str]:
    """Lengths whose gain is no larger than that of a random target: there the prompt alone does it."""
    zero, zero_control = curve.point(0), control.point(0)
    words = []
    for point in curve.points:
        other = control.point(point.n_tokens)
        if not (point.n_tokens and other and zero and zero_control and other.documents == point.documents):
            continue
        closed = (zero.sums - point.sums) / zero.sums.sum() * len(zero.sums)
        closed_control = (zero_control.sums - other.sums) / zero_control.sums.sum() * len(zero.sums)
        if ratio(closed - closed_control, np.ones(len(closed)))["interval"][0] <= 0:
            words.append(f"P={point.n_tokens} gain not beyond the random-target control")
    return words
