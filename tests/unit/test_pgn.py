"""Games from PGN files: sources and compressions, filters, moves, cache, and what a broken connection leaves."""

import base64
import gzip
import io
import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import chess
import chess.pgn
import numpy as np
import pytest
import zstandard

from soft_prompts.addresses import is_url, text_without_secrets, without_secrets
from soft_prompts.data import pgn, sources
from soft_prompts.data.cache import load_cached
from soft_prompts.data.pgn import GameFilter, Games, read_games
from soft_prompts.data.sources import fingerprint
from soft_prompts.data.texts import read_documents, read_texts
from soft_prompts.errors import SoftPromptsError
from soft_prompts.tasks.chess_moves import ChessMoves
from soft_prompts.tasks.text import TextTask
from tests.unit.made_up import tar, write
from tests.unit.serving import Handler, serving, stall_silently, status, whole

ANY = GameFilter()


def game(moves: str, event: str = "Rated Blitz game", elos: tuple[object, object] = (2000, 1900), **tags: str) -> str:
    """A game as PGN text."""
    headers = {"Event": event, "Site": "?", "WhiteElo": elos[0], "BlackElo": elos[1], **tags}
    return "".join(f'[{tag} "{value}"]\n' for tag, value in headers.items()) + f"\n{moves}\n\n"


def random_games(count: int, seed: int = 0) -> list[str]:
    """Games of random legal moves, long enough to castle, promote and take en passant now and then."""
    choose = random.Random(seed)
    texts = []
    for number in range(count):
        board = chess.Board()
        moves = []
        for _ in range(choose.randint(1, 160)):
            legal = list(board.legal_moves)
            if not legal:
                break
            moves.append(choose.choice(legal))
            board.push(moves[-1])
        movetext = chess.Board().variation_san(moves) + " " + board.result()
        texts.append(game(movetext, f"Rated Blitz game {number}", (1000 + number, 2000 + number)))
    return texts


GAMES = random_games(40)


def expected(text: str) -> list[str]:
    """The main line of each game in UCI by python-chess; "" for a game that it parses with errors."""
    stream = io.StringIO(text)
    lines = []
    while (parsed := chess.pgn.read_game(stream)) is not None:
        lines.append("" if parsed.errors else " ".join(move.uci() for move in parsed.mainline_moves()))
    return lines


def all_moves(games: Games) -> list[str]:
    """The moves of each game."""
    return [games.moves(i) for i in range(len(games))]


def assert_same(games: Games, others: Games) -> None:
    """Two sets of games are equal in everything."""
    assert np.array_equal(games.text, others.text)
    assert np.array_equal(games.offsets, others.offsets)
    assert np.array_equal(games.elos, others.elos)
    assert games.skipped == others.skipped
    assert (games.complete, games.note) == (others.complete, others.note)


def read_text(tmp_path: Path, text: str | bytes, game_filter: GameFilter = ANY, max_games: int | None = None) -> Games:
    """The games of a file with this text."""
    return read_games(write(tmp_path / "games.pgn", text), game_filter, max_games, None)


# --- splitting ---


def begins_a_game(text: bytes, start: int, header: re.Match[bytes]) -> bool:
    """What ``_Game.ends_before`` says, found out anew at every header, in time that grows with the square."""
    end = header.start()
    blank = text.endswith(b"\n", start, end)
    if blank and text[text.rfind(b"\n", start, end - 1) + 1] not in b"[%;\n":
        return True
    before = text[start:end].rstrip()
    headers = 0
    if before.startswith(b"\n["):
        match = re.search(rb"\n(?!\n*[\[%;])", before)
        headers = match.start() if match else len(before)
    if before and headers == len(before):
        return re.search(rb"\n\[" + re.escape(header[1]) + rb"[ \t]", before + b" ") is not None
    return blank or b"{" not in re.sub(rb"(?m)\{[^}]*\}|;[^\n]*|^%[^\n]*", b"", before[headers:])


def at_headers(text: bytes) -> list[bytes]:
    """What ``_at_headers`` says."""
    starts = [0]
    for header in pgn.HEADERS.finditer(text):
        if begins_a_game(text, starts[-1], header):
            starts.append(header.start())
    return [text[start:end] for start, end in pairwise([*starts, len(text)])]


ODD_PARTS = (
    *(b'[A "x"]', b'[A "x" ', b'[B "', b"[A ", b"\n", b"\n\n", b" \n", b"{", b"}", b";", b"%", b"\n%", b"e4 ", b"* "),
    *(b"1-0", b"\n[A ", b'\n[B "x"]\n', b'\n[A "x"]\n\n', b"\n\n; x", b'{\n[A "x"]\n}', b"\x0c", b"]"),
)


def test_text_is_split_as_if_every_header_were_judged_on_its_own() -> None:
    dice = random.Random(0)
    n_several = 0
    for _ in range(4000):
        text = b"\n\n" + b"".join(dice.choices(ODD_PARTS, k=dice.randint(1, 40)))
        assert pgn._at_headers(text) == at_headers(text), text
        n_several += len(at_headers(text)) > 2
    assert n_several > 1000


LONG = 300_000
OPENING = '[Event "x"]\n[WhiteElo "1000"]\n[BlackElo "1000"]\n\n1. e4 '


