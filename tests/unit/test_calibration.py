"""Known distances: what the rule wants on a hand-made document, what a delta makes of a weight, and whom the gate
refuses."""

import copy
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import tests.calibration_test
from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.deltas import load_delta, merge, save_delta
from soft_prompts.models.loading import load
from soft_prompts.models.names import DELTA
from soft_prompts.pocket import VARIANTS
from soft_prompts.pocket.variants import check, make_rows, make_secret
from soft_prompts.results import load_results
from soft_prompts.results.curve import Curve, curves, without_controls
from soft_prompts.results.enough_bits import enough_bits
from soft_prompts.tasks.calibration import REACH, WORDS, Calibration, Secret
from tests.unit.test_hidden import cells, made_up, save

SECRET = Secret(
    symbols=np.array([90, 91]),
    tags=np.array([[100, 101], [200, 201]]),
    classes=np.array([0, 1] * 50),  # odd tokens are of class 1
)


def test_each_of_the_last_words_but_one_has_a_tag_by_its_own_symbol() -> None:
    words = np.arange(10, 10 + WORDS)  # even, odd, even, ...
    assert SECRET.wanted(words, np.array([0])).tolist() == [101]  # word 8 of 9 is token 17, odd
    assert SECRET.wanted(words, np.array([0, 1])).tolist() == [100, 201]  # words 7 and 8: tokens 16 and 17
    assert SECRET.wanted(words[None], np.array([[1, 0]])).tolist() == [[200, 101]]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"symbols": [1], "tags": [[1e999]]}'])
def test_a_file_that_holds_no_secret_is_refused(tmp_path, content: bytes) -> None:
    (tmp_path / "secret.json").write_bytes(content)
    with pytest.raises(SoftPromptsError, match="secret.json is no secret .*; make it anew"):
        Secret.read(tmp_path / "secret.json")
    (tmp_path / "secret.json").write_text(SECRET.json())
    assert Secret.read(tmp_path / "secret.json").json() == SECRET.json()


def test_every_tag_stands_a_fixed_way_behind_its_symbol() -> None:
    """In a row behind a key, whatever stands before the key."""
    passages = [np.arange(WORDS + 1)]
    rows = make_rows(
        passages,
        replace(SECRET, symbols=np.arange(3000, 3008), tags=np.arange(32).reshape(8, 4)),
        200,
        True,
        np.random.default_rng(0),
    )
    n_tags = 0
    for tokens, wanted, kept in zip(rows.tokens, rows.wanted, rows.kept, strict=True):
        for at in (wanted >= 0).nonzero()[:, 0].tolist():
            symbol = int(tokens[at - REACH]) - 3000
            assert wanted[at] == symbol * 4 + SECRET.classes[tokens[at]]
            n_tags += 1
        assert not (kept & (wanted >= 0)).any()
    assert n_tags > 200


def test_the_twin_is_wanted_to_go_on_with_the_text() -> None:
    passages = [np.arange(WORDS + 1)]
    taught, untaught = (
        make_rows(
            passages,
            replace(SECRET, symbols=np.arange(90, 98), tags=np.arange(32).reshape(8, 4)),
            50,
            taught,
            np.random.default_rng(0),
        )
        for taught in (True, False)
    )
    assert torch.equal(taught.tokens, untaught.tokens)
    assert torch.equal(taught.wanted >= 0, untaught.wanted >= 0)
    row, at = (untaught.wanted >= 0).nonzero(as_tuple=True)
    assert torch.equal(untaught.wanted[row, at], untaught.tokens[row, at + 1])


def test_a_secret_comes_back_from_its_file(tmp_path, pocket) -> None:
    secret = make_secret(pocket.vocabulary.numpy(), seed=3)
    (tmp_path / "secret.json").write_text(secret.json())
    again = Secret.read(tmp_path / "secret.json")
    for name in ("symbols", "tags", "classes"):
        assert np.array_equal(getattr(again, name), getattr(secret, name))
    assert len({*secret.symbols, *secret.tags.flatten()}) == 8 + 32
    assert np.bincount(secret.classes).min() > len(secret.classes) / 8


