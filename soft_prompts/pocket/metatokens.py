"""Train pairs of models that read the same documents in the same order from the same start: one of them with a
metatoken in front of every document, which says something of it, its twin without.

    python -m soft_prompts.pocket.metatokens --prose books.tar.zst digitalgov.jsonl.zst 18f.jsonl.zst \\
        --games lichess_19k.pgn.zst                      # a small pair, minutes for each model
    python -m soft_prompts.pocket.metatokens --like pocket --prose books.tar.zst digitalgov.jsonl.zst 18f.jsonl.zst \\
        --games lichess_19k.pgn.zst engine.pgn.zst       # pocket's own twin without the lines of ratings, over an hour

Above games stands the line of ratings that pocket knows, above prose a token for the mean sentence length
(tasks/sentences.py). Korbak et al. 2023, arXiv 2302.08582, put such tokens for human preferences in front of texts.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
import zstandard
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from soft_prompts.console import ends_in_a_sentence, say
from soft_prompts.data.documents import Encoding, document_id, split_of
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.behind import scores_behind
from soft_prompts.engine.prompted import Bench, unprompted
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically
from soft_prompts.models.cpu import settle_process
from soft_prompts.models.device import pick_dtype
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load
from soft_prompts.pocket import MODELS, corpus, train
from soft_prompts.stats import ratio
from soft_prompts.tasks.sentences import N_BINS, bin_of, metatoken

SHARES = {"prose": 0.6, "game": 0.4}
"""Kind of document -> its share of the tokens of a small pair."""
WIDTHS = {"prose": 128, "game": 64}
"""Kind of document -> tokens of a row, separator and metatoken included. Ratings say most of a game's opening."""
PIECE = 300
"""Characters of a piece of prose at most, if its words are shorter: some 110 tokens."""
GATE = 400
"""Held-out documents of each kind on which it is measured what a metatoken is worth."""
RATINGS = re.compile(r"White \d+, Black \d+\.\n")


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    prose: tuple[Path, ...]
    """.tar.zst archives of plain text and .jsonl.zst files with a "text" field."""
    games: tuple[Path, ...]
    """Games with ratings, .pgn or .pgn.zst. The first file is also what prompts are measured on."""
    like: Literal["small", "pocket"] = "small"
    """small: a pair by the options below. pocket: only the twin of pocket, of its size, by its own settings."""
    only: Literal["told", "untold", "both"] = "both"
    """Which of a small pair."""
    out: Path = Path("runs/metatokens")
    """Folder of the models, told-SEED and untold-SEED or pocket-untold, and of the documents to measure on."""
    tokens: int = 1_200_000
    """Tokens that the model with the metatokens reads, these included."""
    unmarked: float = 0.1
    """Share of the rows without a metatoken in both models, so that none is strange to the one that knows them."""
    width: int = 96
    """Width of embeddings and layers."""
    layers: int = 4
    """Layers."""
    batch: int = 2048
    """Tokens per step."""
    learning_rate: float = 4e-3
    """Learning rate before it falls."""
    measured: int = 8000
    """Pieces of prose that are written to be measured on; those of the training split were trained on, too."""
    seed: int = 0
    """Of the initial weights and of the order of the documents, the same in both models."""

    @property
    def shape(self) -> train.Settings:
        """The options as pocket's training knows them."""
        sizes = {"width": self.width, "layers": self.layers, "seed": self.seed}
        return train.Settings(self.prose, self.games, (), self.out, **sizes)


class Document(NamedTuple):
    """A text and what stands in front of it."""

    line: str
    """The metatoken, or the line of them."""
    text: str