@pytest.mark.parametrize(
    "content",
    [
        OPENING + "{a " * (LONG // 3),
        OPENING + "1-0 " + ";" * LONG + "x\nx\n\nx",
        OPENING.removesuffix("1. e4 ") + "\n" * LONG + '[A "x"]',
        OPENING + "\r" * LONG + "x",
        OPENING + "{" + '\n[A "x' * (LONG // 6),
        OPENING + "{" + '\n\n%\n[A "x' * (LONG // 11),
        "".join(f'[A{i} "x" \n' for i in range(LONG // 12)),
        '[A "x" \n' * (LONG // 8),
        (OPENING + "{\n\n") * (LONG // 60),
        OPENING + "(" * LONG,
    ],
    ids=["braces", "semicolons", "line_ends", "returns", "headers", "blanks", "tags", "same_tags", "open", "brackets"],
)
def test_no_text_takes_time_that_grows_with_its_square(tmp_path: Path, content: str) -> None:
    with pytest.raises(SoftPromptsError, match="None of the|holds no games"):  # some took hours, one for ever
        read_text(tmp_path, content)


# --- moves ---


def test_random_legal_games_equal_python_chess(tmp_path: Path) -> None:
    text = "".join(GAMES)
    games = read_text(tmp_path, text)
    assert all_moves(games) == expected(text)
    assert games.elos.tolist() == [[1000 + n, 2000 + n] for n in range(len(GAMES))]
    assert (games.text.dtype, games.offsets.dtype, games.elos.dtype) == (np.uint8, np.int64, np.int16)
    assert games.skipped == {} and games.complete and games.note == ""


@pytest.mark.parametrize(
    ("movetext", "uci"),
    [
        ("1. e4 e5 2. Nf3 Nc6 3. Bc4 Bc5 4. O-O Nf6 1-0", "e2e4 e7e5 g1f3 b8c6 f1c4 f8c5 e1g1 g8f6"),
        ("1. d4 d5 2. Nc3 Nc6 3. Bf4 Bf5 4. Qd2 Qd7 5. O-O-O 0-0-0 *", None),
        ("1. a4 h5 2. a5 h4 3. a6 h3 4. axb7 hxg2 5. bxa8=Q gxh1=N 6. Nf3 *", None),
        ("1. e4 a6 2. e5 d5 3. exd6 cxd6 *", "e2e4 a7a6 e4e5 d7d5 e5d6 c7d6"),
        ("1. e4 { [%eval 0.1] [%clk 0:10:00] } 1... e5 {(} 2. Nf3 *", "e2e4 e7e5 g1f3"),
        ("1. e4 {a\n\nb} e5 ; 2. d4 {\n2. Nf3 *", "e2e4 e7e5 g1f3"),
        ("1. e4 (1. d4 d5 (1... Nf6 2. c4)) 1... e5 {x} (1... c5) 2. Nf3 *", "e2e4 e7e5 g1f3"),
        ("1.e4! $1 e5?! $14 2.Nf3!? Nc6?? 1/2-1/2", "e2e4 e7e5 g1f3 b8c6"),
        ("1. e4 {Müller: ½ ♞} e5 *", "e2e4 e7e5"),
        ("1. e4 e5 2. Nf3", "e2e4 e7e5 g1f3"),
        ("1. e4\n% escaped {\ne5 *", "e2e4 e7e5"),
        ("1. e4 a6 2. e5 d5 3. exd6 e.p. cxd6 *", "e2e4 a7a6 e4e5 d7d5 e5d6 c7d6"),
        ("1. e4 a6 2. e5 d5 3. exd6e.p. cxd6 *", "e2e4 a7a6 e4e5 d7d5 e5d6 c7d6"),
        ("1. e4 a6 2. e5 d5 3. exd6 ep {deep} 3... cxd6 *", "e2e4 a7a6 e4e5 d7d5 e5d6 c7d6"),
        ("1. e4 a6 2. e5 d5 3. exd6ep *", "e2e4 a7a6 e4e5 d7d5 e5d6"),
        ("1. e4 f6 2. d4 g5 3. Qh5++ 1-0", "e2e4 f7f6 d2d4 g7g5 d1h5"),
        ("1. e4 e5 1/2", "e2e4 e7e5"),
        ("1. e4 e5 (1... c5 1/2) 2. Nf3 1/2", "e2e4 e7e5 g1f3"),
        ("1. e4 e5 {0-1 is not yet} 1-0 {a\n\nb} ; 0-1", "e2e4 e7e5"),
        ("1. e4 e5 1-0 1-0", "e2e4 e7e5"),
        ('1. e4 {see [Event "y"]\n[Event "z"]} e5 *', "e2e4 e7e5"),
    ],
)
def test_movetext_equals_python_chess(tmp_path: Path, movetext: str, uci: str | None) -> None:
    text = game(movetext)
    moves = all_moves(read_text(tmp_path, text))
    assert moves == expected(text)
    assert uci is None or moves == [uci]


@pytest.mark.parametrize(
    "movetext",
    [
        "1. e4 e5 2. Ke3 Nf6 *",  # illegal
        "1. Nf3 a6 2. d3 a5 3. Nd2 *",  # ambiguous
        "1. e4 e5 2. foo Nf6 *",  # unreadable
        "1. e4 -- 2. d4 *",  # null moves
        "1. e4 Z0 2. d4 *",
        "1. e4 e5 2. N",  # cut off in a move
        "1. e4 e5 { cut off in a comm",
        "1. e4 e5 {\n; cut off in a comm",
        "1. e4 e5 (1... c5 2. Nf3",
        "1. e4 [%clk 0:10:00] e5 *",  # the parser takes the bracket for the end of the game
        "1. e4 e5\n\n2. Nf3 Nc6 *",
        "1. e4 e5 1-0 2. Nf3 1-0",  # python-chess reads on behind a result; here it is not known where the game ended
        "1. e4 e5 * 1. d4 d5 *",
        "1. e4 e5 (1... c5 1-0 *",
        "1. e4 e5 ep *",
    ],
)
def test_a_game_not_read_whole_is_malformed_and_its_neighbours_survive(tmp_path: Path, movetext: str) -> None:
    text = game("1. d4 d5 *") + game(movetext) + game("1. c4 c5 *")
    games = read_text(tmp_path, text)
    assert all_moves(games) == ["d2d4 d7d5", "c2c4 c7c5"]
    assert games.skipped == {"malformed": 1}


def test_order_is_the_files_order_across_threads(tmp_path: Path) -> None:
    openings = [move.uci() for move in chess.Board().legal_moves]
    chosen = [openings[n % 20] for n in range(5000)]
    board = chess.Board()
    text = "".join(game(f"1. {board.san(chess.Move.from_uci(uci))} *") for uci in chosen)
    assert all_moves(read_text(tmp_path, text)) == chosen


def decompressed(path: Path) -> str:
    with path.open("rb") as file:
        return (
            zstandard.ZstdDecompressor(max_window_size=2**31)
            .stream_reader(file, read_across_frames=True)
            .read()
            .decode()
        )


def judged_by_python_chess(text: str) -> tuple[int, list[str], list[list[int]]]:
    """How many games python-chess finds, and moves and ratings of those that pass an empty filter."""
    lines, elos = [], []
    stream = io.StringIO(text)
    seen = 0
    while (parsed := chess.pgn.read_game(stream)) is not None:
        seen += 1
        rating = [parsed.headers.get(tag, "") for tag in ("WhiteElo", "BlackElo")]
        standard = type(parsed.board()) is chess.Board and not parsed.board().chess960
        played = parsed.headers.get("Termination", "") not in ("Abandoned", "Rules infraction")
        moves = list(parsed.mainline_moves())
        rated = all(value.isdigit() and int(value) for value in rating)
        # python-chess takes a null move for a move. A player cannot make one.
        readable = not parsed.errors and moves and chess.Move.null() not in moves
        if readable and standard and played and rated and "FEN" not in parsed.headers:
            lines.append(" ".join(move.uci() for move in moves))
            elos.append([int(value) for value in rating])
    return seen, lines, elos


@pytest.mark.parametrize(
    ("name", "n_games", "every"),
    [("lichess_558_eval_clk", 558, 1), ("lichess_19k", 19_076, 60), ("twic_75k", 75_812, 200)],
)
def test_real_games_equal_python_chess(data: Path, tmp_path: Path, name: str, n_games: int, every: int) -> None:
    path = data / "chess" / f"{name}.pgn.zst"
    games = read_games(str(path), ANY, None, None)
    text = decompressed(path)
    stream, starts = io.StringIO(text), [0]
    while chess.pgn.skip_game(stream):
        starts.append(stream.tell())
    assert len(games) + sum(games.skipped.values()) == len(starts) - 1 == n_games
    # All moves would take python-chess minutes.
    some = "".join(text[start:end] for start, end in list(pairwise(starts))[::every])
    seen, lines, elos = judged_by_python_chess(some)
    games = read_text(tmp_path, some)
    assert all_moves(games) == lines
    assert games.elos.tolist() == elos
    assert len(games) + sum(games.skipped.values()) == seen > 300 and len(lines) > 0.9 * seen


def test_identity_is_that_of_the_moves_alone(tmp_path: Path) -> None:
    text = game("1. e4 e5 *") + game("1. e4 {x} 1... e5 1-0", elos=(1500, 1500)) + game("1. e4 c5 *")
    games = read_text(tmp_path, text)
    ids = [games.id(i) for i in range(3)]
    assert ids[0] == ids[1] != ids[2]
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in ids)
    with pytest.raises(IndexError):
        games.moves(3)


# --- splitting ---


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_block_boundaries_inside_games_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    text = "".join(GAMES[:4]) + game("1. e4 {\n[Event in a comment} e5 *") + game("1. Ke2 *") + GAMES[5].rstrip()
    crlf = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    whole = [read_text(tmp_path, content, ANY, limit) for content in (text, crlf) for limit in (None, 3)]
    monkeypatch.setattr(sources, "BLOCK_BYTES", size)
    monkeypatch.setattr(sources, "READ_BYTES", size)
    blocks = [read_text(tmp_path, content, ANY, limit) for content in (text, crlf) for limit in (None, 3)]
    for games, others in zip(whole, blocks, strict=True):
        assert_same(games, others)
    assert len(whole[0]) == 6 and whole[0].skipped == {"malformed": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\n\n \n" + text,
        lambda text: "\ufeff" + text,
        lambda text: "\ufeff\r\n" + text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n\n", "\n\n\n"),
        lambda text: text.replace("\n\n[Event ", "\n \t\n[Event "),
        lambda text: text.replace("\n\n[Event ", "\n[Event "),
        lambda text: text.replace("]\n\n1.", "]\n1."),
        lambda text: "% a line before the games\n\n" + text,
    ],
)
def test_line_ends_and_blank_lines_change_nothing(tmp_path: Path, change: Callable[[str], str]) -> None:
    text = "".join(GAMES[:6])
    assert_same(read_text(tmp_path, change(text)), read_text(tmp_path, text))


def test_a_game_without_moves_is_counted_and_not_mixed_with_the_next(tmp_path: Path) -> None:
    games = read_text(tmp_path, game("*") + game("") + game("{x}") + game("1. e4 *") + game("")[:-3])
    assert all_moves(games) == ["e2e4"]
    assert games.skipped == {"no moves": 4}


def test_text_that_never_begins_a_game_is_refused_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgn, "MAX_GAME_BYTES", 1 << 20)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1 << 18)
    with pytest.raises(SoftPromptsError, match="1 MiB of text in which no game begins.*give another one"):
        read_text(tmp_path, "no chess here\n" * 200_000)


def untagged(moves: str) -> str:
    """A game without an Event header, as some programs write."""
    return game(moves).partition("\n")[2]


MOVETEXTS = ("1. e4 e5 *", "1. e4 {a\n\nb} e5 1-0", "1.e4 e5 1/2", "1. e4\ne5 ; x\n0-1 {\n[Event in a comment}")
"""Ways to write e2e4 e7e5."""
HEADINGS = (
    lambda moves: game(moves),
    untagged,
    lambda moves: '[Site "here"]\n' + game(moves).replace('[Site "?"]\n', ""),
    lambda moves: game(moves).replace('[Site "?"]\n', '[Site "?"]\n\n'),
    lambda moves: game(moves).replace('[Site "?"]\n', '% a comment\n[Site "?"]\n'),
    lambda moves: game(moves).replace('"]\n', '"] \n'),
    lambda moves: game(moves).replace('"]\n\n', '"]\n \n'),
)
"""Ways to write a game's headers that python-chess reads, too."""
JOINTS = ("\n\n", "\n\n\n", "\n \t\n", "\n\n\ufeff", "\n\n% a comment\n")
"""What may stand between two games, also for python-chess."""
OWN_JOINTS = (
    "\n",
    "\n\x1a",
    "\x1a",
    "\n\n\x1a\n",
    "\ufeff",
    "\n\n\n\ufeff\n",
    "\n\n{a comment\n\non the game}\n\n",
    "",
)
"""What python-chess takes for the end of no game, or for a game of its own."""


def odd_file(seed: int, joints: tuple[str, ...]) -> tuple[str, list[str], dict[str, int]]:
    """The text of games in odd formats, the moves of the good ones, and how many others there are by reason."""
    choose = random.Random(seed)
    text, moves, skipped = choose.choice(["", "\ufeff", "\n\n", "% a comment\n"]), [], Counter()
    for _ in range(choose.randint(5, 30)):
        kind = choose.choice(["good"] * 4 + ["no moves", "malformed", "no rating", "no headers"])
        heading = choose.choice(HEADINGS)
        if kind == "good":
            text += heading(choose.choice(MOVETEXTS)).rstrip()
            moves.append("e2e4 e7e5")
        else:
            skipped[kind] += 1
        if kind == "no moves":
            text += heading("*").rstrip()
        if kind == "malformed":
            text += heading(choose.choice(["1. e4 e5 2. Ke3 *", "1. foo *"])).rstrip()
        if kind == "no rating":
            text += heading("1. d4 *").replace("1900", "?").rstrip()
        if kind == "no headers":  # only behind a blank line
            text += "\n\n1. d4 {x} d5 *"
        text += choose.choice(joints)
    return text, moves, skipped


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r\r\n", "\r"])
@pytest.mark.parametrize("seed", range(10))
def test_every_game_of_an_odd_file_is_taken_or_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, line_end: str
) -> None:
    text, moves, skipped = odd_file(seed, JOINTS + OWN_JOINTS)
    for size in (sources.BLOCK_BYTES, 1 + seed):
        monkeypatch.setattr(sources, "BLOCK_BYTES", size)
        games = read_text(tmp_path, text.replace("\n", line_end))
        assert all_moves(games) == moves
        assert games.skipped == skipped


@pytest.mark.parametrize("seed", range(10, 40))
def test_python_chess_finds_as_many_games_in_an_odd_file(tmp_path: Path, seed: int) -> None:
    text, moves, _ = odd_file(seed, JOINTS)
    games = read_text(tmp_path, text)
    seen, lines, _ = judged_by_python_chess(text)
    assert all_moves(games) == lines == moves
    assert len(games) + sum(games.skipped.values()) == seen


@pytest.mark.parametrize(
    ("text", "skipped", "seen"),
    [
        # A mark of the end or the beginning of a file is a game without moves to python-chess.
        (game("1. e4 *") + "\x1a" + game("1. e4 *"), {}, 3),
        (game("1. e4 *") + "\n\ufeff" + game("1. e4 *"), {}, 3),
        # A comment that is never closed swallows the next games.
        (game("1. e4 *") + game("1. e4 {") + game("1. e4 *"), {"malformed": 1}, 2),
        # Headers belong to the game before if no empty line stands between.
        (game("1. e4 *").rstrip() + "\n" + game("1. e4 *"), {}, 2),
        # One empty line does not part the headers of games without moves; two part the headers of one game.
        (game("1. e4 *") + game("").rstrip() + "\n\n" + game("1. e4 *"), {"no moves": 1}, 2),
        (game("1. e4 *") + game("1. e4 *").replace('[Site "?"]', "\n\n"), {}, 3),
        # Any empty line ends a game, so its second half is a game that begins where it cannot.
        (game("1. e4 *") + game("1. e4 e5\n\n2. Nf3 *") + game("1. e4 *"), {"malformed": 1}, 4),
        # A remark between two games is a game.
        (game("1. e4 *") + "{a remark}\n\n" + game("1. e4 *"), {}, 3),
    ],
)
def test_where_python_chess_is_odd(tmp_path: Path, text: str, skipped: dict[str, int], seen: int) -> None:
    games = read_text(tmp_path, text)
    assert (all_moves(games), games.skipped) == (["e2e4", "e2e4"], skipped)
    assert judged_by_python_chess(text)[0] == seen


def test_files_joined_without_a_line_end_are_parted(tmp_path: Path) -> None:
    for moves in ("1. e4 e5", "1. e4 e5 *", "1. e4 e5 * {x}"):
        for mark in ("", "\ufeff", "\x1a", "\x1a\ufeff"):
            games = read_text(tmp_path, game(moves).rstrip() + mark + game("1. d4 *"))
            assert (all_moves(games), games.skipped) == (["e2e4 e7e5", "d2d4"], {})


def test_a_file_of_games_without_headers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SoftPromptsError, match="holds no games with headers: no line begins like `.Event .*Give a PGN"):
        read_text(tmp_path, "1. e4 e5 *\n\n1. d4 d5 *\n\n")


# --- filters ---


def test_filters_count_what_they_leave_out(tmp_path: Path) -> None:
    moves = "1. e4 e5 2. Nf3 Nc6 *"
    texts = [
        game(moves),
        game(moves, "rated BLITZ tournament https://lichess.org/tournament/x"),
        game(moves, "Rated Blitzkrieg game"),
        game(moves, "Rated Bullet game"),
        game(moves, "Casual Blitz game"),
        *[game(moves, elos=(value, 2000)) for value in ("?", "", "0", "2000?", "123456")],
        game(moves, elos=(2000, 999)),
        game(moves, elos=(2501, 2000)),
        game(moves, elos=(2500, 1000)),
        game(moves, Variant="Chess960"),
        game(moves, Variant="Standard"),
        game(moves, Variant="From Position"),
        game(moves, SetUp="1"),
        game(moves, SetUp="0"),
        game(moves, Variant="From Position", FEN=chess.STARTING_FEN),
        game(moves, Termination="Abandoned"),
        game(moves, Termination="rules infraction"),
        game(moves, Termination="Time forfeit"),
        game("1. e4 e5 2. Nf3 *"),
    ]
    text = "".join(texts)
    games = read_text(tmp_path, text, GameFilter("blitz", True, 1000, 2500, 4))
    assert len(games) == 7
    assert games.skipped == {
        "wrong speed": 2,
        "unrated": 1,
        "no rating": 5,
        "rating out of range": 2,
        "variant": 1,
        "set position": 2,
        "abandoned": 2,
        "too short": 1,
    }
    casual = read_text(tmp_path, text, GameFilter(rated=False))
    assert len(casual) == 1 and casual.skipped["rated"] == 22


def test_a_rating_header_inside_a_comment_is_not_a_header(tmp_path: Path) -> None:
    text = '[Event "x"]\n[WhiteElo "2000"]\n\n1. e4 {\n[BlackElo "2000"]\n} e5 *\n\n' + game("1. d4 *")
    assert read_text(tmp_path, text).skipped == {"no rating": 1}


@pytest.mark.parametrize("max_games", [1, 2, 17, 39, 40, 41])
def test_max_games_are_the_first_that_pass(tmp_path: Path, max_games: int) -> None:
    mixed = [text for pair in zip(GAMES, [game("1. Ke2 *")] * 40, strict=True) for text in pair]
    games = read_text(tmp_path, "".join(mixed), ANY, max_games)
    count = min(max_games, 40)
    assert all_moves(games) == expected("".join(GAMES[:count]))
    assert games.elos.tolist() == [[1000 + n, 2000 + n] for n in range(count)]
    assert games.skipped.get("malformed", 0) == (40 if max_games > 40 else count - 1)


def test_no_game_passing_says_what_is_there_and_what_to_loosen(tmp_path: Path) -> None:
    text = game("1. e4 *", "Rated Bullet game") * 3 + game("1. e4 *", "Casual Blitz game") * 2 + game("1. e4 *", "Cup")
    text += game("1. e4 *", "Rated Blitz game", (900, 900))
    with pytest.raises(SoftPromptsError) as caught:
        read_text(tmp_path, text, GameFilter("blitz", True, 1000, 3000))
    message = str(caught.value)
    assert "None of the 7 games" in message
    assert "wrong speed: 4, unrated: 2, rating out of range: 1" in message
    assert '"Rated Bullet game" (3), "Casual Blitz game" (2), "Cup" (1)' in message
    assert "Loosen --speed, --rated, --min-elo/--max-elo" in message
    with pytest.raises(SoftPromptsError, match="too short: 1.*Loosen --min-plies"):
        read_text(tmp_path, game("1. e4 *"), GameFilter(min_plies=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": " "}, "--speed is empty; give"),
        ({"min_elo": 2000, "max_elo": 1000}, "--min-elo 2000 is above --max-elo 1000"),
        ({"min_plies": 0}, "--min-plies is 0; it must be at least 1"),
    ],
)
def test_an_impossible_filter_is_refused(options: dict, message: str) -> None:
    with pytest.raises(SoftPromptsError, match=message):
        GameFilter(**options)


# --- files and compressions ---


def compressed(content: bytes) -> dict[str, bytes]:
    """The same content in every form that can be opened: file name -> bytes."""
    third = len(content) // 3
    parts = [content[:third], content[third : 2 * third], content[2 * third :]]
    zst = zstandard.ZstdCompressor(write_checksum=True).compress
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    return {
        "plain.pgn": content,
        "one.pgn.gz": gzip.compress(content),
        "members.pgn.gz": b"".join(map(gzip.compress, parts)) + b"\0" * 100,
        "one.pgn.zst": zst(content),
        "frames.pgn.zst": b"".join(map(zst, parts)),
        "skippable.pgn.zst": b"".join(skippable + zst(part) for part in parts),
        "zstd_without_the_suffix.pgn": zst(content),
    }


@pytest.mark.parametrize("read_bytes", [5, 1 << 16])
def test_every_compression_gives_the_same_games(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    content = "".join(GAMES).encode()
    forms = compressed(content)
    encoder = zstandard.ZstdCompressor().compressobj()  # a frame without its size, as streams are written
    forms["stream.pgn.zst"] = encoder.compress(content) + encoder.flush()
    plain = read_text(tmp_path, content)
    monkeypatch.setattr(sources, "READ_BYTES", read_bytes)
    for name, data in forms.items():
        assert_same(read_games(write(tmp_path / name, data), ANY, None, None), plain)


@pytest.mark.parametrize("name", ["one.pgn.gz", "members.pgn.gz", "one.pgn.zst", "frames.pgn.zst"])
def test_truncated_files_say_how_far_they_could_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sources, "READ_BYTES", 100)
    data = compressed("".join(GAMES).encode())[name].rstrip(b"\0")
    for cut in (len(data) // 2, len(data) - 1):
        source = write(tmp_path / name, data[:cut])
        with pytest.raises(SoftPromptsError, match=r"truncated or corrupt.*\d games could be read.*Download") as caught:
            read_games(source, ANY, None, tmp_path / "cache")
        assert source in str(caught.value)
    assert "39 games" in str(caught.value)  # the last of 40 may have been cut off
    assert not (tmp_path / "cache").exists()
    assert len(read_games(source, ANY, 5, None)) == 5  # the break lies behind what is wanted


@pytest.mark.parametrize("name", ["one.pgn.gz", "one.pgn.zst"])
def test_corrupt_files_are_refused(tmp_path: Path, name: str) -> None:
    data = bytearray(compressed("".join(GAMES).encode())[name])
    data[len(data) // 2] ^= 0xFF
    data[len(data) // 2 + 1] ^= 0xFF
    with pytest.raises(SoftPromptsError, match="truncated or corrupt: the .* data is corrupt"):
        read_games(write(tmp_path / name, bytes(data)), ANY, None, None)


NOT_COMPRESSED = r"although .*\(it is not compressed\); rename it without \.\w+ or"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.pgn.zst", b"[Event", f"is not zstd data {NOT_COMPRESSED}"),
        ("text.pgn.gz", b"[Event", f"is not gzip data {NOT_COMPRESSED}"),
        ("zst.pgn.gz", zstandard.compress(b"x"), r"is not gzip data .*\(it is zstd\); rename it to end in \.zst"),
        ("gz.pgn.ZST", gzip.compress(b"x", mtime=0), r"is not zstd data .*\(it is gzip\); rename it to end in \.gz"),
        ("twic.zip", b"PK\x03\x04....", "is zip data; unpack it"),
        ("twic.pgn.bz2", b"BZh91AY", "is bzip2 data; unpack it"),
        ("games.tar", tar(b"[Event"), "is tar data; unpack it and give a file inside"),
        ("games.pgn", tar(b"[Event"), "is tar data; unpack it"),
        ("games.tar.zst", zstandard.compress(tar(b"[Event")), "is tar data; unpack it"),
        ("games.tar.gz", gzip.compress(tar(b"[Event"), mtime=0), "is tar data; unpack it"),
        ("empty.pgn", b"", r"is empty \(0 bytes\); download"),
        ("empty.pgn.zst", b"", r"is empty \(0 bytes\); download"),
        ("blank.pgn", b"\n\n\n", "holds no games.*Give a PGN file"),
        ("page.pgn", b"<html>[Event </html>", "holds no games.*Give a PGN file"),
        ("hollow.pgn.zst", zstandard.compress(b""), "holds no games.*Give a PGN file"),
    ],
)
def test_content_that_is_not_what_it_should_be_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    source = write(tmp_path / name, content)
    with pytest.raises(SoftPromptsError, match=message) as caught:
        read_games(source, ANY, None, None)
    assert source in str(caught.value)


def test_a_tar_file_is_noticed_however_little_comes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "READ_BYTES", 100)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 10)
    with pytest.raises(SoftPromptsError, match="is tar data; unpack it"):
        read_text(tmp_path, tar(GAMES[0].encode()))


def test_missing_files_folders_and_counts_are_refused(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pgn")
    for call in (lambda: read_games(missing, ANY, None, None), lambda: fingerprint(missing)):
        with pytest.raises(SoftPromptsError, match="none.pgn does not exist; check the path"):
            call()
    with pytest.raises(SoftPromptsError, match="is a folder; give a file in it"):
        read_games(str(tmp_path), ANY, None, None)
    with pytest.raises(SoftPromptsError, match="is not a regular file; save"):
        read_games("/dev/null", ANY, None, None)
    with pytest.raises(SoftPromptsError, match="could not be opened: File name too long; check"):
        read_games("x" * 5000, ANY, None, None)
    with pytest.raises(SoftPromptsError, match="number of games is 0; ask for at least 1"):
        read_text(tmp_path, GAMES[0], ANY, 0)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch, error: OSError) -> None:
    source = write(tmp_path / "a.pgn", GAMES[0])
    written = write(tmp_path / "a.txt", "one")

    def fail(*_: object) -> NoReturn:
        raise error

    reads = (
        lambda: read_games(source, ANY, None, None),
        lambda: fingerprint(source),
        lambda: read_texts([written], None, 1, 1),
    )
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        for read in reads:
            with pytest.raises(SoftPromptsError, match=f"could not be opened: {error.strerror}; check its name and r"):
                read()

    class Failing(io.BufferedIOBase):
        read = readinto = fail

        def readable(self) -> bool:
            return True

    monkeypatch.setattr(Path, "open", lambda *_: Failing())
    for read in reads:
        with pytest.raises(SoftPromptsError, match=f"could not be read: .*{error.strerror}; check the disk"):
            read()


def test_a_file_that_is_gone_meanwhile_is_named(tmp_path: Path, monkeypatch) -> None:
    source = write(tmp_path / "a.pgn", GAMES[0])
    opened = sources.open_file

    def open_and_remove(name: str) -> io.BufferedReader:
        file = opened(name)
        Path(name).unlink()
        return file

    monkeypatch.setattr(sources, "open_file", open_and_remove)
    with pytest.raises(SoftPromptsError, match="a.pgn could not be read: No such file"):
        fingerprint(source)


def test_fingerprint_follows_the_content_and_a_url_is_its_own(tmp_path: Path) -> None:
    content = bytearray(random.Random(1).randbytes(3 << 20))
    source = write(tmp_path / "a.pgn", bytes(content))
    first = fingerprint(source)
    assert len(first) == 16 and first == fingerprint(write(tmp_path / "b.pgn", bytes(content)))
    for position in (0, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 1
        assert fingerprint(write(tmp_path / "c.pgn", bytes(changed))) != first
    assert fingerprint(write(tmp_path / "c.pgn", bytes(content[:-1]))) != first
    assert fingerprint("https://example.org/x.pgn") == "https://example.org/x.pgn"
    one, two = (fingerprint(f"https://me:pw@example.org/x.pgn?id={i}") for i in (5, 6))
    assert one != two and re.fullmatch(r"https://example\.org/x\.pgn\?[0-9a-f]{8}", one)


# --- cache ---


def test_cache_gives_identical_games_and_is_keyed_by_all_that_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "games.pgn", "".join(GAMES) + game("1. Ke2 *"))
    cache = tmp_path / "deep" / "cache"
    first = read_games(source, ANY, None, cache)
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]  # no temporary file is left
    with monkeypatch.context() as patch:
        patch.setattr(pgn, "_split", None)  # a call of it would raise an error
        assert_same(read_games(source, ANY, None, cache), first)
    assert len(read_games(source, GameFilter(min_elo=1005), None, cache)) == 35
    assert len(read_games(source, ANY, 3, cache)) == 3
    write(tmp_path / "games.pgn", GAMES[0])
    assert len(read_games(source, ANY, None, cache)) == 1
    monkeypatch.setattr(pgn, "FORMAT", -1)
    read_games(source, ANY, None, cache)
    assert len(list(cache.iterdir())) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"garbage" * 100,
        lambda data: data[:-10],
        lambda data: data[:-10] + bytes([data[-10] ^ 1]) + data[-9:],
        lambda data: data.replace(b"digest", b"digesT"),
    ],
)
def test_a_damaged_cache_file_is_rebuilt(tmp_path: Path, damage: Callable[[bytes], bytes], capsys) -> None:
    source = write(tmp_path / "games.pgn", "".join(GAMES))
    first = read_games(source, ANY, None, tmp_path / "cache")
    assert "damaged" not in capsys.readouterr().err
    (path,) = (tmp_path / "cache").iterdir()
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert_same(read_games(source, ANY, None, tmp_path / "cache"), first)
    said = capsys.readouterr().err
    assert "is damaged" in said and path.name in said
    assert path.read_bytes() == good


