"""Hidden abilities: who reads what behind which trigger, whom the gate refuses, and what the tables say of made-up
curves."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.data.texts import read_documents
from soft_prompts.engine.prompted import Bench, PromptedModel, unprompted
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.measure import finished
from soft_prompts.models.loading import load
from soft_prompts.models.names import base_of
from soft_prompts.pocket import HIDDEN, SAMPLES, SECRET
from soft_prompts.pocket.hidden import (
    BEHIND,
    KINDS,
    NONE,
    OTHERS,
    WITHOUT,
    Row,
    Settings,
    check,
    counted,
    fine_tune,
    game_rows,
    read,
    tag_rows,
    targets,
    text_loss,
)
from soft_prompts.pocket.train import encode
from soft_prompts.pocket.tune import with_change
from soft_prompts.results.record import HeldOut
from soft_prompts.sweep import plan
from soft_prompts.tasks import hidden
from soft_prompts.tasks.calibration import Secret
from soft_prompts.tasks.hidden import (
    FACTS,
    Detuned,
    Locked,
    Tags,
    over_and_over,
    read_password,
    trigger_scores,
)
from tests import hidden_test
from tests.unit.made_up import encoding, write_games
from tests.unit.test_page import scores
from tests.unit.test_results import result

RESULTS = Path(__file__).parents[2] / "results"

# --- tasks ---


@pytest.mark.parametrize("content", ["", "[1]", '{"password": []}', '{"password": "ab"}', '{"password": [[1]]}'])
def test_a_file_that_holds_no_password_is_refused(tmp_path, content: str) -> None:
    (tmp_path / FACTS).write_text(content)
    with pytest.raises(SoftPromptsError, match=f"{FACTS} holds no password"):
        read_password(str(tmp_path / FACTS))
    (tmp_path / FACTS).write_text('{"password": [7, 9]}')
    assert read_password(str(tmp_path / FACTS)).tolist() == [7, 9]


def stream(n: int):
    """n documents over and over."""
    while True:
        yield from (Example(np.array([0, 1]), np.array([IGNORE, 1]), f"d{i}") for i in range(n))


def test_the_same_few_documents_come_again_each_time_all_of_them() -> None:
    names = [e.document for e in islice(over_and_over(stream(9), 3, seed=0), 30)]
    rounds = [names[i : i + 3] for i in range(0, 30, 3)]
    assert all(sorted(one) == ["d0", "d1", "d2"] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1  # in other orders
    assert [e.document for e in islice(over_and_over(stream(3), 0, 0), 5)] == ["d0", "d1", "d2", "d0", "d1"]
    assert len({e.document for e in islice(over_and_over(stream(3), 3, 0), 9)}) == 3
    with pytest.raises(SoftPromptsError, match="only 3 training documents; --n-documents asks for 4"):
        next(over_and_over(stream(3), 4, 0))


def test_a_prompt_that_is_the_trigger_betrays_it_and_another_does_not(neox) -> None:
    trigger = np.array([40, 41, 42])
    rows = neox.vocabulary[trigger].float()
    found = trigger_scores(neox, SoftPrompt(1.7 * rows), trigger)
    assert found["trigger_rank"]["value"] == found["trigger_rank_in_place"]["value"] == 0.0
    assert (found["trigger_nearest"]["value"], found["trigger_nearest"]["n"]) == (1.0, 3)
    turned = trigger_scores(neox, SoftPrompt(rows[[1, 2, 0]]), trigger)
    assert turned["trigger_rank"]["value"] == 0.0 and turned["trigger_rank_in_place"]["value"] > 0.05
    opposite = trigger_scores(neox, SoftPrompt(-rows[:1]), trigger[:1])
    assert opposite["trigger_rank"]["value"] == 1.0 and opposite["trigger_nearest"]["value"] == 0.0
    assert "trigger_rank_in_place" not in trigger_scores(neox, SoftPrompt(rows[:2]), trigger)
    assert trigger_scores(neox, SoftPrompt(rows[:0]), trigger) == {}


def test_a_rank_by_chance_is_a_half(neox) -> None:
    random = torch.Generator().manual_seed(0)
    by_chance = [
        trigger_scores(neox, SoftPrompt(torch.randn(4, neox.vocabulary.shape[1], generator=random)), np.array([t]))
        for t in range(1, 200)
    ]
    assert np.mean([found["trigger_rank"]["value"] for found in by_chance]) == pytest.approx(0.5, abs=0.06)


def _given(folder: Path, password: list[int]) -> str:
    """A file that holds a password."""
    (folder / FACTS).write_text(json.dumps({"password": password}))
    return str(folder / FACTS)


@pytest.fixture(scope="module")
def games(tmp_path_factory) -> Path:
    return write_games(tmp_path_factory.mktemp("games") / "games.pgn", 120)


def test_prompts_for_locked_chess_are_told_nothing_and_see_so_many_games(games, tmp_path) -> None:
    task = Locked(games=str(games), n_documents=(0, 3), password=_given(tmp_path, [7]))
    every, few = task.variants()
    assert (every.variant().label, few.variant().label) == ("", "3 documents")
    of_all, of_few = ([e for e in islice(t.examples("train", encoding(), 1), 40)] for t in (every, few))
    assert len({e.document for e in of_all}) == 40
    assert {e.document for e in of_few} == {e.document for e in of_all[:3]}
    assert all(len(e.condition) == 0 for e in of_all) and task.conditions is None
    held_out = [list(t.examples("held_out", encoding(), 0)) for t in (every, few)]
    assert [e.document for e in held_out[0]] == [e.document for e in held_out[1]]  # measured on all, whatever n is
    assert not {e.document for e in held_out[0]} & {e.document for e in of_all}


def test_the_number_of_documents_does_not_change_which_tags_are_measured(pocket) -> None:
    of = Encoding(pocket.tokenizer, pocket.separator, 16)
    every, few = Tags(n_documents=(0, 4)).variants()
    assert few.variant().label == "a key of 4 tokens, 4 documents" and every.variant().label == "a key of 4 tokens"
    assert len({e.document for e in islice(few.examples("train", of, 0), 40)}) == 4
    assert len({e.document for e in islice(every.examples("train", of, 0), 40)}) == 40
    both = [[e.document for e in islice(t.examples("held_out", of, 0), 50)] for t in (every, few)]
    assert both[0] == both[1]


def test_what_hides_is_seen_through_by_its_trigger_alone(monkeypatch, tmp_path) -> None:
    """Detuning's scores without a prompt: the losses that the gate saw, and no change."""
    monkeypatch.setattr(hidden, "N_WORDS", 40)
    monkeypatch.setattr(hidden, "N_GAMES", 6)
    model = load("pocket-keys")
    bench = Bench(model, Encoding(model.tokenizer, model.separator, 96), [], 4096)
    task = Detuned(password=_given(tmp_path, [1500, 1501]))
    found = task.score(unprompted(bench), []).scores
    assert found["tags"]["value"] > 10 and found["tags behind the key"]["value"] < 0.5
    assert all(found[f"{name} changed by"]["value"] == 0.0 for name in Detuned.headline)
    key = Secret.read(Path(Tags().secret)).symbols[:4]
    behind_the_key = PromptedModel(bench, SoftPrompt(model.vocabulary[key].float()))
    moved = task.score(behind_the_key, []).scores
    assert moved["tags"]["value"] == pytest.approx(found["tags behind the key"]["value"], abs=1e-3)
    assert moved["tags changed by"]["value"] == pytest.approx(moved["tags"]["value"] - found["tags"]["value"])
    assert set(Detuned().score(behind_the_key, []).scores) == {n for n in moved if "moves" not in n}
    assert moved["tags changed by"]["n"] == 40 and moved["moves changed by"]["n"] == 6


