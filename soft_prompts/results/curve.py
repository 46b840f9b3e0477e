"""Curves: results that differ in prompt length and seed only, sorted by length, with what is suspect about them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from soft_prompts.results.distance import PairedLosses
from soft_prompts.results.exhaustion import Exhaustion, exhaustion
from soft_prompts.results.record import Result
from soft_prompts.stats import band, comparison_widths, estimated, interval_of, two_level_draws

CONTROLS = ("scrambled", "untrained", "permuted", "half")
"""The model with permuted weights, the model with new weights, the model itself with permuted labels, and with half the
steps."""


SLOW_NUMBERS = ("band", "contribution", "flags", "gains", "widths")
"""What a curve computes from many draws, once."""


@dataclass(frozen=True)
class Point:
    """All seeds of one prompt length on one curve."""

    results: tuple[Result, ...]
    """One of each seed, all on the same tokens of the same documents."""
    n_left_out: int = 0
    """Seeds that were measured on other documents than the first."""

    @property
    def n_tokens(self) -> int:
        return self.results[0].n_tokens

    @property
    def documents(self) -> list[str]:
        """Identities of the held-out documents."""
        return self.results[0].held_out.documents

    @property
    def counts(self) -> np.ndarray:
        """Scored tokens by document, int [documents]."""
        return np.array(self.results[0].held_out.document_scored)

    @property
    def sums(self) -> np.ndarray:
        """Nats by document, averaged over the seeds, float [documents]."""
        return np.mean([r.held_out.document_losses for r in self.results], axis=0)

    @property
    def by_seed(self) -> np.ndarray:
        """Nats by seed and document, float [n_seeds, documents]."""
        return np.array([r.held_out.document_losses for r in self.results])

    @property
    def losses(self) -> list[float]:
        """Nats per scored token of every seed."""
        return [r.held_out.loss for r in self.results]

    @property
    def loss(self) -> float:
        """Nats per scored token, averaged over the seeds."""
        return float(np.mean(self.losses))

    @cached_property
    def interval(self) -> list[float]:
        """[low, high], 95 %, of the loss over documents and seeds."""
        return interval_of(two_level_draws([self.by_seed], self.counts)[:, 0])

    def scores(self, name: str) -> list[dict[str, Any]]:
        """A behavioural score of every seed that has it."""
        scores = [r.scores.get(name, {}) for r in self.results]
        return [score for score in scores if score.get("value") is not None]

    def score_interval(self, name: str) -> list[float]:
        """[low, high] of a behavioural score: its mean over the seeds, and half the widest of their 95 % intervals to
        both sides. Empty if it was not measured."""
        scores = self.scores(name)
        half = max((s["interval"][1] - s["interval"][0] for s in scores), default=0.0) / 2
        mean = float(np.mean([s["value"] for s in scores])) if scores else 0.0
        return [mean - half, mean + half] if scores else []

    def pairs_with(self, other: Point) -> bool:
        """Whether both were scored on the same tokens of the same documents."""
        return self.documents == other.documents and (self.counts == other.counts).all()

    def gain_over(self, other: Point) -> dict[str, Any] | None:
        """Nats per token that this length is better than ``other``, paired by document, over documents and seeds.

        None if they do not pair.
        """
        if not self.pairs_with(other):
            return None
        draws = two_level_draws([other.by_seed, self.by_seed], self.counts)
        return {**estimated(other.loss - self.loss, draws[:, 0] - draws[:, 1]), "n": len(self.counts)}


@dataclass(frozen=True)
class Curve:
    """All prompt lengths of one experiment, model, task and recipe."""

    experiment: str
    model: str
    variant: dict[str, Any]
    """Which of the experiment's tasks it is: soft_prompts.tasks.base.Variant as plain JSON."""
    config: dict[str, Any]
    """All that its results depend on but length and seed."""
    points: tuple[Point, ...]
    """By ascending prompt length."""
    difference: str = ""
    """How its task and recipe differ from those of the other curves of its experiment and model, in words."""
    controls: tuple[Curve, ...] = ()
    """Its controls, as far as they were measured, in the order of CONTROLS."""

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.experiment} on {self.model}" + (f", {self.difference}" if self.difference else "")

    @property
    def knows_nothing(self) -> Curve | None:
        """The control that contributions are measured against: scrambled, or untrained if that is all there is."""
        return next((c for c in self.controls if c.control in ("scrambled", "untrained")), None)

    @property
    def control(self) -> str:
        """One of CONTROLS, or "" for the model and the task as they are."""
        return self.config.get("control", "")

    @property
    def task(self) -> dict[str, Any]:
        """The task's options."""
        return self.config["task"]

    @property
    def recipe(self) -> dict[str, Any]:
        """How its prompts were trained."""
        return self.config["train"]

    @property
    def weights(self) -> str:
        """Hash of the weights that were measured, "" in old results."""
        return self.points[0].results[0].weights

    @property
    def results(self) -> list[Result]:
        return [r for point in self.points for r in point.results]

    @property
    def baselines(self) -> dict[str, float]:
        """Held-out nats per scored token of the data baselines that all seeds have, averaged over the seeds."""
        by_seed = self._baselines_by_seed()
        return {name: float(np.mean([of_seed[name]["loss"] for of_seed in by_seed])) for name in by_seed[0]}

    @property
    def best_baseline(self) -> str:
        """Name of the data baseline with the lowest loss."""
        return min(self.baselines, key=self.baselines.get)

    @property
    def anchor(self) -> dict[str, Any] | None:
        """What is known to bring the behaviour out: its "name", "loss" and "document_losses"."""
        return next((r.anchor for p in self.paired_points for r in p.results if r.anchor), None)

    @property
    def n_scored(self) -> int:
        """Scored tokens of its held-out documents."""
        return self.points[0].results[0].held_out.n_scored

    @property
    def n_seeds(self) -> int:
        """Seeds of the prompt length that has the fewest, of lengths above 0."""
        return min((len(p.results) for p in self.points if p.n_tokens), default=1)

    @property
    def single_scores(self) -> list[str]:
        """Names of the behavioural scores that are single numbers."""
        return [name for name, score in self.points[0].results[0].scores.items() if "value" in score]

    @property
    def computed(self) -> dict[str, Any]:
        """What is known of its SLOW_NUMBERS by now, as plain JSON, to be given to ``remember`` another time."""
        known = {name: vars(self)[name] for name in SLOW_NUMBERS if name in vars(self)}
        return known | {"intervals": [vars(p).get("interval") for p in self.points]}

    def remember(self, computed: dict[str, Any]) -> None:
        """Take numbers for known that were ``computed`` from the same results before."""
        intervals = computed["intervals"]
        vars(self).update({name: computed[name] for name in SLOW_NUMBERS if name in computed})
        for point, interval in zip(self.points, intervals, strict=True):
            if interval is not None:
                vars(point)["interval"] = interval

    def is_control_of(self, other: Curve) -> bool:
        """Whether this is one of the CONTROLS of another curve."""
        own = {name: value for name, value in self.config.items() if name != "control"}
        return (
            bool(self.control)
            and own == other.config
            and (self.model, self.experiment) == (other.model, other.experiment)
        )

    def point(self, n_tokens: int) -> Point | None:
        """The point of a prompt length, None if there is none."""
        return next((p for p in self.points if p.n_tokens == n_tokens), None)

    @cached_property
    def paired_points(self) -> list[Point]:
        """The points that were scored on the same tokens of the same documents as the first."""
        return [p for p in self.points if p.pairs_with(self.points[0])]

    @cached_property
    def paired(self) -> PairedLosses:
        """The losses of the paired points, and beside them those of control, data baselines and anchor on the same
        documents."""
        points, first = self.paired_points, self.points[0]
        other = [self.knows_nothing.point(p.n_tokens) if self.knows_nothing else None for p in points]
        has_control = all(p is not None and p.pairs_with(first) for p in other)
        by_seed = self._baselines_by_seed()
        documented = [name for name in by_seed[0] if all(of_seed[name]["document_losses"] for of_seed in by_seed)]
        return PairedLosses(
            n_tokens=np.array([p.n_tokens for p in points]),
            sums=tuple(p.by_seed for p in points),
            counts=first.counts,
            control=tuple(p.by_seed for p in other) if has_control else (),
            baselines=tuple(np.array([of_seed[n]["document_losses"] for of_seed in by_seed]) for n in documented),
            anchor=np.array([self.anchor["document_losses"]]) if self.anchor else None,
        )

    def _baselines_by_seed(self) -> list[dict[str, dict[str, Any]]]:
        """The baselines that all seeds have, of each seed: the same at all of its lengths, as its prompts saw the same
        training documents."""
        by_seed = {r.seed: r.baselines for p in self.paired_points for r in p.results}.values()
        known = [name for name in next(iter(by_seed)) if all(name in of_seed for of_seed in by_seed)]
        return [{name: of_seed[name] for name in known} for of_seed in by_seed]

    @property
    def _pairs(self) -> bool:
        """Whether there are several lengths, all on the same documents."""
        return 1 < len(self.points) == len(self.paired_points)

    @cached_property
    def widths(self) -> list[float] | None:
        """Half-widths of the intervals to compare the K lengths by, see ``comparison_widths``. None if they do not
        pair."""
        return comparison_widths(self.paired.draws).tolist() if self._pairs else None

    @cached_property
    def band(self) -> list[list[float]] | None:
        """Low and high ends of a band around the K losses that holds all at once, see ``stats.band``; no loss is below
        0, whatever three seeds leave open. None if they do not pair."""
        if not self._pairs:
            return None
        return [np.maximum(ends, 0).tolist() for ends in band(self.paired.losses, self.paired.draws)]

    @cached_property
    def gains(self) -> list[dict[str, Any] | None]:
        """``Point.gain_over`` P = 0 of each point; None for P = 0 itself, and where the two do not pair."""
        zero = self.point(0)
        return [p.gain_over(zero) if zero and p.n_tokens else None for p in self.points]

    @cached_property
    def contribution(self) -> list[dict[str, Any]]:
        """E(P) of each point as {"value", "interval", "against"}; empty if nothing that knows nothing was measured."""
        estimates = self.paired.contribution() if len(self.paired_points) == len(self.points) else None
        if estimates is None:
            return []
        known = enumerate(zip(self.points, estimates.values, strict=True))
        return [
            {"value": float(v), "interval": estimates.interval(k), "against": self._rival(p)} for k, (p, v) in known
        ]

    def _rival(self, point: Point) -> str:
        """What the contribution of a point is measured against: the better of control and best baseline."""
        other = self.knows_nothing.point(point.n_tokens) if self.knows_nothing else None
        best = self.best_baseline
        return self.knows_nothing.control if other and other.loss < self.baselines[best] else best

    @cached_property
    def exhaustion(self) -> Exhaustion:
        """Whether the search for its prompts was exhausted."""
        half = next((control.points for control in self.controls if control.control == "half"), ())
        largest = max((of_point["value"] for of_point in self.contribution), default=None)
        own, half = ({p.n_tokens: p.results for p in points} for points in (self.paired_points, half))
        return exhaustion(own, half, largest)

    @cached_property
    def flags(self) -> list[list[str]]:
        """What makes each point suspect, in words."""
        return [self._flags(i) for i in range(len(self.points))]

    def _flags(self, i: int) -> list[str]:
        point, shorter = self.points[i], self.points[:i]
        flags = [f"{point.n_left_out} seeds on other documents left out"] if point.n_left_out else []
        if shorter:
            best = min(shorter, key=lambda p: p.loss)
            gain = point.gain_over(best)
            if gain is None:
                flags.append("other documents")
            elif gain["interval"][1] < 0:
                flags.append(f"worse than P={best.n_tokens}")
        if point.n_tokens and point.loss > self.baselines[self.best_baseline]:
            flags.append(f"worse than {self.best_baseline}")
        flags += self.exhaustion.flags.get(point.n_tokens, [])
        return flags


