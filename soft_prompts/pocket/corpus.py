"""What pocket is trained on: prose, chess games, mazes and dialogues, as texts.

Every function yields the same texts for the same input and seed.
"""

from __future__ import annotations

import io
import json
import math
import random
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import chess
import zstandard

from soft_prompts.data.pgn import GameFilter, read_games
from soft_prompts.errors import SoftPromptsError

PASSAGE = 1200
"""Characters after which a passage of prose ends with its paragraph; about 450 tokens in all."""
SHORTEST_PASSAGE = 200
"""Characters. Shorter passages are left out."""
STRAYING = 0.1
"""Chance per half-move that a game without a line above it leaves the players' moves for random ones."""
LONGEST_STRAY = 110
"""Half-moves after which a game with random moves ends."""
SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You answer questions briefly and correctly.",
    "You are a polite assistant who follows instructions.",
    "Answer the user's request.",
)
"""What stands before half of the single turns."""
STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
"""The words of a maze's path, as (rows down, columns to the right)."""


def prose(files: Sequence[Path]) -> Iterator[tuple[str, list[str]]]:
    """Documents, cut into passages.

    A passage is whole paragraphs, at least PASSAGE characters of them, or what is left at the end of a document.

    Args:
        files: .tar.zst archives of plain text and .jsonl.zst files with a "text" field.

    Yields:
        The name and the passages of each document.

    Raises:
        SoftPromptsError: A file cannot be read as text.
    """
    for file in files:
        for name, text in _documents(file):
            passages, passage = [], ""
            for paragraph in text.split("\n"):
                passage += paragraph.rstrip() + "\n"
                if len(passage) >= PASSAGE:
                    passages.append(passage.strip())
                    passage = ""
            passages.append(passage.strip())
            yield name, [p for p in passages if len(p) >= SHORTEST_PASSAGE]


def _documents(file: Path) -> Iterator[tuple[str, str]]:
    """The name and the text of each document of a file."""
    try:
        raw = zstandard.ZstdDecompressor().stream_reader(file.open("rb"))
        if file.name.endswith(".tar.zst"):
            with tarfile.open(fileobj=raw, mode="r|") as archive:
                for member in archive:
                    if member.isfile() and (content := archive.extractfile(member)):
                        yield Path(member.name).stem, content.read().decode()
        else:
            for i, line in enumerate(io.TextIOWrapper(raw, "utf-8")):
                yield f"{file.name.split('.')[0]}-{i}", json.loads(line)["text"]
    except (OSError, zstandard.ZstdError, tarfile.TarError, ValueError, KeyError) as error:
        raise SoftPromptsError(
            f"{file} cannot be read as text ({error!r}); give .tar.zst archives of .txt files or .jsonl.zst files "
            'with a "text" field.'
        ) from error


def games(files: Iterable[Path]) -> list[tuple[tuple[int, int], str]]:
    """Every standard game of at least ten half-moves, each once.

    Args:
        files: .pgn, .pgn.zst or .pgn.gz files of games with ratings.

    Returns:
        Both ratings (white, black) and the UCI moves of each game.

    Raises:
        SoftPromptsError: A file is missing or damaged, or holds no such game.
    """
    unique = {}
    for file in files:
        of_file = read_games(str(file), GameFilter(min_plies=10), None, None)
        unique |= {of_file.moves(i): tuple(int(elo) for elo in of_file.elos[i]) for i in range(len(of_file))}
    return [(elos, moves) for moves, elos in unique.items()]


def game_text(elos: tuple[int, int], moves: str) -> str:
    """A game as it was played. It always stands below a line with the players' ratings.

    Args:
        elos: The ratings of white and black.
        moves: UCI moves with single spaces between them.
    """
    return f"White {elos[0]}, Black {elos[1]}.\n{moves}"


