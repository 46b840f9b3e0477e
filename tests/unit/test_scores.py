"""What each task's scores say, by hand: scripted losses and scripted continuations go in, known values come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from soft_prompts.data.boards import MOVES, Boards, board_texts
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import TokenScores
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.loading import load
from soft_prompts.stats import ratio
from soft_prompts.tasks import pathfinding
from soft_prompts.tasks.autoregressive import Autoregressive
from soft_prompts.tasks.chat_detuning import REQUESTS, SYSTEMS, ChatDetuning, crossed_rate, crossed_ratio
from soft_prompts.tasks.chess_moves import ChessExample, ChessMoves
from soft_prompts.tasks.chess_moves import opening as told
from soft_prompts.tasks.pathfinding import BoardExample, Pathfinding, random_writer, symbol_shares
from soft_prompts.tasks.repetition import Repetition
from soft_prompts.tasks.skip_tokens import SkipTokens
from tests.unit.made_up import encoding


@dataclass
class Scripted:
    """Stands where a PromptedModel stands. Every byte is a token; what it scores and writes is given by hand."""

    held_out: Sequence[Example] = ()
    losses: Callable[[Example], Sequence[float]] = lambda e: [0.0] * e.n_scored
    """Nats of the scored tokens of an example."""
    correct: Callable[[Example], Sequence[bool]] = lambda e: [False] * e.n_scored
    """Whether each of them is the first choice."""
    writes: Callable[[Example, float], str] = lambda start, temperature: ""
    """The text behind a start at a temperature, as long as the script has it. ``generate`` cuts it."""
    max_tokens: int = 512
    chat_template: str | None = None

    def __post_init__(self) -> None:
        coding = encoding(self.max_tokens)
        coding.tokenizer.chat_template = self.chat_template
        self.bench = SimpleNamespace(
            encoding=coding,
            held_out=self.held_out,
            model=SimpleNamespace(tokenizer=coding.tokenizer, name="scripted", context=10_000),
            once=lambda name, find: find(),
        )
        self.intervention = SimpleNamespace(n_tokens=0)

    @property
    def held_out_scores(self) -> TokenScores:
        return self.scores(self.held_out)

    def scores(self, examples: Sequence[Example]) -> TokenScores:
        losses = [np.array(self.losses(e), np.float32) for e in examples]
        correct = [np.array(self.correct(e), bool) for e in examples]
        assert all(len(x) == len(y) == e.n_scored for x, y, e in zip(losses, correct, examples, strict=True))
        return TokenScores([e.document for e in examples], losses, correct)

    def generate(
        self, starts: Sequence[Example], n_new: int, temperature: float = 0.0, seed: int = 0
    ) -> list[np.ndarray]:
        assert all(len(e) + n_new <= self.max_tokens for e in starts)
        return [coded(self.writes(e, temperature))[:n_new] for e in starts]

    def decode(self, tokens: np.ndarray) -> str:
        return self.bench.encoding.tokenizer.decode(tokens)


def coded(text: str) -> np.ndarray:
    """The bytes of a text as tokens, without the separator."""
    return encoding().tokens([text])[0][0][1:]


def spelled(tokens: np.ndarray) -> str:
    """The text of tokens, the separator left out."""
    return encoding().tokenizer.decode(tokens[1:])


def value(score: dict) -> tuple[float, int]:
    return pytest.approx(score["value"]), score["n"]


# --- chess ---


def game(document: str, moves: str, white: int, black: int) -> ChessExample:
    """A game of one token for each character. The space belongs to the move behind it."""
    tokens = np.array([0, *coded(moves)])
    plies = np.cumsum([character == " " for character in moves])
    condition = (np.array([white, black], np.float32) - 1000) / 2000
    labels = np.array([IGNORE, *tokens[1:]])
    return ChessExample(
        tokens, labels, document, condition=condition, plies=np.array([-1, *plies]), elos=(white, black)
    )


OPENING = "e2e4 e7e5 g1f3 b8c6 f1c4 f8c5 e1g1 g8f6 d2d3 d7d6 c2c3 a7a6"


def opening(n_plies: int) -> str:
    return " ".join(OPENING.split()[:n_plies])


def test_chess_nats_per_move_are_all_nats_by_all_moves() -> None:
    held_out = [game("a", opening(4), 1200, 1200), game("b", opening(5), 1200, 1200)]
    nats = {"a": 8.0, "b": 2.0}
    behind = Scripted(held_out, losses=lambda e: [nats[e.document] / e.n_scored] * e.n_scored)
    score = ChessMoves("", continued_from=()).score(behind, held_out).scores["nats_per_move"]
    assert value(score) == (10 / 9, 2)  # the mean over games would be 1.2


def test_chess_elo_effect_is_what_the_ratings_of_other_games_cost_by_token() -> None:
    """Nats per token grow by the distance of white's rating from the true one, in thousands."""
    whites = {"a": 1000, "b": 1200, "c": 1600}
    held_out = [game(name, opening(i), white, 2000) for i, (name, white) in enumerate(whites.items(), start=1)]
    assert [e.n_scored for e in held_out] == [4, 9, 14]

    def losses(e: Example) -> list[float]:
        white, black = e.condition * 2000 + 1000
        assert black == 2000
        return [3 + abs(white - whites[e.document]) / 1000] * e.n_scored

    score = ChessMoves("", continued_from=()).score(Scripted(held_out, losses), held_out).scores["elo_effect"]
    # The order drawn with seed 0: a is given c's rating, b is given a's, and c is given b's.
    assert value(score) == ((4 * 0.6 + 9 * 0.2 + 14 * 0.4) / (4 + 9 + 14), 3)


