"""Chess games from PGN files or addresses, as UCI move text.

A source is a local path or an http(s) address of a .pgn, .pgn.zst or .pgn.gz file of any size. It is read in blocks,
only as far as needed for the games that are wanted. Headers are judged before any move is parsed. A game with a move
that is illegal, or that the parser cannot read, is left out as a whole.

No game vanishes: those taken and those skipped, by reason, are all games up to the place where reading ended. A game
begins at its headers. One without headers begins behind the result of another and an empty line.

Whatever the text, the time grows with its length and not with its square, and memory stays below 1 GiB beside the games
that are kept. So patterns here are possessive (`*+`) or begin where a run of letters begins.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from soft_prompts.addresses import is_url, without_secrets
from soft_prompts.data.cache import cache_path, load_cached, save_cached
from soft_prompts.data.sources import Damaged, Dropped, blocks, fingerprint, open_source
from soft_prompts.errors import SoftPromptsError

FORMAT = 3
"""Raised when the same source and filter give other games than before, or the cache file another layout: old cache
files are then not used."""
MAX_GAME_BYTES = 16 << 20
"""More bytes of text than this without the start of a game are not PGN."""
PROGRESS_AFTER_S = 1.5
"""Seconds of reading before progress is shown."""
MAX_EVENTS_COUNTED = 10_000
"""Event headers counted for an error message. Tournament names may differ game by game, so there must be a bound."""
MAX_EVENT = 80
"""Bytes of an Event header that the message shows."""

ANY_HEADER = b'[A ""]\n\n'
"""Put before every movetext. Without it the parser drops games that have no moves, and the later games move up."""
RESULTS = (b"1-0", b"0-1", b"1/2-1/2", b"*")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
END_OF_FILE = b"\x1a"
"""Ctrl-Z, with which DOS ended a text. It stands between games where files were joined."""
JOINED = re.compile(rb'\[(?<!\n\[)(?=[A-Z]\w*[ \t]+")')
"""A header that begins no line: the file joined before had no last line end."""
BLANKS = re.compile(rb"\n[ \t]+(?=\n)")
HEADERS = re.compile(rb'\n(?<!"\]\n)\[([\w+#=:-]+)[ \t]+"')
"""A header whose line above is none: a game may begin here."""
HEADER_END = re.compile(rb"(?<!\n)\n(?!\n*+[\[%;])")
"""The end of the last header. Empty lines and comments between headers are among them."""
HEADER_TAG = re.compile(rb'\n\[(WhiteElo|BlackElo|Variant|SetUp|FEN|Termination)[ \t]+"([^"\n]*)"')
EVENT = re.compile(rb'\n\[Event[ \t]+"([^\n]*?)"\]')
TAG = re.compile(rb"\n\[([\w+#=:-]+)[ \t]")
COMMENT = re.compile(rb"\{[^}]*+\}|(\{)[^}]*+|;[^\n]*|^%[^\n]*", re.MULTILINE)
"""A comment. One that is never closed goes on to the end, and its brace is a group of its own."""
COMMENT_START = re.compile(rb"\{|;[^\n]*|^%[^\n]*", re.MULTILINE)
"""A comment up to the end of its line, or the brace with which it begins."""
GAME_END = re.compile(
    rb"\{[^}]*(?:\}|\Z)|;[^\n]*|^%[^\n]*"  # no game ends in a comment
    rb"|(?P<end>(?:1-0|0-1|1/2|\*)(?:[ \t]|\n(?!\n)|\{[^}]*+\}|;[^\n]*+)*+\n\n)",
    re.MULTILINE,
)
"""A result, comments on it, and an empty line."""
PARENTHESIS_OR_RESULT = re.compile(rb"[()]|1-0|0-1|1/2-1/2|\*")
NOTATIONS = (
    (re.compile(rb"(x[a-h][36][+#]*)\s*e\.?p\.?(?![\w.])"), rb"\1"),  # en passant
    (re.compile(rb"\+{2,}"), b"+"),  # double check
    (re.compile(rb"1/2(?:-1/2)?"), b"1/2-1/2"),  # a draw
)
"""Common notations that the parser does not read, and what it reads instead."""
STANDARD_VARIANTS = {b"standard", b"chess", b"classical", b"normal", b"from position"}
"""Values of the Variant header that mean ordinary chess: those that python-chess takes for it."""
UNPLAYED = {b"abandoned", b"rules infraction"}
"""Values of the Termination header of games that were not played to an end."""

SQUARES = np.frombuffer("".join(f"{file}{rank}" for rank in "12345678" for file in "abcdefgh").encode(), np.uint16)
"""The two letters of each square, a1 first."""
PROMOTION_AND_SPACE = np.frombuffer(b"\0 \0 n b r q \0 ", np.uint16)
"""A promotion's letter and a space, by the parser's numbers: 2 knight, 3 bishop, 4 rook, 5 queen, -1 (last) none."""
ASCII = bytes(n if n < 128 else ord("?") for n in range(256))
"""Translation table that makes every byte ASCII."""
NO_HEADERS = "no headers"
"""Why a game is not taken. A file with no other games holds none that could be judged."""
REMEDIES = {
    "wrong speed": "--speed",
    "unrated": "--rated",
    "rated": "--rated",
    "rating out of range": "--min-elo/--max-elo",
    "too short": "--min-plies",
}
"""Why a game is not taken, and the option that would change it."""


@dataclass(frozen=True)
class GameFilter:
    """Which games are wanted, by their headers and their length.

    Raises SoftPromptsError for a filter that no game can pass.
    """

    speed: str | None = None
    """A word that the Event header must contain, in upper or lower case, such as "blitz". None: any header."""
    rated: bool | None = None
    """True: games whose Event header begins with "Rated". False: the others. None: both."""
    min_elo: int = 0
    """The lowest rating that both players may have."""
    max_elo: int = 4000
    """The highest rating that both players may have."""
    min_plies: int = 1
    """The shortest game, in plies (one ply: a move of one player)."""

    def __post_init__(self) -> None:
        if self.speed is not None and not self.speed.strip():
            raise SoftPromptsError("--speed is empty; give a word of the Event header such as blitz, or leave it out.")
        if self.min_elo > self.max_elo:
            raise SoftPromptsError(f"--min-elo {self.min_elo} is above --max-elo {self.max_elo}; exchange them.")
        if self.min_plies < 1:
            raise SoftPromptsError(f"--min-plies is {self.min_plies}; it must be at least 1.")


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Games:
    """N games as UCI move text, in the order of their source."""

    text: np.ndarray
    """uint8 [characters], ASCII: the moves of each game with single spaces between them, the games back to back."""
    offsets: np.ndarray
    """int64 [N + 1]: game i is text[offsets[i] : offsets[i + 1]]."""
    elos: np.ndarray
    """int16 [N, 2], the ratings of white and black."""
    skipped: dict[str, int]
    """How many games were not taken, by reason."""
    complete: bool
    """False if a connection broke before everything that was wanted was read."""
    note: str
    """A sentence about the broken connection; empty if ``complete``."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def moves(self, i: int) -> str:
        """The UCI moves of game i, such as "e2e4 e7e5"."""
        return self._bytes(i).decode("ascii")

    def id(self, i: int) -> str:
        """16 hex digits that are the same for games of the same moves. Train and held-out are kept apart by it."""
        return hashlib.blake2b(self._bytes(i), digest_size=8).hexdigest()

    def _bytes(self, i: int) -> bytes:
        if not 0 <= i < len(self):
            raise IndexError(f"game {i} of {len(self)}")
        return self.text[self.offsets[i] : self.offsets[i + 1]].tobytes()


