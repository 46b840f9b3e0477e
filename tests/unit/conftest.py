"""Models and examples for the tests: tiny random models of the real architectures, and pocket. No network is needed."""

import os

# Each of several processes that share the tests has its share of the cores. Said before torch is loaded.
N_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
if N_PROCESSES > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // N_PROCESSES)))

# ruff: noqa: E402
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PreTrainedConfig

from soft_prompts.data import sources
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.models.cpu import settle_process
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load
from tests.unit.made_up import byte_tokenizer

# The command line does the same. The kernels that multiply decide the last bits of every number.
settle_process(torch.device("cpu"))

CONTEXT = 128
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": CONTEXT,
}
CONFIGS = {"neox": GPTNeoXConfig(**TINY), "llama": LlamaConfig(num_key_value_heads=2, **TINY)}


def save_random_model(config: PreTrainedConfig, folder: Path, spread: float = 0.5, vectors: float = 0.0) -> Path:
    """Save a random model of ``config`` and a tokenizer of bytes. Its logits differ enough to have clear favourites.

    Args:
        config: Its configuration.
        folder: Where it is saved.
        spread: Size of its matrices.
        vectors: How far its biases, norms and other vectors are from where they start, which is often 0.
    """
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config.vocab_size = len(tokenizer) + 7  # more rows than the tokenizer uses, as pythia has
    config.bos_token_id = config.eos_token_id = 0
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, spread / weight.shape[1] ** 0.5 * 2)
            elif vectors:
                weight.add_(torch.randn_like(weight) * vectors)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Folders of a tiny random model of each architecture."""
    return {
        name: save_random_model(config, tmp_path_factory.mktemp("models") / name) for name, config in CONFIGS.items()
    }


@pytest.fixture(scope="session", params=list(CONFIGS))
def model(request, folders) -> LanguageModel:
    """A tiny random model, once for each architecture."""
    return load(str(folders[request.param]))


@pytest.fixture(scope="session")
def neox(folders) -> LanguageModel:
    """A tiny random model of pythia's architecture."""
    return load(str(folders["neox"]))


@pytest.fixture(scope="session")
def pocket() -> LanguageModel:
    """The small trained model that ships."""
    return load("pocket")


@pytest.fixture
def data() -> Path:
    """The folder of real inputs. Without it the test is skipped."""
    folder = os.environ.get("SOFT_PROMPTS_DATA")
    if not folder:
        pytest.skip("SOFT_PROMPTS_DATA is not set: it names a folder of real games, tokenizers and models")
    return Path(folder)


def make_examples(
    n: int, seed: int = 0, longest: int = 24, n_conditions: int = 0, vocabulary: int = 250
) -> list[Example]:
    """Random documents of random lengths. Some positions are not scored, and the prompt may go anywhere."""
    random = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        tokens = random.integers(1, vocabulary, random.integers(3, longest + 1))
        labels = np.where(random.random(len(tokens)) < 0.8, tokens, IGNORE)
        labels[0], labels[-1] = IGNORE, tokens[-1]
        at = int(random.integers(0, len(tokens) + 1))
        condition = random.normal(size=n_conditions).astype(np.float32)
        examples.append(Example(tokens, labels, f"document-{seed}-{i}", at, condition))
    return examples


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken connections are tried again after hundredths of a second, and no proxy is used."""
    monkeypatch.setattr(sources, "RETRY_PAUSES_S", (0.01, 0.02, 0.03))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