def stray_text(moves: str, seed: int) -> str:
    """A game that begins as it was played and goes on with random legal moves.

    Half of these games stand below a line that announces random moves, half below nothing. Random moves teach what is
    legal far better than played ones, of which only a few are ever seen in a position. All games without a line go
    astray. So a model must be told, by the line with the ratings or by a prompt, that a game is played to the end.

    Args:
        moves: The game as it was played: UCI moves with single spaces between them.
        seed: Of the moves and of the half-move where they begin. Even seeds give games with the line above them.
    """
    dice = random.Random(seed)
    board = chess.Board()
    known = moves.split()
    announced = seed % 2 == 0
    start = dice.randrange(60) if announced else int(math.log(1 - dice.random()) / math.log(1 - STRAYING))
    for move in known[:start]:
        board.push_uci(move)
    while len(board.move_stack) < LONGEST_STRAY and (legal := list(board.legal_moves)):
        board.push(dice.choice(legal))
    return ("Any moves.\n" if announced else "") + " ".join(move.uci() for move in board.move_stack)


def maze(seed: int) -> str:
    """A maze and one of its shortest paths in words, from @ to $ through ~ around #.

    Args:
        seed: Of the maze and of the path.
    """
    dice = random.Random(seed)
    height, width = dice.randint(2, 8), dice.randint(2, 8)
    cells = [(y, x) for y in range(height) for x in range(width)]
    start, goal = dice.sample(cells, 2)
    walls = set(dice.sample(cells, int(len(cells) * dice.uniform(0, 0.5)))) - {start, goal}
    signs = {start: "@", goal: "$", **dict.fromkeys(walls, "#")}
    rows = ["".join(signs.get((y, x), "~") for x in range(width)) for y in range(height)]
    distance, queue = {goal: 0}, deque([goal])
    while queue:
        y, x = queue.popleft()
        for down, right in STEPS.values():
            near = (y + down, x + right)
            if 0 <= near[0] < height and 0 <= near[1] < width and near not in walls and near not in distance:
                distance[near] = distance[(y, x)] + 1
                queue.append(near)
    path, at = [], start
    while at != goal and start in distance:
        better = [
            (word, (at[0] + down, at[1] + right))
            for word, (down, right) in STEPS.items()
            if distance.get((at[0] + down, at[1] + right), 10**6) < distance[at]
        ]
        word, at = dice.choice(better)
        path.append(word)
    return "Maze\n" + "\n".join(rows) + "\nPath: " + (" ".join(path) or "none")


def dialogues(files: Iterable[Path]) -> Iterator[list[dict[str, str]]]:
    """Dialogues, each a list of chat messages with "role" and "content".

    Args:
        files: OASST message trees (.jsonl) and instruction lists (.json).

    Yields:
        Every assistant's reply of the trees with what led to it, and every instruction with its answer. A system
        message stands before half of the instructions.

    Raises:
        SoftPromptsError: A file cannot be read as dialogues.
    """
    for file in files:
        try:
            text = file.read_text()
            if file.suffix == ".jsonl":
                for line in text.splitlines():
                    yield from _replies(json.loads(line), [])
                continue
            for i, row in enumerate(json.loads(text)):
                system = [{"role": "system", "content": SYSTEM_MESSAGES[i // 2 % len(SYSTEM_MESSAGES)]}][: i % 2]
                request = "\n".join(part for part in (row["instruction"], row["input"]) if part)
                yield [*system, {"role": "user", "content": request}, {"role": "assistant", "content": row["output"]}]
        except (OSError, ValueError, KeyError) as error:
            raise SoftPromptsError(
                f"{file} cannot be read as dialogues ({error!r}); give OASST trees (.jsonl) or instruction lists "
                f"(.json)."
            ) from error


def _replies(message: dict, before: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """Every assistant's reply of the tree that begins with a message, with what led to it."""
    role = {"prompter": "user"}.get(message["role"], message["role"])
    dialogue = [*before, {"role": role, "content": message["text"].strip()}]
    if role == "assistant":
        yield dialogue
    for reply in message["replies"]:
        yield from _replies(reply, dialogue)
