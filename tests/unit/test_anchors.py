"""Anchors that any task can be given: texts, other models, and a LoRA, each against a naive reference."""

from __future__ import annotations

import json
from dataclasses import replace

import chess
import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.behind import behind_texts, behind_tokens, text_alone, with_text
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions import SoftPrompt
from soft_prompts.interventions.lora import LoRA
from soft_prompts.tasks.base import Task
from soft_prompts.texts import CHESS
from soft_prompts.training import anchors
from soft_prompts.training.anchors import anchor_of
from soft_prompts.training.loop import accumulate_gradients
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run
from tests.unit.conftest import make_examples
from tests.unit.made_up import encoding


def trained_lora(lm, seed: int) -> LoRA:
    """A LoRA that does something: B is not 0."""
    random = torch.Generator().manual_seed(seed)
    lora = LoRA.on(lm, 2, random)
    for b in lora.b:
        b.data = torch.randn(b.shape, generator=random) / 4
    return lora


def loss_of(lm, examples) -> float:
    """The reference: nats per token, one text at a time."""
    with torch.no_grad():
        sums = [
            nn.functional.cross_entropy(
                lm(torch.from_numpy(e.tokens)[None]).logits[0, :-1], torch.from_numpy(e.labels[1:]), reduction="sum"
            )
            for e in examples
        ]
    return sum(x.item() for x in sums) / sum(e.n_scored for e in examples)


def merged_loss(model, lora: LoRA, examples) -> float:
    """The reference: the same with B A added to the weights themselves."""
    changes = [(b @ a).detach() for a, b in zip(lora.a, lora.b, strict=True)]
    weights = [model.lm.base_model.get_submodule(name).weight for name in lora.layers]
    changes = [c if c.shape == w.shape else c.T for c, w in zip(changes, weights, strict=True)]
    with torch.no_grad():
        for w, c in zip(weights, changes, strict=True):
            w += c
        loss = loss_of(model.lm, examples)
        for w, c in zip(weights, changes, strict=True):
            w -= c
    return loss


def test_two_loras_and_a_prompt_in_one_pass_do_what_each_does_to_the_weights(model) -> None:
    examples = make_examples(4)
    first, second = trained_lora(model.lm, 0), trained_lora(model.lm, 1)
    scores = evaluate(model, [first, SoftPrompt(torch.zeros(0, 32)), second], examples, 10**6)
    wanted = [merged_loss(model, first, examples), loss_of(model.lm, examples), merged_loss(model, second, examples)]
    assert [s.loss for s in scores] == pytest.approx(wanted, rel=1e-4)
    assert len({round(x, 3) for x in wanted}) == 3


def test_a_lora_changes_the_layers_of_gpt2_which_are_not_linear() -> None:
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2)).eval()
    lora = LoRA.on(lm, 2, torch.Generator())
    shapes = [(b.shape[0], a.shape[1]) for a, b in zip(lora.a, lora.b, strict=True)]
    assert shapes == [(48, 16), (16, 16), (64, 16), (16, 64)]  # [n_out, n_in]


def test_a_new_lora_changes_nothing_and_learns(neox) -> None:
    examples = make_examples(4)
    lora = LoRA.on(neox.lm, 2, torch.Generator().manual_seed(0))
    before = evaluate(neox, [lora], examples, 10**6)[0].loss
    assert before == pytest.approx(loss_of(neox.lm, examples), rel=1e-5)
    accumulate_gradients(neox, Task(), [lora], [examples], 10**6)
    optimizer = torch.optim.SGD(lora.b.parameters(), 0.1)
    optimizer.step()
    assert evaluate(neox, [lora], examples, 10**6)[0].loss < before - 1e-4


class Counting(Task):
    """Documents that go on as they began, so there is something to learn."""

    def examples(self, split, encoding, seed):
        random = np.random.default_rng(seed)
        while True:
            start = random.integers(1, 40)
            tokens = np.array([0, *range(start, start + 10)])
            yield Example(tokens, np.array([IGNORE, *tokens[1:]]), f"{split} {start} {random.random()}")


