"""Pathfinding: write the moves that lead through a board of letters, as well or as badly as the conditions ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import numpy as np

from soft_prompts.data.boards import (
    DONE,
    MOVES,
    NO_WAY,
    Boards,
    Shape,
    Walk,
    board_texts,
    move_texts,
    stream,
    walk,
)
from soft_prompts.data.documents import HELD_OUT_SHARE, VALIDATION_SHARE, Encoding, Split, document_id, split_of
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.prompted import PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.stats import rate, ratio
from soft_prompts.tasks.base import Conditions, Task, TaskScores
from soft_prompts.tasks.board_pictures import draw_obedience, draw_routes

QUALITY = Conditions(("moves more than needed", "bumps into walls"), 0, 8)
ASKED_EXTRA, ASKED_BUMPS = (0, 2, 4, 8), (0, 1, 3)
"""Conditions asked for to see whether they are obeyed."""
SYMBOLS = MOVES + DONE + NO_WAY
"""All that a path is written with, white space apart."""
RANDOM_TEXTS = 100
"""Texts of the random writer on each board. They make its share on these boards precise; the boards are the sample."""


@dataclass(frozen=True)
class BoardExample(Example):
    """A board and its path as tokens, and the board itself to walk on."""

    boards: Boards = None  # type: ignore[assignment]
    """One board."""

    @property
    def solvable(self) -> bool:
        return bool(self.boards.optimum[0] >= 0)

    def asked(self, extra: int, bumps: int) -> BoardExample:
        """The board without its path, under other conditions: what a model reads when it must find the way itself."""
        given = int((self.labels == IGNORE).sum())
        return replace(self.prefix(given), condition=QUALITY([extra, bumps]))


@dataclass(frozen=True)
class Pathfinding(Task):
    """Boards are made as they are needed: seeded, without end, the same for every prompt length."""

    width: int = 8
    height: int = 8
    max_blocked: float = 0.75
    """Share of a board's cells that are walls at most; their number is uniform from 0 up to this."""
    solvable_share: float | None = 0.75
    """Share of the boards on which the goal can be reached. None: as they come."""
    spaces: bool = True
    """Write spaces between cells and between moves."""
    moves_line: bool = True
    """Write "Moves:" above the moves."""
    test_boards: int = 4096
    """Held-out boards; those that are scored (--train.eval-documents) are the first of them."""
    walked: int = 128
    """Held-out boards on which the model finds its own way."""
    walked_asked: int = 32
    """Solvable held-out boards walked for each of the conditions asked for."""

    conditions: ClassVar[Conditions] = QUALITY
    headline: ClassVar[tuple[str, ...]] = ("arrives", "optimal", "says_no_way_rightly", "invalid")

    @property
    def shape(self) -> Shape:
        """What the boards are drawn from. Raises SoftPromptsError for options that allow none."""
        cells = self.width * self.height
        if min(self.width, self.height) < 1 or cells < 2:
            raise SoftPromptsError(
                f"a board of {self.width} x {self.height} has no room for a start and a goal; --width and --height "
                f"must make 2 cells or more."
            )
        if not 0 <= self.max_blocked <= 1 or int(self.max_blocked * cells) > cells - 2:
            raise SoftPromptsError(
                f"--max-blocked {self.max_blocked} is up to {int(self.max_blocked * cells)} walls on {cells} cells, "
                f"but start and goal need two free ones; give at most {(cells - 2) / cells:.3f}."
            )
        if self.solvable_share is not None and not 0 <= self.solvable_share <= 1:
            raise SoftPromptsError(f"--solvable-share is {self.solvable_share}, but must lie between 0 and 1.")
        return Shape(self.height, self.width, self.max_blocked, self.solvable_share)

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[BoardExample]:
        """Boards behind the separator, then their moves. Only the moves are scored.

        A hash of the board without its path says which split it belongs to.
        """
        if split == "train":
            yield from self._made(encoding, (1, seed), split)
            return
        known: set[str] = set()
        share = HELD_OUT_SHARE if split == "held_out" else VALIDATION_SHARE
        n_tried = int(self.test_boards / share) * 2  # small boards do not have so many different ones
        for e in self._made(encoding, (0,), split, n_tried):
            if e.document not in known:
                known.add(e.document)
                yield e
            if len(known) == self.test_boards:
                return

    def facts(self, encoding: Encoding) -> dict[str, Any]:
        """The share of boards with a way among the first ones made, whatever the options ask for."""
        boards = next(stream(self.shape, (1, 0)))
        optimum = boards.optimum[boards.optimum >= 0]
        return {"solvable": len(optimum) / len(boards), "mean_optimum": float(optimum.mean()) if len(optimum) else None}

    def _made(
        self, encoding: Encoding, seed: tuple[int, ...], split: Split, n_tried: int | None = None
    ) -> Iterator[BoardExample]:
        """Examples of boards of one split, from ``n_tried`` boards or without end."""
        for boards in stream(self.shape, seed):
            texts = board_texts(boards, self.spaces, self.moves_line)
            ids = [document_id(text) for text in texts]
            mine = [i for i, board in enumerate(ids) if split_of(board) == split]
            for start in range(0, len(mine), 64):  # tokenised as they are needed
                part = mine[start : start + 64]
                of_part = [texts[i] for i in part], [ids[i] for i in part]
                yield from self._encode(boards.take(np.array(part)), *of_part, encoding)
            if n_tried is not None and (n_tried := n_tried - len(boards)) <= 0:
                return

    def _encode(self, boards: Boards, texts: list[str], ids: list[str], encoding: Encoding) -> Iterator[BoardExample]:
        """Board and moves are tokenised apart, so that no token holds both."""
        paths, extra = encoding.tokens(move_texts(boards, self.spaces))[0], boards.extra
        for i, (board, path) in enumerate(zip(encoding.tokens(texts)[0], paths, strict=True)):
            tokens = np.concatenate([board, path[1:]])
            if len(tokens) > encoding.max_tokens:
                raise SoftPromptsError(
                    f"a board of {self.width} x {self.height} takes {len(board)} tokens and its path {len(path) - 1}, "
                    f"more than --train.max-tokens {encoding.max_tokens}; give more of these or a smaller --width and "
                    f"--height."
                )
            labels = np.concatenate([np.full(len(board), IGNORE), path[1:]])
            condition = QUALITY([extra[i], boards.bumps[i]])
            yield BoardExample(tokens, labels, ids[i], condition=condition, boards=boards.take(np.array([i])))

    def score(self, prompted: PromptedModel, held_out: Sequence[BoardExample]) -> TaskScores:
        """How the model walks when asked for the best path, and whether it obeys when asked for worse ones.

        Asked for the best path, greedy:
        arrives, optimal: share of the boards with a way on which the model says D on the goal, and does so after as few
            moves as a shortest path has.
        excess_moves: moves beyond a shortest path, of the walks that arrive. bumps: moves against a wall or the edge by
            board with a way.
        says_no_way_rightly, says_no_way_wrongly: share of the boards without and with a way on which it says U.
        says_done_wrongly, invalid: share of all boards on which it says D where the goal is not, and on which it says
            neither D nor U before the text ends or holds something unknown.
        random_writer_arrives, random_writer_optimal: the same as arrives and optimal for symbols drawn at random; see
            ``random_writer``.

        Asked for other paths, at temperature 1, on boards with a way: obtained_extra, obtained_bumps: moves beyond a
        shortest path and bumps of the walks that arrive, mean and "spread" (standard deviation), by what was asked for.
        """
        examples = held_out[: self.walked]
        walks = self._walks(prompted, examples, 0, 0, temperature=0.0)
        shares = symbol_shares(next(stream(self.shape, (1, 0))))  # of the first boards made for training
        writer = random_writer(examples, shares, self.longest_walk)
        scores = {**_walk_scores(examples, walks), **writer}
        solvable = [e for e in held_out if e.solvable][: self.walked_asked]
        obtained: dict[str, dict] = {"extra": {}, "bumps": {}}
        for extra, bumps in product(ASKED_EXTRA, ASKED_BUMPS):
            of_asked = zip(solvable, self._walks(prompted, solvable, extra, bumps, temperature=1.0), strict=True)
            arrived = [(w.n_moves - int(e.boards.optimum[0]), w.bumps) for e, w in of_asked if w.arrived]
            for i, what in enumerate(obtained):
                values = np.array([pair[i] for pair in arrived], float)
                spread = float(values.std()) if len(values) else None
                obtained[what][f"{extra} extra, {bumps} bumps"] = {
                    **ratio(values, np.ones(len(values))),
                    "spread": spread,
                }
        scores |= {f"obtained_{what}": by_asked for what, by_asked in obtained.items()}
        samples = [
            {
                "kind": "path",
                "board": prompted.decode(e.asked(0, 0).tokens[1:]),
                "walked": _letters(w, e),
                "shortest": str(e.boards.optimum[0]),
            }
            for e, w in zip(examples[:4], walks, strict=False)
        ]
        routes = draw_routes([e.boards for e in examples[:12]], walks[:12])
        pictures = {"routes": routes, "obedience": draw_obedience(obtained)}
        return TaskScores(scores, samples, pictures)

    @property
    def longest_walk(self) -> int:
        """Moves after which a walk is given up: twice the cells."""
        return 2 * self.width * self.height

    def _walks(
        self, prompted: PromptedModel, examples: Sequence[BoardExample], extra: int, bumps: int, temperature: float
    ) -> list[Walk]:
        """Where the model's own moves lead on each board; no text is longer than those that are trained on."""
        starts = [e.asked(extra, bumps) for e in examples]
        room = prompted.bench.encoding.max_tokens - max((len(e) for e in starts), default=0)
        texts = prompted.generate(starts, min(self.longest_walk, room), temperature)
        return [
            walk(e.boards.blocked[0], e.boards.start[0], e.boards.goal[0], prompted.decode(text))
            for e, text in zip(examples, texts, strict=True)
        ]


