"""What a curve says, in a few numbers: conditional distance in tokens and bits, saturation, and what to be wary of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from soft_prompts.distance import TOLERANCE, Curve, Distance, bits_saved
from soft_prompts.stats import ratio, seed_interval
from soft_prompts.tables import Point, flags

SHARES = (0.5, 0.95)
"""Of the gap between no prompt and the plateau, for which a conditional distance is given."""


@dataclass(frozen=True)
class Summary:
    """The product of an experiment: one curve in numbers."""

    distances: dict[float, Distance]
    """Share of the gap -> conditional distance in tokens."""
    bits: dict[float, int | None]
    """Share of the gap -> fewest bits of the prompt of that length, mean over seeds; None where no rounding kept the loss."""
    saturation: Distance
    bits_saved: dict
    """Bits per document that the best prompt saves over none: value, interval, n."""
    flags: list[str]

    def __str__(self) -> str:
        distance, bits = self.distances[SHARES[-1]], self.bits[SHARES[-1]]
        size = "" if bits is None else f", {bits / 1000:.1f} kbit"
        line = f"conditional distance ({SHARES[-1] * 100:.0f} % of gap): {distance} tokens{size}; saturation {self.saturation}"
        return line + (f" ({'; '.join(self.flags)})" if self.flags else "")


def paired(points: Sequence[Point]) -> list[Point]:
    """The points that were scored on the same documents as the first."""
    first = points[0]
    return [p for p in points if p.documents == first.documents and (p.counts == first.counts).all()]


def as_curve(points: Sequence[Point]) -> Curve:
    """Losses of paired points."""
    lengths = np.array([p.n_tokens for p in points])
    return Curve(lengths, np.stack([p.sums for p in points]), points[0].counts)


def summarise(points: Sequence[Point], control: Sequence[Point] = ()) -> Summary | None:
    """A curve in numbers; None where it has no P = 0 or nothing longer. ``control``: the same with a random target."""
    points = paired(points)
    if len(points) < 2 or points[0].n_tokens != 0:
        return None
    curve = as_curve(points)
    distances = {share: curve.distance_to_share(share) for share in SHARES}
    best = points[int(curve.losses.argmin())]
    saved = ratio(bits_saved(curve, best.n_tokens), np.ones(len(curve.counts)))
    sizes = {share: _bits(points, distance.value) for share, distance in distances.items()}
    return Summary(distances, sizes, curve.saturation(TOLERANCE), saved, warnings(points, control))


def _bits(points: Sequence[Point], n_tokens: int | None) -> int | None:
    """The fewest bits that keep the loss of the prompt of a length, averaged over seeds."""
    found = [r.sizes[-1] for p in points if p.n_tokens == n_tokens for r in p.results if r.sizes]
    kept = [s["bits"] for s in found if s["increase"]["interval"][1] <= s.get("tolerance", TOLERANCE)]
    return round(float(np.mean(kept))) if kept and len(kept) == len(found) else None


def warnings(points: Sequence[Point], control: Sequence[Point] = ()) -> list[str]:
    """What makes a curve suspect, by length."""
    found = []
    for i, point in enumerate(points):
        found += [f"P={point.n_tokens} {flag}" for flag in flags(point, points[:i])]
        if seeds_disagree(point):
            found.append(f"P={point.n_tokens} seeds disagree ({min(point.losses):.3f} to {max(point.losses):.3f})")
    if control:
        found += _not_beyond(points, control)
    return found


def seeds_disagree(point: Point) -> bool:
    """Whether training luck moves the loss more than the choice of documents does: the seeds' interval is wider than the documents'."""
    interval = seed_interval(np.array(point.losses))
    low, high = point.results[0].held_out.interval
    return interval is not None and interval[1] - interval[0] > 2 * (high - low)


def _not_beyond(points: Sequence[Point], control: Sequence[Point]) -> list[str]:
    """Lengths whose gain is no larger than that of a random target: there the prompt alone does it."""
    by_length = {p.n_tokens: p for p in control}
    zero, zero_control = points[0], by_length.get(0)
    found = []
    for point in points[1:]:
        other = by_length.get(point.n_tokens)
        if not other or not zero_control or other.documents != point.documents:
            continue
        closed = (zero.sums - point.sums) / zero.sums.sum() * len(zero.sums)
        closed_control = (zero_control.sums - other.sums) / zero_control.sums.sum() * len(zero.sums)
        if ratio(closed - closed_control, np.ones(len(closed)))["interval"][0] <= 0:
            found.append(f"P={point.n_tokens} gain not beyond the random-target control")
    return found