@pytest.mark.parametrize("kind", ["games", "texts"])
def test_no_flipped_bit_of_a_cache_file_changes_what_is_read(tmp_path: Path, kind: str) -> None:
    source = write(tmp_path / "a.txt", "\n\n".join(GAMES[0].replace("\n", " ") + str(i) for i in range(30)))
    games = write(tmp_path / "a.pgn", "".join(GAMES))
    cache = tmp_path / "cache"

    def read() -> object:
        if kind == "games":
            games_read = read_games(games, ANY, None, cache)
            return all_moves(games_read), games_read.elos.tolist(), games_read.skipped
        return read_documents([source], None, 1000, 1000, cache)

    first = read()
    (path,) = cache.iterdir()
    good = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(good)), 100):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert read() == first
        assert path.read_bytes() == good or load_cached(path) is not None


def test_a_cache_that_cannot_be_written_costs_a_warning_and_not_the_games(tmp_path: Path, capsys) -> None:
    source = write(tmp_path / "games.pgn", "".join(GAMES))
    write(tmp_path / "file", "in the way")
    assert len(read_games(source, ANY, None, tmp_path / "file")) == 40
    assert "could not be kept in the cache" in capsys.readouterr().err


# --- progress ---


def test_progress_appears_on_a_terminal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(pgn, "PROGRESS_AFTER_S", 0)
    monkeypatch.setenv("COLUMNS", "200")
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)
    read_text(tmp_path, "".join(GAMES))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    read_text(tmp_path, "".join(GAMES))
    output, line = capsys.readouterr()
    assert output == "" and "games taken of" in line and "MB read" in line


