"""Tiny models for the tasks of overlap.py: made, trained on, and measured behind prompts, in seconds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from soft_prompts.data.documents import Encoding
from soft_prompts.engine.prompted import Bench
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.names import LOCAL
from soft_prompts.pocket.fading import Pace, trained_on
from soft_prompts.pocket.overlap import DIGITS, ENTRIES, LENGTH, SEPARATOR, Sums, follows, of_b, steps_of
from soft_prompts.training.log import Logs
from soft_prompts.training.loop import train
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run


def new_model(seed: int) -> GPTNeoXForCausalLM:
    """An untrained model of pythia's architecture with some 100,000 parameters."""
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=ENTRIES,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=64,
        initializer_range=0.2,  # with pythia's 0.02, models this narrow see nothing for hundreds of steps
        use_parallel_residual=False,
        bos_token_id=SEPARATOR,
        eos_token_id=SEPARATOR,
    )
    return GPTNeoXForCausalLM(config)


def tokenizer() -> PreTrainedTokenizerFast:
    """A word for every symbol: a0, a1 and so on to a= of the first alphabet, b0 to b= of the second."""
    words = ["<|endoftext|>", *(f"{of}{sign}" for of in "ab" for sign in [*range(DIGITS), "="])]
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=words[0], eos_token=words[0], unk_token=words[0])


def learning(
    lm: GPTNeoXForCausalLM, pair: str, mixture: Mapping[str, int], n_steps: int, pace: Pace, seed: int
) -> Iterator[int]:
    """Train a model in place on documents of a pair of tasks; see ``trained_on``."""
    rows = map(torch.from_numpy, steps_of(pair, mixture, seed))
    return trained_on(lm, rows, n_steps, pace, "")


@torch.no_grad()
def cost(lm: GPTNeoXForCausalLM, rows: np.ndarray, at: np.ndarray) -> float:
    """Nats per symbol at some places of documents, int [n, LENGTH]."""
    read = torch.from_numpy(rows)
    logits = lm(input_ids=read, use_cache=False).logits[:, at - 1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), read[:, at].flatten()).item()


def cost_of_a(lm: GPTNeoXForCausalLM) -> float:
    """Nats per sum on the validation documents of A: by them it is decided how long a model learns."""
    rows = [e.tokens for e in Sums().examples("validation", Encoding(None, SEPARATOR, LENGTH), 0)]
    return cost(lm, np.stack(rows), np.arange(4, LENGTH, 4))


def cost_of_b(lm: GPTNeoXForCausalLM, pair: str) -> float:
    """Nats per symbol that follows, on documents of B with a seed of their own: whether B is known."""
    return cost(lm, of_b(np.random.default_rng(10**6), 64, pair), follows(pair))


def frozen(lm: GPTNeoXForCausalLM, name: str) -> LanguageModel:
    """A model as it is now, frozen: a copy, so that it can be trained on."""
    return LanguageModel(name, LOCAL, copy.deepcopy(lm).eval().requires_grad_(False), tokenizer(), SEPARATOR)


def measured(
    lm: GPTNeoXForCausalLM, name: str, n_tokens: Sequence[int], recipe: TrainConfig, seed: int
) -> dict[int, dict[str, np.ndarray]]:
    """Task A on a model as it is now, without a prompt and behind new ones.

    Args:
        lm: The model; it stays as it is.
        name: What the progress bar calls it.
        n_tokens: Prompt lengths.
        recipe: Of the prompts.
        seed: Of the prompts.

    Returns:
        Prompt length -> "losses", nats by held-out document, "right", right first choices by document, and "counts".
    """
    model = frozen(lm, name)
    task, encoding = Sums(), Encoding(model.tokenizer, SEPARATOR, LENGTH)
    held_out, validation = (list(task.examples(split, encoding, 0)) for split in ("held_out", "validation"))
    bench = Bench(model, encoding, held_out, 8192, validation)
    runs = [Run("decay_tiny", task, name, n, seed, recipe, "float32") for n in n_tokens]
    found = {}
    for state in train(bench, runs, Logs(Path("runs"), ())):
        right = np.array([x.sum() for x in state.scores.correct])
        found[state.run.n_tokens] = {"losses": state.scores.sums, "right": right, "counts": state.scores.counts}
    return found
