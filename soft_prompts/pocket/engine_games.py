"""Make games.pgn.zst: games that a chess engine plays against itself at many strengths, in the headers lichess uses.

    python -m soft_prompts.pocket.engine_games --engine /usr/games/stockfish --out games.pgn.zst

The engine is Stockfish with UCI_LimitStrength, whose nominal Elo stands as the rating of its side. It weakens itself
with a random generator that it seeds from the clock, so that another run makes other games of the same kind.
"""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import chess.engine
import chess.pgn
import tyro
import zstandard

from soft_prompts.console import progress_bar, say
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically

LONGEST = 160
"""Half-moves after which a game ends as a draw."""
RESIGN = 1000
"""Centipawns behind which a side resigns."""
CHUNK = 20
"""Games a worker plays before it reports."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    engine: Path
    """A UCI engine that knows UCI_LimitStrength and UCI_Elo, such as Debian's package stockfish."""
    out: Path
    """The file to write, .pgn.zst."""
    n_games: int = 2400
    """Games to play, rounded up to whole chunks of CHUNK."""
    min_elo: int = 1350
    """The lowest rating."""
    max_elo: int = 2600
    """The highest rating."""
    nodes: int = 2000
    """Positions the engine looks at before each move."""
    workers: int = 2
    """Processes that play at the same time, two engines each."""
    seed: int = 0
    """Of the ratings; the moves are the engine's."""


def play(engines: dict[chess.Color, chess.engine.SimpleEngine], limit: chess.engine.Limit) -> tuple[chess.Board, str]:
    """Play one game.

    Args:
        engines: Who plays white and who plays black.
        limit: How long the engines think about each move.

    Returns:
        The board at the end, with all moves, and the result as PGN writes it. A game ends by the rules, by a side that
        resigns, or as a draw after LONGEST half-moves.
    """
    board = chess.Board()
    while (outcome := board.outcome(claim_draw=True)) is None and len(board.move_stack) < LONGEST:
        played = engines[board.turn].play(board, limit, info=chess.engine.INFO_SCORE)
        score = played.info.get("score")
        if score is not None and score.relative.score(mate_score=100_000) < -RESIGN:
            return board, "0-1" if board.turn else "1-0"
        board.push(played.move)
    return board, outcome.result() if outcome else "1/2-1/2"


def play_games(settings: Settings, seed: int) -> str:
    """Play CHUNK games, in a worker process.

    Ratings are uniform, the second within 300 of the first, as paired players are.

    Args:
        settings: Options of the command line.
        seed: Which chunk this is. With the seed of the settings it decides the ratings.

    Returns:
        The games as PGN text.
    """
    dice = random.Random(f"{settings.seed}-{seed}")
    text = []
    engines = {color: chess.engine.SimpleEngine.popen_uci(str(settings.engine)) for color in chess.COLORS}
    name = engines[chess.WHITE].id.get("name", settings.engine.name)
    for _ in range(CHUNK):
        first = dice.randint(settings.min_elo, settings.max_elo)
        second = dice.randint(max(settings.min_elo, first - 300), min(settings.max_elo, first + 300))
        elos = dict(zip(chess.COLORS, dice.sample([first, second], 2), strict=True))
        for color, engine in engines.items():
            engine.configure({"UCI_LimitStrength": True, "UCI_Elo": elos[color]})
        board, result = play(engines, chess.engine.Limit(nodes=settings.nodes))
        headers = {
            "Event": "Rated Blitz game",
            "Site": "engine against itself",
            "White": f"{name} at {elos[chess.WHITE]}",
            "Black": f"{name} at {elos[chess.BLACK]}",
            "Result": result,
            "WhiteElo": str(elos[chess.WHITE]),
            "BlackElo": str(elos[chess.BLACK]),
            "TimeControl": "-",
        }
        game = chess.pgn.Game.from_board(board)
        game.headers.clear()
        game.headers.update(headers)
        text.append(f"{game}\n\n")
    for engine in engines.values():
        engine.quit()
    return "".join(text)


def main(settings: Settings) -> None:
    """Play on all workers and write the games, compressed.

    Raises:
        SoftPromptsError: There is no such engine, or the file cannot be written.
    """
    if not settings.engine.exists():
        raise SoftPromptsError(f"there is no engine {str(settings.engine)!r}; on Debian: apt-get install stockfish.")
    n_chunks = -(-settings.n_games // CHUNK)
    texts = []
    with ProcessPoolExecutor(settings.workers) as pool, progress_bar("playing", n_chunks) as advance:
        for text in pool.map(partial(play_games, settings), range(n_chunks)):
            texts.append(text)
            advance()
    data = zstandard.ZstdCompressor(level=19).compress("".join(texts).encode())
    write_atomically(settings.out, data)
    say(f"{n_chunks * CHUNK} games, {len(data):,} bytes in {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
