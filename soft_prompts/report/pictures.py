"""What a model did, to look at: boards, routes, transcripts, streaks, as pieces of HTML."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

import chess
import chess.svg

from soft_prompts.results import Result

MOST = 4
"""Samples shown of one result."""
MOST_DIALOGUES = 12


def pieces(result: Result, path: Path | None) -> list[str]:
    """Pictures and readable samples of one result; ``path`` is its file, beside which pictures may lie."""
    found = _images(path) if path else []
    match result.experiment:
        case "chess":
            return found + [_chess(s) for s in result.samples[:MOST]]
        case "chat_detuning":
            return [*found, _dialogues(result.samples[:MOST_DIALOGUES])]
        case "repetition":
            return found + [_streak(s, result) for s in result.samples[:MOST]]
        case _:
            return found + [_sample(s) for s in result.samples[:MOST]]


def _images(path: Path) -> list[str]:
    """Pictures that were saved beside a result, put into the page."""
    found = []
    for picture in sorted(path.parent.glob(f"{path.stem}.*.png")):
        data = base64.b64encode(picture.read_bytes()).decode()
        name = picture.name.removeprefix(f"{path.stem}.").removesuffix(".png")
        found.append(
            f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{data}"><figcaption>{escape(name)}</figcaption></figure>'
        )
    return found


def _chess(sample: dict[str, str]) -> str:
    """The board after the model's continuation as far as it is legal, its last move as an arrow, and the moves in words."""
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
        f'<figure class="board">{chess.svg.board(board, arrows=arrows, size=220)}<figcaption>rated {escape(sample["elos"])}: '
        f'<b class="good">{escape(" ".join(legal))}</b> <b class="bad">{escape(" ".join(rest))}</b><br>'
        f"played: {escape(sample['played'])}</figcaption></figure>"
    )


def _dialogues(samples: list[dict[str, str]]) -> str:
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(s[part])}</td>" for part in ("system", "user", "before", "after")) + "</tr>"
        for s in samples
    )
    return (
        '<div class="wide"><table class="text"><tr><th>system<th>user<th>without prompt<th>with prompt</tr>'
        + rows
        + "</table></div>"
    )


def _streak(sample: dict[str, str], result: Result) -> str:
    """A continuation with the part that repeats the string marked; of a random target the string is not known here."""
    said = sample["continuation"]
    task = result.config["task"]
    length = 0
    if task.get("control") == [False]:
        wanted = (" " + task["strings"][0]) * (len(said) // len(task["strings"][0]) + 1)
        length = next((i for i, (a, b) in enumerate(zip(said, wanted, strict=False)) if a != b), len(said))
    return (
        f'<p class="sample">{escape(sample["text"][-200:])} <b class="prompt">[prompt]</b>'
        f'<b class="good">{escape(said[:length])}</b>{escape(said[length:])}</p>'
    )


def _sample(sample: dict[str, str]) -> str:
    return '<p class="sample">' + "<br>".join(f"<b>{escape(k)}</b> {escape(v)}" for k, v in sample.items()) + "</p>"
