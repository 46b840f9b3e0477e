"""What a curve says, in a few numbers: the model's contribution, distances, bits, saturation, and what to be wary
of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from soft_prompts.results.curve import Curve, Point, random_targets
from soft_prompts.results.distance import Distance, smallest_with_score
from soft_prompts.results.enough_bits import EnoughBits, enough_bits
from soft_prompts.results.fragility import HalfNoise, half_noises, rank_correlation
from soft_prompts.stats import CONFIDENCE, ratio, ratio_interval

SHARE = 0.95
"""Of a gap or a contribution, for which distances are given."""
GOALS = {"exact": 0.95, "legal_after_10": 0.95, "arrives": 0.95, "gap_closed": 0.95}
"""Behavioural score -> the value from which on the behaviour counts as brought out. A choice, and a strict one."""
NO_CONTRIBUTION = "no contribution seen"
PLATEAU = "the gap to its own plateau"
"""What the distance is to that every curve has."""


@dataclass(frozen=True)
class Contribution:
    """The largest contribution over a curve's lengths, in nats per scored token."""

    value: float
    interval: list[float]
    """[low, high], 95 %."""
    n_tokens: int
    """The length."""
    against: str
    """What it is measured against: a control or a data baseline."""
    seen: bool
    """Whether any length's is above 0, with 95 % confidence for all of them together."""

    def __str__(self) -> str:
        if not self.seen:
            return NO_CONTRIBUTION
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] nats at P={self.n_tokens} (against {self.against})"


@dataclass(frozen=True)
class Summary:
    """The product of an experiment: one curve in numbers."""

    contribution: Contribution | None
    """What the model brought; None if neither a control nor data baselines were measured."""
    distances: dict[str, Distance]
    """What 95 % of which is reached -> the distance. The first is the one to quote."""
    behaviour: dict[str, Distance]
    """Goal of a behavioural score, in words -> the distance as Nordby (arXiv 2505.14943) defines it."""
    bits: EnoughBits | None
    """Fewest bits over lengths and roundings that reach 95 % of what the first distance is measured by. None: no prompt
    is needed, none is known to reach it, or the results are of an older version."""
    saturation: Distance
    """The length beyond which nothing improves by more than 5 %."""
    bits_saved: dict[str, Any]
    """Bits per document that the best prompt saves over none: value, interval, n."""
    learned: str
    """What the prompts learned from their training documents, in words; "" if it was not counted."""
    fragility: list[HalfNoise]
    """How much noise the prompts bear; empty if it was not measured or nothing gains."""
    search: str
    """Whether the search was exhausted, in words; "" if half the steps were not tried."""
    flags: list[str]
    """What makes the curve suspect, in words."""

    @classmethod
    def of_plain(cls, values: dict[str, Any]) -> Summary:
        """A summary from what ``dataclasses.asdict`` made of it, also by way of JSON."""
        contribution, bits = values["contribution"], values["bits"]
        return cls(
            **{
                **values,
                "contribution": contribution and Contribution(**contribution),
                "distances": {what: Distance(**distance) for what, distance in values["distances"].items()},
                "behaviour": {goal: Distance(**distance) for goal, distance in values["behaviour"].items()},
                "bits": bits and EnoughBits(**{**bits, "lengths": tuple(bits["lengths"])}),
                "saturation": Distance(**values["saturation"]),
                "fragility": [HalfNoise(**half) for half in values["fragility"]],
            }
        )

    def __str__(self) -> str:
        said = self.contribution
        parts = [f"contribution {said}" if said.seen else str(said)] if said else []
        (first, quoted), *others = self.distances.items()
        parts.append(f"conditional distance (95 % of {first}): {quoted}")
        parts += [f"fewest bits for it: {self.bits}"] if self.bits else []
        parts += [f"of {what}: {distance}" for what, distance in others]
        parts += [f"to {goal}: {distance}" for goal, distance in self.behaviour.items()]
        parts.append(f"saturation {self.saturation}")
        parts += [self.learned] if self.learned else []
        if self.fragility:
            halves = ", ".join(map(str, self.fragility))
            parts.append(f"half of the gain is gone under noise, in units of each row's norm, of {halves}")
        parts += [self.search] if self.search else []
        return "; ".join(parts) + (f" ({'; '.join(self.flags)})" if self.flags else "")


def summarise(curve: Curve, among: Sequence[Curve] = ()) -> Summary | None:
    """A curve in numbers.

    Args:
        curve: The curve. Points on other documents than its first are left out of the numbers.
        among: Curves of the same experiment and model; its random targets are found among them.

    Returns:
        None if the curve has no P = 0 or nothing longer on the same documents.
    """
    losses = curve.paired
    if len(losses.n_tokens) < 2 or losses.n_tokens[0] != 0:
        return None
    distances = {}
    if curve.anchor:
        distances[f"the gap to {curve.anchor['name']}"] = losses.distance_to_anchor(SHARE)
    if losses.contribution() is not None:
        distances["the contribution"] = losses.distance_to_contribution(SHARE)
    distances[PLATEAU] = losses.distance_to_plateau(SHARE)
    best = int(losses.n_tokens[losses.losses.argmin()])
    return Summary(
        contribution=_contribution(curve),
        distances=distances,
        behaviour=_to_goals(curve),
        bits=enough_bits(curve, SHARE, losses.saturation().value) if _quoted(distances).value else None,
        saturation=losses.saturation(),
        bits_saved=ratio(losses.bits_saved(best), np.ones(len(losses.counts))),
        learned=_learned(curve),
        fragility=half_noises(curve),
        search=str(curve.exhaustion),
        flags=warnings(curve, random_targets(curve, among)),
    )


