"""What ships: how large it is, what it was trained on, and what only a trained model can show."""

import io
import itertools
import json
import random
import re
from dataclasses import replace

import chess
import numpy as np
import pytest
import torch
import zstandard

import tests.chess_test
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.data.pgn import GameFilter, read_games
from soft_prompts.engine.batch import collate
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.forward import forward_pass
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.loading import load
from soft_prompts.pocket import GAMES, MODELS, SAMPLES, card, corpus
from soft_prompts.pocket.train import CONTEXT, SHARES, SPECIAL, Corpus, Settings, base_batches, make_stream
from soft_prompts.prepare import make_bench
from soft_prompts.stats import comparison_widths, ratio, resampled
from soft_prompts.sweep import plan
from soft_prompts.training.log import Logs
from soft_prompts.training.loop import train
from soft_prompts.training.state import TrainingState

# --- what is in the box ---


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_small_and_says_what_it_is(name: str) -> None:
    model = load(name)
    n_parameters = sum(p.numel() for p in model.lm.parameters())
    assert 2e6 <= n_parameters <= 4e6
    assert (MODELS[name] / "model.safetensors").stat().st_size <= 8_000_000
    assert 2000 <= len(model.tokenizer) <= 4000
    assert model.lm.config.model_type == "gpt_neox"
    assert (model.name, model.revision) == (name, "local")


def test_the_cards_say_what_was_measured() -> None:
    base, chat = (card.facts_of(folder) for folder in MODELS.values())
    made = {"pocket": card.base_card(base, ""), "pocket-chat": card.chat_card(chat, "")}
    for name, text in made.items():
        committed = (MODELS[name] / "README.md").read_text()
        assert all(line in committed for line in text.splitlines())
    assert base["held_out"]["prose"]["bits_per_byte"] <= 1.5
    assert base["chess"]["legal_after_10"]["value"] >= 0.93
    assert base["chess"]["legal_after_40"]["value"] >= 0.80
    assert chat["chat"]["prose"]["nats_per_token"] - chat["base"]["prose"]["nats_per_token"] >= 0.05


def test_the_games_that_ship_are_many_rated_and_small() -> None:
    games = read_games(str(GAMES), GameFilter(speed="blitz", rated=True, min_elo=1), None, None)
    assert len(games) >= 2000 and not games.skipped
    assert len({games.id(i) for i in range(len(games))}) == len(games)
    assert games.elos.max() - games.elos.min() > 1000
    assert GAMES.stat().st_size <= 1_000_000


def documents() -> list[str]:
    """The texts that ship."""
    raw = zstandard.ZstdDecompressor().stream_reader(SAMPLES.open("rb"))
    return [json.loads(line)["text"] for line in io.TextIOWrapper(raw, "utf-8")]


def test_the_samples_that_ship_are_many_and_small() -> None:
    assert len(documents()) >= 1000
    assert SAMPLES.stat().st_size <= 1_000_000


# --- what a trained model shows ---


def test_a_prompt_of_token_embeddings_is_those_tokens_exactly(pocket) -> None:
    line = pocket.tokenizer("White 1500, Black 1500.\n")["input_ids"]
    moves = pocket.tokenizer("e2e4 e7e5 g1f3 b8c6 f1b5")["input_ids"]
    with_tokens = torch.tensor([[pocket.separator, *line, *moves]])
    tokens = np.array([pocket.separator, *moves])
    example = Example(tokens, np.array([IGNORE, *moves]), "game")
    prompt = SoftPrompt(pocket.vocabulary[line])
    with torch.no_grad():
        wanted = pocket.body(pocket.embed(with_tokens))[0, len(line) : -1]  # the states that predict the moves' tokens
        got = forward_pass(pocket, [prompt], [[example]], [(0, 0)]).hidden
    assert torch.equal(got, wanted)
    assert len(collate([example]).tokens[0]) + prompt.n_tokens == with_tokens.shape[1]


@pytest.fixture(scope="module")
def elicited(pocket, tmp_path_factory) -> dict[int, TrainingState]:
    """Chess prompts of 0, 1 and 16 tokens, by their length. They are trained for half a minute."""
    sweep = tests.chess_test.POCKET
    recipe = replace(sweep.train, steps=120, n_evaluations=0, eval_documents=200, max_tokens=128)
    sweep = replace(sweep, train=recipe, n_tokens=(0, 1, 16), seeds=(0,), controls=())
    runs = plan(sweep, "pocket")
    bench = make_bench(sweep, pocket, runs[0])
    return {t.run.n_tokens: t for t in train(bench, runs, Logs(tmp_path_factory.mktemp("runs")))}


@pytest.mark.slow  # `make demo` shows it, too
def test_elicitation_beats_no_prompt_and_more_tokens_beat_fewer(elicited) -> None:
    none, one, sixteen = scores = [elicited[n].scores for n in (0, 1, 16)]
    assert ratio(none.sums - one.sums, none.counts)["interval"][0] > 0
    assert ratio(one.sums - sixteen.sums, none.counts)["interval"][0] > 0
    widths = comparison_widths(resampled(np.stack([s.sums for s in scores]), none.counts))
    assert none.loss - widths[0] > one.loss + widths[1] and one.loss - widths[1] > sixteen.loss + widths[2]


