"""Results and snapshots: they come back as they were written, and damaged ones are refused in one sentence."""

import json
import math
import os
import sys
import uuid
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from soft_prompts.engine.evaluate import TokenScores, evaluate
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import fingerprint, write_atomically
from soft_prompts.interventions.soft_prompt import PromptGenerator, SoftPrompt, TokenwiseGenerator
from soft_prompts.models.loading import load
from soft_prompts.results import record
from soft_prompts.results.curve import curves
from soft_prompts.results.provenance import _peak_memory, provenance
from soft_prompts.results.record import HeldOut, Result, load_results
from soft_prompts.results.snapshot import load_prompt, save_prompt
from tests.unit.conftest import make_examples


def baseline(loss: float, *by_document: float) -> dict:
    """A data baseline as results record it, with nats by document if they are given."""
    return {"loss": loss, "document_losses": list(by_document) or None}


def result(n_tokens: int = 4, seed: int = 0, losses=(2.0, 3.0), **changes) -> Result:
    """A made-up result on two documents of ten tokens, with these losses per token."""
    scores = TokenScores(["a", "b"], [np.full(10, x) for x in losses], [np.ones(10, bool)] * 2)
    values = {
        "experiment": "e",
        "task": "T",
        "model": "m",
        "n_tokens": n_tokens,
        "seed": seed,
        "held_out": HeldOut.of(scores),
        "baselines": {"uniform": baseline(5.0), "unigram": baseline(2.8)},
        "scores": {"hits": {"value": 0.5, "interval": [0.4, 0.6], "n": 2}},
        "curve": [{"step": 0, "loss": 2.5}],
        "samples": [{"text": "ja é"}],
        "sizes": [],
        "config": {"train": {"steps": 5, "batch_size": 2, "lr": 0.1}, "task": {"name": "T"}},
        "provenance": {},
        "seconds": 1.5,
        "tokens_per_second": None,
    }
    return Result(**{**values, **changes})


def test_a_result_comes_back_as_it_was(tmp_path) -> None:
    path = tmp_path / "deep" / "tokens-0004-seed-0.json"
    result().save(path)
    assert Result.load(path) == result()
    assert load_results([tmp_path]) == [result()]


def test_a_result_holds_the_keys_that_people_script_against(tmp_path) -> None:
    result().save(tmp_path / "r.json")
    values = json.loads((tmp_path / "r.json").read_text())
    keys = "experiment task model n_tokens seed held_out baselines scores curve samples config provenance seconds"
    assert set(values) >= {*keys.split(), "tokens_per_second"}
    held_out_keys = {"loss", "interval", "n_scored", "documents", "document_losses", "document_scored"}
    assert set(values["held_out"]) == held_out_keys
    assert values["held_out"]["loss"] == 2.5
    assert values["held_out"]["document_losses"] == [20.0, 30.0]
    assert values["held_out"]["document_scored"] == [10, 10]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is not JSON .*delete it, or redo the run with --force"),
        ('{"schema": 1, "loss"', "is not JSON"),
        ('{"schema": 1}', "is JSON but not a result"),
        ("[]", "is JSON but not a result"),
        ('{"schema": 99}', "schema version 99, this program reads 1"),
    ],
)
def test_a_damaged_result_is_one_sentence_with_its_path(tmp_path, content: str, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(SoftPromptsError, match=f"{path}.*{message}"):
        Result.load(path)


def flipped(content: bytes, n: int, seed: int):
    """The content with one bit flipped, ``n`` times anew."""
    random = np.random.default_rng(seed)
    for at, bit in zip(random.integers(len(content), size=n), random.integers(8, size=n), strict=True):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(bit)
        yield bytes(damaged)


def test_a_flipped_bit_of_a_result_is_seen(tmp_path) -> None:
    path = tmp_path / "r.json"
    result().save(path)
    n_seen = 0
    for damaged in flipped(path.read_bytes(), 500, 0):
        path.write_bytes(damaged)
        try:
            assert Result.load(path) == result()  # a space became a tab, say
        except SoftPromptsError as error:
            n_seen += 1
            assert str(path) in str(error)
    assert n_seen > 450


def test_an_edited_result_is_refused_and_one_of_before_checksums_is_read(tmp_path) -> None:
    path = tmp_path / "r.json"
    result().save(path)
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "seed": 5}))
    with pytest.raises(SoftPromptsError, match="is damaged or was edited: its checksum is wrong"):
        Result.load(path)
    del values["checksum"]
    path.write_text(json.dumps({**values, "seed": 5}))
    assert Result.load(path).seed == 5


@pytest.mark.parametrize("content", ["[" * 100_000, '{"schema": ' + "9" * 5000 + "}", b"\xff\xfe"])
def test_json_that_python_cannot_hold_is_one_sentence(tmp_path, content) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SoftPromptsError, match="is not JSON"):
        Result.load(path)