def test_chess_elo_effect_is_paired_by_game() -> None:
    held_out = [game(str(i), opening(4), 1000 + i, 1000) for i in range(7)]
    own = {e.document: e.condition[0] for e in held_out}
    behind = Scripted(held_out, lambda e: [int(e.document) + 0.5 * (e.condition[0] != own[e.document])] * e.n_scored)
    score = ChessMoves("", continued_from=()).score(behind, held_out).scores["elo_effect"]
    order = np.random.default_rng(0).permutation(7)
    assert (order != np.arange(7)).all()  # so each game is read with a stranger's rating
    assert score["value"] == pytest.approx(0.5)
    assert score["interval"] == pytest.approx([0.5, 0.5])  # though games differ by up to six nats per token


def test_chess_opening_effect_is_what_the_openings_of_other_games_cost() -> None:
    texts = {"a": "e2e4 e7e5", "b": "d2d4 g8f6", "c": "g1f3 d7d5"}
    games = [replace(game(name, text, 1000, 1000), condition=told(text)) for name, text in texts.items()]
    own = {e.document: e.condition for e in games}
    behind = Scripted(games, lambda e: [1 + abs(e.condition - own[e.document]).sum()] * e.n_scored)
    scores = ChessMoves("", continued_from=(), condition="opening").score(behind, games).scores
    assert "elo_effect" not in scores
    # The order drawn with seed 0: a is told c's opening, b is told a's, and c is told b's. In halves of a square:
    # c to a: |6 - 5| + |3 - 4| + |4 - 5| + |5 - 5| = 3, a to b: 1 + 0 + 1 + 1 = 3, b to c: 2 + 1 + 2 + 1 = 6.
    assert value(scores["opening_effect"]) == ((1.5 + 1.5 + 3) / 3, 3)


def test_chess_move_match_counts_each_move_for_the_rating_of_who_made_it() -> None:
    held_out = [game("a", opening(4), 1200, 800), game("b", opening(5), 850, 2000)]
    wrong_plies = {"a": (1,), "b": (0, 3)}

    def correct(e: ChessExample) -> np.ndarray:
        right = np.ones(e.n_scored, bool)
        for ply in wrong_plies[e.document]:
            right[np.flatnonzero(e.plies[1:] == ply)[-1]] = False  # one character of the move
        return right

    scores = ChessMoves("", continued_from=()).score(Scripted(held_out, correct=correct), held_out).scores
    assert value(scores["move_match"]) == (6 / 9, 2)
    by_elo = scores["move_match_by_elo"]
    assert list(by_elo) == ["800-1199", "1200-1599", "2000-2399"]
    assert value(by_elo["800-1199"]) == (3 / 5, 2)  # black's e7e5 b8c6 in a, white's e2e4 g1f3 f1c4 in b
    assert value(by_elo["1200-1599"]) == (1, 1)  # white's two in a
    assert value(by_elo["2000-2399"]) == (1 / 2, 1)  # black's two in b