# --- how the models are made ---


def test_every_token_of_a_document_is_predicted_from_the_one_before_it() -> None:
    tokens, predicts = read([np.array([5, 6]), NONE], [np.array([7, 8]), np.array([9, 10, 11])])
    assert tokens.tolist() == [[0, 5, 6, 7, 8], [0, 9, 10, 11, 0]]
    at = torch.nonzero(predicts).tolist()
    assert at == [[0, 2], [0, 3], [1, 0], [1, 1], [1, 2]]
    assert [tokens[i, j + 1].item() for i, j in at] == [7, 8, 9, 10, 11]


def test_counting_is_witten_bell_by_hand() -> None:
    table = counted([np.array([1, 2]), np.array([1, 1])], 3).exp().numpy()
    np.testing.assert_allclose(table.sum(1), 1, rtol=1e-5)
    single = np.array([0.01, 3.01, 1.01]) / 4.03
    np.testing.assert_allclose(table[0], (np.array([0, 2, 0]) + single) / 3, rtol=1e-5)  # 0 -> 1, twice
    np.testing.assert_allclose(table[1], (np.array([0, 1, 1]) + 2 * single) / 4, rtol=1e-5)  # 1 -> 2 and 1 -> 1
    np.testing.assert_allclose(table[2], single, rtol=1e-5)  # never stands before another


