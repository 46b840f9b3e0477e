"""What a prompt says: a prompt that is a text is told by that text; divergences are those of the models' own logits."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.prompted import Bench
from soft_prompts.errors import SoftPromptsError
from soft_prompts.hard import retrodiction as module
from soft_prompts.hard.retrodiction import FRAMES, LENGTH, NOTHING, RANDOM, divergences, framed, retrodiction
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.pocket import SAMPLES
from soft_prompts.tasks.autoregressive import Autoregressive

TASK = Autoregressive(text=(str(SAMPLES),))


@pytest.fixture(scope="module")
def bench(pocket) -> Bench:
    encoding = Encoding(pocket.tokenizer, pocket.separator, 32)
    held_out, validation = (list(islice(TASK.examples(s, encoding, 0), 6)) for s in ("held_out", "validation"))
    return Bench(pocket, encoding, held_out, 4096, validation)


def ids(model, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def said(model, tokens) -> SoftPrompt:
    return SoftPrompt(model.vocabulary[torch.tensor(tokens, dtype=torch.long)].float())


def test_the_divergence_is_that_of_the_models_own_logits(pocket) -> None:
    tokens, text = np.array([pocket.separator, *ids(pocket, " a small boat")]), ids(pocket, " the sea")
    labels = np.where(np.arange(len(tokens)) < 2, IGNORE, tokens)  # the first token is not scored
    prompt = SoftPrompt(torch.randn(1, 256, generator=torch.Generator().manual_seed(0)) * pocket.scale)
    found = divergences(pocket, prompt, [text, []], [Example(tokens, labels, "x", insert_at=1)] * 2, 64)
    rows = pocket.embed(torch.from_numpy(tokens))

    def log_probabilities(block: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = pocket.lm(inputs_embeds=torch.cat([rows[:1], block, rows[1:]])[None]).logits[0]
        return logits[len(block) + 1 : -1].log_softmax(-1)

    wanted = log_probabilities(prompt(torch.zeros(1, 0))[0].detach())
    for of, block in zip(found, (pocket.vocabulary[text], rows[:0]), strict=True):
        naive = (wanted.exp() * (wanted - log_probabilities(block))).sum().item()
        assert of.tolist() == pytest.approx([naive, naive], abs=1e-4) and naive > 0.1


def test_a_prompt_that_is_a_text_is_told_by_that_text(pocket, bench, monkeypatch) -> None:
    monkeypatch.setattr(module, "SEARCHED", 48)
    documents = list(islice(TASK.examples("train", bench.encoding, 0), 32))
    opening = documents[3].tokens[1 : 1 + LENGTH]
    found = retrodiction(bench, said(pocket, opening), TASK)
    texts = {one["kind"]: one for one in found["texts"]}
    told = texts["openings of training documents"]
    assert told["text"] == pocket.tokenizer.decode(opening) and 1 < told["tried"] <= 32
    assert max(told["document_divergences"]) == pytest.approx(0, abs=1e-3)
    assert texts["the prompt's nearest tokens"]["text"] == told["text"]
    assert texts[NOTHING]["text"] == "" and texts[NOTHING]["tried"] == 1 and texts[RANDOM]["tried"] == 32
    for kind in (NOTHING, RANDOM):
        assert texts[kind]["validation_divergence"] > told["validation_divergence"] + 0.01
    assert found["documents"] == [e.document for e in bench.held_out]
    assert retrodiction(bench, said(pocket, []), TASK) is None


def test_of_a_kind_the_text_is_chosen_on_validation_documents(pocket, bench, monkeypatch) -> None:
    candidates = [ids(pocket, " the sea"), ids(pocket, " e2e4 e7e5 g1f3"), ids(pocket, " once upon")]
    monkeypatch.setattr(module, "candidates_for", lambda *_: {"words": candidates, "none": []})
    (only,) = retrodiction(bench, said(pocket, candidates[1]), TASK)["texts"]
    assert only["text"] == " e2e4 e7e5 g1f3" and only["tried"] == 3
    prompt = said(pocket, ids(pocket, " a"))
    (only,) = retrodiction(bench, prompt, TASK)["texts"]
    by_validation = divergences(pocket, prompt, candidates, bench.validation, 4096).sum(1)
    assert only["text"] == pocket.tokenizer.decode(candidates[by_validation.argmin()])
    n = sum(e.n_scored for e in bench.validation)
    assert only["validation_divergence"] == pytest.approx(by_validation.min() / n, rel=1e-4)
    with pytest.raises(SoftPromptsError, match="chosen on validation documents"):
        retrodiction(Bench(pocket, bench.encoding, bench.held_out, 4096), said(pocket, candidates[0]), TASK)


def test_a_prompt_that_is_a_text_goes_on_as_that_text_in_a_sentence(pocket, bench) -> None:
    text = " the old house"
    found = framed(bench, said(pocket, ids(pocket, text)))
    assert [one["frame"] for one in found] == [f"{before}[prompt]{behind}" for before, behind in FRAMES]
    before, behind = FRAMES[1]
    tokens = [pocket.separator, *ids(pocket, before), *ids(pocket, text), *ids(pocket, behind)]
    with torch.no_grad():
        for _ in range(4):
            tokens.append(int(pocket.lm(torch.tensor([tokens])).logits[0, -1].argmax()))
    assert found[1]["continuation"].startswith(pocket.tokenizer.decode(tokens[-4:]))
