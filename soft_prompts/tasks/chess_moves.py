"""Chess: predict the moves of a game, written in UCI notation, given both players' ratings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import chess
import numpy as np

from soft_prompts.addresses import without_secrets
from soft_prompts.console import say, warn
from soft_prompts.data.documents import Encoding, Split, split_of
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.data.pgn import GameFilter, Games, read_games
from soft_prompts.data.sources import fingerprint
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.options import added_later
from soft_prompts.stats import rate, ratio
from soft_prompts.tasks.base import Anchor, Conditions, Task, TaskScores, effect_of_condition

if TYPE_CHECKING:
    from soft_prompts.engine.evaluate import TokenScores

PUBLISHED_GAMES = "https://database.lichess.org/standard/lichess_db_standard_rated_2023-11.pgn.zst"
PUBLISHED_TEST_GAMES = "https://database.lichess.org/standard/lichess_db_standard_rated_2023-12.pgn.zst"

RATINGS = Conditions(("white's rating", "black's rating"), 1000, 2000)  # as published
_SQUARE = ("file (1 to 8) of white's first move", "its rank", "file of black's first move", "its rank")
OPENING = Conditions(_SQUARE, 4.5, 2)
"""Where the first move of each side goes to. A game of one half-move has the middle of the board for black's."""
PLIES_CONTINUED = 8
TOKENS_PER_PLY = 6
"""A UCI move is at most five characters and a space, and a token at least one of them."""


@dataclass(frozen=True)
class ChessExample(Example):
    """A game as tokens."""

    plies: np.ndarray = None  # type: ignore[assignment]
    """int [T], the half-move (from 0) that each token belongs to; -1 for the separator."""
    elos: tuple[int, int] = (0, 0)
    """Ratings of white and black."""

    @property
    def n_plies(self) -> int:
        """Half-moves of the game, as far as it is read."""
        return int(self.plies[-1]) + 1