def read_games(source: str, game_filter: GameFilter, max_games: int | None, cache: Path | None) -> Games:
    """Read the first games of a PGN file or address that pass a filter, in file order.

    Args:
        source: Path or address of a .pgn, .pgn.zst or .pgn.gz file.
        game_filter: Which games are wanted.
        max_games: How many at most. None: all.
        cache: Folder where a complete result is kept and read from the next time. An address is then not asked again
            whether its file has changed. None: nothing is kept.

    Returns:
        The games. If a connection breaks for good after some games, these, with ``complete`` False and a note.

    Raises:
        SoftPromptsError: If the source is missing, unreachable, damaged or empty, or no game passes.
    """
    if max_games is not None and max_games < 1:
        raise SoftPromptsError(f"The number of games is {max_games}; ask for at least 1.")
    if cache is None:
        return _read(source, game_filter, max_games)
    identity = source if is_url(source) else fingerprint(source)  # the whole address: its query may choose the games
    path = cache_path(cache, "games", [identity, asdict(game_filter), max_games, FORMAT])
    kept = load_cached(path)
    if kept is not None:
        arrays, facts = kept
        return Games(**arrays, skipped=facts["skipped"], complete=True, note="")
    games = _read(source, game_filter, max_games)
    if games.complete:
        arrays = {"text": games.text, "offsets": games.offsets, "elos": games.elos}
        save_cached(path, arrays, {"skipped": games.skipped})
    return games


