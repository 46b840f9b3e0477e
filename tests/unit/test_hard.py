"""Prompts of text: what is legal, what a search is told and charged, and that prompts which are known are found."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import islice, repeat

import numpy as np
import pytest
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.errors import SoftPromptsError
from soft_prompts.hard.attempt import Attempt, Losses, Slope, rounds
from soft_prompts.hard.comparison import METHODS, Target, compare
from soft_prompts.hard.legal import Legal
from soft_prompts.hard.search import changed, drawn, gcg, merged, mixed, narrow, promised
from soft_prompts.models.loading import load
from soft_prompts.pocket import SECRET
from soft_prompts.records import save_record
from soft_prompts.tasks.base import Task
from soft_prompts.tasks.calibration import Calibration, Secret
from tests.prompt_generation_test import Settings, _is_done, check, lowest, shared_passes, table, targets_of


def ids(model, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def legal(pocket) -> Legal:
    return Legal.of(pocket)


def test_a_prompt_holds_text_only_and_nothing_banned(pocket, legal) -> None:
    special = pocket.tokenizer.all_special_ids
    assert special and not legal.mask[special].any()
    (ship,), (water,) = ids(pocket, " ship"), ids(pocket, " water")
    assert legal.mask[[ship, water]].all() and ship in legal.ids.tolist()
    banned = Legal.of(pocket, banned=["SHI"])
    assert not banned.mask[ship] and banned.mask[water]
    ascii_only = Legal.of(pocket, plain_ascii=True)
    texts = [pocket.tokenizer.decode([i]) for i in ascii_only.ids.tolist()]
    assert all(text.isascii() and text.isprintable() for text in texts) and len(texts) < len(legal.ids)
    own = legal.before([" the ship"], no_overlap=True)
    assert not own.mask[ship] and own.mask[water] and legal.before([" the ship"]).mask[ship]
    with pytest.raises(SoftPromptsError, match="no token is left"):
        Legal.of(pocket, banned=[""])


def test_a_prompt_survives_if_its_text_is_read_back_as_the_same_tokens(pocket, legal) -> None:
    whole, pieces = ids(pocket, " the ship"), [*ids(pocket, " t"), *ids(pocket, "he"), *ids(pocket, " ship")]
    assert whole != pieces and pocket.tokenizer.decode(whole) == pocket.tokenizer.decode(pieces)
    assert legal.survives(torch.tensor([whole])).tolist() == [True]
    assert legal.survives(torch.tensor([pieces])).tolist() == [False]
    assert legal.survives(torch.zeros(0, 3, dtype=torch.long)).tolist() == []
    # Behind it stands what would be one token with its last one.
    assert legal.before([" ship"]).survives(torch.tensor([ids(pocket, " the")])).tolist() == [True]
    assert legal.before(["he"]).survives(torch.tensor([ids(pocket, " t")])).tolist() == [False]
    # Its own tokens stay, but those of what stands behind it do not.
    before, behind = ids(pocket, " lot agree"), ids(pocket, "b5al")
    together = ids(pocket, " lot agreeb5al")
    assert together[: len(before)] == before and together != before + behind
    assert legal.before(["b5al"]).survives(torch.tensor([before])).tolist() == [False]
    prompt = legal.random(6, torch.Generator().manual_seed(1))
    assert len(prompt) == 6 and ids(pocket, pocket.tokenizer.decode(prompt)) == prompt.tolist()


def example(model, text: str) -> Example:
    tokens = ids(model, text)
    return Example(np.array([model.separator, *tokens]), np.array([IGNORE, *tokens]), text, insert_at=1)


def naive_loss(model, prompt: torch.Tensor, e: Example) -> torch.Tensor:
    """Mean nats of the example's tokens behind rows [n, D], by the model's own forward pass."""
    rows = model.embed(torch.from_numpy(e.tokens))
    whole = torch.cat([rows[:1], prompt, rows[1:]])[None]
    logits = model.lm(inputs_embeds=whole).logits[0, len(prompt) : -1]
    return torch.nn.functional.cross_entropy(logits, torch.from_numpy(e.tokens[1:]))


def test_what_searches_ask_for_together_is_what_each_would_be_told_alone_and_what_it_costs(pocket, legal) -> None:
    told: dict[int, list] = {}

    def asks(attempt: Attempt, start: torch.Tensor):
        of_one = told.setdefault(id(attempt), [])
        of_one.append((yield Slope(attempt.embed(start))))
        attempt.turn()
        of_one.append((yield Losses(torch.stack([start, start.flip(0)]))))

    first, second = example(pocket, " a small boat"), example(pocket, " the old captain of the ship")
    starts = [torch.tensor(ids(pocket, text)) for text in (" one two", " near the sea")]
    attempts = [
        Attempt(pocket, legal, iter([[first], [second]]), starts[0], 100),
        Attempt(pocket, legal, repeat([second, first]), starts[1], 100),
    ]
    other = Attempt(pocket, legal, repeat([first]), starts[1], 100)

    def asks_the_other_way_round(attempt: Attempt, start: torch.Tensor):
        told[id(other)] = [(yield Losses(start[None])), (yield Slope(attempt.embed(start)))]

    searches = [*((asks, a) for a in attempts), (asks_the_other_way_round, other)]
    assert sum(1 for _ in rounds(searches, Task(), 64)) == 2
    assert [a.spent for a in (*attempts, other)] == [3 + 2, 3 * 2 + 2 * 2, 1 + 3]
    naive = naive_loss(pocket, other.embed(starts[1]), first).item()
    assert [told[id(other)][0].item(), told[id(other)][1][0]] == pytest.approx([naive, naive], abs=1e-5)
    n, m = second.n_scored, first.n_scored
    for attempt, start, (a, b) in zip(attempts, starts, ((1.0, 0.0), (m / (n + m), n / (n + m))), strict=True):
        loss, gradient = told[id(attempt)][0]
        rows = attempt.embed(start).requires_grad_()
        naive = a * naive_loss(pocket, rows, first) + b * naive_loss(pocket, rows, second)
        assert loss == pytest.approx(naive.item(), abs=1e-5)
        torch.testing.assert_close(gradient, torch.autograd.grad(naive, rows)[0], atol=1e-5, rtol=1e-3)
    backwards = [naive_loss(pocket, attempts[0].embed(s), second).item() for s in (starts[0], starts[0].flip(0))]
    assert told[id(attempts[0])][1].tolist() == pytest.approx(backwards, abs=1e-5)
    both = [naive_loss(pocket, attempts[1].embed(starts[1]), e).item() for e in (second, first)]
    assert told[id(attempts[1])][1][0].item() == pytest.approx((both[0] * n + both[1] * m) / (n + m), abs=1e-5)


def test_only_a_better_prompt_that_survives_is_noted(pocket, legal) -> None:
    good, other = torch.tensor(ids(pocket, " the ship")), torch.tensor(ids(pocket, " a man"))
    broken = torch.tensor([*ids(pocket, " t"), *ids(pocket, "he")])
    attempt = Attempt(pocket, legal, repeat([example(pocket, " x")]), other, 9)
    attempt.note(3.0, good)
    attempt.note(4.0, other)
    attempt.note(1.0, broken)
    assert attempt.loss == 3.0 and attempt.prompt.tolist() == good.tolist() and attempt.history == [(0, 3.0)]
    attempt.spent = 7
    attempt.note(2.0, other)
    assert attempt.prompt.tolist() == other.tolist() and attempt.history[-1] == (7, 2.0)
    assert attempt.affordable == 2 and attempt.left and attempt.done == pytest.approx(7 / 9)


def test_a_mixture_that_is_cold_is_its_token_and_a_token_is_nearest_to_itself(pocket, legal) -> None:
    tokens = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    logits = torch.tensor([[0.0, 0.1, -1.0], [0.5, 0.0, 0.4]])
    torch.testing.assert_close(mixed(logits, 1e-3, tokens), tokens[[1, 0]])
    torch.testing.assert_close(mixed(torch.zeros(1, 3), 1.0, tokens), tokens.mean(0, keepdim=True))
    prompt = torch.tensor(ids(pocket, " the man of the sea"))
    assert legal.nearest(0.2 * legal.rows[prompt]).tolist() == prompt.tolist()  # by direction, not by length


def test_what_a_change_promises_is_the_slope_times_the_way() -> None:
    gradient, rows = torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.tensor([[3.0, 5.0], [1.0, 1.0]])
    tokens = torch.tensor([[3.0, 0.0], [0.0, 0.0], [1.0, 4.0]])
    assert promised(gradient, rows, tokens).tolist() == [[0.0, 3.0, 2.0], [-2.0, -2.0, 6.0]]


def test_changes_are_drawn_by_what_they_promise_and_none_twice() -> None:
    gains = torch.tensor([[0.0, -torch.inf, 5.0], [0.0, 0.0, -torch.inf]])
    counts = np.zeros((2, 3))
    for seed in range(300):
        place, token = drawn(gains, 1, torch.Generator().manual_seed(seed))
        counts[place, token] += 1
    assert counts[0, 1] == counts[1, 2] == 0 and counts[0, 2] > 150 and counts[0, 0] > 0
    place, token = drawn(gains, 99, torch.Generator().manual_seed(0))
    assert sorted(zip(place.tolist(), token.tolist(), strict=True)) == [(0, 0), (0, 2), (1, 0), (1, 1)]


def test_improvements_at_several_places_are_made_together_the_best_first() -> None:
    prompt = torch.tensor([1, 2, 3])
    tried = changed(prompt, torch.tensor([0, 2, 0, 1]), torch.tensor([7, 8, 9, 6]))
    assert tried.tolist() == [[7, 2, 3], [1, 2, 8], [9, 2, 3], [1, 6, 3]]
    assert merged(prompt, tried, torch.tensor([0.5, 0.1, 0.4, 0.9])).tolist() == [[9, 2, 8], [9, 6, 8]]
    assert merged(prompt, tried[:1], torch.tensor([0.5])).shape == (0, 3)


@pytest.mark.parametrize("search", [narrow, partial(gcg, width=64)])
def test_a_prompt_that_is_known_is_found(search) -> None:
    """pocket-keys writes tags behind a secret token; of 3,000 tokens, a search by slopes finds it."""
    model = load("pocket-keys", "main", "float32", "cpu")
    task = Calibration(key_tokens=(1,))
    texts = list(islice(task.examples("train", Encoding(model.tokenizer, model.separator, 64), 0), 4))
    legal = Legal.of(model)
    (key,) = Secret.read(SECRET).symbols[task.key].tolist()
    attempt = Attempt(model, legal, repeat(texts), legal.random(1, torch.Generator().manual_seed(0)), 4 * 400)
    for _ in rounds([(search, attempt)], task, 4096):
        if attempt.prompt.tolist() == [key]:
            break
    assert attempt.prompt.tolist() == [key]


def test_a_search_that_leaves_prompts_for_better_ones_only_ends_when_no_change_helps(pocket, legal) -> None:
    mask = torch.zeros_like(legal.mask)
    mask[legal.ids[100:106]] = True
    six = replace(legal, mask=mask)
    texts = [example(pocket, " a small boat")]
    attempt = Attempt(pocket, six, repeat(texts), six.ids[:1], 1000)
    list(rounds([(narrow, attempt)], Task(), 4096))
    alone = {int(i): naive_loss(pocket, pocket.vocabulary[i][None].float(), texts[0]).item() for i in six.ids}
    assert attempt.prompt.tolist() == [min(alone, key=alone.get)]
    assert attempt.loss == pytest.approx(min(alone.values()), abs=1e-4)
    assert attempt.spent < 60  # six tokens, and the slopes in between; not the thousand that it might


@pytest.mark.parametrize("method", METHODS)
def test_every_search_keeps_to_its_passes_and_what_it_says_of_its_prompt_is_so(pocket, legal, method) -> None:
    targets = [Target((" a small boat",)), Target((" the sea", " the ship"))]
    (one, two) = compare(pocket, targets, legal, method, n_tokens=3, passes=60)
    for record, passes in ((one, 60), (two, 120)):
        assert ids(pocket, record["text"]) == record["tokens"] and len(record["tokens"]) == 3
        assert passes - 10 <= record["spent"] <= passes + 6
        prompt = pocket.vocabulary[torch.tensor(record["tokens"])].float()
        examples = [example(pocket, text) for text in record["target"]]
        naive = sum(naive_loss(pocket, prompt, e).item() * e.n_scored for e in examples) / record["target_tokens"]
        assert record["loss"] == pytest.approx(naive, abs=1e-4)
        assert record["loss"] <= record["at_start"] + 1e-4 or not record["found"] or "soft" in method
        if record["history"]:
            assert record["history"][-1][1] == pytest.approx(record["loss"], abs=1e-3)
            assert record["history"][-1][0] <= passes + 6
        else:
            assert not record["found"] and record["loss"] == pytest.approx(record["at_start"], abs=1e-6)


def test_a_control_has_as_many_random_tokens(pocket, legal) -> None:
    target = Target((" the old captain", " sea"))
    made = [target.control(legal, seed) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2] and made[0].random
    assert [len(ids(pocket, text)) for text in made[0].completions] == [len(ids(pocket, t)) for t in target.completions]


def test_passes_are_compared_by_the_loss_that_gcg_ended_with() -> None:
    gcg_record = {"history": [[10, 5.0], [200, 3.0]], "at_start": 9.0}
    assert shared_passes({"history": [[5, 6.0], [50, 2.9]]}, gcg_record) == 0.25
    assert shared_passes({"history": [[5, 6.0]]}, gcg_record) == np.inf
    one = {"target": ["a", "b"], "at_start": 9.0, "history": [[10, 5.0], [200, 3.0]]}
    assert lowest(one, np.array([1, 5, 99, 100])).tolist() == [9.0, 5.0, 5.0, 3.0]


def test_targets_are_strings_or_lists_of_them(tmp_path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('"once"\n\n["one", " two"]\n')
    assert targets_of(Settings(models=("pocket",), targets_file=str(path))) == [(" once",), (" one", " two")]
    refused = {"3\n": "one is 3", '[""]\n': "none empty", "{\n": "cannot be read", "": "no target"}
    for content, message in refused.items():
        path.write_text(content)
        with pytest.raises(SoftPromptsError, match=message):
            targets_of(Settings(models=("pocket",), targets_file=str(path)))
    with pytest.raises(SoftPromptsError, match="no search 'magic'; known: soft, nearest"):
        check(Settings(models=("pocket",), methods=("magic",)))
    with pytest.raises(SoftPromptsError, match="--n-tokens"):
        check(Settings(models=("pocket",), n_tokens=(0,)))
    with pytest.raises(SoftPromptsError, match="--passes is 0"):
        check(Settings(models=("pocket",), passes=0))


def test_a_result_without_the_random_strings_that_are_asked_for_is_not_done(tmp_path) -> None:
    path = tmp_path / "search-0008-narrow.json"
    assert not _is_done(path, with_random=False)
    found = [{"random": False, "history": []}]
    save_record(path, {"config": {"experiment": "prompt_generation"}, "found": found})
    assert json.loads(path.read_text())["found"] == found and path.read_text().count("\n") == 6
    assert _is_done(path, with_random=False) and not _is_done(path, with_random=True)
    save_record(path, {"config": {"experiment": "prompt_generation"}, "found": [*found, {"random": True}]})
    assert _is_done(path, with_random=True)


def test_a_damaged_result_is_named(tmp_path) -> None:
    (tmp_path / "search-0008-narrow.json").write_text(json.dumps({"config": {"experiment": "other"}}))
    with pytest.raises(SoftPromptsError, match="cannot be read as a result"):
        table(tmp_path)
    save_record(tmp_path / "search-0008-narrow.json", {"config": {"experiment": "prompt_generation"}, "method": "x"})
    with pytest.raises(SoftPromptsError, match="it lacks n_tokens"):
        table(tmp_path)
    with pytest.raises(SoftPromptsError, match="no results of prompt_generation"):
        table(tmp_path / "none")