def paired_difference(first: Curve, second: Curve) -> dict[str, list] | None:
    """By how many nats per scored token ``second`` is better than ``first`` at each length, paired by document.

    Returns:
        "lengths" that both have on the same documents, "values" [K], the loss of the first minus that of the second,
        and "low" and "high" [K], the ends of a 95 % band over documents and seeds that holds all lengths at once. None
        if there is no such length.
    """
    pairs = [
        (p, other)
        for p in first.points
        if (other := second.point(p.n_tokens)) and p.pairs_with(other) and p.pairs_with(first.points[0])
    ]
    if not pairs:
        return None
    draws = two_level_draws([p.by_seed for pair in pairs for p in pair], pairs[0][0].counts)
    values = np.array([p.loss - other.loss for p, other in pairs])
    low, high = band(values, draws[:, ::2] - draws[:, 1::2])
    named = {"values": values, "low": low, "high": high}
    return {"lengths": [p.n_tokens for p, _ in pairs], **{name: ends.tolist() for name, ends in named.items()}}


def curves(results: Iterable[Result]) -> list[Curve]:
    """Results sorted into curves, one per experiment, model and configuration.

    Each curve says how it differs from the others of its experiment and model, and has its control beside it.
    """
    by_curve: dict[str, dict[int, list[Result]]] = {}
    for r in sorted(results, key=lambda r: (r.experiment, r.model, r.n_tokens, r.seed)):
        shared, *_ = r.identity
        by_curve.setdefault(shared, {}).setdefault(r.n_tokens, []).append(r)
    unnamed = _told_apart(
        [_curve([_point(same_length) for same_length in lengths.values()]) for lengths in by_curve.values()]
    )
    named = [
        replace(curve, difference=_difference(curve, group), controls=_controls(curve, group))
        for group in by_model(unnamed).values()
        for curve in group
    ]
    return sorted(named, key=lambda curve: (curve.experiment, curve.model, _counted(curve.difference)))