def _read(source: str, game_filter: GameFilter, max_games: int | None) -> Games:
    """``read_games`` without a cache."""
    collector = _Collector(game_filter, max_games)
    note = ""
    name = without_secrets(source)
    with contextlib.closing(open_source(source)) as raw, contextlib.closing(_Progress()) as progress:
        try:
            for texts in _split(blocks(name, raw), name):
                collector.take(texts)
                if collector.done():
                    break
                progress.show(collector.taken, collector.seen, raw.tell())
        except Dropped as error:
            if not collector.taken:
                raise SoftPromptsError(
                    f"No game could be taken from {name}: the connection broke after {raw.tell()} bytes ({error}). "
                    f"Try again, or download the file elsewhere and pass its path with --games."
                ) from error
            note = (
                f"The connection to {name} was lost after {raw.tell()} bytes ({error}); the {collector.taken} games "
                f"taken until then are kept. For the rest run again, or download the file and pass its path with "
                f"--games."
            )
        except Damaged as error:
            raise SoftPromptsError(
                f"{name} is truncated or corrupt: {error}; {collector.seen} games could be read before the break. "
                f"Download or copy the file again."
            ) from error
        except OSError as error:
            raise SoftPromptsError(f"{name} could not be read: {error}; check the disk or copy it again.") from error
    return collector.games(name, note)


# --- from blocks of text to single games ---


def _split(blocks: Iterator[bytes], source: str) -> Iterator[list[bytes]]:
    """Yield the games of each block. The text of a game with headers begins with the line end before them.

    The last game of a block waits for the next block, so a game that is cut off by a break is never yielded. Raises
    SoftPromptsError if the text is not PGN.
    """
    rest = b"\n\n"  # so that the first game begins after a blank line as well
    for block in blocks:
        *games, last = _at_headers(_tidied(rest + block))
        yield [game for text in games for game in _with_those_behind(text)]
        rest = b"\n" + last
        if len(rest) > MAX_GAME_BYTES:
            raise SoftPromptsError(
                f"{source} holds {len(rest) >> 20} MiB of text in which no game begins (a line such as `[Event ...]`); "
                f"it is not a PGN file, give another one."
            )
    yield [game for text in _at_headers(_tidied(rest + b"\n")) for game in _with_those_behind(text)]