def _contribution(curve: Curve) -> Contribution | None:
    estimates = curve.paired.contribution()
    if estimates is None or not curve.contribution:
        return None
    k = int(estimates.values.argmax())
    against, at = curve.contribution[k]["against"], curve.points[k].n_tokens
    return Contribution(float(estimates.values[k]), estimates.interval(k), at, against, estimates.seen)


def _learned(curve: Curve) -> str:
    """Excess description length of every prompt length, mean over the seeds: what the training documents cost before
    they were trained on, less what they cost in the end."""
    bits: dict[int, list[float]] = {}
    for r in curve.results:
        if r.prequential:
            spent = r.prequential["nats_before"] - r.prequential["nats_after"]
            bits.setdefault(r.n_tokens, []).append(spent / np.log(2))
    if not bits:
        return ""
    n_documents = max(r.prequential["documents"] for r in curve.results if r.prequential)
    by_length = ", ".join(f"{np.mean(values):,.0f} (P={n})" for n, values in bits.items())
    return f"bits learned from {n_documents:,} documents: {by_length}"


def _to_goals(curve: Curve) -> dict[str, Distance]:
    """The smallest P whose behavioural score is at its goal, of every score that has a goal and was measured."""
    found = {}
    for name, goal in GOALS.items():
        scores = {p.n_tokens: interval for p in curve.paired_points if (interval := p.score_interval(name))}
        if scores:
            found[f"{name} of {goal}"] = smallest_with_score(list(scores), list(scores.values()), goal)
    return found


def far_and_fragile(summaries: Sequence[Summary]) -> str:
    """Whether the prompts of far behaviours bear more noise than those of near ones, in words.

    Distances are to the curves' own plateaus, which all curves have that gain anything. Of each counts the prompt at
    its distance or, if none reaches it, the longest.

    Returns:
        "" if there are too few behaviours to say anything.
    """
    pairs = []
    for summary in summaries:
        distance = summary.distances[PLATEAU]
        if summary.fragility and not distance.why:
            longest = summary.fragility[-1]
            half = next((h for h in summary.fragility if h.n_tokens == distance.value), longest)
            pairs.append((distance.at, half.at))
    found = rank_correlation(pairs)
    if not found:
        return ""
    value, (low, high) = found
    return (
        f"Distance to the own plateau and the noise that takes half of the gain: rank correlation {value:.2f} "
        f"[{low:.2f}, {high:.2f}] over {len(pairs)} curves. Positive: what is far bears more noise."
    )


def _quoted(distances: dict[str, Distance]) -> Distance:
    """The distance to quote: the first."""
    return next(iter(distances.values()))


def warnings(curve: Curve, random: Sequence[Curve] = ()) -> list[str]:
    """What makes a curve suspect, by prompt length, but for what the verdict on the search says."""
    words = ["one seed: intervals over documents only"] if curve.n_seeds < 2 else []
    for point, flags in zip(curve.points, curve.flags, strict=True):
        said = curve.exhaustion.flags.get(point.n_tokens, []) if str(curve.exhaustion) else []
        words += [f"P={point.n_tokens} {flag}" for flag in flags if flag not in said]
        if seeds_disagree(point):
            words.append(f"P={point.n_tokens} seeds disagree ({min(point.losses):.3f} to {max(point.losses):.3f})")
    return words + _not_beyond(curve, random)


def seeds_disagree(point: Point) -> bool:
    """Whether training luck moves the loss more than the choice of documents does.

    The variance between seeds is compared with the variance of a loss over documents. It must be larger with 95 %
    confidence (chi-squared with n_seeds - 1 degrees of freedom), so equal variances are flagged in one case of twenty,
    however many seeds there are.
    """
    n = len(point.losses)
    if n < 2:
        return False
    from scipy.stats import chi2

    low, high = ratio_interval(point.sums, point.counts)
    of_documents = ((high - low) / 2 / 1.96) ** 2
    between_seeds = float(np.var(point.losses, ddof=1))
    return between_seeds * (n - 1) > of_documents * chi2.ppf(CONFIDENCE, n - 1)


def _not_beyond(curve: Curve, random: Sequence[Curve]) -> list[str]:
    """Lengths at which some random target is met as well as this one: there the prompt alone does it.

    Losses are compared, not shares of gaps: a random target starts from a higher loss, so its share rises faster.
    """
    words = []
    for point in curve.points if random else ():
        others = [other for c in random if (other := c.point(point.n_tokens)) is not None]
        n_as_low = sum(other.loss <= point.loss for other in others)
        if point.n_tokens and n_as_low:
            words.append(f"P={point.n_tokens} {n_as_low} of {len(others)} random targets have as low a loss")
    return words
