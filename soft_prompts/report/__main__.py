"""Results on the command line: `python -m soft_prompts.report results/chess`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from soft_prompts.console import ends_in_a_sentence, interrupts_end_in_a_sentence, say, warn
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import fingerprint, write_atomically
from soft_prompts.report.collection import Collection, Filter, collect
from soft_prompts.report.kept import Kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT = ".computed.json"
"""File in the report's folder that makes the next report quick."""


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


def main(settings: Settings) -> None:
    """Print tables, and write them, the curves and a page."""
    from soft_prompts.report.tables import markdown, models_by_length, print_tables, tables
    from soft_prompts.results.summary import far_and_fragile

    out = settings.out or Path("runs/report")
    collection = collect(settings.folders, settings.which, None if settings.as_markdown else Kept(out / KEPT))
    curves = collection.curves
    if not curves:
        raise SoftPromptsError(
            f"no results in {', '.join(map(str, settings.folders))}; run an experiment first, or name another folder. "
            + " ".join(collection.missing)
        )
    if settings.as_markdown:
        print(markdown(curves, settings.scores))
        for sentence in collection.missing:
            warn(sentence)
        return
    print_tables([*models_by_length(curves), *tables(curves, settings.scores)])
    for shown in collection.shown:
        say(f"{shown.curve.name}: {shown.summary or 'no distance without results at 0 tokens and at more'}")
    if compared := far_and_fragile([shown.summary for shown in collection.shown if shown.summary]):
        say(compared)
    for sentence in collection.missing:
        warn(sentence)
    write_report(collection, settings.scores, out)
    if settings.export:
        from soft_prompts.report.export import write

        results = [r for curve in curves for r in curve.results]
        say(f"data: {write(results, settings.export, out)}")


def write_report(collection: Collection, scores: tuple[str, ...], out: Path) -> None:
    """report.html, table.md, and findings and a curve each as .png and .svg in ``out``."""
    from soft_prompts.report.findings import findings, findings_figure
    from soft_prompts.report.page import page
    from soft_prompts.report.plots import saturation_figure
    from soft_prompts.report.tables import markdown

    write_atomically(out / "table.md", markdown(collection.curves, scores).encode())
    write_atomically(out / "report.html", page(collection, scores).encode())
    for shown in collection.shown:
        draw = partial(saturation_figure, [shown.curve], scores)
        _save_if_changed(draw, out / f"curve-{shown.id}", collection.kept, [shown.contents, shown.curve.name, scores])
    if found := findings(collection.shown):
        content = [[s.contents, s.curve.name, str(s.summary)] for s in found]
        _save_if_changed(partial(findings_figure, found), out / "findings", collection.kept, content)
    collection.keep()
    say(f"page: {out / 'report.html'}   table: {out / 'table.md'}   pictures: {out}/*.png and .svg")


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