@pytest.mark.slow  # `make demo` shows it, too
def test_a_conditional_prompt_uses_the_ratings(pocket, elicited) -> None:
    """The same games are predicted worse with the ratings of other games, paired by game."""
    prompt, sweep = elicited[16].intervention, tests.chess_test.POCKET
    bench = make_bench(sweep, pocket, elicited[16].run)
    order = np.random.default_rng(0).permutation(len(bench.held_out))
    strangers = [replace(e, condition=bench.held_out[i].condition) for e, i in zip(bench.held_out, order, strict=True)]
    true, shuffled = (evaluate(pocket, [prompt], examples, 16_384)[0] for examples in (bench.held_out, strangers))
    assert ratio(shuffled.sums - true.sums, true.counts)["interval"][0] > 0


# --- what it was trained on ---


def test_a_maze_shows_a_shortest_path() -> None:
    for seed in range(200):
        _, *rows, path = corpus.maze(seed).split("\n")
        cells = {(y, x): cell for y, row in enumerate(rows) for x, cell in enumerate(row)}
        (start,) = [at for at, cell in cells.items() if cell == "@"]
        reached, frontier, steps = {start}, {start}, 0
        while frontier and not any(cells[at] == "$" for at in frontier):
            near = {(y + dy, x + dx) for y, x in frontier for dy, dx in corpus.STEPS.values()}
            frontier = {at for at in near if at not in reached and cells.get(at, "#") != "#"}
            reached |= frontier
            steps += 1
        words = path.removeprefix("Path: ").split()
        if not frontier:
            assert words == ["none"]
            continue
        at = start
        for word in words:
            at = (at[0] + corpus.STEPS[word][0], at[1] + corpus.STEPS[word][1])
            assert cells[at] != "#"
        assert cells[at] == "$" and len(words) == steps


def test_a_game_that_strays_begins_as_the_game_and_is_legal_throughout() -> None:
    game = "e2e4 e7e5 g1f3 b8c6 f1b5 a7a6 b5a4 g8f6 e1g1 f8e7"
    kept = []
    for seed in range(40):
        announced, _, moves = corpus.stray_text(game, seed).rpartition("\n")
        assert announced == ("" if seed % 2 else "Any moves.")
        board = chess.Board()
        for move in moves.split():
            board.push_uci(move)  # raises for an illegal one
        assert len(board.move_stack) == corpus.LONGEST_STRAY or board.is_game_over()
        kept.append(sum(itertools.accumulate(map(str.__eq__, moves.split(), game.split()), min)))
    assert max(kept) == 10 and min(kept) == 0


def test_a_row_holds_games_from_their_opening(tmp_path) -> None:
    """Every document repeats the first letter of its kind, and every letter is a token."""

    class Letters:
        def __call__(self, texts, **_):
            return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

    lengths = {"prose": (100, 700), "game": (90, 200, 600), "stray": (150,), "maze": (30, 60)}
    train = {kind: [kind[0] * n for n in of_kind] for kind, of_kind in lengths.items()}
    settings = Settings((), (), (), tmp_path, tokens=200 * 8192)
    stream = make_stream(settings, Corpus(train, {}), Letters())
    rows = [row for batch in base_batches(settings, stream) for row in batch()[0]]
    assert sum(map(len, rows)) == settings.tokens
    assert {len(row) for row in rows} == {CONTEXT // 2, CONTEXT}
    for row in rows:
        text = "".join(chr(token) for token in row)
        for part in re.findall("[gsm]+", text):
            assert text[text.index(part) - 1] == "\0"
            cut_at_the_end = len(part) == len(row) - 1
            assert len(part) in (90, 200, 600, 150, 30, 60) or cut_at_the_end
    shares = {kind: float((stream == ord(kind[0])).mean()) for kind in train}
    assert shares == pytest.approx(SHARES, abs=0.02)


def test_dialogues_are_every_reply_with_what_led_to_it(tmp_path) -> None:
    def message(role: str, text: str, *replies: dict) -> dict:
        return {"role": role, "text": text, "replies": list(replies)}

    why = message("prompter", "Why?", message("assistant", "So."))
    tree = message("prompter", "Hello?", message("assistant", "Yes?", why), message("assistant", "No."))
    (tmp_path / "trees.jsonl").write_text(json.dumps(tree) + "\n")
    (tmp_path / "list.json").write_text(json.dumps([{"instruction": "Add.", "input": "1 1", "output": "2"}] * 2))
    dialogues = list(corpus.dialogues([tmp_path / "trees.jsonl", tmp_path / "list.json"]))
    spoken = [" ".join(m["content"] for m in dialogue) for dialogue in dialogues]
    assert spoken[:3] == ["Hello? Yes?", "Hello? Yes? Why? So.", "Hello? No."]
    assert [m["role"] for m in dialogues[3]] == ["user", "assistant"]
    assert [m["role"] for m in dialogues[4]] == ["system", "user", "assistant"]
    assert dialogues[3][0]["content"] == "Add.\n1 1"


def test_a_move_is_two_tokens_and_roles_are_one_each(pocket) -> None:
    dice, board = random.Random(0), chess.Board()
    while len(board.move_stack) < 60 and not board.is_game_over():
        board.push(dice.choice(list(board.legal_moves)))
    moves = [move.uci() for move in board.move_stack]
    tokens = [pocket.tokenizer.decode([t]) for t in pocket.tokenizer(" ".join(moves))["input_ids"]]
    assert "".join(tokens) == " ".join(moves)
    assert len(tokens) == sum(2 if len(move) == 4 else 3 for move in moves)
    assert pocket.tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2, 3]
    chat = [{"role": "user", "content": "Hi"}]
    text = pocket.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>\nHi<|endoftext|>\n<|assistant|>\n"
    assert not re.search(r"\s$", pocket.tokenizer.decode([1]))