def _walk_scores(examples: Sequence[BoardExample], walks: Sequence[Walk]) -> dict:
    """Scores of walks that were asked to be the best."""
    solvable = [(e, w) for e, w in zip(examples, walks, strict=True) if e.solvable]
    hopeless = [w for e, w in zip(examples, walks, strict=True) if not e.solvable]
    excess = [w.n_moves - int(e.boards.optimum[0]) for e, w in solvable if w.arrived]
    return {
        "arrives": rate([w.arrived for _, w in solvable]),
        "optimal": rate([w.arrived and w.n_moves == e.boards.optimum[0] for e, w in solvable]),
        "excess_moves": ratio(np.array(excess), np.ones(len(excess))),
        "bumps": ratio(np.array([w.bumps for _, w in solvable]), np.ones(len(solvable))),
        "says_no_way_rightly": rate([w.end == NO_WAY for w in hopeless]),
        "says_no_way_wrongly": rate([w.end == NO_WAY for _, w in solvable]),
        "says_done_wrongly": rate([w.end == DONE and not w.arrived for w in walks]),
        "invalid": rate([w.end == "" for w in walks]),
    }


def symbol_shares(boards: Boards) -> np.ndarray:
    """How often each symbol stands in the paths of boards, the closing D or U included.

    Args:
        boards: N boards with their paths.

    Returns:
        float64 [6], shares of N, E, S, W, D and U, which sum to 1.
    """
    text = "".join(move_texts(boards, spaces=False))
    counts = np.array([text.count(symbol) for symbol in SYMBOLS])
    return counts / counts.sum()


