"""Train pocket, and pocket-chat from it, from files of text, games and dialogues; write weights, tokenizer and what was
measured.

    python -m soft_prompts.pocket.train --prose books.tar.zst digitalgov.jsonl.zst 18f.jsonl.zst \\
        --games lichess.pgn.zst engine.pgn.zst --chat oasst.jsonl instructions.json --out soft_prompts/pocket
"""

from __future__ import annotations

import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import tyro
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as token_models
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from soft_prompts.cli import run
from soft_prompts.console import progress_bar, say
from soft_prompts.data.documents import HELD_OUT_SHARE, document_id, is_held_out
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically
from soft_prompts.pocket import corpus
from soft_prompts.sweep import Sweep
from soft_prompts.tasks.chess_moves import ChessMoves
from soft_prompts.training.recipe import TrainConfig

SPECIAL = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>")
"""Special tokens, in the order of their ids, from 0."""
SPLIT = (
    r" ?[a-h][1-8]"  # a square of the chessboard
    r"|[~#@$]"  # a cell of a maze
    r"|['’](?:s|t|re|ve|m|ll|d)\b| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}~#@$]+|\s+(?!\S)|\s+"
)
"""Where text is split before byte-pair encoding: no token reaches across."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""jinja template of a dialogue."""
HELD_OUT = 0.02
"""Share of the passages, mazes and dialogues that is held out. Of the games it is HELD_OUT_SHARE, as in experiments."""
HELD_OUT_BOOKS = ("edwin-a-abbott_flatland", "joseph-conrad_lord-jim")
"""Books of which no word is trained on, so that there is a figure for text by unseen authors."""
SHARES = {"prose": 0.58, "game": 0.16, "stray": 0.2, "maze": 0.06}
"""Kind of text -> its share of the tokens."""
CONTEXT = 512
"""Positions that the model is made for."""
KEPT_EVERY = 60
"""Seconds between two states of a training that are kept, if any is."""
LONG_SHARE = 0.25
"""Share of the tokens that are trained on in rows of CONTEXT, at the end of training. Before, rows have half that
length."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    prose: tuple[Path, ...]
    """.tar.zst archives of plain text and .jsonl.zst files with a "text" field."""
    games: tuple[Path, ...]
    """Games with ratings, .pgn or .pgn.zst. Those held out of the first file are what chess is measured on."""
    chat: tuple[Path, ...]
    """OASST message trees (.jsonl) and instruction lists (.json)."""
    out: Path
    """Folder in which the folders base and chat are written."""
    tokens: int = 60_000_000
    """Tokens that the base model is trained on."""
    entries: int = 3072
    """Entries of the tokenizer."""
    width: int = 256
    """Width of the model's embeddings and layers."""
    layers: int = 4
    """Layers of the model."""
    heads: int = 4
    """Attention heads of each layer."""
    batch: int = 8192
    """Tokens per step."""
    learning_rate: float = 8e-3
    """Learning rate of the base model before it falls."""
    chat_epochs: int = 3
    """How often pocket-chat is trained on every dialogue."""
    chat_learning_rate: float = 1e-3
    """Learning rate of pocket-chat before it falls."""
    strays: int = 50_000
    """Games continued at random."""
    mazes: int = 60_000
    """Mazes made, before equal ones are dropped."""
    seed: int = 0
    """Of the initial weights and of the order of the texts."""


@dataclass(frozen=True)
class Corpus:
    """Texts for training and held-out texts."""

    train: dict[str, list[str]]
    """Kind of text (a key of SHARES) -> texts."""
    held_out: dict[str, list[str]]
    """Kind of text -> texts: prose, unseen books, game, maze."""