def bench_of(model) -> Bench:
    random = np.random.default_rng(9)
    rows = [np.array([0, *range(s, s + 10)]) for s in random.integers(1, 40, 12)]
    examples = [Example(row, np.array([IGNORE, *row[1:]]), f"d{i}") for i, row in enumerate(rows)]
    return Bench(model, encoding(64), examples[:6], 10**6, examples[6:])


def run_of(anchor: str, **recipe) -> Run:
    train = TrainConfig(**{"steps": 30, "batch_size": 4, **recipe})
    return Run("e", Counting(), "m", 0, 0, train, "float32", anchor=anchor)


def test_the_lora_with_the_lowest_validation_loss_is_the_anchor(neox, monkeypatch) -> None:
    monkeypatch.setattr(anchors, "RATES", (1e-9, 3e-3))
    bench = bench_of(neox)
    measure = anchor_of(run_of("lora"), bench)
    found, chosen_by = measure(bench), measure(bench.for_choices)
    assert "learning rate 0.003" in found.name and found.bits is None
    assert found.scores.loss < loss_of(neox.lm, bench.held_out) - 0.5
    assert chosen_by.scores.loss != found.scores.loss
    assert not any(module._forward_hooks for module in neox.lm.modules())


def test_loras_that_all_diverge_are_one_sentence(neox, monkeypatch) -> None:
    monkeypatch.setattr(anchors, "RATES", (float("inf"),))
    with pytest.raises(SoftPromptsError, match="every LoRA diverged"):
        anchor_of(run_of("lora", steps=2), bench_of(neox))


def test_a_text_stands_where_the_prompt_would() -> None:
    weights = np.ones(4)
    e = Example(np.array([0, 5, 6, 7]), np.array([IGNORE, IGNORE, 6, 7]), "d", insert_at=2, weights=weights)
    behind = with_text(e, np.array([90, 91]))
    assert behind.tokens.tolist() == [0, 5, 90, 91, 6, 7]
    assert behind.labels.tolist() == [IGNORE, IGNORE, IGNORE, IGNORE, 6, 7]


def test_the_loss_behind_a_text_is_that_of_the_whole_text(neox) -> None:
    bench = bench_of(neox)
    found = anchor_of(run_of("text:ab"), bench)(bench)
    ab = bench.encoding.tokens(["ab"])[0][0][1:]
    assert len(ab) == 2  # every byte is a token
    behind = [replace(with_text(e, ab), insert_at=1) for e in bench.held_out]
    assert found.scores.loss == pytest.approx(loss_of(neox.lm, behind), rel=1e-5)
    assert found.name == "the text 'ab'"
    assert found.bits == pytest.approx(2 * np.log2(len(neox.vocabulary)))
    before = torch.from_numpy(bench.held_out[0].tokens[:1])  # every document opens with the same separator
    whole = torch.cat([before, torch.from_numpy(ab)])[None]
    log_probs = neox.lm(whole).logits[0].log_softmax(-1)
    assert found.own_bits == pytest.approx(-(log_probs[0, ab[0]] + log_probs[1, ab[1]]).item() / np.log(2), rel=1e-4)


def test_of_several_texts_the_one_with_the_lowest_validation_loss_is_the_anchor(neox, tmp_path) -> None:
    file = tmp_path / "texts.json"
    file.write_text(json.dumps(["ab", "xyz", "q", "ab"]))
    bench = bench_of(neox)
    measure = anchor_of(run_of(f"texts:{file}"), bench)
    found, chosen_by = measure(bench), measure(bench.for_choices)
    alone = {text: anchor_of(run_of(f"text:{text}"), bench) for text in ("ab", "xyz", "q")}
    validation = {text: measured(bench.for_choices).scores.loss for text, measured in alone.items()}
    best = min(validation, key=lambda text: validation[text])
    assert found.tried == validation and len(set(validation.values())) == 3
    assert found.name == f"the best of 3 texts, {best!r}"
    assert found.scores.loss == alone[best](bench).scores.loss
    assert chosen_by.scores.loss == min(validation.values())


