"""The results of some folders as curves. A file that cannot be read is named; it stops nothing."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import safe_name
from soft_prompts.report.kept import Kept, digest
from soft_prompts.results.curve import Curve, by_model, curves, random_targets, without_controls
from soft_prompts.results.record import Result, content_of, result_files
from soft_prompts.results.summary import Summary, summarise


@dataclass(frozen=True)
class Filter:
    """Which results are wanted; empty takes all."""

    experiment: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    n_tokens: tuple[int, ...] = ()

    def wants(self, r: Result) -> bool:
        """Whether a result belongs to a curve that is wanted."""
        pairs = ((self.experiment, r.experiment), (self.model, r.model))
        return all(not wanted or value in wanted for wanted, value in pairs)

    def cut(self, curve: Curve) -> Curve:
        """The curve with the wanted lengths only, possibly none."""
        if not self.n_tokens:
            return curve
        points = [p for p in curve.points if p.n_tokens in self.n_tokens]
        controls = [control for control in map(self.cut, curve.controls) if control.points]
        return replace(curve, points=tuple(points), controls=tuple(controls))


@dataclass(frozen=True)
class Shown:
    """One curve with what is said of it."""

    curve: Curve
    """The lengths that are shown."""
    summary: Summary | None
    """Of all its lengths, shown or not."""
    contents: list[list[str]]
    """What the numbers of the curve, and of each of its controls, depend on: digests of the results' files."""

    @property
    def id(self) -> str:
        """A name for its files and its place in the page. It stays as more results come."""
        shared, *_ = self.curve.results[0].identity
        return f"{safe_name(self.curve.experiment)}-{safe_name(self.curve.model)}-{digest(shared)[:8]}"


@dataclass(frozen=True)
class Collection:
    """What was read."""

    shown: list[Shown]
    paths: dict[tuple[str, int, int], Path]
    """Result.identity -> the result's file."""
    unreadable: list[str]
    """Files that are left out, in sentences: how many, which and why."""
    lacking: list[str]
    """What is missing of the others, in sentences."""
    kept: Kept
    """What was computed of them before."""

    @property
    def missing(self) -> list[str]:
        """All that a reader should know is not shown, in sentences."""
        return self.unreadable + self.lacking

    @property
    def curves(self) -> list[Curve]:
        return [shown.curve for shown in self.shown]

    def keep(self, all_asked_for: bool = True) -> None:
        """Write the numbers that were computed, for the next report.

        Args:
            all_asked_for: What was kept before and is no part of this report is forgotten.

        Raises:
            SoftPromptsError: The file cannot be written.
        """
        for shown in self.shown:
            for curve, content in zip((shown.curve, *shown.curve.controls), shown.contents, strict=True):
                self.kept.put(curve.computed, "numbers", content)
        self.kept.save(all_asked_for)


def collect(folders: Sequence[Path], wanted: Filter, kept: Kept | None = None) -> Collection:
    """Read all results below some folders, or files named one by one.

    Args:
        folders: The folders.
        wanted: Which results are shown.
        kept: What was computed before. None: all is computed.
    """
    kept = kept or Kept()
    results: list[Result] = []
    paths: dict[tuple[str, int, int], Path] = {}
    digests: dict[tuple[str, int, int], str] = {}
    unreadable, lacking, n_files = [], [], 0
    for folder in folders:
        if not folder.exists():
            lacking.append(f"{folder} does not exist.")
            continue
        for path in result_files(folder):
            n_files += 1
            try:
                result, content = _read(path, kept)
            except SoftPromptsError as error:
                unreadable.append(str(error))
                continue
            if (known := paths.get(result.identity)) and known.resolve() != path.resolve():
                lacking.append(f"{path} is left out: {known} is of the same run.")
            elif not known and wanted.wants(result):
                results.append(result)
                paths[result.identity] = path
                digests[result.identity] = content
    if unreadable:
        unreadable.insert(0, f"{len(unreadable)} of {n_files} files cannot be read as results and are left out:")
    shown = []
    incomplete: dict[str, Counter[str]] = {}
    for (experiment, model), group in by_model(curves(results)).items():
        for curve in without_controls(group):
            cut = wanted.cut(curve)
            if cut.points:
                shown.append(_shown(cut, curve, group, digests, kept))
                for reason in _incomplete(curve):
                    incomplete.setdefault(reason, Counter())[f"{experiment} on {model}"] += 1
    for reason, where in incomplete.items():
        names = [name + (f" ({n} curves)" if n > 1 else "") for name, n in where.items()]
        lacking.append(f"{reason}: {', '.join(names)}.")
    return Collection(shown, paths, unreadable, lacking, kept)


def _read(path: Path, kept: Kept) -> tuple[Result, str]:
    """A result and the digest of its file. What was found to be a result before is not checked again.

    Raises:
        SoftPromptsError: The file cannot be read or is not a result.
    """
    content = content_of(path)
    name = hashlib.blake2b(content, digest_size=16).hexdigest()
    result = Result.of_content(content, path, checked=kept.get("a result", name) is True)
    kept.put(True, "a result", name)
    return result, name


def _shown(
    cut: Curve, curve: Curve, group: Sequence[Curve], digests: Mapping[tuple[str, int, int], str], kept: Kept
) -> Shown:
    """A curve with its summary and, as far as they were kept, its numbers."""

    def content(*of: Curve) -> list[str]:
        return [f"{digests[r.identity]} {p.n_left_out}" for c in of for p in c.points for r in p.results]

    shown = [cut, *cut.controls]
    contents = [content(c, *c.controls) for c in shown]
    for c, of in zip(shown, contents, strict=True):
        if known := kept.get("numbers", of):
            c.remember(known)
    known = kept.of(
        lambda: [asdict(s) if (s := summarise(curve, group)) else None],
        *("summary", content(curve, *curve.controls), content(*random_targets(curve, group))),
    )
    return Shown(cut, Summary.of_plain(known[0]) if known[0] else None, contents)


def _incomplete(curve: Curve) -> list[str]:
    """Lengths or seeds that the other points of a curve have and one lacks, and data that was cut short."""
    have = {(r.n_tokens, r.seed) for r in curve.results}
    lengths = {n for n, _ in have}
    trained = [(n, seed) for n, seed in have if n]  # without tokens nothing is trained, and one seed stands for all
    lacking = sorted(set(product({n for n, _ in trained}, {seed for _, seed in trained})) - have)
    reasons = [f"no result at {n} tokens, seed {seed}" for n, seed in lacking]
    if 0 not in lengths:
        reasons.append("no result at 0 tokens, so nothing can be said of distances")
    if any(not r.provenance.get("data", {}).get("complete", True) for r in curve.results):
        reasons.append("results on data that a broken connection cut short")
    if curve.control:
        reasons.append(f"the {curve.control} control of a model whose own curve is not there or not known")
    asked_for = not curve.control and not curve.variant["control_of"]
    if asked_for and any(not r.sizes for r in curve.results if r.n_tokens):
        reasons.append("results of an older version, without sizes in bits")
    return reasons
