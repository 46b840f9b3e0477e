"""Made-up games and a tokenizer of bytes, for tests that need no able model."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import chess
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from soft_prompts.data.documents import Encoding

N_PLIES = 40
"""Half-moves of a game at most."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, and an end-of-text token that also opens a text, as in pythia."""
    letters = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = letters[0]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


def encoding(
    max_tokens: int = 64, tokenizer: PreTrainedTokenizerBase | None = None, cache: Path | None = None
) -> Encoding:
    """How documents become tokens; by default, every byte is a token."""
    tokenizer = tokenizer or byte_tokenizer()
    return Encoding(tokenizer, tokenizer.bos_token_id or 0, max_tokens, cache)


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


def write_games(path: Path, n: int, seed: int = 0) -> Path:
    """Write ``n`` games of random moves to a PGN file."""
    path.write_text("".join(pgn for pgn, _, _ in play(n, seed)))
    return path


def write(path: Path, content: str | bytes) -> str:
    """Write a file and give its path as the string that an option holds."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def tar(content: bytes) -> bytes:
    """A tar file that holds one file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo("inside")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()