def test_chess_legal_moves_are_counted_on_the_first_games_that_are_long_enough() -> None:
    plies = {"a": 6, "b": 4, "two": 2, "c": 6, "d": 6, "beyond": 6}
    held_out = [game(name, opening(n), 1200, 1200) for name, n in plies.items()]
    on = {n: OPENING[len(opening(n)) :] for n in (2, 4)}  # legal throughout
    texts = {
        ("a", 2): on[2],
        ("b", 2): " 0000" + on[2],
        ("c", 2): " g1f3 b8c6 f1c7 f8c5 e1g1 g8f6 d2d3 d7d6",  # the third is illegal, so the rest count for nothing
        ("a", 4): " f1c4",  # ends after one
        ("c", 4): on[4],
        ("d", 4): on[4],
    }

    def writes(start: Example, temperature: float) -> str:
        return "" if temperature else texts[start.document, len(spelled(start.tokens).split())]

    task = ChessMoves("", continued_from=(2, 4), continued_games=3)
    scores = task.score(Scripted(held_out, writes=writes), held_out).scores
    assert value(scores["legal_after_2"]) == (2 / 3, 3)
    assert value(scores["legal_after_4"]) == (1, 3)
    by_ply = {n: [score["value"] for score in scores[f"legal_by_ply_after_{n}"].values()] for n in (2, 4)}
    assert list(scores["legal_by_ply_after_2"]) == list("12345678")
    assert by_ply[2] == pytest.approx([2 / 3] * 2 + [1 / 3] * 6)
    assert by_ply[4] == pytest.approx([1] + [2 / 3] * 7)


def test_chess_games_without_room_for_eight_moves_are_not_continued() -> None:
    held_out = [game("a", opening(6), 1200, 1200)]
    task = ChessMoves("", continued_from=(4,))
    n_read = 1 + len(opening(4))
    for max_tokens, n in ((n_read + 8 * 6, 1), (n_read + 8 * 6 - 1, 0)):
        behind = Scripted(held_out, writes=lambda start, temperature: " f1c4", max_tokens=max_tokens)
        assert task.score(behind, held_out).scores["legal_after_4"]["n"] == n


# --- pathfinding ---

CORNER = "AXB/OOO"
"""Four moves lead from A to B: S E E N."""
HOPELESS = "AXB/OXO"


def board(rows: str, path: str = "", optimum: int = -1) -> Boards:
    """A board by its letters, and its path without the closing letter, - for no move."""
    letters = np.array([list(row) for row in rows.split("/")])
    start, goal = (np.flatnonzero(letters.ravel() == letter) for letter in "AB")
    moves = np.array([[MOVES.find(letter) for letter in path]], np.int8)  # -1 is no move
    return Boards(
        (letters == "X")[None],
        start,
        goal,
        np.array([optimum]),
        moves,
        np.array([len(path.strip("-"))]),
        np.zeros(1, int),
    )


def board_example(document: str, boards: Boards) -> BoardExample:
    """A board of one token for each letter, then a path of one letter."""
    text = board_texts(boards, False, False)[0]
    tokens = np.array([0, *coded(text + "D")])
    labels = np.array([IGNORE] * (1 + len(text)) + [tokens[-1]])
    return BoardExample(tokens, labels, document, condition=np.full(2, 0.5, np.float32), boards=boards)


def maze(**options) -> Pathfinding:
    return Pathfinding(width=3, height=2, spaces=False, moves_line=False, **options)