def test_texts_are_recorded_by_their_content_and_not_by_their_path(tmp_path) -> None:
    configs = []
    for folder, texts in (("a", ["x"]), ("b", ["x"]), ("c", ["y"])):
        file = tmp_path / folder / "texts.json"
        file.parent.mkdir()
        file.write_text(json.dumps(texts))
        configs.append(replace(run_of(f"texts:{file}"), task=Task()).config)
    assert configs[0] == configs[1] != configs[2]
    assert configs[0]["anchor"] == "texts:texts.json"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "must hold a list of texts"),
        ('["a", ""]', "must hold a list of texts"),
        ('{"a": "b"}', "must hold a list of texts"),
        ('["a"', "it is not JSON in UTF-8"),
        ("\xff", "it is not JSON in UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_file_that_holds_no_texts_is_refused(content, said, tmp_path) -> None:
    file = tmp_path / "texts.json"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(SoftPromptsError, match=said):
        anchors.written(str(file))


def test_a_text_that_the_model_cannot_read_beside_a_document_is_refused(neox) -> None:
    n_free = neox.context - encoding(64).max_tokens
    bench = bench_of(neox)
    assert anchor_of(run_of("text:" + "a" * n_free), bench)(bench)
    with pytest.raises(SoftPromptsError, match=f"has {n_free + 1} tokens, and documents 64, but .* reads"):
        anchor_of(run_of("text:" + "a" * (n_free + 1)), bench)(bench)


def test_the_texts_that_ship_for_chess_are_texts_and_legal_openings() -> None:
    texts = anchors.written(str(CHESS))
    games = [line.split() for line in max(texts, key=len).splitlines()[1:]]
    assert len(texts) == 9 and len(games) == 8
    for moves in games:
        board = chess.Board()
        for move in moves:
            assert board.parse_uci(move) in board.legal_moves
            board.push_uci(move)


def test_a_text_is_its_tokens_without_the_separator_that_opens_documents(neox) -> None:
    bench = bench_of(neox)
    ab = bench.encoding.tokens(["ab"])[0][0]
    assert ab[0] == bench.encoding.separator and len(ab) == 3
    as_text, as_tokens = behind_texts(bench, ["ab"] * 6), behind_tokens(bench, [ab[1:]] * 6)
    assert as_text[0].sums.tolist() == as_tokens[0].sums.tolist() and as_text[1:] == as_tokens[1:]


def test_the_length_of_texts_is_the_mean_over_documents_also_of_those_that_many_share(neox) -> None:
    bench = bench_of(neox)
    short, long = np.array([7]), np.array([8, 9, 10])
    alone = [behind_tokens(bench, [text] * 6) for text in (short, long)]
    scores, bits, own_bits = behind_tokens(bench, [short, long, short, short, short, short])
    assert bits == pytest.approx((5 * alone[0][1] + alone[1][1]) / 6)
    assert own_bits == pytest.approx((5 * alone[0][2] + alone[1][2]) / 6)
    assert scores.sums[:2] == pytest.approx([alone[0][0].sums[0], alone[1][0].sums[1]])


def test_a_text_alone_is_scored_behind_what_stands_before_the_prompt() -> None:
    e = Example(np.array([0, 5, 6, 7]), np.array([IGNORE, IGNORE, 6, 7]), "d", insert_at=2)
    alone = text_alone(e, np.array([90, 91]))
    assert alone.tokens.tolist() == [0, 5, 90, 91]
    assert alone.labels.tolist() == [IGNORE, IGNORE, 90, 91]


def test_another_model_is_an_anchor_if_it_has_the_same_tokenizer() -> None:
    from soft_prompts.models.loading import load

    pocket, chat = (load(name, dtype="float32", device="cpu") for name in ("pocket", "pocket-chat"))
    bench = replace(bench_of(pocket), model=pocket)
    found = anchor_of(run_of("model:pocket-chat"), bench)(bench)
    assert found.scores.loss == pytest.approx(loss_of(chat.lm, bench.held_out), rel=1e-4)
    assert found.name == "the model pocket-chat"
    other = replace(pocket, name="other")
    other.__dict__["tokenizer_hash"] = "another"
    with pytest.raises(SoftPromptsError, match="model:pocket-chat: it has another tokenizer"):
        anchor_of(run_of("model:pocket-chat"), replace(bench, model=other))
