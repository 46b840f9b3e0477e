"""Boards with a start, a goal, walls and a path. They are made in batches, without a loop over boards, and walked.

A board is H x W cells. A cell is also one number: y * W + x. Moves are 0 north, 1 east, 2 south, 3 west. A move against
a wall or the edge is a bump: it counts as a move and goes nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import count

import numpy as np

from soft_prompts.errors import SoftPromptsError

MOVES = "NESW"
"""The letter of each move."""
DONE, NO_WAY = "D", "U"
"""What a text says behind its last move, and what it says instead of moves if there is no way."""
FREE, WALL, START, GOAL = "O", "X", "A", "B"
"""The letters of the cells."""
BATCH = 2048
"""Boards made at a time."""
PATIENCE = 20
"""After this many batches without a single board of a kind that is needed, that kind is taken to be impossible."""
MAX_WANDER = 0.6
"""The largest chance that a move of a path is random."""
MAX_STRAY = 24
"""At most this many moves of one path are random, so that every path ends."""

_FAR = 2**14
"""The distance to the goal that walls and cells without a way are given. It is longer than any way."""


@dataclass(frozen=True)
class Boards:
    """N boards, each with one path from start to goal."""

    blocked: np.ndarray
    """bool [N, H, W], True where a wall is."""
    start: np.ndarray
    """int64 [N], the cell of the start."""
    goal: np.ndarray
    """int64 [N], the cell of the goal."""
    optimum: np.ndarray
    """int64 [N], moves of a shortest path; -1 if there is no way."""
    moves: np.ndarray
    """int8 [N, L], the path, then -1; L is the length of the longest path. All -1 if there is no way."""
    n_moves: np.ndarray
    """int64 [N], moves of the path; 0 if there is no way."""
    bumps: np.ndarray
    """int64 [N], how many of the moves went nowhere."""

    def __len__(self) -> int:
        return len(self.start)

    def take(self, chosen: np.ndarray) -> Boards:
        """Some of the boards.

        Args:
            chosen: Their indices, int [M], or a mask, bool [N].
        """
        return Boards(*(getattr(self, f.name)[chosen] for f in fields(self)))

    @property
    def extra(self) -> np.ndarray:
        """Moves of the path beyond those of a shortest path, int64 [N]; 0 if there is no way."""
        return np.where(self.optimum < 0, 0, self.n_moves - self.optimum)


@dataclass(frozen=True)
class Shape:
    """What kind of boards are made."""

    height: int = 8
    width: int = 8
    max_blocked: float = 0.75
    """At most this share of the cells is walls. The number of walls is uniform between 0 and that."""
    solvable_share: float | None = None
    """Share of the boards that have a way. None: no board is discarded, so the share is what comes out at random."""


def make_boards(n: int, shape: Shape, random: np.random.Generator) -> Boards:
    """Make boards at random, with or without a way. Every path has its own chance of straying.

    Args:
        n: How many.
        shape: Their size and walls. ``solvable_share`` is ignored.
        random: The source of all randomness.
    """
    height, width = shape.height, shape.width
    cells = height * width
    # Every board has its cells in a random order: the first is the start, the second the goal, the next ones are walls.
    order = random.random((n, cells), np.float32).argsort(1)
    n_walls = random.integers(0, int(shape.max_blocked * cells) + 1, n)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(cells)[None], 1)
    blocked = (rank >= 2) & (rank < 2 + n_walls[:, None])
    start, goal = order[:, 0], order[:, 1]
    blocked = blocked.reshape(n, height, width)
    away = distances(blocked, goal)
    optimum = away.reshape(n, cells)[np.arange(n), start].astype(np.int64)
    moves, n_moves, bumps = _paths(away, start, goal, optimum, random)
    return Boards(blocked, start, goal, optimum, moves, n_moves, bumps)


def distances(blocked: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Moves from every cell to the goal, by breadth-first search on all boards at once.

    In each pass the reached cells of every board grow by one step. Boards are the last axis during the search, so that
    each numpy operation runs over long stretches of memory.

    Args:
        blocked: bool [N, H, W], True where a wall is.
        goal: int [N], the cell of the goal.

    Returns:
        int16 [N, H, W]; -1 for walls and for cells without a way to the goal.
    """
    n, height, width = blocked.shape
    free = np.zeros((height + 2, width + 2, n), bool)  # a border of walls
    free[1:-1, 1:-1] = ~blocked.transpose(1, 2, 0)
    reached = np.zeros_like(free)
    reached[goal // width + 1, goal % width + 1, np.arange(n)] = True
    away = np.zeros(free.shape, np.int16)
    n_reached = 0
    while (now := np.count_nonzero(reached)) > n_reached:
        n_reached = now
        away += ~reached  # counts the passes that a cell waits
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        reached = grown & free
    away[~reached] = -1
    return np.ascontiguousarray(away[1:-1, 1:-1].transpose(2, 0, 1))


def _paths(
    away: np.ndarray, start: np.ndarray, goal: np.ndarray, optimum: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walk from every start to its goal. Each move leads nearer to the goal, or it is random.

    Returns:
        Moves int8 [N, L], their number int64 [N], and the number of bumps among them int64 [N], as in Boards.
    """
    n, height, width = away.shape
    wide = width + 2
    far = np.full((n, height + 2, wide), _FAR, np.int16)  # with a border of walls
    far[:, 1:-1, 1:-1] = np.where(away < 0, _FAR, away)
    far = far.reshape(n, -1)
    offsets = np.array([-wide, 1, wide, -1])
    at, end = ((cell // width + 1) * wide + cell % width + 1 for cell in (start, goal))
    chance = MAX_WANDER * random.random(n) ** 2
    chance[random.random(n) < 0.25] = 0  # some paths do not stray at all
    n_moves, bumps, strayed = (np.zeros(n, np.int64) for _ in range(3))
    columns = []
    walking = np.flatnonzero(optimum > 0)
    while len(walking):
        here = at[walking]
        near = far[walking[:, None], here[:, None] + offsets]  # [walking, 4]
        dice = random.random((len(walking), 6), np.float32)
        better = near < far[walking, here][:, None]
        best = (better * (dice[:, :4] + 1)).argmax(1)  # any of the moves that lead nearer
        stray = (dice[:, 4] < chance[walking]) & (strayed[walking] < MAX_STRAY)
        move = np.where(stray, (dice[:, 5] * 4).astype(np.int64), best)
        bump = near[np.arange(len(walking)), move] == _FAR
        at[walking] = np.where(bump, here, here + offsets[move])
        n_moves[walking] += 1
        bumps[walking] += bump
        strayed[walking] += stray
        column = np.full(n, -1, np.int8)
        column[walking] = move
        columns.append(column)
        walking = walking[at[walking] != end[walking]]
    moves = np.stack(columns, 1) if columns else np.empty((n, 0), np.int8)
    return moves, n_moves, bumps


def stream(shape: Shape, seed: tuple[int, ...]) -> Iterator[Boards]:
    """Boards without end, the same for the same seed.

    Args:
        shape: Their size, their walls and the share of them that has a way. Surplus boards of one kind are discarded.
        seed: Of the random numbers.

    Yields:
        At least one board and at most BATCH.

    Raises:
        SoftPromptsError: If ``shape.solvable_share`` asks for a kind of board that does not occur.
    """
    random = np.random.default_rng(seed)
    for n_batches in count(1):
        boards = make_boards(BATCH, shape, random)
        if shape.solvable_share is not None:
            solvable = boards.optimum >= 0
            kinds = {True: np.flatnonzero(solvable), False: np.flatnonzero(~solvable)}
            share = {True: shape.solvable_share, False: 1 - shape.solvable_share}
            n = min(int(len(kinds[k]) / share[k]) for k in kinds if share[k])
            n_solvable = round(n * shape.solvable_share)
            chosen = np.concatenate([kinds[True][:n_solvable], kinds[False][: n - n_solvable]])
            boards = boards.take(random.permutation(chosen))
            if n_batches == PATIENCE and not len(boards):
                raise SoftPromptsError(
                    f"{PATIENCE * BATCH:,} boards of {shape.width} x {shape.height} with at most "
                    f"{shape.max_blocked:.0%} walls were all {'solvable' if solvable.all() else 'alike'}, "
                    f"so --solvable-share {shape.solvable_share} cannot be met; "
                    f"leave it out (None) or change --max-blocked."
                )
        if len(boards):
            yield boards


# --- as text ---


def board_texts(boards: Boards, spaces: bool, moves_line: bool) -> list[str]:
    """Boards as rows of letters, up to where the moves begin.

    Args:
        boards: The boards.
        spaces: Put a space between the letters of a row.
        moves_line: End with a line "Moves:".

    Returns:
        One text for each board. Each ends with a line break.
    """
    n, height, width = boards.blocked.shape
    letters = np.where(boards.blocked, ord(WALL), ord(FREE)).astype(np.uint8)
    flat = letters.reshape(n, -1)
    flat[np.arange(n), boards.start] = ord(START)
    flat[np.arange(n), boards.goal] = ord(GOAL)
    step = 2 if spaces else 1
    text = np.full((n, height, step * width - step + 2), ord(" "), np.uint8)
    text[:, :, : step * width : step] = letters
    text[:, :, -1] = ord("\n")
    size = text.shape[1] * text.shape[2]
    joined = text.tobytes().decode("ascii")
    end = "Moves:\n" if moves_line else ""
    return [joined[i * size : (i + 1) * size] + end for i in range(n)]


def move_texts(boards: Boards, spaces: bool) -> list[str]:
    """The paths of boards as letters.

    Args:
        boards: The boards.
        spaces: Put a space between the letters.

    Returns:
        One text for each board: its moves and then D, or only U if there is no way.
    """
    n, longest = len(boards), boards.moves.shape[1]
    table = np.frombuffer(f"{MOVES}{DONE}".encode(), np.uint8)
    done = len(MOVES)
    # Everything behind a path is a D at first. All of them but one are cut off at the end.
    coded = np.full((n, longest + 1), done, np.int8)
    coded[:, :longest] = np.where(boards.moves < 0, done, boards.moves)
    letters = table[coded]
    if spaces:
        spaced = np.full((n, 2 * longest + 1), ord(" "), np.uint8)
        spaced[:, ::2] = letters
        letters = spaced
    joined, size = letters.tobytes().decode("ascii"), letters.shape[1]
    ends = (boards.n_moves * (2 if spaces else 1) + 1).tolist()
    solvable = (boards.optimum >= 0).tolist()
    return [joined[i * size : i * size + ends[i]] if solvable[i] else NO_WAY for i in range(n)]


# --- walking ---


@dataclass(frozen=True)
class Walk:
    """What a text does on a board."""

    cells: list[int]
    """The cell after every move, the start first. A bump repeats a cell."""
    bumps: int
    """How many of the moves went nowhere."""
    end: str
    """"D" or "U" as the text said, or "" if it said neither or if something unknown came first."""
    arrived: bool
    """Whether the text said D while standing on the goal."""

    @property
    def n_moves(self) -> int:
        """Moves made, bumps included."""
        return len(self.cells) - 1


def walk(blocked: np.ndarray, start: int, goal: int, text: str) -> Walk:
    """Replay a text on one board.

    Args:
        blocked: bool [H, W], True where a wall is.
        start: The cell of the start.
        goal: The cell of the goal.
        text: Moves and then D or U. White space is ignored, and so is everything behind D or U.
    """
    height, width = blocked.shape
    y, x = divmod(int(start), width)
    cells, bumps = [int(start)], 0
    steps = {"N": (-1, 0), "E": (0, 1), "S": (1, 0), "W": (0, -1)}
    for letter in "".join(text.split()):
        if letter in (DONE, NO_WAY):
            return Walk(cells, bumps, letter, letter == DONE and cells[-1] == goal)
        if letter not in steps:
            break
        down, right = steps[letter]
        if 0 <= y + down < height and 0 <= x + right < width and not blocked[y + down, x + right]:
            y, x = y + down, x + right
        else:
            bumps += 1
        cells.append(y * width + x)
    return Walk(cells, bumps, "", False)