def test_pathfinding_scores_of_walks_that_were_asked_to_be_the_best() -> None:
    texts = {
        "best": (CORNER, "SEEND"),
        "roundabout": (CORNER, "SENEEND"),  # north of the bottom middle is the wall: a bump, and then one of the edge
        "further": (CORNER, "SNSWEEEND"),
        "gives up": (CORNER, "EU"),
        "stops short": (CORNER, "WND"),
        "lost": (CORNER, "SEENx"),  # on the goal, but it says something else there
        "sees": (HOPELESS, "U"),
        "sees it late": (HOPELESS, "SU"),
        "claims": (HOPELESS, "D"),
        "silent": (HOPELESS, ""),
        "blind": (HOPELESS, "ooU"),
        "beyond": (CORNER, "SEEND"),  # not among those that are walked
    }
    optimum = {CORNER: 4, HOPELESS: -1}
    held_out = [board_example(name, board(rows, optimum=optimum[rows])) for name, (rows, _) in texts.items()]

    def writes(start: Example, temperature: float) -> str:
        best = not temperature and not start.condition.any()
        assert spelled(start.tokens) == texts[start.document][0].replace("/", "\n") + "\n"
        return texts[start.document][1] if best else ""

    scores = maze(walked=11, walked_asked=4).score(Scripted(held_out, writes=writes), held_out).scores
    assert value(scores["arrives"]) == (3 / 6, 6)
    assert value(scores["optimal"]) == (1 / 6, 6)
    assert value(scores["excess_moves"]) == ((0 + 2 + 4) / 3, 3)
    assert value(scores["bumps"]) == ((0 + 2 + 2 + 1 + 2 + 0) / 6, 6)
    assert value(scores["says_no_way_rightly"]) == (2 / 5, 5)
    assert value(scores["says_no_way_wrongly"]) == (1 / 6, 6)
    assert value(scores["says_done_wrongly"]) == (2 / 11, 11)
    assert value(scores["invalid"]) == (3 / 11, 11)
    assert not any(name.startswith(("random_walker", "shortest")) for name in scores)


@pytest.mark.parametrize(
    ("max_tokens", "n_symbols"),
    [
        (64, 12),  # twice the six cells
        (1 + 8 + 7, 7),  # no longer than the texts that are trained on: a separator, eight letters of a board, moves
    ],
)
def test_pathfinding_a_walk_is_given_up_where_the_text_must_end(max_tokens: int, n_symbols: int) -> None:
    held_out = [board_example(name, board(CORNER, optimum=4)) for name in ("in time", "too late")]

    def writes(start: Example, temperature: float) -> str:
        spare = n_symbols - len("SEEND") + (start.document == "too late")
        return "N" * spare + "SEEND"

    task = maze(walked=2, walked_asked=0)
    scores = task.score(Scripted(held_out, writes=writes, max_tokens=max_tokens), held_out).scores
    assert value(scores["arrives"]) == (1 / 2, 2)
    assert value(scores["invalid"]) == (1 / 2, 2)


def test_pathfinding_obtained_is_how_walks_come_out_that_were_asked_to_be_worse() -> None:
    """Asked for 4 extra moves and 1 bump, a walks 2 extra with both of them bumps, b 6 without a bump, c nowhere."""
    walked = {"a": "WWSEEND", "b": "SNSNSNSEEND", "c": "SEEU", "beyond": "SEEND"}
    held_out = [board_example("no way", board(HOPELESS))]
    held_out += [board_example(name, board(CORNER, optimum=4)) for name in walked]

    def writes(start: Example, temperature: float) -> str:
        asked = [int(x) for x in start.condition * 8]
        if temperature != 1:
            return "U"
        return walked[start.document] if asked == [4, 1] else "SEEND" if asked == [0, 3] else "D"

    scores = maze(walked=5, walked_asked=3).score(Scripted(held_out, writes=writes), held_out).scores
    extra, bumps = scores["obtained_extra"], scores["obtained_bumps"]
    asked = [f"{e} extra, {b} bumps" for e in (0, 2, 4, 8) for b in (0, 1, 3)]
    assert list(extra) == list(bumps) == asked
    assert value(extra["4 extra, 1 bumps"]) == (4, 2)
    assert value(bumps["4 extra, 1 bumps"]) == (1, 2)
    assert extra["4 extra, 1 bumps"]["spread"] == pytest.approx(2)
    assert bumps["4 extra, 1 bumps"]["spread"] == pytest.approx(1)
    assert value(extra["0 extra, 3 bumps"]) == value(bumps["0 extra, 3 bumps"]) == (0, 3)
    assert extra["8 extra, 3 bumps"] == {"value": None, "interval": None, "n": 0, "spread": None}
    assert scores["arrives"]["value"] == 0  # the best path is asked for without drawing


SHARES = {"E": 0.5, "D": 0.25, "U": 0.25}


def random_scores(longest: int, rows: str = "AB", shares: dict[str, float] = SHARES, n: int = 300) -> dict:
    """The random writer on copies of one board and as many without a way."""
    made = [board(rows, optimum=1), board("AXB")] * n
    p = np.array([shares.get(symbol, 0) for symbol in "NESWDU"])
    return random_writer([board_example(str(i), b) for i, b in enumerate(made)], p, longest)