def _tidied(text: bytes) -> bytes:
    r"""The text with \n for line ends, nothing in blank lines, and without marks where files begin or end."""
    if b"\r" in text:
        known = text.rstrip(b"\r")  # the line end behind it may go on in the next block
        text = re.sub(rb"(?<!\r)\r+\n", b"\n", known).replace(b"\r", b"\n") + text[len(known) :]
    if END_OF_FILE in text:
        text = text.replace(END_OF_FILE, b"\n")
    if BYTE_ORDER_MARK[:1] in text:  # one byte is found ten times as fast as three
        text = text.replace(BYTE_ORDER_MARK, b"")
    return BLANKS.sub(b"\n", JOINED.sub(b"\n[", text))


def _at_headers(text: bytes) -> list[bytes]:
    """Split the text where games with headers begin; the first part is what comes before them."""
    starts = [0]
    game = _Game(text)
    for header in HEADERS.finditer(text):
        if game.ends_before(header):
            starts.append(header.start())
            game.begin(header.start())
    return [text[start:end] for start, end in pairwise([*starts, len(text)])]


class _Game:
    """The game whose text is being read, and what is known of it so far. Nothing is read twice, however many lines of
    it look like headers."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._headers_until = self._first_move = 0
        self._closed = -1
        """The first closing brace behind some opening one; the length of the text if there is none."""
        self.begin(0)

    def begin(self, start: int) -> None:
        """The next game begins here."""
        self._start = start
        self._tags: set[bytes] = set()
        self._tags_until = start
        self._comments_until = -1
        """How far its comments are known; -1: not at all."""

    def ends_before(self, header: re.Match[bytes]) -> bool:
        """Whether the next game begins at a header, or whether it belongs to this one: it stands in a comment, or the
        headers go on."""
        text, start, end = self._text, self._start, header.start()
        blank = text.endswith(b"\n", start, end)
        if blank and text[text.rfind(b"\n", start, end - 1) + 1] not in b"[%;\n":
            return True  # behind a line of moves and a blank line, as nearly all games do
        has_headers = text.startswith(b"\n[", start)
        if has_headers and start >= self._headers_until:  # else the headers of the game before went on until here
            match = HEADER_END.search(text, start)
            self._headers_until = match.start() if match else len(text)
            self._first_move = _skip_space(text, self._headers_until)
        if has_headers and end <= self._first_move:
            # Only headers until here. They go on, but no game has a tag twice.
            self._tags.update(TAG.findall(text, self._tags_until, end))
            self._tags_until = end
            return header[1] in self._tags
        return blank or not self._is_in_comment(self._headers_until if has_headers else start, end)

    def _is_in_comment(self, headers_end: int, end: int) -> bool:
        """Whether a comment in braces begins before ``end`` and does not end there."""
        text = self._text
        place = max(self._comments_until, headers_end)
        while True:
            comment = COMMENT_START.search(text, place, end)
            if comment is None:
                self._comments_until = end
                return False
            place = comment.end()
            if comment[0] == b"{":
                if self._closed < place:
                    self._closed = text.find(b"}", place) % (len(text) + 1)  # the length, if it is not found
                if self._closed >= end:
                    self._comments_until = comment.start()
                    return True
                place = self._closed + 1


def _skip_space(text: bytes, start: int) -> int:
    """Where the first letter stands that is no white space."""
    match = re.compile(rb"\S").search(text, start)
    return match.start() if match else len(text)


def _with_those_behind(text: bytes) -> list[bytes]:
    """A game, and the games without headers behind it."""
    # Nearly all games have one blank line behind their headers, and then none before their end.
    first = text.find(b"\n\n", 1)
    second = text.find(b"\n\n", first + 2)
    if first > 0 and text.endswith(b'"]', 0, first) and (second < 0 or text[second:].isspace()):
        return [text]
    ends = [match.end() for match in GAME_END.finditer(text, _header_end(text)) if match["end"]]
    games = [text[start:end] for start, end in pairwise([0, *ends, len(text)])]
    return [game for game in games if COMMENT.sub(rb"\1", game).strip()]


def _header_end(game: bytes) -> int:
    """Where the headers of a game end; 0 if it has none."""
    if not game.startswith(b"\n["):
        return 0
    match = HEADER_END.search(game)
    return match.start() if match else len(game)


# --- from the text of games to moves ---


@dataclass
class _Collector:
    """Collects the games that pass the filter, block by block, and counts the others."""

    game_filter: GameFilter
    max_games: int | None
    taken: int = 0
    """Games that passed."""
    seen: int = 0
    """Games judged."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Games that did not pass, by reason."""
    events: Counter[bytes] = field(default_factory=Counter)
    """Event headers of the games seen before any passed."""
    _texts: list[np.ndarray] = field(default_factory=list)
    _lengths: list[np.ndarray] = field(default_factory=list)
    _elos: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        speed = self.game_filter.speed
        word = None if speed is None else re.escape(speed.strip().encode())
        self._speed = None if word is None else re.compile(rb"(?<!\w)" + word + rb"(?!\w)", re.IGNORECASE)

    def done(self) -> bool:
        """Whether all games that are wanted were taken."""
        return self.max_games is not None and self.taken >= self.max_games

    def take(self, games: list[bytes]) -> None:
        """Judge a list of games and keep those that pass, up to max_games. Later games are not counted."""
        verdicts: list[str] = []
        movetexts: list[bytes] = []
        elos: list[tuple[int, int]] = []
        for game in games:
            reason, end, white, black = self._judge(game)
            verdicts.append(reason)
            if not reason:
                movetexts.append(game[end:].strip())
                elos.append((white, black))
        if movetexts:
            text, lengths, reasons = _uci(movetexts, self.game_filter.min_plies)
            later = iter(reasons)
            verdicts = [reason or next(later) for reason in verdicts]
            places = [i for i, reason in enumerate(verdicts) if not reason]
            if self.max_games is not None and len(places) >= self.max_games - self.taken:
                places = places[: self.max_games - self.taken]
                verdicts = verdicts[: places[-1] + 1]
            kept = [pair for pair, reason in zip(elos, reasons, strict=True) if not reason][: len(places)]
            lengths = lengths[: len(places)]
            self._texts.append(text[: lengths.sum()])
            self._lengths.append(lengths)
            self._elos.append(np.array(kept, np.int16).reshape(-1, 2))
            self.taken += len(places)
        self.seen += len(verdicts)
        self.skipped.update(reason for reason in verdicts if reason)
        if not self.taken and len(self.events) < MAX_EVENTS_COUNTED:
            self.events.update(_event(game)[:MAX_EVENT] for game in games)

    def games(self, source: str, note: str) -> Games:
        """Everything that was taken. Raises SoftPromptsError if that is nothing."""
        if self.seen == self.skipped[NO_HEADERS]:
            raise SoftPromptsError(
                f"{source} holds no games with headers: no line begins like `[Event ...`. Give a PGN file."
            )
        if not self.taken:
            raise SoftPromptsError(self._nothing_passed(source))
        offsets = np.zeros(self.taken + 1, np.int64)
        np.cumsum(np.concatenate(self._lengths), out=offsets[1:])
        skipped = dict(self.skipped.most_common())
        return Games(np.concatenate(self._texts), offsets, np.concatenate(self._elos), skipped, not note, note)

    def _nothing_passed(self, source: str) -> str:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in self.skipped.most_common())
        events = ", ".join(f'"{name.decode("utf-8", "replace")}" ({n})' for name, n in self.events.most_common(3))
        options = list(dict.fromkeys(REMEDIES[reason] for reason in self.skipped if reason in REMEDIES))
        remedy = f"Loosen {', '.join(options)} or give" if options else "Give"
        return (
            f"None of the {self.seen} games of {source} passes the filter ({reasons}); the most common Event headers "
            f"are {events}. {remedy} another file with --games."
        )

    def _judge(self, game: bytes) -> tuple[str, int, int, int]:
        """Judge a game by its headers.

        Returns:
            Why it is not taken ("" if it may be), where its headers end, and the ratings of white and black.
        """
        wanted = self.game_filter
        if not game.startswith(b"\n["):
            return NO_HEADERS, 0, 0, 0
        event = _event(game)
        if self._speed is not None and not self._speed.search(event):
            return "wrong speed", 0, 0, 0
        if wanted.rated is not None and wanted.rated != (event[:5].lower() == b"rated"):
            return "unrated" if wanted.rated else "rated", 0, 0, 0
        end = _header_end(game)
        headers = dict(HEADER_TAG.findall(game, 0, end))
        if b"Variant" in headers and headers[b"Variant"].strip().lower() not in STANDARD_VARIANTS:
            return "variant", end, 0, 0
        if b"FEN" in headers or headers.get(b"SetUp") == b"1":
            return "set position", end, 0, 0
        if b"Termination" in headers and headers[b"Termination"].strip().lower() in UNPLAYED:
            return "abandoned", end, 0, 0
        white, black = _elo(headers.get(b"WhiteElo", b"")), _elo(headers.get(b"BlackElo", b""))
        if not white or not black:
            return "no rating", end, 0, 0
        if not (wanted.min_elo <= white <= wanted.max_elo and wanted.min_elo <= black <= wanted.max_elo):
            return "rating out of range", end, 0, 0
        return "", end, white, black


