"""Chess moves: which tokens are scored, which games are held out, and what the scores mean."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from soft_prompts.data.example import IGNORE
from soft_prompts.engine.evaluate import TokenScores
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.tasks.chess_moves import (
    PUBLISHED_GAMES,
    PUBLISHED_TEST_GAMES,
    ChessMoves,
    _legal,
    move_match,
    opening,
)
from tests.unit.made_up import byte_tokenizer, encoding, play, write_games


@pytest.fixture(scope="module")
def games(tmp_path_factory) -> Path:
    return write_games(tmp_path_factory.mktemp("games") / "games.pgn", 120)


def take(task: ChessMoves, split: str, n: int, seed: int = 0, max_tokens: int = 96, tokenizer=None) -> list:
    """The first ``n`` examples of a split, or all if there are fewer."""
    return list(islice(task.examples(split, encoding(max_tokens, tokenizer), seed), n))


def test_examples_are_whole_moves_behind_the_separator_all_scored(games) -> None:
    played = {" ".join(moves): ratings for _, ratings, moves in play(120, 0)}
    for e in take(ChessMoves(str(games)), "train", 50):
        text = byte_tokenizer().decode(e.tokens[1:])
        (game,) = [moves for moves in played if moves.startswith(text)]
        assert game[len(text) :] == "" or game[len(text)] == " "  # cut between moves
        assert len(game) + 1 <= 96 or len(e) > 96 - 6  # cut no earlier than needed
        assert (e.tokens[0], e.labels[0], e.insert_at) == (0, IGNORE, 1)
        assert (e.labels[1:] == e.tokens[1:]).all()
        np.testing.assert_allclose(e.condition, (np.array(played[game]) - 1000) / 2000, rtol=1e-6)
        assert e.n_plies == len(text.split())


def test_a_move_that_just_fits_is_kept(games) -> None:
    """The separator, four letters, a space and four letters: two moves and no token to spare."""
    examples = list(islice(ChessMoves(str(games)).examples("train", encoding(10), 0), 50))
    assert {(len(e), e.n_plies) for e in examples} == {(10, 2)}


@pytest.mark.parametrize("tokenizer", ["bytes", "pythia", "llama", "stories260K"])
def test_every_token_belongs_to_the_move_it_spells(games, tokenizer: str, request) -> None:
    if tokenizer == "bytes":
        coder = byte_tokenizer()
    else:
        folder = "models" if tokenizer == "stories260K" else "tokenizers"
        coder = AutoTokenizer.from_pretrained(request.getfixturevalue("data") / folder / tokenizer)
    for e in take(ChessMoves(str(games)), "train", 20, tokenizer=coder):
        moves = coder.decode(e.tokens[1:]).split()
        spelled = [coder.decode(e.tokens[e.plies == ply]).strip() for ply in range(e.n_plies)]
        assert spelled == moves


def test_the_splits_share_no_game_and_the_order_depends_on_the_seed_alone(games) -> None:
    task = ChessMoves(str(games))
    held_out, train = take(task, "held_out", 10**6), take(task, "train", 200)
    validation = take(task, "validation", 10**6)
    assert [e.document for e in take(task, "validation", 50, seed=1)] == [e.document for e in validation]
    assert 1 < len({e.document for e in validation}) == len(validation) < 20
    assert not {e.document for e in validation} & {e.document for e in (*held_out, *train)}
    n = len({e.document for e in train})
    assert 60 < n < 118
    assert 2 < len(held_out) < 40
    assert len({e.document for e in held_out}) == len(held_out)
    assert not {e.document for e in held_out} & {e.document for e in train}
    assert [e.document for e in take(task, "train", 50)] == [e.document for e in train[:50]]
    assert [e.document for e in take(task, "train", 50, seed=1)] != [e.document for e in train[:50]]
    assert [e.document for e in take(task, "held_out", 50, seed=1)] == [e.document for e in held_out]
    assert len({e.document for e in train[:n]}) == n  # an epoch sees every game once
    assert {e.document for e in train[n:]} < {e.document for e in train[:n]}


def test_games_of_the_test_file_never_train_even_where_both_files_hold_them(games, tmp_path) -> None:
    pieces = games.read_text().split("\n\n[Event")
    test = tmp_path / "test.pgn"
    test.write_text("\n\n[Event".join(pieces[:30]) + "\n\n")
    task = ChessMoves(str(games), test_games=str(test))
    held_out = take(task, "held_out", 10**6)
    assert len(held_out) == 30
    assert not {e.document for e in held_out} & {e.document for e in take(task, "train", 200)}


def test_testing_on_the_training_file_itself_is_refused(games) -> None:
    with pytest.raises(SoftPromptsError, match=r"no training games are left of the 120 .*--games"):
        take(ChessMoves(str(games), test_games=str(games)), "train", 1)


def test_what_is_not_chosen_follows_the_source() -> None:
    published, own = ChessMoves(), ChessMoves("my.pgn")
    assert (published.games, published.test_source) == (PUBLISHED_GAMES, PUBLISHED_TEST_GAMES)
    assert (published.game_filter.speed, published.game_filter.rated) == ("blitz", True)
    assert (own.test_source, own.game_filter.speed, own.game_filter.rated) == (None, None, None)
    chosen = ChessMoves("my.pgn", speed="rapid", rated="no").game_filter
    assert (chosen.speed, chosen.rated) == ("rapid", False)


def test_an_opening_is_where_each_side_moves_first() -> None:
    """e2e4 goes to file 5, rank 4; g8f6 to file 6, rank 6. The middle of the board is 4.5, the unit two squares."""
    assert opening("e2e4 g8f6 d2d4").tolist() == [0.25, -0.25, 0.75, 0.75]
    assert opening("e2e4").tolist() == [0.25, -0.25, 0, 0]
    assert opening("e7e8q a7a1").tolist() == [0.25, 1.75, -1.75, -1.75]


def test_a_prompt_is_told_the_ratings_or_the_opening_of_each_game(games) -> None:
    of_ratings, of_openings = (take(ChessMoves(str(games), condition=c), "held_out", 5) for c in ("ratings", "opening"))
    for e, told in zip(of_ratings, of_openings, strict=True):
        assert e.document == told.document and e.tokens.tolist() == told.tokens.tolist()
        assert e.condition == pytest.approx((np.array(e.elos) - 1000) / 2000)
        assert told.condition.tolist() == opening(byte_tokenizer().decode(e.tokens[1:])).tolist()
    assert ChessMoves(condition="opening").conditions([5, 4, 6, 6]).tolist() == opening("e2e4 g8f6").tolist()
    assert len({tuple(e.condition) for e in of_openings}) > 1


def test_a_move_matches_where_all_its_tokens_are_the_likeliest(games) -> None:
    (e, *_) = take(ChessMoves(str(games)), "held_out", 1)
    correct = np.ones(len(e) - 1, bool)
    correct[np.flatnonzero(e.plies[1:] == 3)[1]] = False  # one wrong token spoils the fourth move, black's second
    correct[np.flatnonzero(e.plies[1:] == 4)] = False  # all tokens of the fifth move are wrong, white's third
    scores = move_match(TokenScores([e.document], [np.zeros(len(e) - 1)], [correct]), [e])
    assert scores["move_match"]["value"] == pytest.approx(1 - 2 / e.n_plies)
    buckets = {f"{r // 400 * 400}-{r // 400 * 400 + 399}" for r in e.elos}
    assert set(scores["move_match_by_elo"]) == buckets


def test_legality_counts_every_half_move_until_the_first_mistake() -> None:
    given = ["e2e4", "e7e5"]
    good = ["g1f3", "b8c6", "f1c4", "f8c5", "e1g1", "g8f6", "d2d3", "d7d6"]
    assert _legal(given, given + good) == [True] * 8
    assert _legal(given, [*given, "g1f3", "b8b6", *good[2:]]) == [True] + [False] * 7
    assert _legal(given, given + good[:3]) == [True] * 3 + [False] * 5
    assert _legal(given, [*given, "0000", *good[1:]]) == [False] * 8  # passing is no move
    assert _legal(given, ["e2e4", "e7e5q", *good]) == [False] * 8  # the last move given was changed
    mate = ["f2f3", "e7e5", "g2g4", "d8h4"]
    assert _legal(mate[:3], mate) == [True] * 8  # a game that is over cannot go wrong


def test_scores_of_a_model_that_plays_at_random_are_what_they_are_by_hand(neox, games) -> None:
    task = ChessMoves(str(games), continued_from=(4,), continued_games=5)
    held_out = take(task, "held_out", 8, max_tokens=120)
    behind = PromptedModel(Bench(neox, encoding(120), held_out, 10**6), SoftPrompt(torch.randn(2, 32)))
    scored = task.score(behind, held_out)
    nats_per_move = behind.scores(held_out).sums.sum() / sum(e.n_plies for e in held_out)
    assert scored.scores["nats_per_move"]["value"] == pytest.approx(nats_per_move)
    assert scored.scores["elo_effect"]["value"] == pytest.approx(0)  # an unconditional prompt cannot use the ratings
    assert scored.scores["legal_after_4"]["value"] == 0
    assert scored.scores["legal_after_4"]["n"] == 5
    assert set(scored.samples[0]) == {"kind", "elos", "start", "continuation", "played"}
    assert len(scored.samples[0]["start"].split()) == 4


def test_legal_moves_of_a_model_that_knows_the_game_are_counted(games) -> None:
    """Each held-out game takes the model's part: it goes on as it was played, so all its moves are legal."""
    task = ChessMoves(str(games))
    for e in take(task, "held_out", 10):
        moves = byte_tokenizer().decode(e.tokens[1:]).split()
        assert _legal(moves[:4], moves)[: len(moves) - 4] == [True] * min(8, len(moves) - 4)