def read_corpus(settings: Settings) -> Corpus:
    """Read and make everything that the base model is trained and tested on.

    Args:
        settings: Options of the command line.

    Raises:
        SoftPromptsError: A file cannot be read.
    """
    train: dict[str, list[str]] = {"prose": []}
    held_out: dict[str, list[str]] = {"prose": [], "unseen books": []}
    for name, passages in corpus.prose(settings.prose):
        for passage in passages:
            if name in HELD_OUT_BOOKS:
                held_out["unseen books"].append(passage)
            else:
                (held_out if is_held_out(document_id(passage), HELD_OUT) else train)["prose"].append(passage)
    for elos, moves in corpus.games(settings.games):
        of_split = held_out if is_held_out(document_id(moves), HELD_OUT_SHARE) else train
        of_split.setdefault("game", []).append(corpus.game_text(elos, moves))
    mazes = list(dict.fromkeys(corpus.maze(i) for i in range(settings.mazes)))
    for text in mazes:
        (held_out if is_held_out(document_id(text), HELD_OUT) else train).setdefault("maze", []).append(text)
    n = settings.strays
    with ProcessPoolExecutor(2) as pool:
        played = [text.partition("\n")[2] for text in train["game"]]
        starts = [played[i % len(played)] for i in range(n)]
        train["stray"] = list(pool.map(corpus.stray_text, starts, range(n), chunksize=200))
    return Corpus(train, held_out)