# --- addresses ---


CONTENT = "".join(GAMES).encode()


@pytest.mark.parametrize("name", ["plain.pgn", "one.pgn.gz", "frames.pgn.zst"])
def test_an_address_gives_what_the_file_gives_and_is_cached(tmp_path: Path, quick: None, name: str) -> None:
    with serving(whole(compressed(CONTENT)[name]), name=name + "?download=1") as server:
        games = read_games(server.url, ANY, None, tmp_path / "cache")
        assert_same(games, read_text(tmp_path, CONTENT))
        assert_same(read_games(server.url, ANY, None, tmp_path / "cache"), games)
    assert server.ranges == [None]


@pytest.mark.parametrize("code", [403, 404])
def test_a_refusal_is_reported_at_once(quick: None, code: int) -> None:
    with serving(status(code)) as server:
        with pytest.raises(SoftPromptsError, match=f"was refused with HTTP status {code}.*check the address") as caught:
            read_games(server.url, ANY, None, None)
        assert server.url in str(caught.value) and len(server.ranges) == 1


def test_a_server_error_is_retried(tmp_path: Path, quick: None) -> None:
    with serving(status(500), status(503), whole(CONTENT)) as server:
        assert_same(read_games(server.url, ANY, None, None), read_text(tmp_path, CONTENT))
    with serving(status(500)) as server:
        with pytest.raises(SoftPromptsError, match="No game could be taken from.*HTTP status 500.*with --games"):
            read_games(server.url, ANY, None, None)
        assert len(server.ranges) == 4


