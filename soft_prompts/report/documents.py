"""Put the tables of results into Markdown pages, so that no number in a page is typed by hand.

    python -m soft_prompts.report.documents README.md results/README.md

fills what stands between `<!-- results/chess/pocket: move_match -->` (folders below that of the command, and the scores
to show) and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from soft_prompts.console import ends_in_a_sentence, say, warn
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically
from soft_prompts.report.collection import Filter, collect
from soft_prompts.report.markdown import in_markdown
from soft_prompts.report.tables import as_markdown, tables
from soft_prompts.results.curve import without_random_targets

MARK = re.compile(r"<!-- (results/\S+?(?: results/\S+?)*):([\w ]*) -->\n.*?<!-- end -->", re.DOTALL)


def filled(text: str, root: Path) -> str:
    """A page with the tables and report lines of the results that it names.

    Args:
        text: The page, in Markdown.
        root: The folder that the named folders are below.

    Raises:
        SoftPromptsError: There are no results in a named folder.
    """

    def fill(mark: re.Match) -> str:
        folders, scores = [root / folder for folder in mark[1].split()], mark[2].split()
        collection = collect(folders, Filter())
        if not collection.shown:
            names = " or ".join(map(str, folders))
            raise SoftPromptsError(f"there are no results in {names}: {' '.join(collection.missing)}")
        for sentence in collection.unreadable:
            warn(sentence)
        parts = [as_markdown(name, cells) for name, cells in tables(collection.curves, scores)]
        lines = []
        asked_for = without_random_targets(collection.curves)
        for shown in collection.shown:
            name = shown.curve.difference
            if shown.summary and shown.curve in asked_for:
                lines.append(in_markdown(f"- {name + ': ' if name else ''}{shown.summary}") + "\n")
        body = "\n".join([*parts, "".join(lines)]) if lines else "\n".join(parts)
        return f"<!-- {mark[1]}:{mark[2]} -->\n\n{body}\n<!-- end -->"

    return MARK.sub(fill, text)


def main(pages: list[str]) -> None:
    """Fill some pages."""
    if not pages or set(pages) & {"-h", "--help"}:
        print(__doc__)
        return
    for page in map(Path, pages):
        if not page.is_file():
            raise SoftPromptsError(f"there is no page {str(page)!r}.")
        write_atomically(page, filled(page.read_text(), Path()).encode())
        say(f"{page}: {len(MARK.findall(page.read_text()))} tables filled")


if __name__ == "__main__":
    with ends_in_a_sentence():
        main(sys.argv[1:])
