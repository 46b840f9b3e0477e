"""Which dtype "auto" is, and that bfloat16 measures what float32 does."""

from __future__ import annotations

import pytest
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.interventions import SoftPrompt
from soft_prompts.models.device import pick_dtype
from soft_prompts.models.loading import load
from soft_prompts.pocket import SAMPLES
from soft_prompts.tasks.autoregressive import Autoregressive


@pytest.mark.parametrize(
    ("can", "auto"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, "bfloat16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_asks_the_processor(monkeypatch, can: dict[str, bool], auto: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    cpu = torch.device("cpu")
    assert pick_dtype("auto", cpu) == auto
    assert pick_dtype("float32", cpu) == "float32" and pick_dtype("bfloat16", cpu) == "bfloat16"


@pytest.mark.parametrize("n_tokens", [0, 8])
def test_held_out_losses_in_bfloat16_are_those_in_float32(n_tokens: int) -> None:
    losses = []
    for dtype in ("float32", "bfloat16"):
        model = load("pocket", dtype=dtype, device="cpu")
        encoding = Encoding(model.tokenizer, model.separator, 128)
        stream = Autoregressive(text=(str(SAMPLES),)).examples("held_out", encoding, 0)
        examples = [next(stream) for _ in range(60)]
        rows = torch.randint(len(model.vocabulary), (n_tokens,), generator=torch.Generator().manual_seed(0))
        prompt = SoftPrompt(model.vocabulary[rows].float())
        losses.append(evaluate(model, [prompt], examples, 4096)[0].loss)
    assert losses[1] == pytest.approx(losses[0], abs=0.01)
    assert losses[1] != losses[0]