def test_pathfinding_the_random_writer_arrives_as_often_as_chance_has_it() -> None:
    """A and B side by side. It arrives if the first symbol is E and a D comes before a U: further moves E are bumps at
    the edge and leave it on the goal, but it is then no longer optimal."""
    scores = random_scores(longest=40)
    assert scores["random_writer_arrives"]["value"] == pytest.approx(0.5 * 0.5, abs=0.01)
    assert scores["random_writer_optimal"]["value"] == pytest.approx(0.5 * 0.25, abs=0.01)
    assert scores["random_writer_arrives"]["n"] == scores["random_writer_optimal"]["n"] == 300
    low, high = scores["random_writer_arrives"]["interval"]
    sd = (0.25 * 0.75 / pathfinding.RANDOM_TEXTS) ** 0.5  # of the share of one board's texts
    assert high - low == pytest.approx(2 * 1.96 * sd / 300**0.5, rel=0.15)  # boards are the sample
    assert scores == random_scores(longest=40)


def test_pathfinding_the_random_writer_has_the_models_limit_and_must_say_done_itself() -> None:
    assert random_scores(longest=1)["random_writer_arrives"]["value"] == 0
    assert random_scores(longest=2)["random_writer_arrives"]["value"] == pytest.approx(0.5 * 0.25, abs=0.01)
    never = random_scores(longest=40, shares={"E": 1.0})
    assert never["random_writer_arrives"]["value"] == never["random_writer_optimal"]["value"] == 0
    only_north = random_scores(longest=40, rows="B/A", shares={"N": 0.5, "D": 0.25, "U": 0.25})
    assert only_north["random_writer_arrives"]["value"] == pytest.approx(0.25, abs=0.01)
    assert random_scores(longest=40, rows="B/A")["random_writer_arrives"]["value"] == 0


def test_pathfinding_symbols_are_counted_with_the_letter_that_closes_the_path() -> None:
    made = [board("AOB", "EE", 2), board("AXB", "--"), board("AOB", "WE", 2)]  # EED, U, WED; the middle has no moves
    fields = ([getattr(b, field) for b in made] for field in Boards.__dataclass_fields__)
    np.testing.assert_allclose(
        symbol_shares(Boards(*map(np.concatenate, fields))), np.array([0, 3, 0, 1, 2, 1]) / 7
    )  # N E S W D U


def test_pathfinding_the_random_writer_is_scored_on_the_walked_boards_with_the_symbols_of_training(monkeypatch) -> None:
    """Against the exact chance: a walk at random as a Markov chain over the cells."""
    monkeypatch.setattr(pathfinding, "RANDOM_TEXTS", 1000)
    task = replace(maze(walked=12, walked_asked=0), max_blocked=0.5)
    code = encoding(64)
    held_out = list(islice(task.examples("held_out", code, 0), 30))
    scores = task.score(Scripted(held_out, max_tokens=64), held_out).scores
    trained = "".join(spelled(e.tokens).split("\n")[-1] for e in islice(task.examples("train", code, 0), 2000))
    p = {symbol: trained.count(symbol) / len(trained) for symbol in "NESWDU"}
    assert sum(p.values()) == pytest.approx(1)
    walked = [e.boards for e in held_out[:12] if e.solvable]
    exact = np.array([chances(b, p, 12) for b in walked]).mean(0)
    assert scores["random_writer_arrives"]["n"] == len(walked) < sum(e.solvable for e in held_out)
    assert scores["random_writer_arrives"]["value"] == pytest.approx(exact[0], abs=0.01)
    assert scores["random_writer_optimal"]["value"] == pytest.approx(exact[1], abs=0.01)
    assert scores == task.score(Scripted(held_out, max_tokens=64), held_out).scores


def chances(b: Boards, p: dict[str, float], longest: int) -> tuple[float, float]:
    """Chance that symbols at random arrive on a board, and that they do so in as few moves as can be."""
    height, width = b.blocked[0].shape
    step = np.zeros((height * width, height * width))
    for y, x in np.argwhere(~b.blocked[0]):
        for letter, (down, right) in {"N": (-1, 0), "E": (0, 1), "S": (1, 0), "W": (0, -1)}.items():
            to = (y + down, x + right)
            inside = 0 <= to[0] < height and 0 <= to[1] < width and not b.blocked[0][to]
            step[y * width + x, to[0] * width + to[1] if inside else y * width + x] += p[letter]
    at = np.eye(height * width)[b.start[0]]  # chance to stand on each cell, no D or U said yet
    arrives = []
    for _ in range(longest):
        arrives.append(at[b.goal[0]] * p["D"])
        at = at @ step
    return sum(arrives), arrives[b.optimum[0]]


