"""Overlap: documents that obey their rule, tiny models that learn and forget, and what the tables say."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE
from soft_prompts.errors import SoftPromptsError
from soft_prompts.pocket import fading, overlap
from soft_prompts.pocket.overlap import DIGITS, FIRST, LEFT_OUT, LENGTH, MIXTURE, PAIRS, SECOND, Sums
from soft_prompts.pocket.tiny import cost_of_a, cost_of_b, frozen, learning, measured, new_model
from soft_prompts.records import place, record_seeds
from soft_prompts.training.recipe import TrainConfig
from tests import overlap_test
from tests.overlap_test import DEFAULT, Settings, config_of, figure, found_in, more_often, table

RESULTS = Path(__file__).parents[2] / "results"


def numbers(row: np.ndarray, alphabet: np.ndarray) -> list[int]:
    """The digits of a document, by a look at each symbol; DIGITS for "equals"."""
    known = {int(symbol): digit for digit, symbol in enumerate(alphabet)}
    return [known[int(symbol)] for symbol in row[1:]]


@pytest.mark.parametrize("pair", PAIRS)
def test_documents_obey_the_rule_of_their_pair(pair: str) -> None:
    rows = next(overlap.steps_of(pair, MIXTURE, 0))
    assert rows.shape == (sum(MIXTURE.values()), LENGTH) and (rows[:, 0] == 0).all()
    of_a, of_b, paired = np.split(rows, np.cumsum(list(MIXTURE.values()))[:-1])
    for documents, alphabet in ((of_a, FIRST), (of_b, SECOND)):
        for row in documents:
            digits = numbers(row, alphabet)
            if alphabet is SECOND and pair == "nothing shared":
                for at in (0, 8):
                    p, q, r, sign, *back = digits[at : at + 8]
                    assert (sign, back) == (DIGITS, [r, q, p, DIGITS])
                continue
            for a, b, sign, c in zip(*[iter(digits)] * 4, strict=True):
                assert sign == DIGITS and c == (a + b) % DIGITS
    seen = set()
    for row in paired:
        for one, other in row[1:].reshape(-1, 2).tolist():
            seen |= {one, other}
            partner = {*zip(FIRST.tolist(), SECOND.tolist(), strict=True), *zip(SECOND.tolist(), FIRST, strict=True)}
            assert (one, other) in partner if pair in ("translated", "one left out") else one == other
    left_out = {int(FIRST[LEFT_OUT]), int(SECOND[LEFT_OUT])}
    many = next(overlap.steps_of(pair, {"A": 0, "B": 0, "paired": 400}, 1))
    assert (left_out & set(many.ravel().tolist()) == set()) == (pair == "one left out")
    assert len(set(many.ravel().tolist())) == 1 + 2 * (DIGITS + 1) - 2 * (pair == "one left out")


def test_no_document_of_a_is_in_two_splits_and_half_of_the_held_out_ones_have_the_digit_left_out() -> None:
    encoding, task = Encoding(None, 0, LENGTH), Sums()
    parts = {split: list(task.examples(split, encoding, 0)) for split in ("held_out", "validation")}
    parts["train"] = list(islice(task.examples("train", encoding, 0), 500))
    names = {split: {e.document for e in of} for split, of in parts.items()}
    assert [len(names[split]) for split in ("held_out", "validation")] == [48, 16]
    assert not names["held_out"] & names["validation"] and not names["train"] & (
        names["held_out"] | names["validation"]
    )
    taught = next(overlap.steps_of("translated", {**MIXTURE, "A": 2000}, 0))[:2000]
    assert len(taught) == 2000 and (overlap.checks(taught) > 1).all()
    assert all(overlap.checks(e.tokens[None])[0] == 0 for e in parts["held_out"])
    for i, e in enumerate(parts["held_out"]):
        digits = numbers(e.tokens, FIRST)
        with_it = [LEFT_OUT in digits[at : at + 4] for at in range(0, 16, 4)]
        assert with_it == [i < 24] * 4
        assert [t for t in e.labels if t != IGNORE] == e.tokens[4::4].tolist() and (e.labels[4::4] != IGNORE).all()
    other = [e.document for e in islice(task.examples("train", encoding, 1), 500)]
    assert other != [e.document for e in parts["train"]]


def cost(lm, documents: np.ndarray) -> float:
    """Nats per sum, a document and a sum at a time."""
    nats = []
    for row in documents:
        with torch.no_grad():
            predicted = lm(input_ids=torch.from_numpy(row[None])).logits[0].log_softmax(-1)
        nats += [-predicted[at - 1, row[at]].item() for at in range(4, LENGTH, 4)]
    return float(np.mean(nats))


def test_what_is_trained_on_with_a_keeps_it_and_what_is_trained_on_without_forgets_it() -> None:
    """Sums of which one digit is 0 or 1 stand for A, so that it is learned in a moment."""
    random = np.random.default_rng(0)
    easy = [row for row in overlap.sums(random, 20_000, FIRST) if (row[1::4] <= FIRST[1]).all()]
    of_a, other = np.stack(easy[:24]), overlap.reversals(random, 24, SECOND)
    both, without = (torch.from_numpy(np.concatenate(parts)) for parts in ([of_a, other], [other, other]))
    lm = new_model(0)
    steps = list(fading.trained_on(lm, iter([both] * 150), 150, fading.Pace(3e-3, falls=True), "both"))
    assert steps == list(range(151))
    start = cost(lm, of_a)
    assert start < 0.3
    ends = {}
    for name, rows in (("with", both), ("without", without)):
        on = frozen(lm, name).lm
        list(fading.trained_on(on, iter([rows] * 40), 40, fading.Pace(3e-3), name))
        ends[name] = cost(on, of_a)
    assert ends["with"] < start + 0.05 and ends["without"] > start + 1.0
    assert cost(lm, of_a) == start  # copies were trained on


@pytest.mark.parametrize("pair", PAIRS)
def test_b_costs_nothing_where_it_is_known(pair: str) -> None:
    class Knows:
        """Gives every symbol that follows from those before, and no other."""

        def __call__(self, input_ids, use_cache):
            rows = input_ids.numpy()
            logits = torch.zeros(*rows.shape, overlap.ENTRIES)
            for i, row in enumerate(rows):
                digits = numbers(row, SECOND)
                for at in range(len(digits)):
                    if pair == "nothing shared" and at % 8 in (4, 5, 6):
                        known = digits[at - 2 * (at % 8 - 3)]
                    elif pair != "nothing shared" and at % 4 == 3:
                        known = (digits[at - 3] + digits[at - 2]) % DIGITS
                    else:
                        continue
                    logits[i, at, SECOND[known]] = 50.0  # the symbol at place at + 1 is predicted from place at
            return type("Output", (), {"logits": logits})

    assert cost_of_b(Knows(), pair) < 1e-6


def test_a_model_is_measured_as_it_is_and_stays_so() -> None:
    lm = new_model(0)
    list(learning(lm, "translated", MIXTURE, 2, fading.Pace(), 0))
    before = {name: p.clone() for name, p in lm.named_parameters()}
    recipe = TrainConfig(steps=3, batch_size=4, max_tokens=LENGTH, lr=0.3, n_evaluations=0)
    found = measured(lm, "tiny", (0, 1), recipe, 0)
    documents = np.stack([e.tokens for e in Sums().examples("held_out", Encoding(None, 0, LENGTH), 0)])
    assert found[0]["losses"].sum() / found[0]["counts"].sum() == pytest.approx(cost(lm, documents), abs=1e-4)
    validation = np.stack([e.tokens for e in Sums().examples("validation", Encoding(None, 0, LENGTH), 0)])
    assert cost_of_a(lm) == pytest.approx(cost(lm, validation), abs=1e-4)
    assert found[1]["losses"].shape == (48,) and (found[1]["losses"] != found[0]["losses"]).any()
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in lm.named_parameters())


def tiny_records(folder: Path, pair: str = "translated") -> None:
    """Three made-up models: A fades with a half-life of 10 steps, behind a prompt with one of 40."""
    settings = Settings(n_tokens=(0, 1), weight_decays=(0.0,), on_steps=(4, 16, 64, 256))
    config = config_of(settings, pair)
    guess = float(np.log(DIGITS))
    for seed in (0, 1, 2):
        entries = []

        def add(arm: str, step: int, n: int, loss: float, entries=entries) -> None:
            losses = (4 * (loss + np.tile(np.linspace(-0.1, 0.1, 24), 2))).round(3).tolist()
            entries.append({"arm": arm, "weight_decay": 0.0, "step": step, "n_tokens": n, "losses": losses, "right": 1})
            entries[-1]["B"] = 0.25

        for n, life in ((0, 10), (1, 40)):
            add("never", 0, n, 9.0)
            add("start", 0, n, 0.1)
            for step in settings.on_steps:
                add("without", step, n, guess - (guess - 0.1) * 0.5 ** (step / life))
            add("with", 256, n, 0.1)
        path = folder / "results" / "x" / f"decay-seed-{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"config": config, "seed": seed, "measured": entries}))


def test_the_tables_of_tiny_models_say_half_lives_losses_and_those_of_the_digit_left_out(tmp_path) -> None:
    tiny_records(tmp_path)
    lives, by_model, longer, losses, left_out = table(tmp_path).split("\n\n")
    without, kept = lives.splitlines()[2:]
    assert without.startswith("| translated, without A | 0 | 10 [") and " | 40 [" in without and "| 4 [" in without
    assert kept.startswith("| translated, with A | 0 | > 256 [> 256, > 256] | > 256 [> 256, > 256] |  |")
    assert "| translated, as taught | 0.10 [" in losses and "| translated, never taught A | 9.00 [" in losses
    assert left_out.splitlines()[2].startswith("| translated | 0 | 10 [")
    assert by_model.splitlines()[2] == "| translated | 0 | 10, 10, 10 | 40, 40, 40 | 0 |"
    assert longer.splitlines()[2] == f"| translated, without digit {LEFT_OUT} than with it, decay 0 |  |  |"
    behind, zero = "translated, behind P tokens than behind 0, decay 0", "3 of 3 [44%, 100%]"
    assert longer.splitlines()[3] == f"| {behind} |  | {zero} |"
    assert len(figure(tmp_path).axes) == 1 and len(figure(tmp_path).legends[0].get_texts()) == 4
    (found,) = found_in(tmp_path)
    assert found.lives("without", 0.0)[1].steps == pytest.approx(40, rel=0.01)
    # One model forgets at once without a prompt, and one behind the prompt, which is then no longer life.
    found.losses["without", 0.0, 4, 0][1] = found.losses["without", 0.0, 4, 1][2] = 4 * 9.0
    of_models = found.by_model(0.0)
    assert of_models[0][0] == pytest.approx(10, rel=0.01) and of_models[0][1] < 4
    assert of_models[1][:2] == pytest.approx([40, 40], rel=0.01) and of_models[1][2] < 4
    assert f"| {behind} |  | 2 of 3 [21%, 94%] |" in overlap_test._longer([found])


def test_pairs_decays_and_digits_are_compared_model_by_model(tmp_path) -> None:
    """Without a prompt, one model of the second pair forgets nothing, one all at once, and one all but the digit."""
    for name, pair in (("one", "other clothes"), ("two", "translated")):
        tiny_records(tmp_path / name, pair)
        for path in (tmp_path / name).rglob("*.json"):
            record = json.loads(path.read_text())
            record["config"]["weight_decays"] = [0.0, 1.0]
            record["measured"] += [{**of, "weight_decay": 1.0} for of in record["measured"] if of["step"]]
            for of in record["measured"] if name == "two" else ():
                if (of["arm"], of["n_tokens"]) == ("without", 0):
                    kept, gone = [0.4] * 24, [4 * 9.0] * 24
                    of["losses"] = (kept + kept, gone + gone, kept + gone)[0 if of["weight_decay"] else record["seed"]]
            path.write_text(json.dumps(record))
    last = json.loads((tmp_path / "two/results/x/decay-seed-2.json").read_text())
    (path.parent / "decay-seed-7.json").write_text(json.dumps({**last, "seed": 7}))  # the first pair has none of it
    rows = [line.strip("| ").split(" | ") for line in overlap_test._longer(found_in(tmp_path)).splitlines()]
    without_prompt = {row[0]: row[1] for row in rows if len(row) > 1}
    assert without_prompt["translated than other clothes, decay 0"] == "1 of 3 [6%, 79%]"
    assert without_prompt["translated than other clothes, decay 1"] == "3 of 3 [44%, 100%]"
    assert without_prompt["translated, decay 0 than 1"] == "0 of 3 [0%, 56%]"
    assert without_prompt[f"translated, without digit {LEFT_OUT} than with it, decay 0"] == "0 of 2 [0%, 66%]"


def test_a_half_life_that_was_not_seen_to_end_is_longer_than_any_other_and_like_its_equals() -> None:
    never = np.inf
    assert more_often(np.array([never, 3.0, 5.0, never]), np.array([9.0, 4.0, 5.0, never])) == "1 of 2 [9%, 91%]"
    assert more_often(np.array([never]), np.array([never])) == ""
    nothing = np.nan  # to lose
    assert more_often(np.array([9.0, nothing, 7.0]), np.array([1.0, 2.0, nothing])) == "1 of 1 [21%, 100%]"


def test_a_model_that_did_not_learn_is_counted_and_left_out(tmp_path, capsys) -> None:
    settings = Settings(steps=1, n_tokens=(0,), train=TrainConfig(steps=1, batch_size=2, max_tokens=LENGTH))
    found = overlap_test.measure(settings, "translated", 0)
    assert {of["arm"] for of in found["measured"]} == {"start"}
    assert "after 1 steps A costs" in " ".join(capsys.readouterr().err.split())
    tiny_records(tmp_path)
    (path, *_) = tmp_path.rglob("decay-seed-0.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "measured": found["measured"]}))
    (of,) = found_in(tmp_path)
    assert (of.seeds, of.n_left_out) == ([1, 2], 1)
    assert overlap_test._by_model([of]).splitlines()[2] == "| translated | 0 | 10, 10 | 40, 40 | 1 |"
    for other in path.parent.glob("*.json"):
        other.write_text(path.read_text())
    with pytest.raises(SoftPromptsError, match="no model in .* learned A, so nothing could fade; give more --steps"):
        table(tmp_path)
    tiny_records(tmp_path / "other", "other clothes")
    assert [of.pair for of in found_in(tmp_path)] == ["other clothes"]
    assert "translated is left out: none of its 3 models learned A" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("wrong", "message"), [({"pairs": ("none",)}, "no pair 'none'"), ({"on_steps": ()}, "--on-steps is")]
)
def test_what_cannot_work_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(SoftPromptsError, match=message):
        overlap_test.run(replace(DEFAULT, **wrong))


def test_what_is_no_result_is_refused(tmp_path) -> None:
    with pytest.raises(SoftPromptsError, match="there are no results of decay_tiny"):
        table(tmp_path)


def test_seeds_that_have_a_record_are_not_measured_again_unless_forced(tmp_path) -> None:
    config, asked = {"experiment": "e", "model": "m"}, []

    def measure(seed: int) -> dict:
        asked.append(seed)
        return {"found": 10 * seed + len(asked)}

    for seeds, force in (((1, 2), False), ((1, 2, 3), False), ((2,), True)):
        record_seeds(tmp_path, config, "e-seed-{seed}.json", seeds, measure, force)
    assert asked == [1, 2, 3, 2]
    files = sorted((tmp_path / "results" / place(config)).iterdir())
    assert [path.name for path in files] == ["e-seed-1.json", "e-seed-2.json", "e-seed-3.json"]
    assert [json.loads(path.read_text())["found"] for path in files] == [11, 24, 33]
    assert json.loads(files[2].read_text()) == {"config": config, "seed": 3, "found": 33}


def test_the_page_has_the_tables_of_the_committed_results() -> None:
    page = (RESULTS / "decay.md").read_text()
    assert all(part in page for part in table(RESULTS / "decay_tiny").split("\n\n"))


def test_the_committed_results_are_found_as_finished() -> None:
    records = {}
    for path in (RESULTS / "decay_tiny").rglob("decay-seed-*.json"):
        records[path] = json.loads(path.read_text())
        pair, seed = records[path]["config"]["pair"], records[path]["seed"]
        own = config_of(DEFAULT, pair)
        assert records[path]["config"] == own
        assert path == RESULTS / place(own) / overlap_test.RESULT.format(seed=seed)
    found = {(r["config"]["pair"], r["seed"]) for r in records.values()}
    assert found == {(p, s) for p in DEFAULT.pairs for s in DEFAULT.seeds}
