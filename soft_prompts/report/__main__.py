"""Results on the command line: `python -m soft_prompts.report results/chess`."""

from __future__ import annotations

import json
import time
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from soft_prompts.console import ends_in_a_sentence, interrupts_end_in_a_sentence, say, warn
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import fingerprint, write_atomically
from soft_prompts.report.collection import Collection, Filter, collect
from soft_prompts.report.kept import Kept
from soft_prompts.results.record import result_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
KEPT = ".computed.json"
"""File in the report's folder that makes the next report quick."""
MADE = "report.made.js"
"""File beside a page that is followed, which says when the newest page was made."""
WAIT = 2.0
"""Seconds between two looks for results."""


@dataclass(frozen=True)
class Settings:
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of results, or single files; all results below them are shown."""
    which: Annotated[Filter, tyro.conf.arg(name="")] = field(default_factory=Filter)
    scores: tuple[str, ...] = ()
    """Names of scores to show beside the loss. None: all that are single numbers."""
    out: Path | None = None
    """Folder for report.html, table.md, and findings and curves as PNG and SVG. None: runs/report."""
    as_markdown: bool = False
    """Only print Markdown tables."""
    export: Literal["csv", "parquet"] | None = None
    """Also write all results as results.csv or results.parquet."""
    open: bool = False
    """Open the page in the browser."""
    live: bool = False
    """Write the page anew whenever a run finishes, until Ctrl-C. The page shows it by itself."""


def main(settings: Settings) -> None:
    """Print tables, and write them, the curves and a page; with --live, a page again and again."""
    from soft_prompts.report.tables import markdown

    out = settings.out or Path("runs/report")
    if settings.live:
        follow(settings, out)
        return
    collection = collect(settings.folders, settings.which, None if settings.as_markdown else Kept(out / KEPT))
    if not collection.shown:
        raise SoftPromptsError(
            f"no results in {_names(settings.folders)}; run an experiment first, or name another folder. "
            + " ".join(collection.missing)
        )
    if settings.as_markdown:
        print(markdown(collection.curves, settings.scores))
    else:
        _print(collection, settings.scores)
    for sentence in collection.missing:
        warn(sentence)
    if settings.as_markdown:
        return
    write_report(collection, settings.scores, out)
    if settings.export:
        from soft_prompts.report.export import write

        results = [r for curve in collection.curves for r in curve.results]
        say(f"data: {write(results, settings.export, out)}")
    if settings.open:
        _open(out)


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))


def _print(collection: Collection, scores: tuple[str, ...]) -> None:
    """Tables, and what each curve says."""
    from soft_prompts.report.tables import models_by_length, print_tables, tables
    from soft_prompts.results.summary import far_and_fragile

    print_tables([*models_by_length(collection.curves), *tables(collection.curves, scores)])
    for shown in collection.shown:
        say(f"{shown.curve.name}: {shown.summary or 'no distance without results at 0 tokens and at more'}")
    if compared := far_and_fragile([shown.summary for shown in collection.shown if shown.summary]):
        say(compared)


def _open(out: Path) -> None:
    """Show the page in the browser; say where it is if there is none."""
    if not webbrowser.open((out / PAGE).resolve().as_uri()):
        warn(f"no browser was found; open {out / PAGE} yourself.")


def follow(settings: Settings, out: Path) -> None:
    """Write the page whenever the files of results change, until Ctrl-C; in the end also the pictures."""
    say(f"following {_names(settings.folders)}; Ctrl-C ends it.")
    collection, seen, opened = None, None, not settings.open
    try:
        while True:
            files = _files(settings.folders)
            if files == seen:
                time.sleep(WAIT)
                continue
            seen = files
            collection = collect(settings.folders, settings.which, Kept(out / KEPT))
            _write_page(collection, settings.scores, out, live=True)
            collection.keep(all_asked_for=False)  # pictures are asked for in the end
            if not opened:
                _open(out)
                opened = True
            said = collection.unreadable[:1]
            say(" ".join([f"{len(files)} files of results, {len(collection.shown)} curves: {out / PAGE}", *said]))
    except KeyboardInterrupt:
        if collection and collection.shown:
            write_report(collection, settings.scores, out)
        say("the page is no longer followed; the same command goes on.")


def _files(folders: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of every file of results. One that is being replaced is not there."""
    found = []
    for path in (path for folder in folders if folder.exists() for path in result_files(folder)):
        with suppress(FileNotFoundError):
            facts = path.stat()
            found.append((str(path), facts.st_size, facts.st_mtime_ns))
    return found


def write_report(collection: Collection, scores: tuple[str, ...], out: Path) -> None:
    """report.html, table.md, and findings and a curve each as .png and .svg in ``out``."""
    from soft_prompts.report.findings import findings, findings_figure
    from soft_prompts.report.plots import saturation_figure

    _write_page(collection, scores, out)
    for shown in collection.shown:
        draw = partial(saturation_figure, [shown.curve], scores)
        _save_if_changed(draw, out / f"curve-{shown.id}", collection.kept, [shown.contents, shown.curve.name, scores])
    if found := findings(collection.shown):
        content = [[s.contents, s.curve.name, str(s.summary)] for s in found]
        _save_if_changed(partial(findings_figure, found), out / "findings", collection.kept, content)
    collection.keep()
    say(f"page: {out / PAGE}   table: {out / 'table.md'}   pictures: {out}/*.png and .svg")


def _write_page(collection: Collection, scores: tuple[str, ...], out: Path, live: bool = False) -> None:
    """report.html and table.md and, if the page is ``live``, the small script that tells it that it is old."""
    from soft_prompts.report.page import page
    from soft_prompts.report.tables import markdown

    made = datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds")
    write_atomically(out / "table.md", markdown(collection.curves, scores).encode())
    write_atomically(out / PAGE, page(collection, scores, made, live).encode())
    if live or (out / MADE).exists():
        write_atomically(out / MADE, f"newest({json.dumps(made)});\n".encode())


def _save_if_changed(draw: Callable[[], Figure], path: Path, kept: Kept, content: Any) -> None:
    """Draw and write a figure as .png and .svg, if the files are not those that were drawn of the same content."""
    from soft_prompts.report.plots import save_figure

    files = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "svg")]

    def digests() -> list[str]:
        return [fingerprint(file) for file in files if file.is_file()]

    if kept.get("picture", path.name, content) != digests() or not digests():
        figure = draw()
        for file in files:
            save_figure(figure, file)
    kept.put(digests(), "picture", path.name, content)


if __name__ == "__main__":
    interrupts_end_in_a_sentence()
    with ends_in_a_sentence():
        main(tyro.cli(Settings, prog="python -m soft_prompts.report", description=__doc__))