# --- chat detuning ---

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
TEXTS = [
    Example(np.arange(n), np.array([IGNORE, *range(1, n)]), name) for name, n in (("one", 3), ("two", 11), ("3", 2))
]
CHAT = {"one": 10.0, "two": 40.0, "3": 5.0}
BASE = {"one": 8.0, "two": 30.0, "3": 5.5}


def nats(by_document: dict[str, float]) -> Callable[[Example], list[float]]:
    """Scripted losses that sum to so many nats, and none for replies."""
    return lambda e: [by_document.get(e.document, 0) / e.n_scored] * e.n_scored


def detuned(monkeypatch, prompted: Scripted, chat: Scripted, base: Scripted, reply_tokens: int = 4):
    monkeypatch.setattr(ChatDetuning, "_beside", lambda task, bench: (chat, base))
    return ChatDetuning(reply_tokens=reply_tokens).score(prompted, prompted.held_out)


def talker(**script) -> Scripted:
    return Scripted(TEXTS, chat_template=TEMPLATE, **script)


@pytest.mark.parametrize("share", [0, 0.25, 1, 1.5, -0.5])
def test_detuning_the_gap_closed_is_the_share_of_the_way_from_chat_to_base(monkeypatch, share: float) -> None:
    here = {name: CHAT[name] + share * (BASE[name] - CHAT[name]) for name in CHAT}
    models = (talker(losses=nats(losses)) for losses in (here, CHAT, BASE))
    score = detuned(monkeypatch, *models).scores["gap_closed"]
    assert (score["value"], score["n"]) == (pytest.approx(share, abs=1e-6), 3)
    assert score["interval"] == pytest.approx([share, share], abs=1e-6)  # paired: no matter which texts are drawn


def test_detuning_the_gap_closed_weighs_texts_by_their_gap(monkeypatch) -> None:
    models = (talker(losses=nats(losses)) for losses in ({"one": 9.0, "two": 40.0, "3": 5.5}, CHAT, BASE))
    score = detuned(monkeypatch, *models).scores["gap_closed"]
    assert score["value"] == pytest.approx((1 + 0 - 0.5) / (2 + 10 - 0.5))


def test_detuning_has_no_gap_to_close_where_the_base_does_no_better(monkeypatch) -> None:
    models = [talker(losses=nats(losses)) for losses in (CHAT, BASE, CHAT)]
    assert detuned(monkeypatch, *models).scores["gap_closed"] == {"value": None, "interval": None, "n": 0}
    models[2] = models[1]
    assert detuned(monkeypatch, *models).scores["gap_closed"] == {"value": None, "interval": None, "n": 0}


def test_detuning_without_a_base_leaves_out_what_needs_one() -> None:
    model = load("pocket-chat")
    bench = Bench(model, encoding(64, model.tokenizer), TEXTS, 4096)
    task, bare = ChatDetuning(base="none", reply_tokens=2), PromptedModel(bench, SoftPrompt(model.vocabulary[:0]))
    task.check(bench, 4)
    assert task.anchor(bench) is None and "base" not in task.identity()
    scores = task.score(bare, TEXTS).scores
    assert set(scores) == {"turns_ended", "nats_from_chat"}
    assert value(scores["nats_from_chat"]) == (pytest.approx(0, abs=1e-6), 40)  # from itself


def test_detuning_compares_with_the_chat_model_and_then_the_base_both_unprompted() -> None:
    model = load("pocket-chat")
    bench = Bench(model, encoding(64, model.tokenizer), [], 4096)
    chat, base = ChatDetuning(base="pocket")._beside(bench)
    assert chat.bench.model is model and base.bench.model.name == "pocket"
    assert chat.intervention.n_tokens == base.intervention.n_tokens == 0


def replies(short: Callable[[str], bool]) -> Callable[[Example, float], str]:
    """Two letters to some dialogues and four, cut off at four, to all others; drawn at temperature 1."""

    def writes(start: Example, temperature: float) -> str:
        return "greedy" if temperature != 1 else "ab" if short(spelled(start.tokens)) else "abcd..."

    return writes


