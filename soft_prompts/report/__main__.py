"""Results on the command line: `python -m soft_prompts.report results/chess`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from soft_prompts.console import ends_in_a_sentence, interrupts_end_in_a_sentence, say, warn
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import safe_name, write_atomically
from soft_prompts.report.collection import Collection, Filter, collect


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

    collection = collect(settings.folders, settings.which)
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
    out = settings.out or Path("runs/report")
    write_report(collection, settings.scores, out)
    if settings.export:
        from soft_prompts.report.export import write

        results = [r for curve in curves for r in curve.results]
        say(f"data: {write(results, settings.export, out)}")


def write_report(collection: Collection, scores: tuple[str, ...], out: Path) -> None:
    """report.html, table.md, and findings and curve-* as .png and .svg in ``out``."""
    from soft_prompts.report.findings import findings, findings_figure
    from soft_prompts.report.page import page
    from soft_prompts.report.plots import saturation_figure, save_figure
    from soft_prompts.report.tables import markdown

    write_atomically(out / "table.md", markdown(collection.curves, scores).encode())
    figures = {
        f"curve-{i}-{safe_name(curve.experiment)}": saturation_figure([curve], scores)
        for i, curve in enumerate(collection.curves)
    }
    if found := findings(collection.shown):
        figures["findings"] = findings_figure(found)
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            save_figure(figure, out / f"{name}.{kind}")
    write_atomically(out / "report.html", page(collection, scores).encode())
    say(f"page: {out / 'report.html'}   table: {out / 'table.md'}   pictures: {out}/*.png and .svg")


if __name__ == "__main__":
    interrupts_end_in_a_sentence()
    with ends_in_a_sentence():
        main(tyro.cli(Settings, prog="python -m soft_prompts.report", description=__doc__))
