"""What a prompt says: a prompt that is a text is told by that text; divergences are those of the models' own logits."""

from __future__ import annotations

import json
import re
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
from soft_prompts.models.loading import load
from soft_prompts.pocket import BACKWARDS, SAMPLES, backwards
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
    assert only["median_divergence"] == pytest.approx(np.sort(by_validation)[1] / n, rel=1e-4)
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


@pytest.fixture(scope="module")
def teller():
    return load("pocket-backwards", device="cpu")


def test_what_came_before_is_scored_behind_its_passage(pocket) -> None:
    document = np.array(
        [0, *ids(pocket, " the sea was calm and the old boat lay still upon it for a long while that day")]
    )
    wanted, passage = backwards.pair(document, 1 + LENGTH, 3)
    assert wanted.tolist() == document[1 : 1 + LENGTH].tolist() and passage.tolist() == document[13:16].tolist()
    assert backwards.pair(document, 3, 2)[0].tolist() == document[1:3].tolist()  # not the token that opens the text
    for of, found in zip(
        (wanted, wanted[:2]),
        backwards.before(pocket.lm, dict(pocket.lm.named_parameters()), [(wanted, passage), (wanted[:2], passage)]),
        strict=True,
    ):
        row = torch.from_numpy(np.array([0, *passage, 0, *of, 0]))
        with torch.no_grad():
            said_before = pocket.lm(row[None]).logits[0, 4:-1].log_softmax(-1)
        torch.testing.assert_close(found, -said_before.gather(1, row[5:, None])[:, 0], atol=1e-4, rtol=1e-4)


def test_the_model_that_ships_tells_what_came_before_better_behind_its_own_passage(pocket, teller) -> None:
    facts = json.loads((BACKWARDS["pocket-backwards"] / "facts.json").read_text())
    rows = backwards.rows_of(pocket.tokenizer)["held_out"]
    documents = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[: facts["held_out_documents"]]]
    for model, name in ((pocket, "pocket"), (teller, "backwards")):
        found = backwards.helps(model.lm, documents)
        assert found.pop("interval") == pytest.approx(facts[name].pop("interval"), abs=0.003)
        assert found == pytest.approx(facts[name], abs=0.003)
    assert facts["backwards"]["gained"] > 0.3 > 0.1 > facts["pocket"]["gained"]


def test_it_is_asked_with_the_passages_alone_and_only_where_it_reads_the_models_tokens(
    pocket, bench, teller, neox
) -> None:
    texts = [*[" and then she said"] * 4, *[" e7e5 g1f3 b8c6 f1b5 a7a6"] * 4, ""]
    passages = [np.array(ids(pocket, text)) for text in texts]
    found = module.told(teller, bench, passages)
    assert len(found) == 8 and all(0 < len(tokens) <= LENGTH for tokens in found)  # nothing comes before no passage
    of_games = [bool(re.search(r"White \d+|[a-h][1-8][a-h][1-8]", pocket.tokenizer.decode(of))) for of in found]
    assert of_games == [False] * 4 + [True] * 4
    assert module.told(None, bench, passages) == [] and module._teller(neox) is None
    assert module._teller(pocket).weight_hash == teller.weight_hash != pocket.weight_hash


def test_a_teller_that_a_passage_does_not_help_is_not_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(backwards, "MEASURED", 16)
    with pytest.raises(SoftPromptsError, match="does not help to say what came before"):
        backwards.main(backwards.Settings(steps=1, rows=2, out=tmp_path))
    assert not list(tmp_path.iterdir())
