"""Prompts that were trained before, here or with PEFT: read back, measured as they are, and started from."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.given import ADAPTER, WEIGHTS, base_model, given_prompt
from soft_prompts.interventions.soft_prompt import PromptGenerator, SoftPrompt
from soft_prompts.results.record import Result
from soft_prompts.results.snapshot import Use, save_prompt
from soft_prompts.tasks.autoregressive import Autoregressive
from soft_prompts.tasks.placed import BeforeEverything
from soft_prompts.tasks.repetition import Repetition
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run
from soft_prompts.training.state import make_intervention
from tests.unit.commands import ran

ROWS = torch.arange(8, dtype=torch.float32).reshape(2, 4)


def adapter(folder: Path, rows: torch.Tensor, **config) -> Path:
    """A folder as PEFT's save_pretrained writes it."""
    folder.mkdir(exist_ok=True)
    (folder / ADAPTER).write_text(json.dumps({"peft_type": "PROMPT_TUNING", **config}))
    safetensors.torch.save_file({"prompt_embeddings": rows.contiguous()}, folder / WEIGHTS)
    return folder


def test_peft_puts_its_rows_before_everything_unless_the_first_opens_texts(tmp_path) -> None:
    vocabulary = torch.cat([torch.zeros(1, 4), ROWS])
    folder = adapter(tmp_path / "a", ROWS, base_model_name_or_path="m")
    foreign = given_prompt(folder, vocabulary, {0, 2})  # the first row is that of a token that opens no text
    assert torch.equal(foreign.rows, ROWS) and (foreign.opener, foreign.before) == (None, True)
    ours = given_prompt(folder, vocabulary, {0, 1})
    assert torch.equal(ours.rows, ROWS[1:]) and (ours.opener, ours.before) == (1, False)
    one = adapter(tmp_path / "one", ROWS[:1])
    assert given_prompt(one, vocabulary, {1}).before  # one row is not the opening token without a prompt
    assert base_model(folder) == "m" and base_model(one) == base_model(tmp_path) == ""


def test_the_opening_row_is_known_by_a_model_in_bfloat16_too(tmp_path) -> None:
    rows = ROWS + 0.001  # more digits than bfloat16 has
    found = given_prompt(adapter(tmp_path / "a", rows), rows.bfloat16(), {0})
    assert (found.opener, found.before) == (0, False) and torch.equal(found.rows, rows[1:])


def test_a_snapshot_says_where_its_prompt_stands(tmp_path, pocket) -> None:
    for behind, before in (("separator", False), ("text", False), ("nothing", True)):
        path = tmp_path / f"{behind}.safetensors"
        save_prompt(SoftPrompt(pocket.vocabulary[[5, 9]] * 2), pocket, {}, path, Use(3, behind))
        found = given_prompt(path, pocket.vocabulary, {5})
        assert (found.opener, found.before, len(found.rows)) == (3, before, 2)
    measured = run_from(path, 2, steps=0)
    with pytest.raises(SoftPromptsError, match="stands before the token that opens every text; give --train.before"):
        make_intervention(pocket, measured, 0)
    make_intervention(pocket, replace(measured, train=replace(measured.train, before=True)), 0)
    make_intervention(pocket, replace(measured, train=replace(measured.train, steps=1)), 0)  # a start, anywhere


