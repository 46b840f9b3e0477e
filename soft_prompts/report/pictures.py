"""What a model did, to look at, as pieces of HTML: samples drawn by their kind, and pictures saved beside a result."""

from __future__ import annotations

import base64
import glob
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from soft_prompts.results.record import Result

Sample = dict[str, str]

MOST = 4
"""Samples of one kind that are shown of a result."""
MOST_DIALOGUES = 12
PNG = b"\x89PNG"
"""How a picture's file begins."""


def pieces(result: Result, path: Path | None) -> list[str]:
    """Pictures and readable samples of one result.

    Args:
        result: The result.
        path: Its file, beside which pictures may lie.

    Returns:
        HTML, a piece for each sample or picture. Samples of a kind that is not known, or that lack what their kind is
        drawn by, are shown part by part.
    """
    by_kind: dict[str, list[Sample]] = {}
    for sample in result.samples:
        by_kind.setdefault(sample.get("kind", "text"), []).append(sample)
    drawn = [piece for kind, samples in by_kind.items() for piece in _drawn(kind, samples)]
    return (_images(path) if path else []) + drawn


def _drawn(kind: str, samples: Sequence[Sample]) -> list[str]:
    try:
        return DRAWN.get(kind, _each(_text))(samples)
    except (KeyError, ValueError):  # a part is missing, or moves are not chess
        return _each(_text)(samples)


def _images(path: Path) -> list[str]:
    """Pictures that were saved beside a result, put into the page."""
    figures = []
    for picture in sorted(path.parent.glob(f"{glob.escape(path.stem)}.*.png")):
        name = escape(picture.name.removeprefix(f"{path.stem}.").removesuffix(".png"))
        content = picture.read_bytes() if picture.is_file() else b""
        if not content.startswith(PNG):
            figures.append(f'<p class="faint">{name}.png is no picture</p>')
            continue
        image = f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        figures.append(f"<figure>{image}<figcaption>{name}</figcaption></figure>")
    return figures


def _each(draw: Callable[[Sample], str]) -> Callable[[Sequence[Sample]], list[str]]:
    """A piece for every sample, MOST of them."""
    return lambda samples: [draw(sample) for sample in samples[:MOST]]


def _board(sample: Sample) -> str:
    """Parts "start", "continuation", "played", "elos": the board after the model's continuation as far as it is legal,
    its last move as an arrow, and the moves in words."""
    import chess.svg

    board = chess.Board()
    for move in sample["start"].split():
        board.push_uci(move)
    legal: list[str] = []
    for word in sample["continuation"].split():
        try:
            board.push_uci(word)
        except ValueError:
            break
        legal.append(word)
    arrows = [chess.svg.Arrow(move.from_square, move.to_square) for move in board.move_stack[-1:]] if legal else []
    rest = sample["continuation"].split()[len(legal) :]
    return (
        f'<figure class="board">{chess.svg.board(board, arrows=arrows, size=220)}'
        f"<figcaption>rated {escape(sample['elos'])}: "
        f'<b class="good">{escape(" ".join(legal))}</b> <b class="bad">{escape(" ".join(rest))}</b><br>'
        f"played: {escape(sample['played'])}</figcaption></figure>"
    )


def _dialogues(samples: Sequence[Sample]) -> list[str]:
    """Parts "system", "user", "before", "after": one table of all dialogues."""
    parts = ("system", "user", "before", "after")
    header = "<tr><th>system<th>user<th>without prompt<th>with prompt</tr>"
    cells = ("".join(f"<td>{escape(s[part])}</td>" for part in parts) for s in samples[:MOST_DIALOGUES])
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return [f'<div class="wide"><table class="text">{header}{body}</table></div>']


def _repetition(sample: Sample) -> str:
    """Parts "text", "continuation", "wanted" (not in older files): the part that repeats what was wanted is marked."""
    said, wanted = sample["continuation"], sample.get("wanted", "")
    n_same = next(
        (i for i, (a, b) in enumerate(zip(said, wanted, strict=False)) if a != b), min(len(said), len(wanted))
    )
    return (
        f'<p class="sample">{escape(sample["text"][-200:])} <b class="prompt">[prompt]</b>'
        f'<b class="good">{escape(said[:n_same])}</b>{escape(said[n_same:])}</p>'
    )


def _path(sample: Sample) -> str:
    """Parts "board", "walked", "shortest"."""
    return (
        f"<figure><pre>{escape(sample['board'].strip())}</pre><figcaption>walked: {escape(sample['walked'])}; "
        f"shortest: {escape(sample['shortest'])}</figcaption></figure>"
    )


def _text(sample: Sample) -> str:
    """Any parts, each behind its name."""
    parts = [f"<b>{escape(part)}</b> {escape(text)}" for part, text in sample.items() if part != "kind"]
    return '<p class="sample">' + "<br>".join(parts) + "</p>"


DRAWN: dict[str, Callable[[Sequence[Sample]], list[str]]] = {
    "board": _each(_board),
    "dialogue": _dialogues,
    "path": _each(_path),
    "repetition": _each(_repetition),
    "text": _each(_text),
}
"""Kind of sample -> how samples of it are drawn. A new kind of behaviour adds a line here."""
