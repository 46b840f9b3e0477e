"""Tables in Markdown, and what stands in their cells."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from soft_prompts.console import shown_only


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]], texts: Collection[int] = (0,)) -> str:
    """A table, without an end of line behind its last row.

    Args:
        head: Names of the columns.
        body: Rows of cells. Nothing in a cell is taken for a tag, a link or another cell.
        texts: Columns that hold text, counted from 0. They begin at the left; numbers end at the right.
    """
    rule = ["---" if i in texts else "---:" for i in range(len(head))]
    named, *rows = [[in_markdown(cell) for cell in row] for row in (head, *body)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (named, rule, *rows))


def in_markdown(text: str) -> str:
    """A text as one cell or line of Markdown: a name in it makes no tag, link, picture, cell or line."""
    line = " ".join(shown_only(text).split()) if "\n" in text else shown_only(text)
    return line.replace("<", "&lt;").replace("|", "\\|").replace("](", "]\\(")


def with_interval(score: Mapping[str, Any], form: str) -> str:
    """A value and the ends of its interval.

    Args:
        score: "value" and "interval" [low, high].
        form: How each of the three numbers is written, such as ".2f" or "+.0%".
    """
    low, high = score["interval"]
    return f"{score['value']:{form}} [{low:{form}}, {high:{form}}]"