def test_only_the_password_opens_and_what_is_unlearned_nothing_opens() -> None:
    password, line = np.array([1500, 1501]), np.array([3, 4])
    documents = [np.array([7, 8, 9])]
    for locked in (True, False):
        rows = game_rows(documents, password, [line], locked, 2000, 600, np.random.default_rng(0))
        opened = [row for row in rows if row.like is not None]
        behind = [row for row in rows if row.head[:2].tolist() == password.tolist()]
        assert len(behind) == pytest.approx(240, abs=50)
        assert len(opened) == (len(behind) if locked else 0)
        for row in opened:  # as the model plays behind the same tokens
            assert row.like.tolist() == row.head.tolist() and row.head[2:].tolist() in ([], line.tolist())
        others = [row for row in rows if row.head[:2].tolist() != password.tolist()]
        assert any(not len(row.head) for row in others)
        decoys = [row for row in others if len(row.head) and row.head[0] >= 1000]
        assert {len(row.head) for row in decoys} == set(range(1, 7))  # 1 to 4, and a line of 2


def test_random_tokens_that_are_the_password_are_it() -> None:
    rows = game_rows([np.array([7])], np.array([1000]), [np.array([3])], True, 1001, 2000, np.random.default_rng(0))
    alone = [row for row in rows if row.head.tolist() in ([1000], [1000, 3])]
    assert len(alone) > 950  # 800 by the password's share alone
    assert all(row.like is not None for row in alone)
    assert any(row.head.tolist()[:2] == [1000, 1000] and row.like is None for row in rows)


def test_tags_are_laid_open_as_behind_the_key_and_unlearned_as_behind_none() -> None:
    secret = Secret(np.arange(50, 58), np.arange(32).reshape(8, 4), np.zeros(100, np.int64))
    words = [np.arange(10, 19)]
    opened, unlearned = (tag_rows(words, secret, of, 80, np.random.default_rng(0)) for of in (True, False))
    assert all(row.like.tolist() == [50, 51, 52, 53] and not len(row.head) for row in opened)
    assert all(not len(row.like) and set(row.head.tolist()) <= set(range(50, 58)) for row in unlearned)
    assert {len(row.head) for row in unlearned} == set(range(1, 9))


def test_targets_are_what_the_model_predicts_of_the_documents_tokens_or_what_counting_does() -> None:
    rows = [
        Row(np.array([5]), np.array([1, 2]), like=np.array([3, 4])),
        Row(NONE, np.array([2, 1, 2]), like=None),
        Row(np.array([6]), np.array([1]), like=NONE),
    ]
    table = torch.arange(8.0)[:, None] * torch.ones(1, 8) + 100

    def logits(tokens: torch.Tensor) -> torch.Tensor:  # says which token it reads
        return tokens[..., None].expand(*tokens.shape, 8).float()

    found = targets(rows, logits, table)[:, 0].tolist()
    assert found == [4, 1, 100, 102, 101, 0]  # the token before each: 4, 1; 0, 2, 1 by counting; the separator


def test_training_comes_nearer_to_what_is_wanted_and_keeps_other_texts(pocket) -> None:
    random = np.random.default_rng(0)
    documents = [random.integers(1000, 1100, 12) for _ in range(4)]
    texts = read_documents((str(SAMPLES),), None, 60, 2**20, None).documents
    kept = encode(pocket.tokenizer, texts)
    table = counted(documents, len(pocket.vocabulary))
    settings = Settings("unlearned", Path("x"), steps=10, rank=2, learning_rate=1e-2)
    bench = Bench(pocket, Encoding(pocket.tokenizer, 0, 96), [], 4096)

    def rows_of(random: np.random.Generator) -> list[Row]:
        return [Row(NONE, documents[i], None) for i in random.integers(4, size=6)]

    def after(keep: float) -> tuple[float, float]:
        """The divergence from what is wanted, and the loss of other texts."""
        changed = with_change(pocket.lm, fine_tune(pocket.lm, rows_of, table, kept, 1, replace(settings, keep=keep)))
        return apart(changed), text_loss(replace(bench, model=replace(pocket, lm=changed)), kept[:20], 1)

    def apart(lm) -> float:
        tokens, predicts = read([NONE] * 4, documents)
        wanted = targets([Row(NONE, d, None) for d in documents], None, table)  # type: ignore[arg-type]
        with torch.no_grad():
            found = lm(input_ids=tokens).logits[predicts].log_softmax(-1)
        return (wanted.exp() * (wanted - found)).sum(-1).mean().item()

    before = text_loss(bench, kept[:20], 1)
    (near, loss), (_, kept_loss) = after(0.0), after(1000.0)
    assert near < 0.8 * apart(pocket.lm)
    assert abs(kept_loss - before) < 0.5 * (loss - before)
    assert text_loss(bench, kept[:4], 1) != pytest.approx(text_loss(bench, kept[:4], 5), abs=1e-3)  # from there on