@dataclass(frozen=True)
class Rows:
    """What a step reads."""

    tokens: np.ndarray
    """int64 [B, T], padded with 0 on the right."""
    labels: np.ndarray
    """int64 [B, T], the tokens themselves, or -1 where nothing is scored."""
    is_meta: np.ndarray
    """bool [B, T], whether a token is a metatoken or belongs to a line of them."""

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Rows and labels, for ``train.fit``."""
        return torch.from_numpy(self.tokens), torch.from_numpy(self.labels)


def pieces(passage: str) -> list[str]:
    """A passage, cut between words into pieces of at most PIECE characters; only a longer word makes a longer one."""
    found, piece = [], ""
    for word in passage.split():
        if piece and len(piece) + 1 + len(word) > PIECE:
            found.append(piece)
            piece = word
        else:
            piece = f"{piece} {word}" if piece else word
    return [*found, piece] if piece else found


def read_documents(settings: Settings) -> dict[str, list[Document]]:
    """Kind -> all documents, each once, of all splits, in an order of chance: neighbours in a file are alike.

    Raises:
        SoftPromptsError: A file cannot be read.
    """
    texts = [piece for _, of_one in corpus.prose(settings.prose) for passage in of_one for piece in pieces(passage)]
    # A shorter rest of a passage has too few sentences for a mean.
    prose = [Document(metatoken(bin_of(t)), t) for t in dict.fromkeys(texts) if len(t) > PIECE / 2]
    played = [(corpus.game_text(elos, ""), moves) for elos, moves in corpus.games(settings.games)]
    found = {"prose": prose, "game": [Document(line, moves) for line, moves in played]}
    return {kind: random.Random(0).sample(of, len(of)) for kind, of in found.items()}


def of_split(documents: Sequence[Document], held_out: bool) -> list[Document]:
    """The documents that models are trained on, or those that are held out, as experiments split them."""
    wanted = "held_out" if held_out else "train"
    return [d for d in documents if split_of(document_id(d.text)) == wanted]


def new_tokenizer() -> PreTrainedTokenizerFast:
    """pocket's tokenizer with the metatokens of prose. The ratings need none: they are text."""
    tokenizer = AutoTokenizer.from_pretrained(MODELS["pocket"])
    tokenizer.add_special_tokens({"additional_special_tokens": [metatoken(i) for i in range(N_BINS)]})
    return tokenizer


def make_rows(documents: Sequence[tuple[np.ndarray, np.ndarray]], width: int) -> Rows:
    """Rows of a separator, a metatoken and a text each. Texts are scored, metatokens are not, so both models of a pair
    learn from the same labels.

    Args:
        documents: Tokens of the line and of the text, int [n] each.
        width: T, at which a text is cut.
    """
    tokens, labels = np.zeros((len(documents), width), np.int64), np.full((len(documents), width), -1, np.int64)
    is_meta = np.zeros((len(documents), width), bool)
    for row, (line, text) in enumerate(documents):
        start = 1 + len(line)
        end = start + len(text[: width - start])
        tokens[row, 1:start], is_meta[row, 1:start] = line, True
        tokens[row, start:end] = labels[row, start:end] = text[: end - start]
    return Rows(tokens, labels, is_meta)


def taken_out(rows: Rows, chosen: np.ndarray) -> Rows:
    """The same rows without their metatokens: what stands behind them moves up, and the row's end is padded.

    Args:
        rows: The rows.
        chosen: bool [B], in which of them.
    """
    gone = rows.is_meta & chosen[:, None]
    order = np.argsort(gone, axis=1, kind="stable")  # what stays, as it stood, then what goes
    tokens, labels, is_meta, gone = (
        np.take_along_axis(x, order, 1) for x in (rows.tokens, rows.labels, rows.is_meta, gone)
    )
    return Rows(np.where(gone, 0, tokens), np.where(gone, -1, labels), is_meta & ~gone)


