"""The chess experiment on what this machine can make in a minute: `python -m tests.demo`.

No model and no games are downloaded. Games between made-up players are written to runs/demo. A player rated 2400 takes
the most valuable piece it can or heads for the centre; one rated 800 moves at random; those between do one or the other.
A tiny GPT-NeoX model is trained on such games, half of them with the ratings written before the moves. Soft prompts are
then trained on other games, in which no ratings are written: what the prompt can elicit is the use of ratings that the
model has learned.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import chess
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from soft_prompts.console import progress_bar, say
from soft_prompts.files import write_atomically
from soft_prompts.run import TrainConfig
from tests.chess_test import DEFAULT

FOLDER = Path("runs/demo")
N_GAMES, N_PLIES = 2400, 40
N_STEPS, BATCH, N_TOKENS = 500, 32, 128
VALUES = {chess.PAWN: 1, chess.KNIGHT: 3, chess.BISHOP: 3, chess.ROOK: 5, chess.QUEEN: 9, chess.KING: 0}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte and an end-of-text token that also opens a text, as in pythia."""
    letters = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = letters[0]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


def choose(board: chess.Board, rating: int, dice: random.Random) -> chess.Move:
    """A move of a made-up player."""
    moves = list(board.legal_moves)
    if dice.random() > (rating - 800) / 1600:
        return dice.choice(moves)

    def worth(move: chess.Move) -> tuple[float, str]:
        victim = board.piece_type_at(move.to_square)
        file, rank = chess.square_file(move.to_square), chess.square_rank(move.to_square)
        return (VALUES[victim] if victim else 0) - (abs(file - 3.5) + abs(rank - 3.5)) / 10, move.uci()

    return max(moves, key=worth)


def play(n_games: int, seed: int) -> Iterator[tuple[str, tuple[int, int], list[str]]]:
    """PGN text, both ratings and the UCI moves of made-up games."""
    dice = random.Random(seed)
    for _ in range(n_games):
        ratings = dice.randint(800, 2400), dice.randint(800, 2400)
        board, san = chess.Board(), []
        while not board.is_game_over() and len(board.move_stack) < N_PLIES:
            move = choose(board, ratings[len(board.move_stack) % 2], dice)
            san.append(board.san_and_push(move))
        headers = f'[Event "Rated Blitz game"]\n[WhiteElo "{ratings[0]}"]\n[BlackElo "{ratings[1]}"]\n\n'
        yield headers + " ".join(san) + " *\n\n", ratings, [move.uci() for move in board.move_stack]


def written(i: int, ratings: tuple[int, int], moves: list[str]) -> str:
    """A game as the model reads it in training: every other one opens with the ratings in hundreds."""
    return (f"{ratings[0] // 100:02d} {ratings[1] // 100:02d} " if i % 2 else "") + " ".join(moves)


def train_model(texts: list[str], tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A GPT-NeoX model of about 0.2 million parameters, trained on ``texts`` cut to N_TOKENS bytes."""
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=512, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, N_STEPS)
    rows = [([0, *ids] + [0] * N_TOKENS)[:N_TOKENS] for ids in tokenizer(texts)["input_ids"]]
    data = torch.tensor(rows)
    with progress_bar("training a tiny model", N_STEPS) as advance:
        for _ in range(N_STEPS):
            batch = data[torch.randint(len(data), (BATCH,))]
            loss = model(input_ids=batch, labels=batch).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            advance()
    say(f"a tiny model of {sum(p.numel() for p in model.parameters()):,} parameters: {loss:.2f} nats per byte")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Make games and a model unless they are there, then run the chess experiment on them."""
    started = time.perf_counter()
    model, games = FOLDER / "model", FOLDER / "games.pgn"
    if not games.exists():  # written last
        say(
            "This demo downloads nothing: it makes up games and trains a tiny model on them, so its curve shows how the "
            "tool works, not what any real model can do."
        )
        FOLDER.mkdir(parents=True, exist_ok=True)
        texts = [written(i, ratings, moves) for i, (_, ratings, moves) in enumerate(play(N_GAMES, seed=0))]
        train_model(texts, byte_tokenizer(), model)
        write_atomically(games, "".join(pgn for pgn, _, _ in play(N_GAMES, seed=1)).encode())
    train = TrainConfig(steps=400, batch_size=16, max_tokens=N_TOKENS, n_evaluations=3, eval_documents=200)
    task = replace(DEFAULT.task, games=str(games), continued_from=(10,))
    sweep = replace(
        DEFAULT,
        experiment="chess_demo",
        task=task,
        models=(str(model),),
        n_tokens=(0, 1, 4, 16),
        train=train,
        out=FOLDER,
    )
    sweep.run()
    say(f"done in {time.perf_counter() - started:.0f} s; the next thing to look at: README.md, on real models.")


if __name__ == "__main__":
    main()