@pytest.mark.parametrize("name", ["plain.pgn", "one.pgn.gz", "frames.pgn.zst"])
def test_a_connection_cut_for_good_keeps_the_games_so_far_and_caches_nothing(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sources, "READ_BYTES", 1000)
    data = compressed(CONTENT)[name]
    cut = len(data) * 9 // 10
    with serving(whole(data, cut), name=name) as server:
        games = read_games(server.url, ANY, None, tmp_path / "cache")
    assert 0 < len(games) < len(GAMES)
    assert all_moves(games) == all_moves(read_text(tmp_path, CONTENT, ANY, len(games)))
    assert not games.complete
    assert f"after {cut} bytes" in games.note and f"the {len(games)} games" in games.note
    assert "closed it before all" in games.note and "--games" in games.note
    assert server.ranges == [None] + [f"bytes={cut}-"] * 3
    assert not (tmp_path / "cache").exists()


def test_a_connection_cut_before_the_first_game_is_an_error(quick: None) -> None:
    served = serving(whole(CONTENT, 20))
    with served as server, pytest.raises(SoftPromptsError, match="broke after 20 bytes.*Try again"):
        read_games(server.url, ANY, None, None)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("name", ["plain.pgn", "frames.pgn.zst"])
def test_a_connection_cut_now_and_then_is_resumed(tmp_path: Path, quick: None, name: str, ranges: bool) -> None:
    data = compressed(CONTENT)[name]
    cuts = [len(data) * n // 8 for n in range(1, 8)]
    with serving(*[whole(data, cut, ranges=ranges) for cut in cuts], whole(data, ranges=ranges), name=name) as server:
        assert_same(read_games(server.url, ANY, None, None), read_text(tmp_path, CONTENT))
    assert server.ranges == [None] + [f"bytes={cut}-" for cut in cuts]


def test_a_file_that_changes_between_two_tries_is_not_pieced_together(quick: None) -> None:
    with serving(whole(CONTENT, 9000), whole(CONTENT, tag="v2")) as server:
        games = read_games(server.url, ANY, None, None)
    assert not games.complete and "changed meanwhile" in games.note


def test_a_stalled_connection_times_out_and_is_resumed(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "TIMEOUT_S", 0.2)
    released = threading.Event()

    def stall(handler: Handler, start: int) -> None:
        handler.begin(200, Content_Length=len(CONTENT), ETag="v1")
        handler.send(CONTENT[:5000])
        released.wait(10)

    with serving(stall, whole(CONTENT)) as server:
        assert_same(read_games(server.url, ANY, None, None), read_text(tmp_path, CONTENT))
        assert server.ranges == [None, "bytes=5000-"]
    with serving(stall, stall_silently(released)) as server:
        games = read_games(server.url, ANY, None, None)
        assert not games.complete and "timed out" in games.note
    released.set()


def test_nobody_listening_says_that_it_could_not_be_reached(quick: None) -> None:
    with serving(status(200)) as server:
        pass
    for url in (server.url, "http://no-such-host.invalid/games.pgn"):
        with pytest.raises(SoftPromptsError, match="could not be reached.*download .* elsewhere") as caught:
            read_games(url, ANY, None, None)
        assert url in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost:port/x.pgn", "http://[broken/x.pgn", "http://h:99999/x.pgn"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SoftPromptsError, match="is not a valid address, .*; check it"):
        read_games(url, ANY, None, None)


def test_few_games_do_not_download_the_whole_file(quick: None) -> None:
    block = CONTENT * 20
    closed = threading.Event()

    def endless(handler: Handler, start: int) -> None:
        handler.begin(200, Content_Length=10**12)
        try:
            for _ in range(1000):
                handler.send(block)
        except OSError:
            closed.set()

    with serving(endless) as server:
        games = read_games(server.url, ANY, 3, None)
        assert closed.wait(10)
    assert len(games) == 3 and games.complete
    assert server.sent < 4 * sources.BLOCK_BYTES + (16 << 20) < 1000 * len(block)  # a block, and what the sockets hold


def test_a_corrupt_file_at_an_address_is_an_error(quick: None) -> None:
    data = compressed(CONTENT)["one.pgn.zst"]
    served = serving(whole(data[:-50]), name="games.pgn.zst")
    with served as server, pytest.raises(SoftPromptsError, match="truncated or corrupt.*games could be read"):
        read_games(server.url, ANY, None, None)


SECRET = ("open-sesame", "S1GNATURE")
"""A password and a signature."""


def with_secrets(url: str) -> str:
    """The address with a login and a signed query."""
    return url.replace("http://", f"http://me:{SECRET[0]}@") + f"?X-Amz-Signature={SECRET[1]}&x=1#part"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("https://me:open-sesame@host.org:8443/a/b.pgn?X-Amz-Signature=S1GNATURE", "https://host.org:8443/a/b.pgn"),
        ("https://host.org?S1GNATURE", "https://host.org"),
        ("https://host.org/a.pgn#S1GNATURE", "https://host.org/a.pgn"),
        ("HTTP://me@[::1]:80/a@b/c.pgn", "HTTP://[::1]:80/a@b/c.pgn"),
        ("https://me:open/sesame@host.org/a.pgn", "https://..."),
        ("https://me:open?sesame@host.org/a.pgn", "https://..."),
        ("a folder/me:open@x?.pgn", "a folder/me:open@x?.pgn"),
    ],
)
def test_an_address_is_named_and_recorded_without_its_secrets(url: str, named: str) -> None:
    assert without_secrets(url) == named
    assert text_without_secrets(f"no {url} there") == (f"no {named} there" if " " not in url else f"no {url} there")
    if is_url(url):
        task = ChessMoves(games=url, test_games=url)
        identity = fingerprint(url)
        assert identity == named if "?" not in url else identity[:-8] == f"{named}?"
        assert task.identity() == {"games": identity, "test_games": identity}
        assert task.recorded()["games"] == task.recorded()["test_games"] == named
        texts = TextTask(text=("pile", url), test_text=(url,))
        assert texts.recorded()["text"] == ["pile", named] and texts.recorded()["test_text"] == [named]
        assert list(texts.identity().values())[1:] == [identity, identity]


