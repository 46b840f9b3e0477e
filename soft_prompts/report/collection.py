"""The results of some folders, read one by one: what cannot be read is said, not fatal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from soft_prompts.errors import SoftPromptsError
from soft_prompts.results import Result, result_files
from soft_prompts.summary import Summary, summarise
from soft_prompts.tables import Point, curves_by_model, difference


@dataclass(frozen=True)
class Filter:
    """Which results are wanted; empty takes all."""

    experiment: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    n_tokens: tuple[int, ...] = ()

    def wants(self, r: Result) -> bool:
        pairs = ((self.experiment, r.experiment), (self.model, r.model))
        return all(not wanted or value in wanted for wanted, value in pairs)

    def points(self, curve: Sequence[Point]) -> list[Point]:
        """The lengths of a curve that are wanted; what is said of the whole curve still holds of all its lengths."""
        return [p for p in curve if not self.n_tokens or p.n_tokens in self.n_tokens]


@dataclass(frozen=True)
class Shown:
    """One curve with all that is said of it."""

    points: list[Point]
    what: str
    """How its task and recipe differ from those of the other curves of its experiment and model; "" if it is the only one."""
    summary: Summary | None

    @property
    def first(self) -> Result:
        return self.points[0].results[0]

    @property
    def results(self) -> list[Result]:
        return [r for p in self.points for r in p.results]

    @property
    def name(self) -> str:
        return f"{self.first.experiment} on {self.first.model}" + (f", {self.what}" if self.what else "")


@dataclass(frozen=True)
class Collection:
    """What was found: curves in order, where each result lies, and what is missing or unreadable, in sentences."""

    shown: list[Shown]
    paths: dict[int, Path]
    """id() of a result -> its file."""
    missing: list[str]


def collect(folders: Sequence[Path], wanted: Filter) -> Collection:
    """Read all results below some folders, or files named one by one."""
    results, paths, missing = [], {}, []
    for folder in folders:
        if not folder.exists():
            missing.append(f"{folder} does not exist.")
            continue
        for path in result_files(folder):
            try:
                result = Result.load(path)
            except SoftPromptsError as error:
                missing.append(str(error))
                continue
            if wanted.wants(result):
                results.append(result)
                paths[id(result)] = path
    shown = []
    reasons: dict[str, Counter[str]] = {}
    for (experiment, model), group in curves_by_model(results).items():
        for points in group:
            if not wanted.points(points):
                continue
            whole = Shown(points, difference(points, group), summarise(points, _control(points, group)))
            shown.append(replace(whole, points=wanted.points(points)))
            for reason in _unfinished(whole):
                reasons.setdefault(reason, Counter())[f"{experiment} on {model}"] += 1
    for reason, where in reasons.items():
        missing.append(f"{reason}: {', '.join(k + (f' ({n} curves)' if n > 1 else '') for k, n in where.items())}.")
    return Collection(shown, paths, missing)


def _control(points: Sequence[Point], among: Sequence[Sequence[Point]]) -> Sequence[Point]:
    """The curve of the same task with a random target, where there is one."""

    def but_control(curve: Sequence[Point]) -> str:
        task = {k: v for k, v in curve[0].results[0].config["task"].items() if k != "control"}
        return json.dumps([task, curve[0].results[0].config["train"]], sort_keys=True)

    if points[0].results[0].config["task"].get("control") != [False]:
        return ()
    same = [c for c in among if c is not points and but_control(c) == but_control(points)]
    return same[0] if same else ()


def _unfinished(shown: Shown) -> list[str]:
    """Lengths or seeds that the other points of a curve have and one lacks, and data that was cut short."""
    have = {(r.n_tokens, r.seed) for r in shown.results}
    lengths, seeds = ({pair[i] for pair in have} for i in (0, 1))
    lacking = sorted(set(product(lengths, seeds)) - have)
    found = [f"no result at {n} tokens, seed {seed}" for n, seed in lacking]
    if 0 not in lengths:
        found.append("no result at 0 tokens, so nothing can be said of distances")
    if any(not r.provenance.get("data", {}).get("complete", True) for r in shown.results):
        found.append("results on data that a broken connection cut short")
    if len(shown.results) and any(not r.sizes for r in shown.results if r.n_tokens):
        found.append("results of an older version, without sizes in bits")
    return found