@dataclass(frozen=True)
class ChessMoves(Task):
    """Which games are read.

    What is left at None follows the source: the published lichess files are filtered as published (rated blitz), files
    of your own are not filtered by speed.
    """

    games: str = PUBLISHED_GAMES
    """Training games: a .pgn, .pgn.zst or .pgn.gz, as a path or a URL that is streamed no further than needed."""
    test_games: str | None = None
    """Held-out games. None: the lichess file of the month after the published training file, or, with --games of your
    own, a tenth of that file, chosen by game hash."""
    speed: str | None = None
    """Only games whose Event names this speed, such as blitz or rapid; "any" takes all. None: blitz for the published
    file, else any."""
    rated: Literal["yes", "no", "any"] | None = None
    """Only rated games, only casual ones, or any. None: yes for the published file, else any."""
    min_elo: int = 1
    """Both players are rated at least this."""
    max_elo: int = 4000
    """Both players are rated at most this."""
    min_plies: int = 1
    """Shortest game, in half-moves."""
    max_games: int = 131_072
    """Games read for training, from the start of the file (131,072 = 4,096 steps of 32)."""
    max_test_games: int = 4096
    """Held-out games read; those that are scored (--train.eval-documents) are chosen among them by hash."""
    continued_games: int = 64
    """Held-out games that the model continues on its own to count legal moves."""
    continued_from: tuple[int, ...] = (10, 40)
    """Half-moves after which it takes over."""

    anchor_text: str = added_later("")
    """A text that is known to make the model play, such as "White {white}, Black {black}.\n", with both players'
    ratings put in. Distances are then measured by its loss. Empty: none is known."""
    condition: Literal["ratings", "opening"] = added_later("ratings")
    """What the prompt is told of a game: both players' ratings, or where the first move of each side goes to. That says
    much of the game, and so shows whether a condition is used at all."""

    file_options: ClassVar[tuple[str, ...]] = ("games", "test_games")

    @property
    def headline(self) -> tuple[str, ...]:  # type: ignore[override]
        return "move_match", "legal_after_10", self._effect

    @property
    def _effect(self) -> str:
        """Name of the score that says what use is made of the condition."""
        return "elo_effect" if self.condition == "ratings" else "opening_effect"

    @property
    def conditions(self) -> Conditions:  # type: ignore[override]
        """What a prompt depends on."""
        return RATINGS if self.condition == "ratings" else OPENING

    @property
    def game_filter(self) -> GameFilter:
        """Which games of a file are taken."""
        published = self.games == PUBLISHED_GAMES
        speed = self.speed or ("blitz" if published else "any")
        rated = self.rated or ("yes" if published else "any")
        return GameFilter(
            speed=None if speed == "any" else speed,
            rated={"yes": True, "no": False, "any": None}[rated],
            min_elo=self.min_elo,
            max_elo=self.max_elo,
            min_plies=self.min_plies,
        )

    @property
    def test_source(self) -> str | None:
        """Where held-out games come from. None: a share of ``games``."""
        return self.test_games or (PUBLISHED_TEST_GAMES if self.games == PUBLISHED_GAMES else None)

    def identity(self) -> dict[str, str]:
        sources = {"games": self.games, "test_games": self.test_source}
        return {name: fingerprint(source) for name, source in sources.items() if source}

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[ChessExample]:
        """Games as move text behind the separator, every move scored, cut after the last move that fits.

        No two splits share a game, and two games of the same moves are the same game.
        """
        games = self._split(encoding)
        if split != "train":
            of_split = (games.test, games.held_out) if split == "held_out" else (games.games, games.validation)
            yield from _encode(*of_split, encoding, self.condition)
            return
        random = np.random.default_rng(seed)
        while True:
            yield from _encode(games.games, random.permutation(games.train), encoding, self.condition)

    def facts(self, encoding: Encoding) -> dict[str, Any]:
        games = self._split(encoding)
        return {
            "train_games": len(games.train),
            "validation_games": len(games.validation),
            "held_out_games": len(games.held_out),
            "skipped": games.games.skipped,
            "complete": games.games.complete and games.test.complete,
            "notes": [note for note in dict.fromkeys([games.games.note, games.test.note]) if note],
        }

    def _split(self, encoding: Encoding) -> _SplitGames:
        wanted = _Wanted(self.games, self.test_source, self.game_filter, self.max_games, self.max_test_games)
        return _split(wanted, tuple(self.identity().values()), encoding.cache)

    def anchor(self, bench: Bench) -> Anchor | None:
        """The loss of the held-out games behind ``anchor_text``."""
        if not self.anchor_text:
            return None
        from soft_prompts.engine.behind import behind_texts

        texts = [self.anchor_text.format(white=e.elos[0], black=e.elos[1]) for e in bench.held_out]
        return Anchor("the trigger text", *behind_texts(bench, texts))

    def score(self, prompted: PromptedModel, held_out: Sequence[ChessExample]) -> TaskScores:
        """Predicted moves of held-out games, the use made of the condition, and legal moves of free continuations.

        nats_per_move: held-out loss by move instead of by token.
        elo_effect: nats per token that are lost if every game gets the ratings of another one; with --condition
            opening it is called opening_effect and is of the openings.
        move_match: share of the moves whose every token is the model's first choice; _by_elo: by the mover's rating.
        legal_after_N: share of games whose first continued move, after N half-moves, is legal; legal_by_ply_after_N:
            whose
        first 1, 2, ... continued moves all are.
        """
        true = prompted.held_out_scores
        order = np.random.default_rng(0).permutation(len(held_out))
        strangers = [replace(e, condition=held_out[i].condition) for e, i in zip(held_out, order, strict=True)]
        shuffled = prompted.scores(strangers)
        scores = {
            "nats_per_move": ratio(true.sums, np.array([e.n_plies for e in held_out])),
            self._effect: effect_of_condition(true, shuffled),
            **move_match(true, held_out),
        }
        samples = []
        for n_plies in self.continued_from:
            continuations = _continue(prompted, held_out, n_plies, self.continued_games)
            legal = np.array([c.legal for c in continuations], bool).reshape(-1, PLIES_CONTINUED)
            scores[f"legal_after_{n_plies}"] = rate(legal[:, 0])
            scores[f"legal_by_ply_after_{n_plies}"] = {
                str(ply + 1): rate(legal[:, ply]) for ply in range(PLIES_CONTINUED)
            }
            samples += [c.sample for c in continuations[:2]]
        return TaskScores(scores, samples)