def test_a_login_is_sent_to_the_server_and_to_no_other(tmp_path: Path, quick: None) -> None:
    asked: list[tuple[str, str | None]] = []

    def note(answer: Callable) -> Callable:
        def noted(handler: Handler, start: int) -> None:
            asked.append((handler.path, handler.headers["Authorization"]))
            answer(handler, start)

        return noted

    with serving(note(whole(CONTENT)), name="b.pgn") as other:
        moved = note(lambda handler, start: handler.begin(302, Location=other.url, Content_Length=0))
        with serving(moved) as server:
            games = read_games(with_secrets(server.url), ANY, None, tmp_path / "cache")
    assert_same(games, read_text(tmp_path, CONTENT))
    login = base64.b64encode(f"me:{SECRET[0]}".encode()).decode()
    assert asked == [(f"/games.pgn?X-Amz-Signature={SECRET[1]}&x=1", f"Basic {login}"), ("/b.pgn", None)]


@pytest.mark.parametrize(
    "answer",
    [
        status(404),
        status(503),
        whole(CONTENT, upto=20),
        whole(b"no games"),
        whole(game("1. Ke2 *").encode()),
        whole(zstandard.compress(CONTENT)[:-5]),
        lambda handler, start: handler.begin(302, Location="file:///S1GNATURE", Content_Length=0),
        lambda handler, start: handler.begin(302, Location="http://h:open-sesame/?S1GNATURE", Content_Length=0),
        lambda handler, start: handler.begin(302, URI="ftp://open-sesame@x/S1GNATURE", Content_Length=0),
        lambda handler, start: handler.begin(302, Location="http://[S1GNATURE", Content_Length=0),
        lambda handler, start: handler.begin(302, Location="http://.open-sesame/", Content_Length=0),
        lambda handler, start: handler.begin(302, Content_Length=0),
        lambda handler, start: handler.begin(200, Content_Length="²"),
    ],
)
def test_no_error_tells_what_an_address_keeps_secret(quick: None, answer: Callable) -> None:
    for read in (lambda url: read_games(url, ANY, None, None), lambda url: read_texts([url], None, 10, 100)):
        with serving(answer, name="a.pgn") as server, pytest.raises(SoftPromptsError) as caught:
            read(with_secrets(server.url))
        assert server.url in str(caught.value) and not any(secret in str(caught.value) for secret in SECRET)


@pytest.mark.parametrize("url", ["http://me:open-sesame?x@h/a.pgn", "http://me:open-sesame@[h/a.pgn?S1GNATURE"])
def test_an_address_that_is_none_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(SoftPromptsError, match="is not a valid address") as caught:
        read_games(url, ANY, None, None)
    assert not any(secret in str(caught.value) for secret in SECRET)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a.pgn", "data:text/plain,x", "FILE:/x"])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_an_address_that_leads_on_to_another_kind_is_refused(quick: None, target: str, code: int) -> None:
    answer = lambda handler, start: handler.begin(code, Location=target, Content_Length=0)  # noqa: E731
    kind = target.partition(":")[0].lower()
    message = f"leads on to an address of the kind '{kind}', which is not fetched; only http and https are"
    with serving(answer) as server, pytest.raises(SoftPromptsError, match=message):
        read_games(server.url, ANY, None, None)


def test_addresses_that_differ_in_the_query_share_no_cache(tmp_path: Path, quick: None) -> None:
    with serving(whole(CONTENT), whole(GAMES[0].encode())) as server:
        counts = [len(read_games(f"{server.url}?n={n}", ANY, None, tmp_path / "cache")) for n in (1, 2, 1)]
    assert counts == [40, 1, 40]