def _event(game: bytes) -> bytes:
    """The value of the Event header; empty if there is none."""
    match = EVENT.match(game) or EVENT.search(game, 0, _header_end(game))
    return match[1] if match else b""


def _elo(value: bytes) -> int:
    """A rating; 0 if there is none ("?", "", "0", not a number, or more digits than a rating has)."""
    return int(value) if value.isdigit() and len(value) <= 4 else 0


def _uci(movetexts: list[bytes], min_plies: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Parse the moves of games and write them as UCI.

    Args:
        movetexts: The movetexts of N games, without headers.
        min_plies: The shortest game that is taken.

    Returns:
        The text of the games that are taken, back to back, uint8 [characters]; their lengths, int64 [taken games]; and
        for each of the N games why it is not taken ("" if it is).
    """
    squares_from, squares_to, promotions, plies, reasons = _parse(movetexts)
    reasons = [
        reason or ("no moves" if count == 0 else "too short" if count < min_plies else "")
        for reason, count in zip(reasons, plies.tolist(), strict=True)
    ]
    taken = np.array([not reason for reason in reasons])
    plies_taken = plies[taken]
    if not taken.all():
        moves_taken = np.repeat(taken, plies)
        squares_from, squares_to = squares_from[moves_taken], squares_to[moves_taken]
        promotions = promotions[moves_taken]
    # Six bytes for each move: two for the square it leaves, two for the square it goes to, promotion or 0, space.
    moves = np.empty((len(promotions), 3), np.uint16)
    moves[:, 0] = SQUARES[squares_from]
    moves[:, 1] = SQUARES[squares_to]
    moves[:, 2] = PROMOTION_AND_SPACE[promotions]
    text = moves.view(np.uint8).ravel()
    ends = np.cumsum(plies_taken)
    text[ends * 6 - 1] = 0  # no space after a game's last move
    promoted = np.concatenate([[0], np.cumsum(promotions > 0)])
    lengths = plies_taken * 5 - 1 + promoted[ends] - promoted[ends - plies_taken]
    return text[text != 0], lengths, reasons


def _parse(movetexts: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Parse the moves of games.

    Args:
        movetexts: The movetexts of N games, without headers.

    Returns:
        The M moves of all games back to back: the squares they leave, uint8 [M], the squares they go to, uint8 [M], and
        their promotions, int8 [M]. A square is 0 (a1) to 63 (h8), a promotion is -1 (none) or 2 to 5. Castling is the
        king's move. Then the number of moves of each game, int64 [N], and for each game "malformed" or "".
    """
    import pyarrow as pa  # slow, as the parser is: not imported before games are read
    import rust_pgn_reader_python_binding as rust_pgn

    texts = [ANY_HEADER + text for text in movetexts]
    joined = b"".join(texts)
    # The parser takes the bytes for UTF-8 without checking them. Beyond ASCII there are only comments.
    if not joined.isascii():
        joined = joined.translate(ASCII)
    bounds = np.zeros(len(texts) + 1, np.int32)
    np.cumsum([len(text) for text in texts], out=bounds[1:])
    strings = pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(bounds), pa.py_buffer(joined)])
    # One chunk of consecutive games for each thread.
    chunks = rust_pgn.parse_games(pa.chunked_array([strings])).chunks
    valid = np.concatenate([chunk.valid for chunk in chunks]).tolist()
    outcomes = [outcome for chunk in chunks for outcome in chunk.outcome]
    reasons = [
        "" if ok and (_is_whole(text) if outcome is None else _ends_with_its_result(text)) else "malformed"
        for ok, outcome, text in zip(valid, outcomes, movetexts, strict=True)
    ]
    pairs = zip(movetexts, reasons, strict=True)
    standard = [_in_standard_notation(text) if reason else text for text, reason in pairs]
    if standard != movetexts:  # seldom, so the whole block once more
        return _parse(standard)
    return (
        np.concatenate([chunk.from_squares for chunk in chunks]),
        np.concatenate([chunk.to_squares for chunk in chunks]),
        np.concatenate([chunk.promotions for chunk in chunks]),
        np.concatenate([np.diff(chunk.move_offsets.astype(np.int64)) for chunk in chunks]),
        reasons,
    )