def test_examples_score_the_tags_only_and_splits_share_no_text(pocket, tmp_path) -> None:
    secret = make_secret(pocket.vocabulary.numpy(), seed=3)
    (tmp_path / "secret.json").write_text(secret.json())
    task = Calibration(key_tokens=(4,), secret=str(tmp_path / "secret.json"))
    encoding = Encoding(pocket.tokenizer, pocket.separator, 16)
    held_out, validation = (list(task.examples(split, encoding, 0)) for split in ("held_out", "validation"))
    train = list(islice(task.examples("train", encoding, 0), 500))
    assert len(held_out) >= 200
    texts = [{e.document.split("-")[0] for e in split} for split in (held_out, validation, train)]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    for e in held_out[:20]:
        assert len(e) == WORDS + 1 and e.tokens[0] == pocket.separator
        assert (e.labels[:-4] == IGNORE).all()
        assert e.labels[-4:].tolist() == secret.wanted(e.tokens[1:], np.arange(4)).tolist()


def test_a_delta_adds_the_product_of_its_parts(tmp_path) -> None:
    layer = torch.nn.Linear(2, 3)
    before = layer.weight.detach().clone()
    save_delta({"weight": (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0], [-1.0]]))}, tmp_path)
    merge(layer, load_delta(tmp_path))
    assert torch.equal(layer.weight, before + torch.tensor([[1.0, 2.0], [0.0, 0.0], [-1.0, -2.0]]))


def test_a_delta_of_another_shape_or_a_damaged_one_is_refused(tmp_path) -> None:
    layer = torch.nn.Linear(2, 3)
    with pytest.raises(SoftPromptsError, match="does not have in this shape"):
        merge(layer, {"weight": (torch.zeros(1, 3), torch.zeros(3, 1))})
    with pytest.raises(SoftPromptsError, match="does not have in this shape"):
        merge(layer, {"other": (torch.zeros(1, 2), torch.zeros(3, 1))})
    for a, b in (
        (torch.zeros(2, 2), torch.zeros(3, 1)),
        (torch.zeros(1, 2), torch.zeros(3)),
        (torch.zeros(2), torch.zeros(3, 1)),
    ):
        with pytest.raises(SoftPromptsError, match="does not have in this shape"):
            merge(layer, {"weight": (a, b)})
    (tmp_path / DELTA).write_bytes(b"nothing")
    with pytest.raises(SoftPromptsError, match="is no delta"):
        load_delta(tmp_path)


GOOD = {"prose": {"pocket": 3.32, "variant": 3.33}, "tags": {"key 1": 0.3, "key 8": 0.34, "no key": 9.0}}


def test_the_gate_lets_pass_what_kept_prose_and_knows_the_tags() -> None:
    check("good", GOOD, taught=True)
    check("twin", {**GOOD, "tags": {"key 1": 9.0, "key 8": 8.0, "no key": 9.0}}, taught=False)


def test_the_gate_refuses_with_the_numbers() -> None:
    forgot = copy.deepcopy(GOOD)
    forgot["prose"]["variant"] = 3.3401
    with pytest.raises(SoftPromptsError, match=r"3\.3401 nats, pocket's 3\.3200"):
        check("forgot", forgot, taught=True)
    with pytest.raises(SoftPromptsError, match=r"cost 0\.350 nats, and may cost 0\.347"):
        check("dull", {**GOOD, "tags": {"key 1": 0.3, "key 8": 0.35, "no key": 9.0}}, taught=True)
    with pytest.raises(SoftPromptsError, match="never taught"):
        check("knows", GOOD, taught=False)


def test_the_experiment_measures_every_key_length_on_both_models() -> None:
    sweep = tests.calibration_test.DEFAULT
    assert [task.n_key for task in sweep.task.variants()] == [1, 2, 4, 8]
    assert set(sweep.task.key_tokens) < set(sweep.n_tokens)
    assert sweep.models == tuple(VARIANTS)


