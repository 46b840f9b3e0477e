"""Boards, paths and walks. What the generator says of its boards is true, and the scored tokens are the moves."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path
from transformers import AutoTokenizer

from soft_prompts.data.boards import Boards, Shape, board_texts, make_boards, move_texts, stream, walk
from soft_prompts.data.example import IGNORE
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import PromptGenerator
from soft_prompts.pocket import MODELS
from soft_prompts.tasks import board_pictures
from soft_prompts.tasks.board_pictures import _verdict, draw_obedience, draw_routes
from soft_prompts.tasks.pathfinding import Pathfinding
from tests.unit.made_up import byte_tokenizer, encoding

walls = st.sampled_from([0.0, 0.3, 0.5, 0.75])
shapes = st.builds(Shape, height=st.integers(1, 7), width=st.integers(2, 7), max_blocked=walls)
shapes = shapes.filter(lambda s: int(s.max_blocked * s.height * s.width) <= s.height * s.width - 2)


def boards_of(shape: Shape, seed: int, n: int = 40) -> Boards:
    """Random boards, the same every time."""
    return make_boards(n, shape, np.random.default_rng(seed))


def scipys_distance(blocked: np.ndarray, start: int, goal: int) -> float:
    """Moves of a shortest path by another implementation; inf if there is no path."""
    height, width = blocked.shape
    free = ~blocked.ravel()
    cell = np.arange(height * width).reshape(height, width)
    beside = np.stack([cell[:, :-1].ravel(), cell[:, 1:].ravel()], 1)
    below = np.stack([cell[:-1].ravel(), cell[1:].ravel()], 1)
    pairs = np.concatenate([beside, below])
    pairs = pairs[free[pairs].all(1)]
    graph = csr_array((np.ones(len(pairs)), pairs.T), shape=(free.size, free.size))
    return shortest_path(graph, directed=False, unweighted=True, indices=start)[goal]


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 10**6))
def test_the_optimum_is_the_shortest_path_and_boards_without_way_have_none(shape: Shape, seed: int) -> None:
    boards = boards_of(shape, seed)
    for i in range(len(boards)):
        wanted = scipys_distance(boards.blocked[i], boards.start[i], boards.goal[i])
        assert boards.optimum[i] == (-1 if np.isinf(wanted) else wanted)
        assert boards.start[i] != boards.goal[i]
        assert not boards.blocked[i].ravel()[[boards.start[i], boards.goal[i]]].any()


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 10**6), st.booleans())
def test_every_path_shown_walks_and_the_walker_counts_what_the_generator_says(
    shape: Shape, seed: int, spaces: bool
) -> None:
    boards = boards_of(shape, seed)
    for i, text in enumerate(move_texts(boards, spaces)):
        walked = walk(boards.blocked[i], boards.start[i], boards.goal[i], text)
        if boards.optimum[i] < 0:
            assert (text, walked.end, walked.n_moves, boards.extra[i], boards.bumps[i]) == ("U", "U", 0, 0, 0)
            continue
        assert walked.arrived
        assert walked.n_moves - boards.optimum[i] == boards.extra[i] >= 0
        assert walked.bumps == boards.bumps[i] <= boards.extra[i]
        assert walked.cells.index(boards.goal[i]) == walked.n_moves  # it ends where it first arrives


def test_a_walk_by_hand() -> None:
    blocked = np.array([[0, 1, 0], [0, 0, 0]], bool)  # A X B above O O O
    assert board_texts(one(blocked, 0, 2), True, True) == ["A X B\nO O O\nMoves:\n"]
    assert board_texts(one(blocked, 0, 2), False, False) == ["AXB\nOOO\n"]
    best = walk(blocked, 0, 2, "S E E N D")
    assert (best.cells, best.bumps, best.arrived, best.end) == ([0, 3, 4, 5, 2], 0, True, "D")
    bumped = walk(blocked, 0, 2, "ENSEENDNNN")
    assert (bumped.n_moves, bumped.bumps, bumped.arrived) == (6, 2, True)
    early = walk(blocked, 0, 2, "S D")
    assert (early.end, early.arrived) == ("D", False)
    assert walk(blocked, 0, 2, "S E x E N D").end == ""
    assert walk(blocked, 0, 2, "S E E N").end == "" and walk(blocked, 0, 2, "").end == ""
    assert walk(blocked, 0, 2, "S U").end == "U"


def one(blocked: np.ndarray, start: int, goal: int) -> Boards:
    """A single board; it is used only to be written as text."""
    n = np.array([0])
    return Boards(blocked[None], np.array([start]), np.array([goal]), n, np.empty((1, 0), np.int8), n, n)


def test_paths_are_optimal_and_wandering_ones_with_bumps_and_both_kinds_of_boards_occur() -> None:
    boards = boards_of(Shape(), 0, 2000)
    solvable = boards.optimum >= 0
    assert 0.3 < solvable.mean() < 0.95
    assert 0.2 < (boards.extra[solvable] == 0).mean() < 0.9
    assert (boards.bumps[solvable] > 0).mean() > 0.1
    n_walls = boards.blocked.sum((1, 2))
    assert n_walls.min() == 0 and n_walls.max() == 48


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_solvable_boards_is_the_one_asked_for(share: float) -> None:
    for boards in islice(stream(Shape(solvable_share=share), (0,)), 3):
        assert (boards.optimum >= 0).mean() == pytest.approx(share, abs=0.01)
        assert len(boards) > 200


# --- as examples ---


@pytest.mark.parametrize("spaces", [True, False])
@pytest.mark.parametrize("moves_line", [True, False])
@pytest.mark.parametrize("tokenizer", ["bytes", "pocket", "pythia", "llama"])
def test_the_scored_tokens_are_exactly_the_moves(tokenizer: str, spaces: bool, moves_line: bool, request) -> None:
    match tokenizer:
        case "bytes":
            coder = byte_tokenizer()
        case "pocket":
            coder = AutoTokenizer.from_pretrained(MODELS["pocket"])
        case _:
            coder = AutoTokenizer.from_pretrained(request.getfixturevalue("data") / "tokenizers" / tokenizer)
    task = Pathfinding(width=5, height=4, spaces=spaces, moves_line=moves_line)
    for e in islice(task.examples("train", encoding(512, coder), 0), 60):
        moves = coder.decode(e.labels[e.labels != IGNORE])
        assert moves.replace(" ", "") == move_texts(e.boards, False)[0]
        assert (moves.strip().count(" ") > 0) == (spaces and len(moves.replace(" ", "")) > 1)
        np.testing.assert_array_equal(e.labels[e.labels != IGNORE], e.tokens[e.labels != IGNORE])
        board = coder.decode(e.tokens[1:][e.labels[1:] == IGNORE])
        assert board.strip() == board_texts(e.boards, spaces, moves_line)[0].strip()
        np.testing.assert_allclose(e.condition, [e.boards.extra[0] / 8, e.boards.bumps[0] / 8])


def test_boards_are_the_same_for_every_prompt_and_never_in_two_splits() -> None:
    task, code = Pathfinding(width=3, height=3, test_boards=200), encoding(512)
    held_out = [e.document for e in task.examples("held_out", code, 0)]
    assert held_out == [e.document for e in task.examples("held_out", code, 5)]
    assert len(set(held_out)) == len(held_out) == 200
    trained = [[e.document for e in islice(task.examples("train", code, s), 3000)] for s in (0, 0, 1)]
    assert trained[0] == trained[1] != trained[2]
    validation = [e.document for e in task.examples("validation", code, 0)]
    assert validation == [e.document for e in task.examples("validation", code, 5)]
    assert len(set(validation)) == len(validation) == 200
    assert not set(held_out) & set(trained[0] + trained[2] + validation)
    assert not set(validation) & set(trained[0] + trained[2])


TWO_FREE_CELLS = {"width": 2, "height": 1, "max_blocked": 0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 1, "height": 1}, r"a board of 1 x 1 has no room .* 2 cells or more"),
        ({"max_blocked": 0.99}, r"up to 63 walls on 64 cells, .* at most 0.969"),
        ({"max_blocked": -0.1}, "--max-blocked -0.1"),
        ({"solvable_share": 1.5}, "--solvable-share is 1.5"),
        ({**TWO_FREE_CELLS, "solvable_share": 0.5}, "were all solvable, .* 0.5 cannot be met"),
        ({"width": 30, "height": 30}, "takes .* more than --train.max-tokens 512"),
    ],
)
def test_impossible_boards_are_refused_with_the_number_and_the_remedy(options: dict, message: str) -> None:
    with pytest.raises(SoftPromptsError, match=message):
        next(Pathfinding(**options).examples("train", encoding(512), 0))


def test_scores_are_those_of_the_walks(pocket, monkeypatch) -> None:
    """A model that writes the shown paths arrives on every board, as all of these are optimal. A model that writes
    nothing never arrives."""
    task = Pathfinding(width=3, height=3, walked=40, walked_asked=4)
    code = encoding(128, pocket.tokenizer)
    held_out = [e for e in islice(task.examples("held_out", code, 0), 300) if e.boards.extra[0] == 0][:60]
    prompt = PromptGenerator(pocket.vocabulary[:0], 1.0, (2, 4), torch.Generator())
    prompted = PromptedModel(Bench(pocket, code, held_out, 16_384), prompt)
    paths = {e.document: e.tokens[e.labels != IGNORE] for e in held_out}
    monkeypatch.setattr(PromptedModel, "generate", lambda self, starts, *_: [paths[e.document] for e in starts])
    scores = task.score(prompted, held_out).scores
    for name in ("arrives", "optimal", "says_no_way_rightly"):
        assert scores[name]["value"] == 1
    for name in ("excess_moves", "bumps", "says_no_way_wrongly", "says_done_wrongly", "invalid"):
        assert scores[name]["value"] == 0
    assert scores["obtained_extra"]["8 extra, 3 bumps"]["value"] == 0
    monkeypatch.setattr(PromptedModel, "generate", lambda self, starts, *_: [paths[e.document][:0] for e in starts])
    scores = task.score(prompted, held_out).scores
    assert scores["arrives"]["value"] == 0 and scores["invalid"]["value"] == 1


def blue(picture: np.ndarray) -> int:
    """Pixels in the colour of routes."""
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    return int((picture == [31, 119, 180]).all(2).sum())  # tab:blue


def test_routes_are_drawn_where_the_text_walks() -> None:
    boards = boards_of(Shape(3, 3, 0.0), 0, 1)
    still, there, further = (
        walk(boards.blocked[0], boards.start[0], boards.goal[0], text)
        for text in ("D", move_texts(boards, False)[0], "NNWWSSEEDD")
    )
    assert blue(draw_routes([boards], [still])) == 0
    assert 0 < blue(draw_routes([boards], [there])) < blue(draw_routes([boards], [further]))


@pytest.mark.parametrize(
    ("optimum", "text", "verdict"),
    [
        (-1, "U", "no way: said so"),
        (-1, "ED", "no way: not seen"),
        (1, "ED", "1 moves for 1"),
        (1, "NED", "2 moves for 1, 1 bumps"),
        (1, "U", "says no way"),
        (1, "D", "does not arrive"),
    ],
)
def test_a_drawn_route_has_its_verdict_above(optimum: int, text: str, verdict: str) -> None:
    assert _verdict(optimum, walk(np.zeros((1, 2), bool), 0, 1, text)) == verdict


def test_obedience_is_drawn_beside_what_was_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(board_pictures, "_pixels", lambda figure: figure)
    score = {"value": 1.0, "spread": 0.5}
    by_asked = {f"{extra} extra, {bumps} bumps": score for extra, bumps in ((0, 3), (8, 1))}
    extra, bumps = draw_obedience({"extra": by_asked, "bumps": by_asked}).axes
    (of_extra,), (of_bumps,) = ([line for line in ax.lines if line.get_label() == "asked for"] for ax in (extra, bumps))
    assert (list(of_extra.get_ydata()), list(of_bumps.get_ydata())) == ([0, 8], [3, 1])


def test_what_is_asked_reaches_the_model_as_its_condition() -> None:
    (e,) = islice(Pathfinding().examples("held_out", encoding(512), 0), 1)
    asked = e.asked(4, 1)
    np.testing.assert_allclose(asked.condition, [0.5, 0.125])
    assert (asked.labels == IGNORE).all()
    np.testing.assert_array_equal(asked.tokens, e.tokens[: len(asked)])
    assert asked.document == e.document