@dataclass(frozen=True)
class _Wanted:
    """Which games are read; see ChessMoves for the fields."""

    games: str
    test_source: str | None
    game_filter: GameFilter
    max_games: int
    max_test_games: int


@dataclass(frozen=True)
class _SplitGames:
    games: Games
    train: np.ndarray
    """Which of ``games`` are trained on, int64."""
    validation: np.ndarray
    """Which of ``games`` are for validation, int64."""
    test: Games
    held_out: np.ndarray
    """Which of ``test`` are held out, int64."""


@lru_cache(maxsize=2)
def _split(wanted: _Wanted, identity: tuple[str, ...], cache: Path | None) -> _SplitGames:
    """Read games and keep the splits apart.

    ``identity`` is that of the files. It is only a part of the key under which the result is remembered: a file that
    changes under its name is read again.
    """
    games = _read(wanted.games, wanted.game_filter, wanted.max_games, cache)
    ids = [games.id(i) for i in range(len(games))]
    # Of games with the same moves, the first one stands for all: hence the reversed order.
    if wanted.test_source:
        test = _read(wanted.test_source, wanted.game_filter, wanted.max_test_games, cache)
        held_out = {test.id(i): i for i in reversed(range(len(test)))}
    else:
        test = games
        held_out = {ids[i]: i for i in reversed(range(len(games))) if split_of(ids[i]) == "held_out"}
    own = [i for i, game in enumerate(ids) if game not in held_out]
    validation = {ids[i]: i for i in reversed(own) if split_of(ids[i]) == "validation"}
    train = np.array([i for i in own if ids[i] not in validation], np.int64)
    needed = (
        ("training", len(train), "--games"),
        ("validation", len(validation), "--games"),
        ("held-out", len(held_out), "--test-games"),
    )
    for what, n, remedy in needed:
        if not n:
            raise SoftPromptsError(
                f"no {what} games are left of the {len(games)} in {without_secrets(wanted.games)} that pass the filter "
                f"once the splits are kept apart; give more with {remedy}."
            )
    # Chosen by hash, not in file order: neighbours in a file are often games of the same two players.
    chosen, validated = (
        np.array([of_split[game] for game in sorted(of_split)][: wanted.max_test_games])
        for of_split in (held_out, validation)
    )
    return _SplitGames(games, train, validated, test, chosen)


def _read(source: str, game_filter: GameFilter, max_games: int, cache: Path | None) -> Games:
    games = read_games(source, game_filter, max_games, cache)
    skipped = ", ".join(f"{n:,} {reason}" for reason, n in games.skipped.items())
    say(f"{len(games):,} games from {without_secrets(source)}" + (f"; skipped: {skipped}" if skipped else ""))
    if games.note:
        warn(games.note)
    return games


def _encode(
    games: Games, indices: np.ndarray, encoding: Encoding, told: Literal["ratings", "opening"]
) -> Iterator[ChessExample]:
    for start in range(0, len(indices), 256):  # the tokenizer is several times faster on many texts than on one
        part = indices[start : start + 256]
        texts = [games.moves(i) for i in part]
        for i, text, tokens, starts in zip(part, texts, *encoding.tokens(texts), strict=True):
            plies = _plies(text, starts)
            if len(tokens) > encoding.max_tokens:  # keep whole moves only
                kept = np.searchsorted(plies, plies[encoding.max_tokens])
                tokens, plies = tokens[:kept], plies[:kept]
            if len(tokens) > 1:
                labels = np.concatenate([[IGNORE], tokens[1:]])
                white, black = (int(x) for x in games.elos[i])
                condition = RATINGS([white, black]) if told == "ratings" else opening(text)
                yield ChessExample(tokens, labels, games.id(i), condition=condition, plies=plies, elos=(white, black))