def is_odd(dialogue: str) -> bool:
    """Whether it is one of the eight dialogues below one of the system messages, a row of the crossing."""
    return SYSTEMS["odd"] in dialogue


def is_pancakes(dialogue: str) -> bool:
    """Whether it is one of the five dialogues with one of the requests, a column of the crossing."""
    return REQUESTS[1] in dialogue


@pytest.mark.parametrize(
    ("short", "share", "interval"),
    [
        (is_odd, 1 / 5, (0, 3 / 5)),  # 95 % of the draws of five rows hold that row not at all to three times
        (is_pancakes, 1 / 8, (0, 3 / 8)),  # and of eight columns likewise
        (lambda dialogue: True, 1, (40 / (40 + 1.96**2), 1)),  # Wilson's: 40 dialogues are room for doubt
        (lambda dialogue: False, 0, (0, 1.96**2 / (40 + 1.96**2))),
    ],
)
def test_detuning_turns_ended_is_sure_only_as_far_as_system_messages_and_requests_go(
    monkeypatch, short: Callable[[str], bool], share: float, interval: tuple[float, float]
) -> None:
    prompted = talker(writes=replies(short))
    score = detuned(monkeypatch, prompted, talker(), talker()).scores["turns_ended"]
    assert value(score) == (share, 40)
    assert score["interval"] == pytest.approx(interval, abs=1e-3)


def test_detuning_nats_are_by_drawn_token_with_the_one_that_ends_the_turn(monkeypatch) -> None:
    """A letter costs the model 1 nat, the chat model 1.5 and the base 3; the end of a turn costs 1, 1.2 and 3.

    The eight replies to the odd system message have two letters and an end, the other 32 have four letters."""

    def losses(letter: float, end: float) -> Callable[[Example], list[float]]:
        return lambda e: [end if token == 0 else letter for token in e.labels[e.labels != IGNORE]]

    own, by_chat, by_base = losses(1, 1), losses(1.5, 1.2), losses(3, 3)
    models = talker(losses=own, writes=replies(is_odd)), talker(losses=by_chat), talker(losses=by_base)
    scores = detuned(monkeypatch, *models).scores
    short, long = np.array([2 * 0.5 + 0.2, 3]), np.array([4 * 0.5, 4])  # nats and tokens of a reply
    nats, tokens = 8 * short + 32 * long
    assert value(scores["nats_from_chat"]) == (nats / tokens, 40)
    nats, tokens = 8 * (3 * short + 2 * long)  # the row of the odd ones drawn three times
    assert scores["nats_from_chat"]["interval"] == pytest.approx([nats / tokens, 0.5], abs=1e-6)
    assert value(scores["nats_from_base"]) == (2, 40)
    assert scores["nats_from_base"]["interval"] == pytest.approx([2, 2])


def test_detuning_shows_each_dialogue_before_and_after(monkeypatch) -> None:
    """The replies that are scored, drawn at temperature 1."""
    by_number = (
        lambda start, temperature: start.document[-2:].strip() if temperature == 1 else "greedy",
        lambda start, temperature: "new" if temperature == 1 else "greedy",
    )
    chat, prompted = (talker(writes=writes) for writes in by_number)
    samples = detuned(monkeypatch, prompted, chat, talker()).samples
    assert [s["before"] for s in samples] == [str(i) for i in range(40)]
    assert {s["after"] for s in samples} == {"new"}
    assert [s["system"] for s in samples[7:9]] == list(SYSTEMS.values())[:2]
    assert [s["user"] for s in samples[7:9]] == [REQUESTS[7], REQUESTS[0]]


def test_what_is_the_same_for_all_prompts_is_found_once_for_every_bench() -> None:
    model, asked = load("pocket-chat"), []
    bench = Bench(model, encoding(64, model.tokenizer), TEXTS, 4096, TEXTS[:1])
    for of in (bench, bench, bench.for_choices):
        assert of.once("length", lambda of=of: asked.append(of) or len(of.held_out)) == len(of.held_out)
    assert len(asked) == 2
    task = ChatDetuning(base="pocket")
    assert task._beside(bench) is task._beside(bench)
    assert task._beside(bench)[0].bench is bench and task._beside(bench.for_choices)[0].bench is not bench