def train_tokenizer(settings: Settings, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer in which a move is two tokens, its squares.

    Args:
        settings: Options of the command line.
        texts: What it is trained on.
    """
    tokenizer = Tokenizer(token_models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=settings.entries, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = SPECIAL[0]
    special = {"bos_token": end, "eos_token": end, "unk_token": end}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special, model_max_length=CONTEXT, chat_template=CHAT_TEMPLATE
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[np.ndarray]:
    """Tokenise texts. The end-of-text token opens every text, as in pythia.

    Args:
        tokenizer: The tokenizer.
        texts: The texts.

    Returns:
        Token ids of each text, uint16 [T].
    """
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [np.array([0, *row], np.uint16) for row in rows]


def row_lengths(settings: Settings) -> list[int]:
    """The length of every row, in tokens, in the order of training.

    Rows of half the context come first, as attention costs least there, then rows of the whole context. All rows of a
    step have one length.

    Args:
        settings: Options of the command line.
    """
    n_steps = settings.tokens // settings.batch
    n_long = int(n_steps * LONG_SHARE)
    short, long = CONTEXT // 2, CONTEXT
    return [short] * ((n_steps - n_long) * settings.batch // short) + [long] * (n_long * settings.batch // long)


def make_stream(
    settings: Settings, texts: Corpus, tokenizer: PreTrainedTokenizerFast, shares: Mapping[str, float] = SHARES
) -> np.ndarray:
    """The rows that the base model is trained on, end to end: every kind in its share, in shuffled epochs.

    A row holds whole games and mazes, because nobody can tell the position of a game without its opening. Prose stands
    before or behind them. Prose before them goes on where the row before ended. A document longer than a row is cut at
    the row's end.

    Args:
        settings: Options of the command line.
        texts: What is trained on.
        tokenizer: The tokenizer.
        shares: Kind of text -> its share of the tokens; prose is among them.

    Returns:
        Token ids, uint16 [tokens].
    """
    dice = random.Random(settings.seed)
    ready = {kind: encode(tokenizer, texts.train[kind]) for kind in shares}

    def shuffled(kind: str) -> Iterator[np.ndarray]:
        while True:
            yield from dice.sample(ready[kind], len(ready[kind]))

    sources = {kind: shuffled(kind) for kind in shares}
    owed, rows, prose = dict.fromkeys(shares, 0.0), [], np.empty(0, np.uint16)
    waiting = {kind: next(sources[kind]) for kind in shares if kind != "prose"}
    for length in row_lengths(settings):
        pieces, room = [], length
        for kind in dice.sample(sorted(waiting), len(waiting)):
            owed[kind] += shares[kind] * length
            while owed[kind] > 0 and len(document := waiting[kind][:length]) <= room:
                pieces.append(document)
                room -= len(document)
                owed[kind] -= len(document)
                waiting[kind] = next(sources[kind])
        prose_last = dice.random() < 0.5
        if prose_last:
            prose = prose[:0]  # what follows a game opens with the opening of a document
        while len(prose) < room:
            prose = np.concatenate([prose, next(sources["prose"])])
        pieces.insert(len(pieces) if prose_last else 0, prose[:room])
        prose = prose[room:]
        rows += pieces
    return np.concatenate(rows)


def new_model(settings: Settings, entries: int) -> GPTNeoXForCausalLM:
    """An untrained model of pythia's architecture.

    Unlike pythia's, its embeddings are tied and its layers run in sequence: both are better at this size.

    Args:
        settings: Options of the command line.
        entries: Entries of the tokenizer.
    """
    torch.manual_seed(settings.seed)
    config = GPTNeoXConfig(
        vocab_size=entries,
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.width,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        use_parallel_residual=False,
        bos_token_id=0,
        eos_token_id=0,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        classifier_dropout=0.0,
    )
    return GPTNeoXForCausalLM(config)


def token_losses(
    model: GPTNeoXForCausalLM, rows: Tensor, labels: Tensor, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Cross-entropy of every scored token but the first of a row.

    Args:
        model: The model, with float32 weights.
        rows: Token ids, int64 [B, T].
        labels: int64 [B, T], the token wanted at each position, or -1 where nothing is scored.
        dtype: What is computed in. Processors that cannot multiply bfloat16 need float32.

    Returns:
        Nats of the scored tokens, float32 [N].
    """
    # The gradients of these copies come back to the parameters in float32.
    weights = {name: p.to(dtype) for name, p in model.named_parameters()}
    logits = functional_call(model, weights, kwargs={"input_ids": rows, "use_cache": False}).logits[:, :-1]
    wanted = labels[:, 1:]
    return nn.functional.cross_entropy(logits[wanted >= 0].float(), wanted[wanted >= 0], reduction="none")


def fit(
    model: GPTNeoXForCausalLM,
    batches: list[Callable[[], tuple[Tensor, Tensor]]],
    rate: float,
    title: str,
    dtype: torch.dtype = torch.bfloat16,
    muon: bool = True,
    kept: Path | None = None,
) -> float:
    """Train a model in place, and say now and then how far it is.

    Muon trains the matrices, AdamW the embeddings, norms and biases. The learning rate rises over the first 100 steps
    and falls linearly to zero from the middle on.

    Args:
        model: The model.
        batches: One function for each step. It makes the step's rows and labels, int64 [B, T] (see ``token_losses``).
        rate: The learning rate before it falls.
        title: What the progress bar says.
        dtype: See ``token_losses``.
        muon: False: AdamW trains the matrices, too. Muon computes in bfloat16, whatever the dtype.
        kept: A file in which the state is kept every KEPT_EVERY seconds, and from which training goes on if it was
            interrupted. It is removed at the end. None: nothing is kept.

    Returns:
        Seconds that it took, those before an interruption included.

    Raises:
        SoftPromptsError: The file cannot be written, or is of another training.
    """
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() < 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        if muon
        else torch.optim.AdamW(matrices, rate, (0.9, 0.95), weight_decay=0.05, fused=True),
        torch.optim.AdamW(others, rate, (0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    n, started, seen, recent = len(batches), time.perf_counter(), 0, []

    def factor(step: int) -> float:
        return min((step + 1) / min(100, n), 1.0, 2 * (1 - step / n))

    done, before = resumed(kept, model, optimizers, n) if kept and kept.exists() else (0, 0.0)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: factor(done + step)) for o in optimizers]
    last_kept = time.perf_counter()
    with progress_bar(title, n) as advance:
        for step, batch in enumerate(batches[done:], done + 1):
            rows, labels = batch()
            loss = token_losses(model, rows, labels, dtype).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            seen += rows.numel()
            recent.append(loss.item())
            advance()
            if step % max(1, n // 40) == 0:
                rate_now = seen / (time.perf_counter() - started)
                say(f"step {step} of {n}: {np.mean(recent):.3f} nats per token, {rate_now:,.0f} tokens/s")
                recent.clear()
            if kept and time.perf_counter() - last_kept > KEPT_EVERY:
                last_kept = time.perf_counter()
                keep(kept, model, optimizers, {"step": step, "n_steps": n, "seconds": before + last_kept - started})
    if kept:
        kept.unlink(missing_ok=True)
    return before + time.perf_counter() - started


def _state(model: GPTNeoXForCausalLM, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """What training goes on from, by name: weights, and what the optimizers know of each of theirs."""
    tensors = {f"weight {name}": p.data for name, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for j, of_one in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer {i} {j} {name}": value for name, value in of_one.items()}
    return tensors


def keep(
    path: Path, model: GPTNeoXForCausalLM, optimizers: Sequence[torch.optim.Optimizer], progress: dict[str, float]
) -> None:
    """Write the state after a step, for ``resumed``.

    Args:
        path: The file.
        model: The model that is trained.
        optimizers: Its optimizers.
        progress: "step", "n_steps" in all, and "seconds" so far.

    Raises:
        SoftPromptsError: The file cannot be written.
    """
    words = {name: str(number) for name, number in progress.items()}
    write_atomically(path, safetensors.torch.save(_state(model, optimizers), words))


def resumed(
    path: Path, model: GPTNeoXForCausalLM, optimizers: Sequence[torch.optim.Optimizer], n_steps: int
) -> tuple[int, float]:
    """Put model and optimizers into the state that ``keep`` wrote.

    Returns:
        The steps that were taken, and the seconds that they took.

    Raises:
        SoftPromptsError: The file is of a training of other sizes.
    """
    with safetensors.safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = dict(model.named_parameters())
    same = all(tensors[f"weight {n}"].shape == p.shape for n, p in weights.items() if f"weight {n}" in tensors)
    if not same or int(metadata["n_steps"]) != n_steps:
        raise SoftPromptsError(f"{path} is of a training of another size; delete it to begin anew.")
    with torch.no_grad():
        for name, p in weights.items():
            p.copy_(tensors[f"weight {name}"])
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, *rest = name.split(" ")
            if kind == "optimizer" and int(rest[0]) == i:
                state.setdefault(int(rest[1]), {})[rest[2]] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(metadata["step"]), float(metadata["seconds"])


def base_batches(settings: Settings, stream: np.ndarray) -> list[Callable[[], tuple[Tensor, Tensor]]]:
    """The steps of the base model, for ``fit``.

    Args:
        settings: Options of the command line.
        stream: What ``make_stream`` gives.

    Returns:
        For each step a function that gives settings.batch tokens as rows of the length that they were made in. The
        labels are the rows themselves.
    """

    def cut(start: int, length: int) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(stream[start : start + settings.batch].astype(np.int64)).view(-1, length)
        return rows, rows

    ends = np.cumsum(lengths := row_lengths(settings))
    starts = range(0, len(stream), settings.batch)
    return [lambda i=i: cut(i, lengths[np.searchsorted(ends, i, side="right")]) for i in starts]


def padded(documents: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None = None) -> tuple[Tensor, Tensor]:
    """Documents as rows of one length, cut to CONTEXT and padded on the right with token 0.

    Args:
        documents: Token ids of each document, [T].
        masks: Which tokens of each document are scored, bool [T]. None: all of them.

    Returns:
        Rows and labels, int64 [B, T]. Labels are -1 where nothing is scored.
    """
    width = min(CONTEXT, max(map(len, documents)))
    rows, labels = np.zeros((len(documents), width), np.int64), np.full((len(documents), width), -1, np.int64)
    for i, document in enumerate(documents):
        kept = document[:width].astype(np.int64)
        rows[i, : len(kept)] = kept
        labels[i, : len(kept)] = np.where(masks[i][:width], kept, -1) if masks else kept
    return torch.from_numpy(rows), torch.from_numpy(labels)


def chat_documents(
    tokenizer: PreTrainedTokenizerFast, dialogues: Iterable[list[dict[str, str]]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokenise dialogues as the chat template writes them. Those longer than CONTEXT are left out.

    Args:
        tokenizer: The tokenizer.
        dialogues: Chat messages with "role" and "content".

    Yields:
        Token ids, uint16 [T], and which of them the assistant writes, bool [T]. Its end-of-text token counts as well.
    """
    for messages in dialogues:
        tokens, mask = [0], [False]
        for message in messages:
            opening, rest = f"<|{message['role']}|>\n", f"{message['content']}<|endoftext|>"
            for text, scored in ((opening, False), (rest, message["role"] == "assistant"), ("\n", False)):
                new = tokenizer(text, add_special_tokens=False)["input_ids"]
                tokens += new
                mask += [scored] * len(new)
        if len(tokens) <= CONTEXT:
            yield np.array(tokens, np.uint16), np.array(mask)


def chat_batches(documents: list[tuple[np.ndarray, np.ndarray]], settings: Settings) -> list[Callable]:
    """The steps of pocket-chat, for ``fit``: every dialogue once per epoch, 16 in a step.

    Args:
        documents: What ``chat_documents`` gives.
        settings: Options of the command line.
    """
    dice, order = random.Random(settings.seed), []
    for _ in range(settings.chat_epochs):
        order += dice.sample(range(len(documents)), len(documents))
    parts = [order[i : i + 16] for i in range(0, len(order), 16)]
    return [lambda part=part: padded(*zip(*(documents[i] for i in part), strict=True)) for part in parts]


@torch.no_grad()
def mean_loss(
    model: GPTNeoXForCausalLM, documents: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None = None
) -> tuple[float, int]:
    """The loss over whole documents, cut to the context.

    Args:
        model: The model.
        documents: Token ids of each document, [T].
        masks: Which tokens of each document are scored, bool [T]. None: all of them.

    Returns:
        Nats per token and the number of scored tokens.
    """
    parts = [slice(i, i + 16) for i in range(0, len(documents), 16)]
    losses = [token_losses(model, *padded(documents[part], masks and masks[part])) for part in parts]
    all_losses = torch.cat(losses)
    return all_losses.mean().item(), len(all_losses)


def measure(model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, held_out: dict[str, list[str]]) -> dict:
    """Held-out loss by kind of text. It is said on the screen as well.

    Args:
        model: The model.
        tokenizer: The tokenizer.
        held_out: Kind of text -> texts.

    Returns:
        For each kind nats per token, bits per byte of what is scored, and the numbers of tokens and of documents.
    """
    measured = {}
    for kind, texts in held_out.items():
        documents = encode(tokenizer, texts)
        nats, n = mean_loss(model, documents)
        n_bytes = sum(len(tokenizer.decode(document[1:CONTEXT]).encode()) for document in documents)
        bits_per_byte = nats * n / n_bytes / math.log(2)
        losses = {"nats_per_token": round(nats, 4), "bits_per_byte": round(bits_per_byte, 4)}
        measured[kind] = {**losses, "tokens": n, "documents": len(texts)}
        say(f"held-out {kind}: {measured[kind]}")
    return measured


def measure_chess(settings: Settings) -> dict:
    """How well pocket plays on in held-out games without a prompt, by the chess experiment's own scores.

    Args:
        settings: Options of the command line. The trained base model lies in their folder.

    Returns:
        Name of a score -> {"value", "interval": [low, high], "n"}.
    """
    task = ChessMoves(games=str(settings.games[0]), continued_games=1000)
    recipe = TrainConfig(steps=1, batch_size=1, eval_documents=1000)
    models = (str(settings.out / "base"),)
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(experiment="chess", task=task, models=models, n_tokens=(0,), train=recipe, out=Path(folder))
        scores = run(sweep)[0].scores
    return {name: scores[name] for name in ("move_match", "legal_after_10", "legal_after_40")}


def save(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, facts: dict
) -> GPTNeoXForCausalLM:
    """Write weights as bfloat16, the tokenizer and the facts.

    Args:
        model: The trained model.
        tokenizer: Its tokenizer.
        folder: Where they are written.
        facts: What is known of the model, as plain JSON.

    Returns:
        The model with the weights that were written, in float32, as a user will load it.
    """
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_atomically(folder / "facts.json", (json.dumps(facts, indent=2) + "\n").encode())
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def train_base(settings: Settings) -> None:
    """Train pocket, measure it and write it to the folder base.

    Args:
        settings: Options of the command line.

    Raises:
        SoftPromptsError: A file cannot be read or written.
    """
    texts = read_corpus(settings)
    for kind, of_kind in texts.train.items():
        say(f"{kind}: {len(of_kind):,} texts, {sum(map(len, of_kind)):,} characters")
    dialogues = [message["content"] for messages in corpus.dialogues(settings.chat) for message in messages]
    sample = [*texts.train["prose"], *texts.train["game"][::2], *texts.train["maze"][::4], *dialogues]
    tokenizer = train_tokenizer(settings, sample)
    stream = make_stream(settings, texts, tokenizer)
    model = new_model(settings, len(tokenizer))
    n_parameters = sum(p.numel() for p in model.parameters())
    say(f"{n_parameters:,} parameters, {len(stream):,} tokens")
    started = time.perf_counter()
    fit(model, base_batches(settings, stream), settings.learning_rate, "pocket")
    facts = {
        "parameters": n_parameters,
        "tokens_seen": len(stream),
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "settings": {k: v for k, v in asdict(settings).items() if isinstance(v, int | float)},
        "shares": SHARES,
        "unseen_books": HELD_OUT_BOOKS,
        "texts": {kind: len(of_kind) for kind, of_kind in texts.train.items()},
    }
    model = save(model, tokenizer, settings.out / "base", facts)
    facts["held_out"] = measure(model, tokenizer, {k: v[:1000] for k, v in texts.held_out.items()})
    facts["chess"] = measure_chess(settings)
    write_atomically(settings.out / "base" / "facts.json", (json.dumps(facts, indent=2) + "\n").encode())


def train_chat(settings: Settings) -> None:
    """Train pocket-chat from pocket, measure both and write pocket-chat to the folder chat.

    Args:
        settings: Options of the command line.

    Raises:
        SoftPromptsError: A file cannot be read or written.
    """
    base = settings.out / "base"
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    held_out_prose = [
        p for _, passages in corpus.prose(settings.prose) for p in passages if is_held_out(document_id(p), HELD_OUT)
    ]
    dialogues = list(corpus.dialogues(settings.chat))
    parts = {True: [], False: []}
    for dialogue in dialogues:
        # Dialogues are held out by their opening message, because the replies of one tree share it.
        opening = next(message["content"] for message in dialogue if message["role"] == "user")
        parts[is_held_out(document_id(opening), HELD_OUT)].append(dialogue)
    documents = {held_out: list(chat_documents(tokenizer, part)) for held_out, part in parts.items()}
    started = time.perf_counter()
    held_out = {"prose": list(islice(held_out_prose, 1000))}

    def chat_loss() -> float:
        with torch.no_grad():
            rows, labels = padded(*zip(*documents[True], strict=True))
            return round(token_losses(model, rows, labels).mean().item(), 4)

    before = {**measure(model, tokenizer, held_out), "assistant_nats_per_token": chat_loss()}
    fit(model, chat_batches(documents[False], settings), settings.chat_learning_rate, "pocket-chat")
    facts = {
        "dialogues": len(documents[False]),
        "held_out_dialogues": len(documents[True]),
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "settings": {k: v for k, v in asdict(settings).items() if k.startswith("chat_")},
        "base": before,
    }
    model = save(model, tokenizer, settings.out / "chat", facts)
    facts["chat"] = {**measure(model, tokenizer, held_out), "assistant_nats_per_token": chat_loss()}
    write_atomically(settings.out / "chat" / "facts.json", (json.dumps(facts, indent=2) + "\n").encode())
    say(json.dumps(facts, indent=2))


def main(settings: Settings) -> None:
    """Train pocket if it is not there yet, and pocket-chat.

    Args:
        settings: Options of the command line.

    Raises:
        SoftPromptsError: A file cannot be read or written.
    """
    if not (settings.out / "base" / "model.safetensors").exists():
        train_base(settings)
    train_chat(settings)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