def random_writer(examples: Sequence[BoardExample], shares: np.ndarray, longest: int, seed: int = 0) -> dict[str, Any]:
    """What a writer would reach that sees no board, under the rules that hold for the model.

    Each symbol is drawn for itself. The text ends at its first D or U or is given up after ``longest`` symbols, and
    only a D on the goal arrives. The symbols have the shares that they have in training paths, so the writer knows of
    the task what the loss baseline "unigram" knows: the notation, how long texts are, and how often there is no way.
    With the six symbols alike it would stop at every third.

    Args:
        examples: Boards. Those without a way are left out, as they are for the model.
        shares: [6], chance of each of SYMBOLS.
        longest: Symbols of a text at most.
        seed: Of the draws.

    Returns:
        "random_writer_arrives" and "random_writer_optimal": shares of the texts, with intervals over boards.
    """
    solvable = [e.boards for e in examples if e.solvable]
    drawn = np.random.default_rng(seed).choice(list(SYMBOLS), (len(solvable), RANDOM_TEXTS, longest), p=shares)
    arrived, optimal = (np.zeros(len(solvable)) for _ in range(2))  # texts by board
    for i, (b, texts) in enumerate(zip(solvable, drawn, strict=True)):
        for text in texts:
            w = walk(b.blocked[0], b.start[0], b.goal[0], "".join(text))
            arrived[i] += w.arrived
            optimal[i] += w.arrived and w.n_moves == b.optimum[0]
    n_texts = np.full(len(solvable), RANDOM_TEXTS)
    return {"random_writer_arrives": ratio(arrived, n_texts), "random_writer_optimal": ratio(optimal, n_texts)}


def _letters(w: Walk, e: BoardExample) -> str:
    """A walk in words."""
    what = "arrived" if w.arrived else "said there is no way" if w.end == NO_WAY else "did not arrive"
    return f"{w.n_moves} moves, {w.bumps} bumps, {what}" + ("" if e.solvable else " (there is none)")