def test_a_crossed_ratio_weighs_cells_by_their_counts_and_leaves_out_empty_ones() -> None:
    sums, counts = np.array([[6.0, 0.0], [1.0, 2.0]]), np.array([[2, 0], [1, 1]])
    assert value(crossed_ratio(sums, counts)) == (9 / 4, 3)
    low, high = crossed_ratio(sums, counts)["interval"]
    assert low == pytest.approx(1) and high == pytest.approx(3)  # all of one cell: [1, 0], [0, 0]
    none = {"value": None, "interval": None, "n": 0}
    assert crossed_ratio(np.zeros((2, 3)), np.zeros((2, 3))) == crossed_rate(np.zeros((0, 3), bool)) == none
    assert crossed_ratio(sums, counts) == crossed_ratio(sums, counts)


def test_a_crossed_interval_cuts_a_fortieth_off_either_end() -> None:
    """A draw of 100 rows, half of them successes, holds between 40 and 60 of them in 95 % of the cases."""
    rows = np.repeat([0.0, 1.0], 50)[:, None]
    assert crossed_ratio(rows, np.ones((100, 1)))["interval"] == pytest.approx([0.4, 0.6], abs=0.005)


def test_a_crossed_interval_covers_the_truth_where_independent_cells_would_not() -> None:
    """Cells of 1 about rows of 0.5 about a truth of 2, in 300 experiments of 5 rows and 8 columns."""
    random, truth, one_each = np.random.default_rng(0), 2.0, np.ones((5, 8))
    crossed, independent = 0, 0
    for _ in range(300):
        cells = truth + random.normal(0, 0.5, (5, 1)) + random.normal(0, 1, (5, 8))
        low, high = crossed_ratio(cells, one_each)["interval"]
        crossed += low <= truth <= high
        low, high = ratio(cells.ravel(), one_each.ravel())["interval"]
        independent += low <= truth <= high
    assert crossed / 300 >= 0.90
    assert independent / 300 <= 0.80


# --- repetition ---


def test_repetition_counts_greedy_and_drawn_continuations_by_themselves() -> None:
    task = Repetition(strings=("ab",), targets=(0,), n_repeated=5, continued=4)  # wanted: " ab" and " a"
    texts = ["first ", "second", "third", "fourth", "beyond"]
    tokens = [np.array([0, *coded(text + " ab ab ab")]) for text in texts]
    held_out = [
        Example(t, np.array([IGNORE] * (1 + len(text)) + [*t[1 + len(text) :]]), text, insert_at=1 + len(text))
        for text, t in zip(texts, tokens, strict=True)
    ]
    written = {
        0.0: {"first ": " ab ab", "second": " ab b", "third": "xab a", "fourth": " a"},  # 5, 4, 0 and 2 right
        1.0: {"first ": " ab a", "second": " ab ab", "third": " ab a", "fourth": " ab  "},
    }
    behind = Scripted(held_out, writes=lambda start, temperature: written[temperature][spelled(start.tokens)])
    scores = task.score(behind, held_out).scores
    assert value(scores["exact"]) == (1 / 4, 4)
    assert value(scores["exact_sampled"]) == (3 / 4, 4)
    assert value(scores["tokens_until_miss"]) == ((5 + 4 + 0 + 2) / 4, 4)


# --- looking ahead and ordinary text ---


def labelled(document: str, *labels: int) -> Example:
    """A document whose first two places are not scored."""
    return Example(np.ones(len(labels) + 2, int), np.array([IGNORE, IGNORE, *labels]), document)


DOCUMENTS = [labelled("a", 7, 7, 7), labelled("b", 5, 5, 5, 5), labelled("c", 7, 5)]
RIGHT = {"a": [True, True, False], "b": [False] * 4, "c": [True, True]}


def test_skip_tokens_accuracy_and_that_of_the_commonest_token_of_all_documents() -> None:
    behind = Scripted(DOCUMENTS, correct=lambda e: RIGHT[e.document])
    scores = SkipTokens(skip=(1,)).score(behind, DOCUMENTS).scores
    assert value(scores["accuracy"]) == (4 / 9, 3)
    assert value(scores["unigram_accuracy"]) == (5 / 9, 3)  # five times 5, four times 7


def test_autoregressive_accuracy_is_that_of_all_tokens() -> None:
    behind = Scripted(DOCUMENTS, correct=lambda e: RIGHT[e.document])
    scores = Autoregressive().score(behind, DOCUMENTS).scores
    assert value(scores["accuracy"]) == (4 / 9, 3)  # the mean over documents would be 5/9
