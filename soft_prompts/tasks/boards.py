"""Boards with a start, a goal, walls and a path: made in batches without a loop over boards, and walked.

A board is H x W cells. Moves are 0 north, 1 east, 2 south, 3 west; a move against a wall or the edge is a bump: it counts as a
move and goes nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import count

import numpy as np

from soft_prompts.errors import SoftPromptsError

MOVES = "NESW"
DONE, NO_WAY = "D", "U"
FREE, WALL, START, GOAL = "O", "X", "A", "B"
BATCH = 2048
"""Boards made at a time."""
PATIENCE = 20
"""Batches without a board of the kind that is missing after which it is taken to be impossible."""
MAX_WANDER = 0.6
"""The largest chance that a move of a shown path is random."""
MAX_STRAY = 24
"""Random moves in one path at most, so that every path ends."""


@dataclass(frozen=True)
class Boards:
    """N boards, each with one path from start to goal.

    blocked   bool [N, H, W]
    start     int [N], a cell as y * W + x; goal likewise
    optimum   int [N], moves of a shortest path; -1 where there is no way
    moves     int8 [N, L], the path shown, -1 behind its end; empty where there is no way
    n_moves   int [N]
    bumps     int [N], how many of the moves went nowhere
    """

    blocked: np.ndarray
    start: np.ndarray
    goal: np.ndarray
    optimum: np.ndarray
    moves: np.ndarray
    n_moves: np.ndarray
    bumps: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def take(self, chosen: np.ndarray) -> Boards:
        """Some of the boards, by index or mask."""
        return Boards(*(getattr(self, f.name)[chosen] for f in fields(self)))

    @property
    def extra(self) -> np.ndarray:
        """Moves beyond the optimum, int [N]; 0 where there is no way."""
        return np.where(self.optimum < 0, 0, self.n_moves - self.optimum)


@dataclass(frozen=True)
class Shape:
    """What boards are drawn from.

    max_blocked      share of the cells that is blocked at most; the number is uniform from 0 on
    solvable_share   share of the boards that have a way; None leaves them as they come
    """

    height: int = 8
    width: int = 8
    max_blocked: float = 0.75
    solvable_share: float | None = None


def make_boards(n: int, shape: Shape, random: np.random.Generator) -> Boards:
    """``n`` boards as they come, solvable or not, with paths that wander with a chance of their own."""
    height, width = shape.height, shape.width
    cells = height * width
    order = random.random((n, cells), np.float32).argsort(1)  # the first two are start and goal, the next ones walls
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
    """Moves from every cell to the goal, int16 [N, H, W]; -1 from where there is no way, walls included.

    Breadth-first search on all boards at once: the reached cells of every board grow by one step a pass. Boards stand in the
    last axis meanwhile, so that a step is a few operations on long stretches of memory.
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
    """Paths that take a step towards the goal or, by chance, any: moves [N, L], their number and the bumps among them."""
    n, height, width = away.shape
    wide = width + 2
    far = np.full((n, height + 2, wide), 2**14, np.int16)  # walls and the border are far from everything
    far[:, 1:-1, 1:-1] = np.where(away < 0, 2**14, away)
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
        bump = near[np.arange(len(walking)), move] == 2**14
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
    """Boards without end, BATCH or fewer at a time, the same for the same seed; those too many of one kind are thrown away."""
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
                    f"{PATIENCE * BATCH:,} boards of {shape.width} x {shape.height} with at most {shape.max_blocked:.0%} walls were all "
                    f"{'solvable' if solvable.all() else 'alike'}, so --solvable-share {shape.solvable_share} cannot be met; "
                    f"leave it out (None) or change --max-blocked."
                )
        if len(boards):
            yield boards


# --- as text ---


def board_texts(boards: Boards, spaces: bool, moves_line: bool) -> list[str]:
    """Every board as rows of letters, ending where its moves begin."""
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
    """The path of every board as letters, D behind its end; U where there is no way."""
    n, longest = len(boards), boards.moves.shape[1]
    table = np.frombuffer(f"{MOVES}{DONE}".encode(), np.uint8)
    coded = np.full((n, longest + 1), 4, np.int8)
    coded[:, :longest] = np.where(
        boards.moves < 0, 4, boards.moves
    )  # everything behind the path is a D; all but one are cut
    letters = table[coded]
    if spaces:
        spaced = np.full((n, 2 * longest + 1), ord(" "), np.uint8)
        spaced[:, ::2] = letters
        letters = spaced
    joined, size = letters.tobytes().decode("ascii"), letters.shape[1]
    ends = boards.n_moves * (2 if spaces else 1) + 1
    return [
        NO_WAY if optimum < 0 else joined[i * size : i * size + end]
        for i, (end, optimum) in enumerate(zip(ends.tolist(), boards.optimum.tolist(), strict=True))
    ]


# --- walking ---


@dataclass(frozen=True)
class Walk:
    """What a text does on a board."""

    cells: list[int]
    """The cells stood on, the start first; a bump repeats a cell."""
    bumps: int
    end: str
    """"D" or "U" as the text said, or "" if it never said either or something unknown stood before."""
    arrived: bool
    """Whether it said D while standing on the goal."""

    @property
    def n_moves(self) -> int:
        return len(self.cells) - 1


def walk(blocked: np.ndarray, start: int, goal: int, text: str) -> Walk:
    """Replay ``text`` on one board, ``blocked`` [H, W]. White space means nothing; what stands behind D or U neither."""
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