def _is_whole(movetext: bytes) -> bool:
    """Whether a movetext without a result has been read to its end.

    The parser stops, and calls the game valid, at a comment or variation that is never closed (a game cut off), at a
    `[` outside comments, and at an empty line with moves after it.
    """
    plain = COMMENT.sub(rb" \1", movetext).strip()
    after_blank = plain.partition(b"\n\n")[2].strip()
    return (
        b"{" not in plain
        and b"[" not in plain
        and plain.count(b"(") <= plain.count(b")")
        and (not after_blank or after_blank in RESULTS)
    )


def _ends_with_its_result(movetext: bytes) -> bool:
    """Whether nothing but comments stands behind a movetext's result, where the parser stops."""
    if movetext.endswith(RESULTS) and sum(map(movetext.count, RESULTS)) == 1:
        return True
    plain = COMMENT.sub(rb" \1", movetext)
    depth = 0
    for match in PARENTHESIS_OR_RESULT.finditer(plain):
        if match[0] in RESULTS and depth == 0:
            return set(plain[match.start() :].split()) <= set(RESULTS)
        depth += {b"(": 1, b")": -1}.get(match[0], 0)
    return False


def _in_standard_notation(movetext: bytes) -> bytes:
    """A movetext with common notations replaced by those that the parser reads."""
    for pattern, standard in NOTATIONS:
        movetext = pattern.sub(standard, movetext)
    return movetext


# --- progress ---


class _Progress:
    """A line on a terminal's stderr that is gone at the end. Nothing if reading is quick or there is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._started = time.monotonic()
        self._status = None

    def show(self, taken: int, seen: int, n_bytes: int) -> None:
        """Say how many games were taken and seen, and how many bytes were read."""
        seconds = time.monotonic() - self._started
        if seconds < PROGRESS_AFTER_S or not self._console.is_terminal:
            return
        line = f"{taken:,} games taken of {seen:,} seen, {seen / seconds:,.0f} games/s, {n_bytes / 1e6:,.1f} MB read"
        if self._status is None:
            self._status = self._console.status(line)
            self._status.start()
        self._status.update(line)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
