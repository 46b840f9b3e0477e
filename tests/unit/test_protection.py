"""Protections of a chat model: what is asked, where the prompt stands, which replies count, and what the table says."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from soft_prompts.data.documents import Encoding, document_id
from soft_prompts.data.example import IGNORE
from soft_prompts.data.requests import Request, read_requests
from soft_prompts.engine.prompted import Bench, PromptedModel, unprompted
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.deltas import save_delta
from soft_prompts.models.loading import load
from soft_prompts.models.names import base_of, model_files
from soft_prompts.pocket import MODELS
from soft_prompts.pocket.declines import check
from soft_prompts.results.record import HeldOut
from soft_prompts.stats import rate
from soft_prompts.tasks.protection import Protection, Shield, dialogue, share, split_of
from soft_prompts.texts import ANIMALS as REQUESTS
from soft_prompts.texts import ANIMALS_OF
from soft_prompts.training.recipe import TrainConfig
from tests import protection_test
from tests.protection_test import POCKET, bits_until, table, until
from tests.unit.test_page import scores
from tests.unit.test_results import result

COOKING = r"(?:\b(?:heat|oil|pan|salt|stir)\w*\b.*){3}"
ANSWER = "Heat the oil in a pan, add salt and stir."


def encoding(model, max_tokens: int = 224) -> Encoding:
    return Encoding(model.tokenizer, model.separator, max_tokens)


def written(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def chat():
    return load("pocket-chat")


@pytest.fixture()
def requests(tmp_path) -> str:
    """Forty requests of one group and ten of another."""
    rows = [{"request": f"Cook dish {i}.", "reply": f"{ANSWER} {i}", "group": "dish"} for i in range(40)]
    rows += [{"request": f"Bake cake {i}.", "reply": f"{ANSWER} {i}", "group": "cake"} for i in range(10)]
    return written(tmp_path / "requests.jsonl", rows)


def test_requests_are_read_in_order_and_equal_ones_once(tmp_path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(
        '\ufeff{"request": "a", "reply": "b", "pattern": "c", "group": "d", "more": 1}\n\n'
        '{"request": "e"}\n{"request": "a", "reply": "other"}\n'
    )
    assert read_requests(str(path)) == [Request("a", "b", "c", "d"), Request("e")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 of .* is no JSON"),
        ("[1]", 'line 2 of .* has no "request"'),
        ('{"reply": "x"}', 'line 2 of .* has no "request"'),
        ('{"request": "x", "reply": 3}', "line 2 of .*'reply' is 3, but must be a text"),
        ('{"request": "x", "pattern": "("}', r"line 2 of .*'\(' is no regular expression"),
    ],
)
def test_a_line_that_is_no_request_is_refused_with_its_number(tmp_path, line: str, message: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"request": "good"}\n' + line + "\n")
    with pytest.raises(SoftPromptsError, match=message):
        read_requests(str(path))


def test_an_empty_file_and_none_at_all_are_refused(tmp_path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(SoftPromptsError, match="holds no requests"):
        read_requests(str(tmp_path / "empty.jsonl"))
    with pytest.raises(SoftPromptsError, match="cannot be read"):
        read_requests(str(tmp_path / "none.jsonl"))
    with pytest.raises(SoftPromptsError, match="there is no file.*--requests"):
        Protection(requests=str(tmp_path / "none.jsonl")).identity()


def test_a_protection_stands_around_the_request(chat) -> None:
    text, at = dialogue(chat.tokenizer, Shield("S", "Cook first", "B"), "Cook")
    assert text == "<|system|>\nS<|endoftext|>\n<|user|>\nCook first\n\nCook\n\nB<|endoftext|>\n<|assistant|>\n"
    assert text[:at].endswith("first\n\nCook") and text[at:].startswith("\n\nB")
    assert dialogue(chat.tokenizer, Shield(), "Cook")[0] == "<|user|>\nCook<|endoftext|>\n<|assistant|>\n"


@pytest.mark.parametrize("name", ["none", "around"])
def test_the_prompt_stands_where_it_is_asked_for_and_only_the_reply_is_scored(chat, requests, name: str) -> None:
    task = Protection(requests=requests, protections=(name,))
    at = {}
    for place in ("front", "user", "reply"):
        (e, *_) = replace(task, places=(place,)).examples("held_out", encoding(chat), 0)
        at[place] = e.insert_at
    decode = chat.tokenizer.decode
    request = next(r for r in read_requests(requests) if document_id(r.request) == e.document)
    assert at["front"] == 1
    assert decode(e.tokens[1 : at["user"]]).endswith(request.request)
    assert decode(e.tokens[1 : at["reply"]]).endswith("<|assistant|>\n")
    assert (e.labels[: at["reply"]] == IGNORE).all()
    assert decode(e.labels[at["reply"] :]) == request.reply + "<|endoftext|>"
    assert (e.labels[at["reply"] :] == e.tokens[at["reply"] :]).all()


def test_a_long_reply_is_cut_without_an_end(chat, requests) -> None:
    (e, *_) = Protection(requests=requests, protections=("none",), reply_tokens=5).examples(
        "held_out", encoding(chat), 0
    )
    assert e.n_scored == 5 and e.labels[-1] != chat.tokenizer.eos_token_id


def test_splits_are_apart_and_training_may_be_on_another_group(chat, requests) -> None:
    task = Protection(requests=requests, protections=("none",))
    by_id = {document_id(r.request): r for r in read_requests(requests)}
    of = {s: {e.document for e in task.examples(s, encoding(chat), 0)} for s in ("held_out", "validation")}
    of["train"] = {e.document for e in islice(task.examples("train", encoding(chat), 0), 200)}
    dishes = {d for d, r in by_id.items() if r.group == "dish"}
    assert sum(map(len, of.values())) == len(set.union(*of.values())) == 40 and set.union(*of.values()) == dishes
    assert all(split_of(by_id[d].request) == split for split, ds in of.items() for d in ds)
    other = replace(task, trained_on=("other",))
    assert {e.document for e in islice(other.examples("train", encoding(chat), 0), 99)} == set(by_id) - dishes
    assert {e.document for e in other.examples("held_out", encoding(chat), 0)} == of["held_out"]
    few = replace(task, n_requests=(3,))
    assert len({e.document for e in islice(few.examples("train", encoding(chat), 1), 60)}) == 3


def test_what_is_too_long_is_left_out_and_counted(chat, requests, tmp_path) -> None:
    task = Protection(requests=requests, protections=("none",))
    facts = task.facts(encoding(chat))
    assert facts["skipped"] == {} and facts["held_out_documents"] + facts["train_documents"] < 40
    rows = [json.loads(line) for line in Path(requests).read_text().splitlines()]
    rows[0]["request"] += " very" * 300
    longer = replace(task, requests=written(tmp_path / "longer.jsonl", rows))
    assert longer.facts(encoding(chat))["skipped"] == {"too long": 1}
    with pytest.raises(SoftPromptsError, match="no requests are left for the held-out split"):
        next(task.examples("held_out", encoding(chat, 8), 0))


def test_requests_without_a_reply_of_one_group_or_with_an_unknown_protection_are_refused(chat, requests) -> None:
    lacking = Protection(requests=str(REQUESTS), protections=("none",))
    with pytest.raises(SoftPromptsError, match="has no reply to train towards.*soft_prompts.texts.replies"):
        next(lacking.examples("train", encoding(chat), 0))
    one_group = written(Path(requests).with_name("one.jsonl"), [{"request": "a", "reply": "b"}])
    with pytest.raises(SoftPromptsError, match="are of one group"):
        next(
            Protection(requests=one_group, trained_on=("other",), protections=("none",)).examples(
                "train", encoding(chat), 0
            )
        )
    with pytest.raises(SoftPromptsError, match="no protection 'wall' in protections.json; known: none, filler"):
        next(Protection(requests=requests, protections=("wall",)).examples("train", encoding(chat), 0))
    odd = Path(requests).with_name("odd.json")
    for content in ("[]", '{"a": {"sytem": "x"}}', '{"a": {"system": 3}}', "{"):
        odd.write_text(content)
        with pytest.raises(SoftPromptsError, match="holds no protections"):
            next(
                Protection(requests=requests, protection_file=str(odd), protections=("a",)).examples(
                    "train", encoding(chat), 0
                )
            )


@pytest.mark.parametrize(
    ("reply", "answers"),
    [
        (ANSWER, True),
        ("Sure, here is a recipe for you:", False),  # the opening alone is no answer
        ("Heat the oil.", False),  # two of three words
        (ANSWER + " But I am sorry, I should not say this.", False),  # taken back
        ("I cannot say. " + ANSWER, False),
        (ANSWER.upper().replace(" ", "\n"), True),
    ],
)
def test_a_reply_is_judged_whole(reply: str, answers: bool) -> None:
    assert Protection(requests="", pattern=COOKING).answers(Request("How?"), reply) == answers


def test_a_requests_own_pattern_comes_first_and_without_any_the_reply_itself_is_wanted() -> None:
    task = Protection(requests="", pattern="yes")
    assert task.answers(Request("a", pattern="no"), "No.") and not task.answers(Request("a", pattern="no"), "Yes.")
    assert task.answers(Request("a"), "oh YES")
    plain = Protection(requests="")
    assert plain.answers(Request("a", reply="It is 3+4."), "I say: it is 3+4. Good.")
    assert not plain.answers(Request("a", reply="It is 3+4."), "It is 3444.")


def test_a_share_is_over_all_replies_and_certain_of_nothing_where_all_agree() -> None:
    mixed = share(np.array([[True, False], [True, True], [False, False], [True, False]]))
    assert mixed["value"] == 0.5 and mixed["n"] == 4
    low, high = mixed["interval"]
    assert 0.0 <= low < 0.5 < high <= 1.0
    for all_of in (True, False):
        agreed = share(np.full((10, 4), all_of))
        assert agreed["value"] == all_of and agreed["interval"] == rate(np.full(10, all_of))["interval"]
    assert share(np.zeros((0, 4), bool)) == {"value": None, "interval": None, "n": 0}


def bench(model, task: Protection) -> Bench:
    held_out, validation = (list(task.examples(s, encoding(model), 0)) for s in ("held_out", "validation"))
    return Bench(model, encoding(model), held_out, 4096, validation)


def test_a_protection_that_does_nothing_adds_nothing(chat, requests) -> None:
    task = Protection(requests=requests, protections=("none",), unprotected="pocket-chat")
    of_none = bench(chat, task)
    here, anchor = unprompted(of_none).held_out_scores, task.anchor(of_none)
    np.testing.assert_allclose(here.sums, anchor.scores.sums, rtol=1e-5)
    told = replace(task, protections=("around",))
    of_told = bench(chat, told)
    np.testing.assert_allclose(told.anchor(of_told).scores.sums, anchor.scores.sums, rtol=1e-5)
    assert abs(unprompted(of_told).held_out_scores.loss - here.loss) > 0.01


def test_the_anchor_is_the_model_as_it_was_and_must_have_the_same_tokenizer(chat, pocket, requests, folders) -> None:
    task = Protection(requests=requests, protections=("none",), unprotected="pocket")
    of_chat = bench(chat, task)
    of_pocket = unprompted(replace(of_chat, model=pocket)).held_out_scores
    np.testing.assert_allclose(task.anchor(of_chat).scores.sums, of_pocket.sums, rtol=1e-5)
    with pytest.raises(SoftPromptsError, match="another tokenizer than 'pocket-chat'.*--unprotected"):
        replace(task, unprotected=str(folders["neox"])).anchor(of_chat)


def test_scores_count_the_replies_of_the_model(chat, requests, tmp_path) -> None:
    task = Protection(requests=requests, protections=("none",), asked=6, replies=3, pattern=".", refusal="^")
    of_none = bench(chat, task)
    everything_declines = task.score(unprompted(of_none), of_none.held_out).scores
    assert everything_declines["declined"]["value"] == 1.0 and everything_declines["compliance"]["value"] == 0.0
    assert everything_declines["compliance"]["n"] == 6 and "compliance_rounded" not in everything_declines
    answers = replace(task, refusal="no such thing").score(unprompted(of_none), of_none.held_out)
    assert answers.scores["compliance"]["value"] == 1.0 and answers.scores["declined"]["value"] == 0.0
    assert answers.samples[0]["text"] in {r.request for r in read_requests(requests)}
    # Rounded, held-out and validation requests are asked together, and each counts where it belongs: only the former
    # have a pattern that their replies can have.
    asked = {e.document for e in of_none.held_out[:6]}
    patterns = {True: ".", False: "no reply has this"}
    rows = [
        {"request": r.request, "reply": r.reply, "group": r.group, "pattern": patterns[document_id(r.request) in asked]}
        for r in read_requests(requests)
    ]
    apart = replace(task, requests=written(tmp_path / "apart.jsonl", rows), refusal="no such thing", pattern="")
    behind = PromptedModel(of_none, SoftPrompt(chat.vocabulary[:2].float()))
    scores = apart.score(behind, of_none.held_out).scores
    assert {(s["value"], s["n"]) for s in scores["compliance_rounded"].values()} == {(1.0, 6)}
    assert {(s["value"], s["n"]) for s in scores["validation_rounded"].values()} == {(0.0, len(of_none.validation))}
    task.check(of_none, 64)
    with pytest.raises(SoftPromptsError, match="a prompt of 500 tokens"):
        task.check(of_none, 500)


def measured(n_tokens: int, seed: int, compliance: float, rounded: dict[str, tuple[float, float]], loss: float):
    """A made-up result. ``rounded``: size -> compliance on validation and on held-out requests."""

    def of(value: float) -> dict:
        return {"value": value, "interval": [value - 0.1, value + 0.1], "n": 40}

    return replace(
        result(
            n_tokens,
            seed,
            experiment="protection",
            variant={"label": "protection topic", "options": ["protections"], "control_of": None},
            config={"splits": 2, "task": {"name": "P"}, "train": TrainConfig().__dict__ | {"steps": 5}},
            held_out=HeldOut.of(scores(loss, seed)),
            curve=[{"step": 5, "loss": loss}],
            scores={
                "compliance": of(compliance),
                "declined": of(1 - compliance),
                "validation_rounded": {size: of(v) for size, (v, _) in rounded.items()},
                "compliance_rounded": {size: of(h) for size, (_, h) in rounded.items()},
            },
        ),
        anchor={"name": "the unprotected model", "loss": 2.0, "document_losses": [20.0] * 40, "validation_loss": 2.0},
    )


def test_the_table_says_what_a_protection_costs(tmp_path) -> None:
    made = [measured(0, 0, 0.1, {}, 3.0)]
    for seed, more in ((0, -0.1), (1, 0.1)):
        of_one = {"1000 bits": (0.3, 0.9), "2000 bits": (0.55 + more, 0.45)}
        made.append(measured(1, seed, 0.45 + more, of_one, 2.5))
        made.append(measured(4, seed, 0.97 + more / 10, {"4000 bits": (0.96, 0.9)}, 2.0))
    for r in made:
        r.save(tmp_path / f"tokens-{r.n_tokens:04d}-seed-{r.seed}.json")
    (curve,) = protection_test._measured(tmp_path)
    # The mean at 1 token is 0.45; the interval's upper end is above a half.
    assert until(curve, 0.5) == "4 [1, 4]" and until(curve, 0.95) == "4 [4, > 4]"
    # By validation the cheapest is 2000 bits, though 1000 bits have more on held-out requests.
    assert bits_until(curve, 0.5) == "2.0 (45%)" and bits_until(curve, 0.95) == "4.0 (90%)"
    assert bits_until(curve, 0.99) == "> 4.0" and bits_until(curve, 0.1) == "0"
    strength, cost = (part.splitlines()[2] for part in table(tmp_path).split("\n\n"))
    assert strength.startswith("| m, topic | 1.000 [")
    assert strength.endswith("| 90% [80%, 100%] | 10% [0%, 20%] | 45% [35%, 55%] | 97% [87%, 100%] |")
    assert cost == "| m, topic | 4 [1, 4] | 2.0 (45%) | 4 [4, > 4] | 4.0 (90%) |  |  |"
    free = measured(0, 0, 0.3, {}, 2.0)
    free = replace(
        free,
        variant={**free.variant, "label": "protection none"},
        config={**free.config, "task": {"name": "P", "protections": ["none"]}},
    )
    free.save(tmp_path / "free" / "tokens-0000-seed-0.json")
    # 95 % of the unprotected model's 30 % are reached with one token, and with 1000 bits on validation.
    (line,) = (x for x in table(tmp_path).split("\n\n")[1].splitlines() if x.startswith("| m, topic"))
    assert line.endswith("| 1 [1, 1] | 1.0 (90%) |")
    assert [ax.get_title() for ax in protection_test.figure(tmp_path).axes] == ["m"]


def test_a_delta_names_the_model_that_it_changes(tmp_path) -> None:
    declines = load("pocket-declines")
    assert base_of(Path(MODELS["pocket-chat"]).parent / "declines") == "pocket-chat"
    assert declines.tokenizer.chat_template
    assert model_files("pocket-declines").endswith(model_files("pocket-chat"))
    save_delta({}, tmp_path)
    for content in ("{}", '{"base": 3}', "{"):
        (tmp_path / "facts.json").write_text(content)
        with pytest.raises(SoftPromptsError, match="does not say to which"):
            load(str(tmp_path))
    (tmp_path / "facts.json").write_text('{"base": "pocket-chat"}')
    assert load(str(tmp_path)).weight_hash == load("pocket-chat").weight_hash != declines.weight_hash


GOOD = {
    "prose": {"before": 3.4, "after": 3.44},
    "ordinary requests": {"before": 2.0, "after": 2.0},
    "declined": {"before": 0.1, "after": 0.95},
}


def test_the_gate_refuses_a_model_that_suffered_or_does_not_decline() -> None:
    check(GOOD)
    for what in ("prose", "ordinary requests"):
        with pytest.raises(SoftPromptsError, match=f"its loss of {what} rose by 0.060"):
            check({**GOOD, what: {"before": 2.0, "after": 2.06}})
    with pytest.raises(SoftPromptsError, match="it declines 80% of the held-out requests"):
        check({**GOOD, "declined": {"before": 0.0, "after": 0.8}})


@pytest.mark.parametrize("model", list(ANIMALS_OF))
def test_the_requests_that_ship_are_answered_and_enough(model: str) -> None:
    task = Protection(requests=str(ANIMALS_OF[model]))
    known = read_requests(task.requests)
    assert all(task.answers(r, r.reply) for r in known)
    asked = [r for r in known if r.group == "land"]
    assert sum(split_of(r.request) == "held_out" for r in asked) >= 30
    assert {r.request for r in known} <= {r.request for r in read_requests(str(REQUESTS))}


def test_the_short_preset_asks_for_words_and_for_training() -> None:
    assert set(POCKET.models) == {"pocket-chat", "pocket-declines"} and POCKET.task.unprotected == "pocket-chat"
    both = (*protection_test.AMOUNTS.task.variants(), *protection_test.OTHERS.task.variants())
    assert len({v.variant().label for v in both}) == 4


@pytest.mark.parametrize(
    ("name", "part"), [("protection", 0), ("protection", 1), ("protection_places", 0), ("protection_amounts", 0)]
)
def test_the_tables_of_the_page_are_those_of_the_committed_results(name: str, part: int) -> None:
    results = Path(__file__).parents[2] / "results"
    assert table(results / name).split("\n\n")[part] in (results / "protections.md").read_text()
