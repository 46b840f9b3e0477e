"""Made-up games and a tokenizer of bytes: input for tests that ask nothing of a model's abilities."""

from __future__ import annotations

import random
from collections.abc import Iterator

import chess
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

N_PLIES = 40


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte and an end-of-text token that also opens a text, as in pythia."""
    letters = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = letters[0]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


def play(n_games: int, seed: int) -> Iterator[tuple[str, tuple[int, int], list[str]]]:
    """PGN text, both ratings and the UCI moves of games of random moves."""
    dice = random.Random(seed)
    for _ in range(n_games):
        ratings = dice.randint(800, 2400), dice.randint(800, 2400)
        board, san = chess.Board(), []
        while not board.is_game_over() and len(board.move_stack) < N_PLIES:
            san.append(board.san_and_push(dice.choice(list(board.legal_moves))))
        headers = f'[Event "Rated Blitz game"]\n[WhiteElo "{ratings[0]}"]\n[BlackElo "{ratings[1]}"]\n\n'
        yield headers + " ".join(san) + " *\n\n", ratings, [move.uci() for move in board.move_stack]