def opening(text: str) -> np.ndarray:
    """Where the first move of each side goes to, as prompts are told it: float32 [4]."""
    squares = [ord(c) - ord("a" if c.isalpha() else "1") + 1 for move in text.split()[:2] for c in move[2:4]]
    return OPENING([*squares, 4.5, 4.5][:4])


def _plies(text: str, starts: np.ndarray) -> np.ndarray:
    """The half-move that each token belongs to, by the character it starts at. A space belongs to the move behind
    it."""
    ends = np.flatnonzero(np.frombuffer(text.encode(), np.uint8) == ord(" "))  # of each move but the last
    return np.where(starts < 0, -1, np.searchsorted(ends, starts, side="right"))


def move_match(scores: TokenScores, held_out: Sequence[ChessExample]) -> dict:
    """Share of moves whose every token is the model's first choice: those that greedy decoding would have played."""
    buckets: dict[str, list[tuple[int, int]]] = {}
    matches, moves = [], []
    for e, correct in zip(held_out, scores.correct, strict=True):
        match = np.ones(e.n_plies, bool)
        np.logical_and.at(match, e.plies[1:], correct)
        matches.append(match.sum())
        moves.append(len(match))
        for side in (0, 1):
            rating = e.elos[side] // 400 * 400
            own = match[side::2]
            buckets.setdefault(f"{rating}-{rating + 399}", []).append((own.sum(), len(own)))
    by_elo = {
        name: ratio(*np.array(counts).T)
        for name, counts in sorted(buckets.items(), key=lambda bucket: int(bucket[0].split("-")[0]))
    }
    return {"move_match": ratio(np.array(matches), np.array(moves)), "move_match_by_elo": by_elo}


@dataclass(frozen=True)
class _Continuation:
    legal: list[bool]
    """For each half-move continued: it and all before it are legal."""
    sample: dict[str, str]


def _continue(
    prompted: PromptedModel, held_out: Sequence[ChessExample], n_plies: int, n_games: int
) -> list[_Continuation]:
    """Greedy continuations of held-out games from half-move ``n_plies``.

    Which games are long enough does not depend on the prompt, so all prompt lengths continue the same games.
    """
    n_new = PLIES_CONTINUED * TOKENS_PER_PLY
    fitting = [(e, int(np.searchsorted(e.plies, n_plies))) for e in held_out if e.n_plies > n_plies]
    fitting = [(e, n) for e, n in fitting if n + n_new <= prompted.bench.encoding.max_tokens][:n_games]
    starts = [e.prefix(n) for e, n in fitting]
    continuations = []
    for (e, _), start, new in zip(fitting, starts, prompted.generate(starts, n_new), strict=True):
        given = prompted.decode(start.tokens[1:]).split()
        words = prompted.decode(np.concatenate([start.tokens[1:], new])).split()
        sample = {
            "kind": "board",
            "elos": f"{e.elos[0]} {e.elos[1]}",
            "start": " ".join(given),
            "continuation": " ".join(words[len(given) :]),
            "played": " ".join(prompted.decode(e.tokens[1:]).split()[n_plies:][:PLIES_CONTINUED]),
        }
        continuations.append(_Continuation(_legal(given, words), sample))
    return continuations


def _legal(given: list[str], words: list[str]) -> list[bool]:
    """Whether each of the half-moves behind ``given`` is legal, and all before it. A game that is over cannot go
    wrong."""
    board = chess.Board()
    for move in given:
        board.push_uci(move)
    legal = []
    alive = words[: len(given)] == given  # not so if the first new token lengthens the last given move
    for ply in range(len(given), len(given) + PLIES_CONTINUED):
        if alive and not board.is_game_over():
            alive = ply < len(words) and _push(board, words[ply])
        legal.append(alive)
    return legal


def _push(board: chess.Board, word: str) -> bool:
    """Play a move if it is legal (python-chess would also play 0000, which passes the turn)."""
    try:
        board.push_uci(word)
    except ValueError:
        return False
    return word != "0000"