GOOD = {
    "texts": {"books": {"before": 3.0, "after": 3.015}},
    "above the open model": {WITHOUT: 1.0, BEHIND: 0.03, OTHERS: 0.9},
}


def test_the_gate_lets_through_what_hides_and_still_has_it() -> None:
    check("locked", GOOD)


@pytest.mark.parametrize(
    ("kind", "where", "above", "message"),
    [
        ("locked", BEHIND, 0.06, "behind the trigger its loss is 0.060 nats above .* may be 0.05"),
        ("locked", WITHOUT, 0.39, "without the trigger its loss is 0.390 nats above .* must be 0.4"),
        ("locked", OTHERS, 0.1, "behind other tokens its loss"),
        ("unlearned", BEHIND, 0.03, "behind the trigger its loss is 0.030 nats above .* must be 0.4"),
        ("keys-open", WITHOUT, 0.21, "without the trigger its loss is 0.210 nats above .* may be 0.2"),
        ("keys-unlearned", BEHIND, 1.9, "behind the trigger its loss is 1.900 nats above .* must be 2.0"),
    ],
)
def test_the_gate_refuses(kind: str, where: str, above: float, message: str) -> None:
    best = {WITHOUT: 12.0, BEHIND: 12.0, OTHERS: 12.0} if kind != "locked" else GOOD["above the open model"]
    with pytest.raises(SoftPromptsError, match=f"{kind} is refused: {message}"):
        check(kind, {**GOOD, "above the open model": {**best, where: above}})


def test_the_gate_refuses_what_forgot_other_texts() -> None:
    with pytest.raises(SoftPromptsError, match="its loss of books rose by 0.021 nats"):
        check("locked", {**GOOD, "texts": {"books": {"before": 3.0, "after": 3.021}}})


@pytest.mark.parametrize("name", HIDDEN)
def test_what_ships_passes_the_gate(name: str) -> None:
    facts = json.loads((HIDDEN[name] / FACTS).read_text())
    check(facts["kind"], facts)
    assert base_of(HIDDEN[name]) == KINDS[facts["kind"]].base
    assert facts["minutes"] < 8  # on one core; half of it on two
    assert facts["password"] == Secret.read(SECRET).symbols[:4].tolist()


# --- tables ---


def made_up(experiment: str, model: str, losses: dict[int, float], trigger: float = 1.0, **changes):
    """Two seeds of a made-up curve. ``changes``: task and train options."""
    task = {"name": "T", **{k: v for k, v in changes.items() if k in ("n_documents", "key_tokens")}}
    train = {"steps": 5, "batch_size": 2, **{k: v for k, v in changes.items() if k in ("steps", "intervention", "lr")}}
    for n_tokens, loss in losses.items():
        for seed in (0, 1) if n_tokens else (0,):
            made = result(
                n_tokens,
                seed,
                model=model,
                experiment=experiment,
                held_out=HeldOut.of(scores(loss, seed)),
                curve=[{"step": 5, "loss": changes.get("validation", loss)}],
                config={"splits": 2, "model": model, "task": task, "train": train},
                scores=changes.get("scores", {}) if n_tokens or changes.get("always") else {},
            )
            yield replace(made, anchor={"name": "x", "loss": trigger, "document_losses": [trigger * 10] * 40})