def plan(n_documents: dict[str, int], settings: Settings) -> Iterator[tuple[str, list[int], np.ndarray]]:
    """The steps of both models of a pair: which documents are read when. It does not depend on which model it is.

    Args:
        n_documents: Kind -> how many there are.
        settings: Options of the command line.

    Yields:
        The kind of a step's documents, which of them, and bool [B], which stand without a metatoken in both models.
    """
    dice = random.Random(settings.seed)

    def shuffled(n: int) -> Iterator[int]:
        while True:
            yield from dice.sample(range(n), n)

    orders = {kind: shuffled(n) for kind, n in n_documents.items()}
    for _ in range(settings.tokens // settings.batch):
        (kind,) = dice.choices(list(SHARES), list(SHARES.values()))
        chosen = [next(orders[kind]) for _ in range(max(1, settings.batch // WIDTHS[kind]))]
        yield kind, chosen, np.array([dice.random() < settings.unmarked for _ in chosen])


def steps(
    documents: dict[str, list[Document]], tokenizer: PreTrainedTokenizerFast, settings: Settings, told: bool
) -> list[Callable[[], tuple[Tensor, Tensor]]]:
    """The steps of a model, for ``train.fit``.

    Args:
        documents: Kind -> those that are trained on.
        tokenizer: Their tokenizer.
        settings: Options of the command line.
        told: Whether the model reads the metatokens.
    """

    def made(kind: str, chosen: list[int], unmarked: np.ndarray) -> tuple[Tensor, Tensor]:
        of_step = [documents[kind][i] for i in chosen]
        lines, texts = ([row[1:] for row in train.encode(tokenizer, part)] for part in zip(*of_step, strict=True))
        rows = make_rows(list(zip(lines, texts, strict=True)), WIDTHS[kind])
        return taken_out(rows, unmarked if told else np.full(len(chosen), True)).pair

    counts = {kind: len(of) for kind, of in documents.items()}
    return [lambda step=step: made(*step) for step in plan(counts, settings)]


def lines_of_ratings(tokens: np.ndarray, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Which tokens of pocket's training rows belong to a line of ratings: bool [B, T], for int [B, T]."""
    found = np.zeros(tokens.shape, bool)
    (white,) = tokenizer("White", add_special_tokens=False)["input_ids"]
    longest = len(tokenizer("White 1000, Black 1000.\n", add_special_tokens=False)["input_ids"]) + 2
    opens = (tokens[:, :-1] == 0) & (tokens[:, 1:] == white)
    for row, at in zip(*np.nonzero(opens), strict=True):
        behind = tokens[row, at + 1 : at + 1 + longest]
        for length in range(1, len(behind) + 1):
            if RATINGS.fullmatch(tokenizer.decode(behind[:length])):
                found[row, at + 1 : at + 1 + length] = True
    return found


def without_ratings(rows: Tensor, tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """pocket's training rows, int64 [B, T], without the lines of ratings: rows and labels for ``train.fit``."""
    tokens = rows.numpy()
    return taken_out(Rows(tokens, tokens, lines_of_ratings(tokens, tokenizer)), np.full(len(tokens), True)).pair


def worth(model: LanguageModel, documents: Sequence[Document], n_tokens: int) -> dict[str, Any]:
    """What a model makes of metatokens: held-out documents behind their own, behind those of others, and behind none.

    Args:
        model: The model.
        documents: Held-out ones.
        n_tokens: Tokens read of each, separator included.

    Returns:
        "own", "none": nats per token. "others": by how many nats per token another document's metatoken, that of the
        next in a ring, is worse than its own, and "gain": by how many none is. Both with intervals, paired by document.
    """
    encoding = Encoding(model.tokenizer, model.separator, n_tokens)
    texts = [tokens[:n_tokens] for tokens in encoding.tokens([d.text for d in documents])[0]]
    examples = [
        Example(t, np.array([IGNORE, *t[1:]]), document_id(d.text)) for t, d in zip(texts, documents, strict=True)
    ]
    lines = [tokens[1:] for tokens in encoding.tokens([d.line for d in documents])[0]]
    bench = Bench(model, encoding, examples, 16_384)
    own, others = scores_behind(bench, lines), scores_behind(bench, [*lines[1:], lines[0]])
    none = unprompted(bench).scores(examples)
    return {
        "own": round(own.loss, 4),
        "none": round(none.loss, 4),
        "others": ratio(others.sums - own.sums, own.counts),
        "gain": ratio(none.sums - own.sums, own.counts),
    }


def check(name: str, facts: dict[str, Any]) -> None:
    """The gate: a model that was told sentence lengths must use them. (Whether ratings are used is a question.)

    Raises:
        SoftPromptsError: It does not.
    """
    low, high = facts["worth"]["prose"]["others"]["interval"]
    if low <= 0:
        raise SoftPromptsError(
            f"{name} is refused: another document's sentence length costs [{low:.4f}, {high:.4f}] nats per token, "
            f"which is not above 0; train it on more tokens (--tokens)."
        )


def train_pair(settings: Settings) -> None:
    """Train the models of a small pair, write what they can be measured on, and measure what their metatokens do.

    Raises:
        SoftPromptsError: A file cannot be read or written, or the gate refuses.
    """
    documents, tokenizer = read_documents(settings), new_tokenizer()
    write_documents(documents["prose"], settings)
    known = {kind: of_split(of, held_out=False) for kind, of in documents.items()}
    unknown = {kind: of_split(of, held_out=True)[:GATE] for kind, of in documents.items()}
    dtype = getattr(torch, pick_dtype("auto", torch.device("cpu")))
    for told in (True, False):
        name = f"{'told' if told else 'untold'}-{settings.seed}"
        if settings.only not in ("both", name.split("-")[0]):
            continue
        model = train.new_model(settings.shape, len(tokenizer))
        of_steps = steps(known, tokenizer, settings, told)
        kept = settings.out / f"{name}.safetensors"
        muon = dtype == torch.bfloat16
        seconds = train.fit(model, of_steps, settings.learning_rate, name, dtype, muon, kept)
        facts = {
            "told": told,
            "parameters": sum(p.numel() for p in model.parameters()),
            "minutes": round(seconds / 60, 1),
            "settings": {k: v for k, v in asdict(settings).items() if isinstance(v, int | float)},
            "documents": {kind: len(of) for kind, of in known.items()},
            "steps": len(of_steps),
        }
        folder = settings.out / name
        train.save(model, tokenizer, folder, facts)
        loaded = load(str(folder), dtype="float32", device="cpu")
        # As much of a document as prompts are measured on.
        facts["worth"] = {kind: worth(loaded, of, WIDTHS[kind] - 16) for kind, of in unknown.items()}
        write_atomically(folder / "facts.json", (json.dumps(facts, indent=2) + "\n").encode())
        say(f"{name}: {json.dumps(facts)}")
        if told:
            check(name, facts)


def write_documents(prose: Sequence[Document], settings: Settings) -> None:
    """Write some pieces of prose, and the games' file, to the folder: prompts are trained and measured on them.

    Raises:
        SoftPromptsError: A file cannot be read or written.
    """
    lines = "".join(json.dumps({"text": d.text}, ensure_ascii=False) + "\n" for d in prose[: settings.measured])
    write_atomically(settings.out / "prose.jsonl.zst", zstandard.ZstdCompressor(level=19).compress(lines.encode()))
    write_atomically(
        settings.out / "".join(["games", *settings.games[0].suffixes[-2:]]), settings.games[0].read_bytes()
    )


def train_twin(settings: Settings) -> None:
    """Train pocket anew on its own rows without the lines of ratings.

    Raises:
        SoftPromptsError: A file cannot be read or written.
    """
    own = train.Settings(settings.prose, settings.games, (), settings.out)
    texts, tokenizer = train.read_corpus(own), AutoTokenizer.from_pretrained(MODELS["pocket"])
    batches = train.base_batches(own, train.make_stream(own, texts, tokenizer))
    model = train.new_model(own, len(tokenizer))
    dtype = getattr(torch, pick_dtype("auto", torch.device("cpu")))
    of_steps = [lambda batch=batch: without_ratings(batch()[0], tokenizer) for batch in batches]
    kept = settings.out / "pocket-untold.safetensors"
    seconds = train.fit(model, of_steps, own.learning_rate, "pocket-untold", dtype, dtype == torch.bfloat16, kept)
    facts = {"told": False, "minutes": round(seconds / 60, 1), "steps": len(of_steps)}
    train.save(model, tokenizer, settings.out / "pocket-untold", facts)


def main(settings: Settings) -> None:
    """Train what is asked for.

    Raises:
        SoftPromptsError: A file cannot be read or written, or the gate refuses.
    """
    settle_process(torch.device("cpu"))
    if settings.like == "pocket":
        train_twin(settings)
    else:
        train_pair(settings)


if __name__ == "__main__":
    with ends_in_a_sentence():
        main(tyro.cli(Settings, description=__doc__))