def test_a_flipped_bit_of_a_snapshot_is_seen(neox, tmp_path) -> None:
    path = tmp_path / "p.safetensors"
    prompt, n_seen = SoftPrompt(torch.randn(2, 32), 0.02), 0
    save_prompt(prompt, neox, {"seed": 1}, path)
    for damaged in flipped(path.read_bytes(), 300, 1):
        path.write_bytes(damaged)
        try:
            assert torch.equal(load_prompt(path, neox)(torch.zeros(1, 0)), prompt(torch.zeros(1, 0)))  # a space, say
        except SoftPromptsError:
            n_seen += 1
    assert n_seen > 290


@pytest.mark.parametrize("lacking", ["rows", "config", "model", "weights"])
def test_a_snapshot_that_lacks_a_part_is_one_sentence(neox, tmp_path, lacking: str) -> None:
    path = tmp_path / "p.safetensors"
    save_prompt(SoftPrompt(torch.randn(2, 32), 0.02), neox, {"seed": 1}, path)
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del metadata["checksum"]
    metadata["schema"] = "2"
    if lacking == "weights":
        metadata["model"] = "{}"
    (tensors if lacking == "rows" else metadata).pop(lacking, None)
    save_file(tensors, path, metadata)
    with pytest.raises(SoftPromptsError, match=f"{path}.*train the prompt again with --force"):
        load_prompt(path, neox)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": True}, "at seed, True"),
        ({"seed": 2**63}, "at seed, 9223372036854775808"),
        ({"held_out": {"n_scored": 21}}, "n_scored is 21, but the documents have 20 scored tokens"),
        ({"held_out": {"n_scored": 19}}, "n_scored is 19, but the documents have 20 scored tokens"),
        ({"held_out": {"document_scored": [20, 0]}}, "fewer than 2 documents have scored tokens"),
        ({"held_out": {"document_losses": [1.0]}}, "document_losses are 1 numbers for 2 documents"),
        ({"held_out": {"document_losses": [1.0, 2.0, 3.0]}}, "document_losses are 3 numbers for 2 documents"),
        ({"held_out": {"document_losses": [-1e101, 2.0]}}, "document_losses is a number above 1e.100"),
        ({"provenance": {"x": "\ud800"}}, "is not JSON"),
        ({"provenance": {"x": math.inf}}, "is not JSON"),
        ({"provenance": {"x": json.loads("[" * 60 + "]" * 60)}}, "more than 50 levels"),
    ],
    ids=str,
)
def test_a_result_that_contradicts_itself_is_refused_with_what_is_wrong(tmp_path, change: dict, message: str) -> None:
    path = tmp_path / "r.json"
    result().save(path)
    values = json.loads(path.read_text())
    del values["checksum"]
    for name, value in change.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(values))
    with pytest.raises(SoftPromptsError, match=f"{path} .*{message}.*--force"):
        Result.load(path)


@pytest.mark.parametrize("made", ["soft", "generator", "empty"])
@pytest.mark.parametrize(
    "config",
    [{"shape": [10**6, 10**6]}, {"shape": [2, 33]}, {"shape": [2, 32], "sizes": [2, 10**7]}, {"shape": 5}, [], {}],
    ids=str,
)
def test_a_snapshot_that_says_another_shape_than_its_tensors_have_takes_no_memory(
    neox, tmp_path, monkeypatch, made: str, config
) -> None:
    path, kinds = tmp_path / "p.safetensors", {"soft": SoftPrompt, "empty": SoftPrompt, "generator": PromptGenerator}
    rows = torch.randn(0 if made == "empty" else 2, 32)
    generator = PromptGenerator(rows, 0.02, (2, 4, 3), torch.Generator())
    save_prompt(generator if made == "generator" else SoftPrompt(rows, 0.02), neox, {"seed": 1}, path)
    change_snapshot(path, config=json.dumps(config))
    monkeypatch.setattr(kinds[made], "from_config", lambda _: pytest.fail("a prompt of any size would be made"))
    with pytest.raises(SoftPromptsError, match=f"{path} is damaged"):
        load_prompt(path, neox)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32])
def test_a_snapshot_of_other_numbers_than_float32_is_refused(neox, tmp_path, dtype: torch.dtype) -> None:
    path = tmp_path / "p.safetensors"
    save_prompt(SoftPrompt(torch.randn(2, 32), 0.02), neox, {"seed": 1}, path)
    change_snapshot(path)
    load_prompt(path, neox)
    change_snapshot(path, dtype)
    with pytest.raises(SoftPromptsError, match="not float32"):
        load_prompt(path, neox)