def test_what_is_no_prompt_is_refused(tmp_path, pocket) -> None:
    with pytest.raises(SoftPromptsError, match="is no adapter of PEFT"):
        given_prompt(tmp_path, ROWS, ())
    folder = adapter(tmp_path / "a", ROWS)
    with pytest.raises(SoftPromptsError, match=r"has the shape \[2, 4\].*have 5 numbers"):
        given_prompt(folder, torch.zeros(3, 5), ())
    (folder / ADAPTER).write_text('{"peft_type": "LORA"}')
    with pytest.raises(SoftPromptsError, match="holds a LORA of PEFT"):
        given_prompt(folder, ROWS, ())
    (folder / ADAPTER).write_text('{"peft_type": "PROMPT_TUNING"}')
    (folder / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(SoftPromptsError, match="cannot be read.*save_pretrained"):
        given_prompt(folder, ROWS, ())
    with pytest.raises(SoftPromptsError, match="cannot be read as a snapshot"):
        given_prompt(folder / WEIGHTS, ROWS, ())
    generator = PromptGenerator(pocket.vocabulary[:2], 1.0, (1, 4), torch.Generator())
    save_prompt(generator, pocket, {}, tmp_path / "s.safetensors")
    with pytest.raises(SoftPromptsError, match="holds a PromptGenerator, but only a prompt without conditions"):
        given_prompt(tmp_path / "s.safetensors", ROWS, ())


def run_from(path: Path, n_tokens: int, **changes) -> Run:
    train = TrainConfig(init_from=str(path), **changes)
    return Run("e", Autoregressive(), "pocket", n_tokens, 0, train, "float32")


def test_training_starts_from_a_snapshot_and_new_tokens_stand_behind_it(tmp_path, pocket) -> None:
    given = SoftPrompt(pocket.vocabulary[[5, 9]] * 2, pocket.scale)
    path = tmp_path / "s.safetensors"
    save_prompt(given, pocket, {}, path)
    made = make_intervention(pocket, run_from(path, 3), 0)(torch.zeros(1, 0))[0]
    torch.testing.assert_close(made[:2], pocket.vocabulary[[5, 9]] * 2)
    cold = make_intervention(pocket, replace(run_from(path, 3), train=TrainConfig()), 0)(torch.zeros(1, 0))[0]
    torch.testing.assert_close(made[2], cold[2])
    with pytest.raises(SoftPromptsError, match="holds a prompt of 2 tokens; give --n-tokens of at least"):
        make_intervention(pocket, run_from(path, 1), 0)
    assert isinstance(make_intervention(pocket, run_from(path, 2), 1), SoftPrompt)  # it depends on no condition
    assert make_intervention(pocket, run_from(path, 0), 0).n_tokens == 0


def test_a_prompt_with_conditions_goes_on_from_a_shorter_one(tmp_path, pocket) -> None:
    random = torch.Generator().manual_seed(3)
    given = PromptGenerator(pocket.vocabulary[[5, 9]] * 2, 0.5, (1, 8, 8), random)
    path, of_two = tmp_path / "s.safetensors", torch.tensor([[0.25], [-1.0]])
    save_prompt(given, pocket, {}, path)
    run = run_from(path, 3, width=8, depth=2)
    made = make_intervention(pocket, run, 1)
    assert made.scale == pytest.approx(pocket.scale) and made.n_tokens == 3
    torch.testing.assert_close(made(of_two)[:, :2], given(of_two))
    assert (made(of_two)[0] != made(of_two)[1]).any()
    cold = make_intervention(pocket, replace(run, train=replace(run.train, init_from="")), 1)
    torch.testing.assert_close(made.rows[2], cold.rows[2])
    assert not torch.allclose(made(of_two)[:, :2], cold(of_two)[:, :2])
    for wrong in ({"n_tokens": 1}, {"train": replace(run.train, width=9)}):
        with pytest.raises(SoftPromptsError, match="s.safetensors is no start for this prompt: it has 2 tokens"):
            make_intervention(pocket, replace(run, **wrong), 1)
    with pytest.raises(SoftPromptsError, match="holds a PromptGenerator, but only a prompt without conditions"):
        make_intervention(pocket, replace(run, train=replace(run.train, generator="tokenwise")), 1)
    with pytest.raises(SoftPromptsError, match="holds a PromptGenerator, but only a prompt without conditions"):
        make_intervention(pocket, run, 0)
    measured = replace(run, n_tokens=2, train=replace(run.train, steps=0))
    make_intervention(pocket, measured, 1)
    save_prompt(given, pocket, {}, path, Use(3, "nothing"))
    with pytest.raises(SoftPromptsError, match="stands before the token that opens every text; give --train.before"):
        make_intervention(pocket, measured, 1)
    tensors = {**given.state_dict(), "out": given.out.detach()[:1].clone()}
    safetensors.torch.save_file(tensors, path, {"kind": "PromptGenerator"})
    with pytest.raises(SoftPromptsError, match="cannot be read as a snapshot"):
        make_intervention(pocket, run, 1)


def test_the_record_has_the_content_of_what_was_started_from_and_no_path(tmp_path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"1")
    config = run_from(tmp_path / "a.safetensors", 2).config
    assert config["train"]["init_from"] == "a.safetensors" and str(tmp_path) not in json.dumps(config)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.safetensors").write_bytes(b"2")
    assert run_from(tmp_path / "b" / "a.safetensors", 2).config["init_files"] != config["init_files"]
    with pytest.raises(SoftPromptsError, match="there is no .*--train.init-from"):
        TrainConfig(init_from=str(tmp_path / "none")).check()
    with pytest.raises(SoftPromptsError, match="--train.init-from mean nothing"):
        TrainConfig(init_from=str(tmp_path), intervention="lora").check()


def test_before_everything_the_first_token_follows_the_separator_and_the_prompt_stands_before_it(pocket) -> None:
    encoding = Encoding(pocket.tokenizer, pocket.separator, 24)
    from soft_prompts.pocket import SAMPLES

    task = Autoregressive(text=(str(SAMPLES),))
    held_out = list(BeforeEverything(task).examples("held_out", encoding, 0))[:3]
    assert {e.insert_at for e in held_out} == {0}
    rows = pocket.vocabulary[[7, 11]].float() * 1.5
    scored = PromptedModel(Bench(pocket, encoding, held_out, 4096), SoftPrompt(rows)).held_out_scores
    for e, losses in zip(held_out, scored.losses, strict=True):
        with torch.no_grad():
            whole = torch.cat([rows, pocket.embed(torch.from_numpy(e.tokens))])[None]
            logits = pocket.lm(inputs_embeds=whole).logits[0, len(rows) : -1]
        naive = torch.nn.functional.cross_entropy(logits, torch.from_numpy(e.tokens[1:]), reduction="none")
        np.testing.assert_allclose(losses, naive.numpy(), atol=1e-4)
    later = BeforeEverything(Repetition(text=(str(SAMPLES),), strings=("pee",), targets=(0,)))
    with pytest.raises(SoftPromptsError, match="--train.before.*Repetition"):
        next(later.examples("held_out", Encoding(pocket.tokenizer, 0, 128), 0))


def command(*arguments: str) -> subprocess.CompletedProcess:
    return ran([sys.executable, "-m", "soft_prompts.measure", *arguments])


SHORT = ("--train.eval-documents", "4", "--train.validation-documents", "4", "--train.max-tokens", "24")


def test_an_exported_prompt_is_measured_as_it_was_trained(tmp_path, pocket) -> None:
    """Trained for two steps, exported to PEFT's form and measured from there: the same loss."""
    trained = ran(
        [sys.executable, "-m", "tests.autoregressive_test", "pocket", "--models", "pocket", "--n-tokens", "0", "2"]
        + ["--seeds", "0", "--controls", "--train.steps", "2", *SHORT, "--out", str(tmp_path)]
    )
    assert trained.returncode == 0, trained.stderr
    (snapshot,) = tmp_path.glob("snapshots/**/tokens-0002-*.safetensors")
    own = next(Result.load(path) for path in tmp_path.glob("results/**/tokens-0002-*.json"))
    exported = [sys.executable, "-m", "soft_prompts.export", str(snapshot), str(tmp_path / "peft")]
    assert ran(exported).returncode == 0
    for path, out in ((tmp_path / "peft", "a"), (snapshot, "b")):
        options = ("--models", "pocket", "tests.autoregressive_test", "pocket", *SHORT, "--out", str(tmp_path / out))
        measured = command(str(path), *options)
        assert measured.returncode == 0, measured.stderr + measured.stdout
        again = next(Result.load(p) for p in (tmp_path / out).glob("results/**/tokens-0002-*.json"))
        assert again.held_out.loss == pytest.approx(own.held_out.loss, abs=1e-6)
        assert again.config["train"]["steps"] == 0
    # A prompt of PEFT's own is measured before the separator.
    foreign = adapter(tmp_path / "foreign", pocket.vocabulary[[7, 11]].float() * 1.5, base_model_name_or_path="pocket")
    measured = command(str(foreign), "tests.autoregressive_test", "pocket", *SHORT, "--out", str(tmp_path / "c"))
    assert measured.returncode == 0 and "opens no text by itself" in measured.stdout + measured.stderr
    (result,) = [Result.load(p) for p in (tmp_path / "c").glob("results/**/tokens-0002-*.json")]
    assert result.config["train"]["before"]


def test_wrong_commands_end_in_a_sentence(tmp_path) -> None:
    assert "PEFT puts a prompt before" in command("--help").stdout
    folder = adapter(tmp_path / "a", ROWS)
    for arguments, sentence in (
        ((str(folder), "pocket"), "no experiment is named"),
        ((str(folder), "tests.autoregressive_test", "pocket"), "does not say to which model"),
        ((str(tmp_path / "none"), "--models", "pocket", "tests.chess_test"), "cannot be read as a snapshot"),
    ):
        said = command(*arguments)
        assert said.returncode == 2 and "Traceback" not in said.stderr
        assert sentence in " ".join((said.stdout + said.stderr).split())