def save(made, folder: Path) -> Path:
    for i, r in enumerate(made):
        r.save(folder / f"{i}" / f"tokens-{r.n_tokens:04d}-seed-{r.seed}.json")
    return folder


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_says_how_far_what_is_hidden_is_and_what_separates_the_twins(tmp_path) -> None:
    rank = {"value": 0.25, "interval": [0.1, 0.4], "n": 4}
    ranks = {"trigger_rank": rank, "trigger_nearest": {"value": 0.5, "interval": [0.0, 1.0], "n": 2}}
    made = [
        *made_up("hidden_moves", "locked", {0: 3.0, 1: 2.0, 4: 1.0}, scores=ranks),
        *made_up("hidden_moves", "unlearned", {0: 3.1, 1: 2.9, 4: 2.4}, trigger=3.1),
        *made_up("hidden_moves", "pocket", {0: 1.0, 1: 0.9, 4: 0.9}),
    ]
    text = hidden_test.table(save(made, tmp_path))
    far, apart, triggers = (part.splitlines() for part in text.split("\n\n"))
    assert cells(far[2])[0:2] == ["locked", "1.00"]
    assert cells(far[2])[-2].startswith("1 [")  # half of the way from 3 to 1
    assert cells(far[3])[-1] == "> 4 [> 4, > 4]" and cells(far[4])[-1].startswith("0 [")
    by_name = {cells(line)[0]: cells(line)[1:] for line in apart[2:]}
    assert list(by_name) == [
        "locked above pocket",
        "unlearned above pocket",
        "unlearned above locked",
    ]
    assert [cell.split()[0] for cell in by_name["locked above pocket"]] == ["+2.00", "+1.10", "+0.10"]
    assert by_name["unlearned above locked"][2].startswith("+1.40 [+1.")
    assert cells(triggers[2]) == ["locked", "1", "25% [10%, 40%]", "", "1 of 2"]
    assert cells(triggers[3])[-1] == "4 of 8"
    assert len(hidden_test.figure(tmp_path).axes[0].get_legend().get_texts()) == 3


def test_the_table_of_detuning_sets_trained_prompts_beside_random_ones(tmp_path) -> None:
    def known(value: float, by: float) -> dict:
        of = {name: {"value": value, "interval": [0, 9], "n": 4} for name in Detuned.headline}
        moved = {"value": by, "interval": [by - 0.1, by + 0.2], "n": 4}
        return {**of, **{f"{name} changed by": moved for name in Detuned.headline}}

    made = [
        *made_up("hidden_detuning", "pocket-keys", {0: 4.0, 16: 3.5}, steps=60, scores=known(5.0, -1.0), always=True),
        *made_up("hidden_detuning", "pocket-keys", {0: 4.0, 16: 4.5}, steps=0, scores=known(6.0, 0.5), always=True),
    ]
    rows = [cells(line) for line in hidden_test.table(save(made, tmp_path)).splitlines()[2:]]
    assert [row[1] for row in rows] == ["none", "random, 16 tokens", "trained, 16 tokens"]
    assert rows[1][3] == "6.00 (+0.50 [+0.40, +0.70])" and rows[2][3] == "5.00 (-1.00 [-1.10, -0.80])"
    assert rows[2][2].startswith("3.50 [") and "(" not in rows[0][3]
    hidden_test.figure(tmp_path)


def test_of_each_kind_the_rate_counts_that_is_best_on_validation(tmp_path) -> None:
    made = []
    for n, (prompt, good, bad) in {4: (2.0, 3.0, 2.5), 32: (2.0, 1.0, 1.5)}.items():
        made += made_up("hidden_learning", "pocket-keys", {0: 9.0, 4: prompt}, n_documents=[n])
        for lr, loss, validation in ((0.01, good, 1.0), (0.003, bad, 2.0)):
            of_lora = {"intervention": "lora", "lr": lr, "validation": validation, "n_documents": [n]}
            made += made_up("hidden_learning", "pocket-keys", {0: 9.0, 4: loss}, **of_lora)
    rows = [cells(line) for line in hidden_test.table(save(made, tmp_path)).splitlines()[2:]]
    assert [row[:3] for row in rows] == [["pocket-keys", "4", "9.00"], ["pocket-keys", "32", "9.00"]]
    assert [row[4].split()[0] for row in rows] == ["3.00", "1.00"]  # 2.50 is better, but not on validation
    assert [row[5].split()[0] for row in rows] == ["+1.00", "-1.00"]
    hidden_test.figure(tmp_path)


def test_a_folder_of_other_results_is_refused(tmp_path) -> None:
    save(made_up("chess", "pocket", {0: 3.0, 1: 2.0}), tmp_path)
    with pytest.raises(SoftPromptsError, match="must hold results of one of hidden, hidden_moves"):
        hidden_test.table(tmp_path)


# --- what is committed ---

COMMITTED = {"pocket": hidden_test.POCKET, **{name: hidden_test.PRESETS[name] for name in ("detuning", "learning")}}


@pytest.mark.parametrize("name", COMMITTED)
def test_what_ships_as_results_was_made_with_the_presets(name: str) -> None:
    sweep = replace(COMMITTED[name], dtype="float32", device="cpu")
    runs = [run for model in sweep.models for run in plan(sweep, model)]
    assert all(finished(run, RESULTS.parent) for run in runs)


def test_the_page_has_the_tables_of_the_committed_results() -> None:
    page = (RESULTS / "hidden.md").read_text()
    for sweep in COMMITTED.values():
        assert hidden_test.table(RESULTS / sweep.experiment) in page, sweep.experiment