def _counted(text: str) -> list[tuple[int, str]]:
    """A key to sort by that takes numbers for what they are: "a key of 8 tokens" comes before "a key of 16 tokens"."""
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d{1,18})", text)]


def _point(results: Sequence[Result]) -> Point:
    """The seeds of one length, as far as they were measured on the same documents as the first."""
    paired = [r for r in results if Point((r,)).pairs_with(Point((results[0],)))]
    return Point(tuple(paired), len(results) - len(paired))


def _curve(points: Sequence[Point]) -> Curve:
    first = points[0].results[0]
    return Curve(first.experiment, first.model, first.variant, first.config, tuple(points))


def _told_apart(curves: Sequence[Curve]) -> list[Curve]:
    """The same curves; where two models have one name, such as two folders called "checkpoint", it holds the first
    digits of the hash of their weights.

    A control has other weights than its model, and goes by name and files. If several models have both, such as two
    states of one name of the hub, it is said of the control that it belongs to one of them.
    """
    own_first = sorted(curves, key=lambda curve: bool(curve.control))
    weights: dict[tuple[str, str | None], list[str]] = {}
    for curve in own_first:
        known = weights.setdefault((curve.model, curve.config.get("model_files")), [])
        if curve.weights not in known and not (curve.control and known):
            known.append(curve.weights)
    n_models = Counter(name for name, _ in {(name, digits) for (name, _), known in weights.items() for digits in known})

    def named(curve: Curve) -> Curve:
        known = weights[curve.model, curve.config.get("model_files")]
        if n_models[curve.model] < 2:
            return curve
        if len(known) > 1 and curve.weights not in known:
            return replace(curve, model=f"{curve.model} (one of {len(known)})")
        digits = curve.weights if curve.weights in known else known[0]
        return replace(curve, model=f"{curve.model} ({digits[:8] or 'weights unknown'})")

    return [named(curve) for curve in curves]