def change_snapshot(path, dtype: torch.dtype = torch.float32, **words: str) -> None:
    """Write a snapshot anew as of version 2, which has no checksum, with other words or numbers."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name).to(dtype) for name in file.keys()}  # noqa: SIM118
    metadata.pop("checksum", None)
    save_file(tensors, path, {**metadata, "schema": "2", **words})


LISTS = ([], [1, 2], [1.5, 2], [True], [1, False], ["a", ""], [1, "a"], [None], [[1]], [-1], [0], [2**63 - 1], [2**63])
LISTS += ([1 - 2**63], [-(2**63)], [1e300, -1e300], [0.5, 2**70], [math.nan, 2**63], [2**63, math.nan], [-1, math.nan])


ITEMS = ({"type": "number"}, {"type": "integer", "minimum": 0}, {"type": "string"}, {})
ITEMS += ({"type": "string", "minLength": 1}, {"type": "number", "maximum": 1})


@pytest.mark.parametrize("items", ITEMS)
def test_lists_are_found_right_or_wrong_as_by_jsonschema_itself(items: dict) -> None:
    ours = record._validator().evolve(schema={"items": items})
    own_rule = jsonschema.Draft202012Validator.VALIDATORS["items"]
    naive = jsonschema.validators.extend(type(ours), {"items": own_rule}, type_checker=ours.TYPE_CHECKER)
    wrong = [[error.message for error in ours.iter_errors(values)] for values in (*LISTS, "text", {"a": 1})]
    assert wrong == [[e.message for e in naive({"items": items}).iter_errors(x)] for x in (*LISTS, "text", {"a": 1})]
    assert any(wrong) == bool(items) and not all(wrong)


def test_a_result_with_a_number_that_is_none_is_never_written(tmp_path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        result(seconds=math.nan).save(tmp_path / "r.json")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file_and_is_one_sentence(tmp_path, monkeypatch) -> None:
    """The file to write is /dev/full, which refuses every byte as a full disk does."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0))
    (tmp_path / ".r.json.00000000.tmp").symlink_to("/dev/full")
    (tmp_path / "r.json").write_text("old")
    with pytest.raises(SoftPromptsError, match=r"could not write .*No space left.*finished runs are kept"):
        write_atomically(tmp_path / "r.json", b"new")
    assert (tmp_path / "r.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_fingerprint_follows_content_not_place(tmp_path) -> None:
    one, two = tmp_path / "one" / "x", tmp_path / "two" / "x"
    for path in (one, two):
        write_atomically(path, b"a" * 3_000_000)
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one.parent) == fingerprint(two.parent)
    two.write_bytes(b"a" * 2_999_999 + b"b")
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint(one.parent) != fingerprint(two.parent)


PROMPTS = [
    lambda: SoftPrompt(torch.randn(3, 32), 0.02),
    lambda: SoftPrompt(torch.randn(0, 32), 0.02),
    lambda: PromptGenerator(torch.randn(3, 32), 0.02, (2, 8, 5), torch.Generator()),
    lambda: TokenwiseGenerator((3, 32), 2, 8, torch.Generator()),
]


@pytest.mark.parametrize("make", PROMPTS, ids=["soft", "empty", "generator", "tokenwise"])
def test_a_snapshot_loaded_back_reproduces_the_held_out_losses(model, tmp_path, make) -> None:
    prompt, path = make(), tmp_path / "p.safetensors"
    save_prompt(prompt, model, {"seed": 1}, path)
    examples = make_examples(5, n_conditions=2)
    before, after = (evaluate(model, [p], examples, 10**6)[0] for p in (prompt, load_prompt(path, model)))
    assert after.loss == pytest.approx(before.loss, abs=1e-6)
    assert type(load_prompt(path, model)) is type(prompt)


def test_a_snapshot_of_another_model_is_refused_by_name(folders, tmp_path) -> None:
    neox, llama = (load(str(folders[name])) for name in ("neox", "llama"))
    save_prompt(SoftPrompt(torch.zeros(1, 32)), neox, {}, tmp_path / "p.safetensors")
    message = f"trained on neox .*{neox.weight_hash}.*not on llama .*{llama.weight_hash}"
    with pytest.raises(SoftPromptsError, match=message):
        load_prompt(tmp_path / "p.safetensors", llama)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", None])
def test_a_damaged_or_missing_snapshot_is_one_sentence(neox, tmp_path, content) -> None:
    path = tmp_path / "p.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SoftPromptsError, match=f"could not read the snapshot {path}"):
        load_prompt(path, neox)


def test_provenance_names_model_versions_device_and_commit(neox) -> None:
    facts = provenance(neox, {"games": 7}, 3)
    assert facts["model"]["weights"] == neox.weight_hash
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["data"] == {"games": 7}
    assert facts["device"].startswith("cpu")
    assert facts["runs_together"] == 3
    assert facts["peak_memory_bytes"] > 10**7


def test_the_peak_memory_is_in_bytes_on_every_system_and_none_where_it_is_not_known(monkeypatch) -> None:
    monkeypatch.setattr("resource.getrusage", lambda _: SimpleNamespace(ru_maxrss=1000))
    monkeypatch.setattr("sys.platform", "linux")
    assert _peak_memory() == 1_024_000
    monkeypatch.setattr("sys.platform", "darwin")
    assert _peak_memory() == 1000
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert _peak_memory() is None


def test_curves_of_one_experiment_come_in_the_order_of_their_numbers() -> None:
    def of(k: int) -> Result:
        variant = {"label": f"a key of {k} tokens", "options": ["k"], "control_of": None}
        return result(variant=variant, config={"train": {}, "task": {"name": "T", "k": k}})

    in_order = [curve.difference for curve in curves([of(k) for k in (16, 2, 8, 1)])]
    assert in_order == [f"a key of {k} tokens" for k in (1, 2, 8, 16)]