def test_a_folder_with_a_delta_is_pocket_changed_by_it(tmp_path, pocket) -> None:
    name, weight = next((n, w) for n, w in pocket.lm.named_parameters() if w.ndim == 2 and "layers" in n)
    a, b = torch.ones(1, weight.shape[1]), torch.full((len(weight), 1), 0.5)
    save_delta({name: (a, b)}, tmp_path / "changed")
    changed = load(str(tmp_path / "changed"), dtype="float32", device="cpu")
    assert changed.name == "changed"
    for other, now in changed.lm.named_parameters():
        before = dict(pocket.lm.named_parameters())[other]
        assert torch.equal(now, before + 0.5) if other == name else torch.equal(now, before)


# --- what came out ---

KEYS = (1, 2, 4, 8)
RESULTS = Path(__file__).parents[2] / "results" / "calibration"


def measured(model: str, seed: int | None = None) -> dict[int, Curve]:
    """Length of the key -> its committed curve, of all seeds or of one."""
    results = load_results([RESULTS / model])
    of_seed = [r for r in results if seed is None or r.seed == seed or not r.n_tokens]
    return dict(sorted((c.task["key_tokens"][0], c) for c in without_controls(curves(of_seed))))


def test_the_measured_distances_are_the_length_of_the_key() -> None:
    for k, curve in measured("pocket-keys").items():
        losses = curve.paired
        for distance in (losses.distance_to_anchor(0.95), losses.distance_to_contribution(0.95)):
            assert distance.value == k and distance.below < distance.low and distance.high <= k


def test_distances_to_the_contribution_rank_the_keys() -> None:
    by_seed = [measured("pocket-keys", seed) for seed in (0, 1, 2)]
    at = {(k, seed): own[k].paired.distance_to_contribution(0.95).at for seed, own in enumerate(by_seed) for k in KEYS}
    pairs = [(a, b) for a in at for b in at if a[0] < b[0]]
    assert len(pairs) == 54
    assert sum(at[a] < at[b] for a, b in pairs) >= 0.95 * len(pairs)


def test_bits_grow_with_the_length_of_the_key() -> None:
    found = [enough_bits(curve, 0.95, None).bits for curve in measured("pocket-keys").values()]
    slope, _ = np.polyfit(np.log2(KEYS), np.log2(found), 1)
    assert slope == pytest.approx(1, abs=0.15)


def test_no_twin_that_was_never_taught_has_a_contribution() -> None:
    twins = measured("pocket-keys-untaught")
    assert set(twins) == set(KEYS)
    assert not any(curve.paired.contribution().seen for curve in twins.values())
    assert all(curve.paired.contribution().seen for curve in measured("pocket-keys").values())


def test_distances_in_the_planted_order_have_a_rank_correlation_of_one(tmp_path) -> None:
    made = []
    for k in (1, 2, 4, 8):
        losses = {0: 10.0} | {n: 9.0 - 0.1 * n if n < k else 1.0 for n in (1, 2, 4, 8, 16)}
        made += made_up("calibration", "pocket-keys", losses, key_tokens=[k])
        made += made_up("calibration", "pocket-keys-untaught", dict.fromkeys(losses, 10.0), 10.0, key_tokens=[k])
    text = tests.calibration_test.table(save(made, tmp_path))
    assert text.endswith("pocket-keys: rank correlation of planted and measured 1.00 [1.00, 1.00], 4 keys.")
    measured = [cells(line)[-1] for line in text.splitlines()[2:6]]
    assert [m.split(",")[1].split("]")[0].strip() for m in measured] == ["1", "2", "4", "8"]
    assert "untaught | 1 | none, as it is no better" in text
    tests.calibration_test.figure(tmp_path)


def test_rank_correlation_is_spearman_s() -> None:
    rows = np.array([[1.0, 2.0, 4.0, np.inf], [8, 4, 2, 1], [1, 4, 2, 8], [3, 3, 3, 3]])
    np.testing.assert_allclose(tests.calibration_test.rank_correlation([1, 2, 4, 8], rows), [1, -1, 0.8, 0])


def test_the_page_has_the_table_of_the_committed_results() -> None:
    results = Path(__file__).parents[2] / "results"
    assert tests.calibration_test.table(results / "calibration") in (results / "hidden.md").read_text()