def _controls(curve: Curve, among: Iterable[Curve]) -> tuple[Curve, ...]:
    """The controls of a curve."""
    return tuple(sorted((c for c in among if c.is_control_of(curve)), key=lambda c: CONTROLS.index(c.control)))


def by_model(curves: Iterable[Curve]) -> dict[tuple[str, str], list[Curve]]:
    """(experiment, model) -> its curves, which differ in task options or recipe."""
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.experiment, curve.model), []).append(curve)
    return groups


def without_controls(curves: Iterable[Curve]) -> list[Curve]:
    """The curves of models themselves. A control stands beside its model's curve, and for itself only if that is
    missing."""
    curves = list(curves)
    return [c for c in curves if not (c.control and any(c.is_control_of(other) for other in curves))]


def without_random_targets(curves: Sequence[Curve]) -> list[Curve]:
    """The curves of the targets that were asked for, without those of random ones that stand beside them."""
    random = {id(found) for curve in curves for found in random_targets(curve, curves)}
    return [curve for curve in curves if id(curve) not in random]


def random_targets(curve: Curve, among: Iterable[Curve]) -> list[Curve]:
    """The curves that are recorded as controls of this one with a random target. A control has none itself."""
    found = []
    if curve.variant["control_of"] is not None:
        return found
    for other in among:
        differs = other.variant["control_of"]
        if differs is not None and {**other.config, "task": {**other.task, **differs}} == curve.config:
            found.append(other)
    return found


def _difference(curve: Curve, among: Sequence[Curve]) -> str:
    """How a curve's task options and recipe differ from most of the others', in words.

    Task options that differ anywhere are named for every curve; of the recipe only what is unusual is.
    """
    settings = [_settings(c) for c in among]
    own = _settings(curve)
    usual = {name: Counter(json.dumps(s.get(name)) for s in settings).most_common(1)[0][0] for name in own}
    varied = {name for name in own if len({json.dumps(s.get(name)) for s in settings}) > 1}
    named = {n for n in own if own[n] != "" and (json.dumps(own[n]) != usual[n] or (n in varied and n in curve.task))}
    of_variant = set(curve.variant["options"])  # the label stands for these
    words = [curve.variant["label"]] if named & of_variant else []
    words += [f"{curve.control} control"] if curve.control else []
    return ", ".join([*words, *(f"{name} {_words(own[name])}" for name in own if name in named - of_variant)])


def _settings(curve: Curve) -> dict[str, Any]:
    """Options of task and recipe, without the data, and an anchor that is not the task's own."""
    anchor = {"anchor": curve.config["anchor"]} if "anchor" in curve.config else {}
    return {name: value for name, value in {**curve.task, **curve.recipe, **anchor}.items() if name != "data"}


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
