"""The command line from end to end, on tiny models and made-up games."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import zstandard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import exploratory_tests.recipe_test
import tests.chess_test
from soft_prompts import measure, save
from soft_prompts.cli import main, parse, run
from soft_prompts.data import sources
from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.loading import load
from soft_prompts.results.curve import curves
from soft_prompts.results.record import Result
from soft_prompts.results.snapshot import load_prompt
from soft_prompts.sweep import Sweep
from soft_prompts.tasks.autoregressive import Autoregressive
from soft_prompts.tasks.base import TaskScores, continuations
from soft_prompts.training import loop
from soft_prompts.training.recipe import RECIPES, TrainConfig
from soft_prompts.training.state import TrainingState
from tests.unit.commands import ran
from tests.unit.made_up import write, write_games
from tests.unit.serving import serving, status, whole

ROOT = Path(__file__).parents[2]
QUICK = ["--train.steps", "2", "--train.batch-size", "2", "--train.max-tokens", "48", "--train.eval-documents", "6"]
QUICK += ["--dtype", "float32"]


@pytest.fixture(scope="module")
def games(tmp_path_factory) -> Path:
    return write_games(tmp_path_factory.mktemp("games") / "games.pgn", 100)


@pytest.fixture
def chess(folders, games, tmp_path, monkeypatch, capsys):
    """A function that runs the chess experiment in this process.

    It returns the exit code, what the experiment said, and the result files.
    """

    def run(*options: str, model: str = str(folders["neox"]), source: str = str(games)) -> tuple[int, str, list[Path]]:
        arguments = ["--models", model, "--games", source, "--out", str(tmp_path), "--n-tokens", "0", "2"]
        one = ["--seeds", "0", "--controls"]  # of each length, and of the model itself
        monkeypatch.setattr(sys, "argv", ["chess_test", *arguments, *QUICK, *one, *options])
        monkeypatch.setenv("COLUMNS", "300")
        try:
            main(tests.chess_test.DEFAULT, "")
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out + said.err, sorted(tmp_path.glob("results/**/*.json"))

    return run


def test_a_sweep_leaves_a_result_a_snapshot_and_a_curve_for_every_run(chess, tmp_path, folders, games) -> None:
    code, said, paths = chess("--seeds", "0", "1")
    assert code == 0
    assert [p.name for p in paths] == [f"tokens-000{n}-seed-{s}.json" for n, s in ((0, 0), (2, 0), (2, 1))]
    results = [Result.load(p) for p in paths]
    assert len({tuple(r.held_out.documents) for r in results}) == 1
    assert len({tuple(r.held_out.document_scored) for r in results}) == 1
    for path, result in zip(paths, results, strict=True):
        of_run = path.relative_to(tmp_path / "results").with_suffix("")
        assert of_run.parts[:2] == ("chess", "neox")
        assert (tmp_path / "snapshots" / of_run).with_suffix(".safetensors").exists()
        log = EventAccumulator(str(tmp_path / "runs" / of_run)).Reload()
        assert log.Scalars("loss/held_out")[-1].value == pytest.approx(result.held_out.loss, rel=1e-5)
        assert log.Scalars("final/held_out_loss")[0].value == pytest.approx(result.held_out.loss, rel=1e-5)
        assert "_hparams_/session_start_info" in log.summary_metadata  # compared in TensorBoard's HParams tab
        assert result.config["task"]["games"] == games.name  # no path of this machine
        assert str(games.parent) not in path.read_text()
        assert result.scores["elo_effect"]["interval"] is not None
    assert said.count("chess on neox") >= 1  # the table
    assert "gain over 0" in said


def test_a_snapshot_reproduces_the_held_out_loss_of_its_result(chess, tmp_path, folders, games) -> None:
    _, _, paths = chess()
    assert len({Result.load(path).held_out.loss for path in paths}) == 2  # none and two tokens make a difference
    model = load(str(folders["neox"]))
    task = replace(tests.chess_test.DEFAULT.task, games=str(games))
    held_out = list(task.examples("held_out", Encoding(model.tokenizer, model.separator, 48), 0))[:6]
    for path in paths:
        of_run = path.relative_to(tmp_path / "results").with_suffix(".safetensors")
        prompt = load_prompt(tmp_path / "snapshots" / of_run, model)
        (scores,) = evaluate(model, [prompt], held_out, 10**6)
        assert scores.loss == pytest.approx(Result.load(path).held_out.loss, abs=1e-6)


def test_finished_prompts_are_probed_without_being_trained_again(chess, tmp_path) -> None:
    _, _, paths = chess()
    before = [Result.load(path) for path in paths]
    assert [r.fragility for r in before] == [None, None]
    code, said, _ = chess("--probes", "fragility")
    none, probed = (Result.load(path) for path in paths)
    assert code == 0 and "2 of 2 runs were finished before" in said and "probing chess" in said
    assert none == before[0] and replace(probed, fragility=None) == before[1]
    own = dict(zip(probed.held_out.documents, probed.held_out.document_losses, strict=True))
    unmoved = probed.fragility["unmoved"]["document_losses"]
    assert unmoved == pytest.approx([own[name] for name in probed.fragility["documents"]], abs=1e-3)
    assert "probing" not in chess("--probes", "fragility")[1]  # it is known


def test_a_probe_that_is_lacking_is_added_to_those_that_are_there(chess, monkeypatch) -> None:
    monkeypatch.setattr("soft_prompts.hard.retrodiction.SEARCHED", 24)
    _, _, paths = chess("--probes", "fragility")
    before = Result.load(paths[1])
    code, said, _ = chess("--probes", "fragility", "retrodiction")
    after = Result.load(paths[1])
    assert code == 0 and "is not measured" not in said
    assert after.fragility == before.fragility and replace(after, retrodiction=None) == before
    kinds = [one["kind"] for one in after.retrodiction["texts"]]
    assert kinds[:2] == ["no text", "random tokens"] and "openings of training documents" in kinds
    assert len(after.retrodiction["frames"]) == 4


def test_a_finished_prompt_without_a_snapshot_is_not_probed_and_it_is_said(chess, tmp_path) -> None:
    _, _, paths = chess()
    for snapshot in tmp_path.glob("snapshots/**/tokens-0002*.safetensors"):
        snapshot.unlink()
    code, said, _ = chess("--probes", "fragility")
    assert code == 0 and "the fragility of 1 finished prompt is not measured, as there is no snapshot" in said
    assert Result.load(paths[1]).fragility is None


def test_a_damaged_snapshot_costs_its_fragility_and_nothing_else(chess, tmp_path) -> None:
    _, _, paths = chess()
    (snapshot,) = tmp_path.glob("snapshots/**/tokens-0002*.safetensors")
    content = snapshot.read_bytes()
    snapshot.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, said, _ = chess("--probes", "fragility")
    assert code == 0 and "gain over 0" in said
    assert "is not measured (SoftPromptsError: the snapshot" in said and "checksum is wrong" in said
    assert Result.load(paths[1]).fragility is None


def test_finished_runs_are_skipped_and_force_redoes_them(chess) -> None:
    _, _, paths = chess()
    before = [p.stat().st_mtime_ns for p in paths]
    code, said, _ = chess("--n-tokens", "0", "2", "3")
    assert (code, [p.stat().st_mtime_ns for p in paths]) == (0, before)
    assert "2 of 3 runs were finished before" in said
    chess("--force")
    assert all(p.stat().st_mtime_ns > old for p, old in zip(paths, before, strict=True))


def test_a_run_on_incomplete_data_is_not_finished(chess) -> None:
    _, _, paths = chess()
    result = Result.load(paths[1])
    replace(result, provenance={**result.provenance, "data": {"complete": False}}).save(paths[1])
    _, said, _ = chess()
    assert "1 of 2 runs were finished before" in said
    assert Result.load(paths[1]).provenance["data"]["complete"]


@pytest.mark.parametrize("more", [(), ("--probes", "fragility")])
def test_a_redone_run_that_diverges_does_not_pass_its_old_result_off_as_new(chess, monkeypatch, more) -> None:
    _, said, _ = chess("--train.steps", "30")
    assert shown_lengths(said) == ["0", "2"]
    monkeypatch.setattr(TrainingState, "lr", lambda self, step: 1e38)
    code, said, _ = chess("--train.steps", "30", "--force", *more)
    assert code == 2
    assert shown_lengths(said) == ["0"]


def shown_lengths(said: str) -> list[str]:
    """The prompt lengths in the table, from what a run printed."""
    lines = said[said.index("held-out loss") :].splitlines()
    return [line.split()[0] for line in lines if "±" in line and line.split()[0].isdigit()]


def test_another_setting_or_other_data_is_another_result_never_an_old_one(chess, tmp_path) -> None:
    _, _, first = chess()
    _, _, second = chess("--train.lr", "0.2")
    assert len(second) == 2 * len(first)
    other_games = write_games(tmp_path / "games.pgn", 100, seed=5)  # another file of the same name
    _, _, third = chess(source=str(other_games))
    assert len(third) == 3 * len(first)


TOO_LONG = "a prompt of 100 tokens and sequences of 48 need 148 positions, but neox has 128.*at most 80"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-tokens", "100"], TOO_LONG),
        (["--train.batch-size", "0"], "--train.batch-size is 0, but must be at least 1"),
        (["--train.lr", "-1"], "--train.lr is -1.0, but must be a positive number"),
        (["--train.lr", "nan"], "--train.lr is nan"),
        (["--recipe", "secret"], "--recipe is 'secret', but must be one of default, nordby2024, peft"),
        (["--recipe"], "--recipe is None, but must be one of"),
        (["--train.warmup", "3"], "--train.warmup is 3.0, but must lie between 0 and 1"),
        (["--train.max-tokens", "1"], "--train.max-tokens is 1, but must be at least 2"),
        (["--train.init", "text"], "--train.init text and --train.init-text go together"),
        (["--n-tokens", "-1"], "--n-tokens holds -1"),
        (["--n-tokens", "1", "1"], "none twice"),
        (["--seeds", "-3"], "--seeds holds -3"),
        (["--controls", "untrained", "untrained"], "--controls is .*must name none twice"),
        (["--token-budget", "0"], "--token-budget .0."),
        (["--speed", "bullet"], "None of the 100 games .*wrong speed: 100.*Rated Blitz game.*--speed"),
        (["--device", "warp"], "device 'warp' cannot be used here"),
        (["--games", "missing.pgn.zst"], "missing.pgn.zst does not exist"),
        (["--train.eval-documents", "1"], "--train.eval-documents is 1, but must be at least 2"),
        (["--train.eval-documents", "100001"], "--train.eval-documents is 100001, but must be at most 100,000"),
        (["--train.lr", "1e38", "--train.steps", "30"], "stopped being finite.*smaller --train.lr"),
    ],
)
def test_impossible_requests_are_one_sentence_and_exit_code_2(chess, options: list[str], message: str) -> None:
    code, said, _ = chess(*options)
    assert code == 2
    assert re.search(f"error: .*{message}", " ".join(said.split()))
    assert "Traceback" not in said


def test_a_recipe_is_where_the_other_options_begin(games) -> None:
    def parsed(*options: str) -> TrainConfig:
        return parse(tests.chess_test.DEFAULT, "", {"pocket": tests.chess_test.POCKET}, options).train

    own = tests.chess_test.DEFAULT.train
    assert parsed() == own
    assert parsed("--recipe", "nordby2024") == replace(own, **RECIPES["nordby2024"])
    mixed = parsed("pocket", "--train.lr", "0.5", "--recipe=peft", "--train.steps", "7")
    assert mixed == replace(tests.chess_test.POCKET.train, **{**RECIPES["peft"], "lr": 0.5, "steps": 7})


def test_a_run_that_diverges_does_not_take_the_others_with_it(chess) -> None:
    code, _, paths = chess("--train.lr", "1e38", "--train.steps", "30")
    assert code == 2
    assert [p.name for p in paths] == ["tokens-0000-seed-0.json"]


def test_bad_game_files_are_one_sentence_and_exit_code_2(chess, games, tmp_path) -> None:
    packed = zstandard.compress(games.read_bytes())
    for name, content, message in [
        ("cut.pgn.zst", packed[: len(packed) // 2], "is truncated or corrupt"),
        ("text.pgn.zst", games.read_bytes(), "is not zstd data although its name says so"),
        ("empty.pgn", b"", "is empty"),
        ("letter.pgn", b"Dear Sir,\n\nI resign.\n", "holds no games"),
    ]:
        (tmp_path / name).write_bytes(content)
        code, said, paths = chess(source=str(tmp_path / name))
        assert (code, paths) == (2, [])
        assert message in said
        assert "Traceback" not in said


def test_a_missing_address_is_one_sentence_and_a_cut_connection_keeps_the_games_so_far(
    chess, games, monkeypatch
) -> None:
    monkeypatch.setattr(sources, "RETRY_PAUSES_S", (0.01,))
    with serving(status(404)) as server:
        code, said, paths = chess(source=server.url)
    assert (code, paths) == (2, [])
    assert "HTTP status 404" in said
    content = games.read_bytes()
    with serving(whole(content, len(content) * 9 // 10)) as server:
        code, said, paths = chess(source=server.url)
    assert code == 0
    assert re.search(r"warning: The connection to .* was lost .*the \d\d games taken until then are kept", said)
    data = Result.load(paths[0]).provenance["data"]
    assert not data["complete"]
    assert "was lost" in data["notes"][0]


def code_in_the_readme(word: str) -> str:
    """The only block of Python in the README that holds a word."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if word in block]
    return code


def test_the_data_frame_in_the_readme_is_made_of_the_committed_results() -> None:
    code = code_in_the_readme("frame")
    assert len(code.strip().splitlines()) <= 7
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "stories260K" in shown.stdout


def test_the_first_word_names_a_preset_and_an_unknown_one_is_refused() -> None:
    def run(*words: str) -> subprocess.CompletedProcess:
        return ran([sys.executable, "-m", "tests.chess_test", *words])

    helped = run("pocket", "--help")
    assert helped.returncode == 0 and "games.pgn.zst" in helped.stdout
    assert "Preset: pocket" in run("--help").stdout
    refused = run("rocket")
    assert refused.returncode == 2 and "there is no preset 'rocket'; known: pocket" in refused.stderr


def test_the_experiment_in_the_readme_runs(folders, tmp_path) -> None:
    (tmp_path / "capitals.py").write_text(code_in_the_readme("Capitals"))
    (tmp_path / "lines.txt").write_text("".join(f"line number {i} of the text\n" for i in range(60)))
    options = ["--models", str(folders["neox"]), "--n-tokens", "0", "2", *QUICK, "--seeds", "0"]
    shown = ran([sys.executable, "-m", "capitals", *options], {**os.environ, "PYTHONPATH": str(ROOT)}, tmp_path)
    assert shown.returncode == 0, shown.stderr
    results = [Result.load(path) for path in tmp_path.glob("results/capitals/**/*.json")]
    assert sorted((r.n_tokens, r.config.get("control", "")) for r in results) == [
        (0, ""),
        (0, "scrambled"),
        (2, ""),
        (2, "half"),
        (2, "scrambled"),
    ]
    assert len(results[0].held_out.documents) == 6
    (own,) = [r for r in results if r.n_tokens and not r.config.get("control")]
    assert own.samples[0]["text"].startswith("LINE")


def test_a_result_that_is_not_json_is_named_and_force_replaces_it(chess) -> None:
    _, _, paths = chess()
    paths[0].write_text("<html>")
    code, said, _ = chess()
    assert code == 2
    assert f"{paths[0]} is not JSON" in said
    assert chess("--force")[0] == 0
    assert Result.load(paths[0]).n_tokens == 0


@pytest.mark.parametrize("unknown_first", [False, True])
def test_an_unknown_model_does_not_lose_the_others(chess, folders, monkeypatch, unknown_first: bool) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    models = [str(folders["neox"]), "nobody/no-such-model"]
    code, said, paths = chess("--models", *(models[::-1] if unknown_first else models))
    assert code == 2
    assert "'nobody/no-such-model'" in said
    assert len(paths) == 2


def test_half_the_steps_are_tried_with_the_first_seed_and_are_what_so_few_steps_are_alone(chess) -> None:
    more = ("--seeds", "0", "1", "--train.steps", "4", "--controls", "half")
    code, said, paths = chess(*more)
    assert code == 0
    results = [Result.load(path) for path in paths]
    (half,) = [r for r in results if r.config.get("control") == "half"]
    assert len(results) == 4 and (half.n_tokens, half.seed, half.curve[-1]["step"]) == (2, 0, 2)
    assert half.scores == {} and half.sizes == []
    assert "search " in said and "twice the steps gained at most" in said
    (alone,) = [r for r in map(Result.load, set(chess("--train.steps", "2")[2]) - set(paths)) if r.n_tokens]
    assert alone.held_out == half.held_out and alone.baselines == half.baselines


def test_controls_that_know_nothing_are_curves_of_their_own_beside_the_model(chess) -> None:
    _, _, own = chess()
    losses = [Result.load(path).held_out.loss for path in own]
    code, said, paths = chess("--controls", "scrambled", "untrained")
    assert code == 0 and "2 of 6 runs were finished before" in said
    results = [Result.load(path) for path in paths]
    by_control = {r.config.get("control", ""): r for r in results if r.n_tokens == 2}
    assert set(by_control) == {"", "scrambled", "untrained"}
    assert [Result.load(path).held_out.loss for path in own] == losses
    assert len({r.provenance["model"]["weights"] for r in by_control.values()}) == 3
    assert len({tuple(r.held_out.documents) for r in results}) == 1  # the same documents: all pairs
    assert len({r.held_out.loss for r in by_control.values()}) == 3
    named = sorted(curve.difference for curve in curves(results))
    assert named == ["", "scrambled control", "untrained control"]
    table = said[said.index("held-out loss") :]
    assert "scrambled" in table and "untrained" in table
    assert "untrained control" not in table  # they are columns beside the model, not tables of their own


@pytest.mark.parametrize(("flat_at", "chosen"), [(4, 2), (8, 4), (99, 8)])
def test_steps_are_doubled_with_one_seed_until_that_is_of_no_use_then_all_is_measured(
    chess, monkeypatch, flat_at: int, chosen: int
) -> None:
    def is_flat(shorter: list[Result], longer: list[Result]) -> bool:
        steps = [r[0].config["train"]["steps"] for r in (shorter, longer)]
        assert steps[1] == 2 * steps[0] and {r.seed for r in longer} == {0}
        return steps[1] >= flat_at

    monkeypatch.setattr(measure, "is_flat", is_flat)
    more = ("--seeds", "0", "1", "--controls", "scrambled", "--train.steps", "2", "--doublings", "2")
    code, said, paths = chess(*more)
    assert code == 0
    results = [Result.load(path) for path in paths]
    complete = {r.config["train"]["steps"] for r in results if r.config.get("control")}
    assert complete == {chosen}
    assert {r.config["train"]["steps"] for r in results} == {2 * 2**i for i in range(3) if 2**i < flat_at}
    assert sum(r.config["train"]["steps"] == chosen for r in results) == 6  # 0 and 2 tokens, 2 seeds, control
    shown = said[said.index("chess on") :]
    assert f"{chosen} steps of" in shown
    assert ("more than 8 steps may still help" in " ".join(said.split())) == (flat_at == 99)


def test_data_baselines_are_counted_on_the_documents_that_the_seed_was_trained_on(chess) -> None:
    _, _, paths = chess("--seeds", "0", "1")
    names = ["uniform", "unigram"]
    for given in ("", " given conditions"):
        names += [f"{name}{given}" for name in ("bigram", "trigram", "5-gram")]
    results = [Result.load(path) for path in paths]
    of_seed = {r.seed: r.baselines for r in results}
    assert list(of_seed[0]) == names
    assert of_seed[0]["uniform"] == of_seed[1]["uniform"]
    assert of_seed[0]["bigram"]["loss"] != of_seed[1]["bigram"]["loss"]
    losses, counts = of_seed[0]["bigram"]["document_losses"], results[0].held_out.document_scored
    assert of_seed[0]["bigram"]["loss"] == pytest.approx(sum(losses) / sum(counts))


def test_what_is_added_to_a_curve_has_the_anchor_of_its_finished_runs(chess) -> None:
    """A LoRA of another seed would be another anchor. Forced, all is measured anew."""
    lora = ("--anchor", "lora")
    _, _, paths = chess(*lora)
    before = [Result.load(path) for path in paths]
    assert before[0].anchor["name"].startswith("a LoRA")
    marked = {**before[0].anchor, "loss": 0.125}
    for result, path in zip(before, paths, strict=True):
        replace(result, anchor=marked).save(path)
    _, _, paths = chess(*lora, "--seeds", "1")
    assert [Result.load(path).anchor for path in paths] == [marked] * 4
    of_text = chess("--anchor", "text:a game")[2]
    assert {Result.load(path).anchor["name"] for path in of_text if path not in paths} == {"the text 'a game'"}
    chess(*lora, "--seeds", "1", "--force")
    assert {Result.load(path).anchor["loss"] for path in paths if "seed-0" in path.name} == {0.125}
    assert 0.125 not in {Result.load(path).anchor["loss"] for path in paths if "seed-1" in path.name}


def test_no_result_depends_on_the_token_budget_or_on_runs_at_once(chess) -> None:
    _, _, paths = chess()
    losses = [Result.load(p).held_out.loss for p in paths]
    _, _, again = chess("--force", "--token-budget", "1", "--runs-at-once", "1")
    assert again == paths
    assert [Result.load(p).held_out.loss for p in paths] == pytest.approx(losses, abs=1e-5)


def test_prompts_bring_move_text_out_of_a_real_model_on_real_games(data, tmp_path) -> None:
    sweep = tests.chess_test.DEFAULT
    recipe = replace(sweep.train, steps=40, batch_size=4, max_tokens=64, eval_documents=64, n_evaluations=0)
    task = replace(sweep.task, games=str(data / "chess/lichess_19k.pgn.zst"), continued_from=(4,))
    models = (str(data / "models/stories260K"),)
    sweep = replace(
        sweep, models=models, task=task, train=recipe, n_tokens=(0, 4), seeds=(0, 1, 2), controls=(), out=tmp_path
    )
    (curve,) = curves(run(sweep))
    nothing, prompted = curve.points
    assert prompted.gain_over(nothing)["interval"][0] > 3  # nats per token, paired by game
    assert max(prompted.losses) < nothing.results[0].held_out.interval[0]
    assert prompted.results[0].provenance["data"]["train_games"] > 16_000


@pytest.mark.parametrize(
    ("name", "usual"),
    [("GOMP_SPINCOUNT", "10000"), ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"), ("LRU_CACHE_CAPACITY", "64")],
)
@pytest.mark.parametrize("before", [None, "77"])
def test_libraries_are_settled_unless_the_user_has_done_so(monkeypatch, name: str, usual: str, before) -> None:
    monkeypatch.setattr(sys, "argv", ["chess_test", "--help"])
    monkeypatch.delenv(name, raising=False)
    if before:
        monkeypatch.setenv(name, before)
    with pytest.raises(SystemExit):
        main(tests.chess_test.DEFAULT, "")
    assert os.environ[name] == (before or usual)


# --- what goes wrong in a task ---


@dataclass(frozen=True)
class Scored(Autoregressive):
    """Ordinary text with any scores."""

    behaviour: ClassVar[Callable[[], TaskScores]]
    known: ClassVar[dict[str, object]] = {}

    def facts(self, encoding: Encoding) -> dict[str, object]:
        return {**super().facts(encoding), **self.known}

    def score(self, prompted: object, held_out: object) -> TaskScores:
        return type(self).behaviour()


@pytest.fixture
def scored(folders, tmp_path, monkeypatch) -> Callable[..., list[Result]]:
    """A function that runs a sweep of two lengths of a task whose scores are what a function returns."""
    lines = "".join(f'{{"text": "Document {i} of many."}}\n' for i in range(60))
    task = Scored(text=(write(tmp_path / "a.jsonl", lines),))
    recipe = TrainConfig(
        steps=2, batch_size=2, max_tokens=24, n_evaluations=0, eval_documents=3, validation_documents=2
    )

    def run_with(behaviour: Callable[[], TaskScores], samples: bool = True, **known: object) -> list[Result]:
        monkeypatch.setattr(Scored, "behaviour", staticmethod(behaviour), raising=False)
        monkeypatch.setattr(Scored, "known", known)
        models = (str(folders["neox"]),)
        return run(Sweep("scored", task, models, (0, 2), (0,), (), recipe, out=tmp_path, samples=samples))

    return run_with


def fails(error: BaseException) -> Callable[[], TaskScores]:
    def score() -> TaskScores:
        raise error

    return score


SCORE = {"value": np.float32(0.5), "interval": [np.float64(0.25), 1], "n": np.int64(4)}
GOOD = TaskScores({"right": SCORE, "by_kind": {"a": SCORE}}, [{"kind": "text", "text": "a", "continuation": "b"}])


@pytest.mark.parametrize("samples", [True, False])
def test_samples_and_pictures_are_kept_unless_they_are_not_wanted(scored, tmp_path, samples: bool) -> None:
    drawn = replace(GOOD, pictures={"drawn": np.zeros((2, 2, 3), np.uint8)})
    for result in scored(lambda: drawn, samples):
        assert result.scores["right"]["value"] == 0.5
        assert [sample["continuation"] for sample in result.samples] == ["b"] * samples
    assert len(list(tmp_path.rglob("*.drawn.png"))) == 2 * samples
    logged = b"".join(path.read_bytes() for path in tmp_path.rglob("events*"))
    assert (b"continuation" in logged) == samples


def test_scores_of_numpy_are_saved(scored) -> None:
    for result in scored(lambda: GOOD, seen=np.int64(3), shares=np.array([0.5, 0.5])):
        assert result.scores["right"] == {"value": 0.5, "interval": [0.25, 1], "n": 4}
        assert "not_scored" not in result.provenance
        assert result.provenance["data"]["seen"] == 3 and result.provenance["data"]["shares"] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (fails(ZeroDivisionError("division by zero")), "ZeroDivisionError: division by zero"),
        (fails(SoftPromptsError("there is no [b]room[/b].")), "SoftPromptsError: there is no [b]room[/b]."),
        (lambda: None, "AttributeError: 'NoneType' object has no attribute 'scores'"),
        (
            lambda: replace(GOOD, scores={"right": {**SCORE, "value": float("nan")}}),
            "a score is or holds 'nan' (float)",
        ),
        (lambda: replace(GOOD, scores={"right": {**SCORE, "n": {1}}}), "a score is or holds '{1}' (set)"),
        (lambda: replace(GOOD, scores={"right": 0.5}), "a result cannot hold them: at scores/right, 0.5 is not"),
        (lambda: replace(GOOD, samples=[{"kind": 3}]), "a result cannot hold them: at samples/0/kind, 3 is not"),
        (lambda: replace(GOOD, pictures={"flat": np.zeros(5, np.uint8)}), "ValueError: buffer is not large enough"),
    ],
)
def test_a_score_that_fails_costs_the_scores_and_not_the_run(scored, capsys, behaviour, reason: str) -> None:
    results = scored(behaviour)
    said = " ".join(capsys.readouterr().err.split())
    assert [r.n_tokens for r in results] == [0, 2]
    for result in results:
        assert (result.scores, result.samples) == ({}, [])
        assert reason in result.provenance["not_scored"]
        assert result.held_out.loss > 0
    warning = "warning: scored on neox, 2 tokens, seed 0 is saved without scores, because Scored.score failed ("
    assert warning in said and " ".join(reason.split()) in said
    again = scored(fails(KeyboardInterrupt()))  # not called: the runs are finished
    assert [r.held_out for r in again] == [r.held_out for r in results]


def test_rounding_that_fails_costs_the_bits_and_not_the_run(scored, capsys, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr(save, "rounded_sizes", refuse)
    results = scored(lambda: GOOD)
    said = " ".join(capsys.readouterr().err.split())
    assert [(r.n_tokens, r.sizes) for r in results] == [(0, []), (2, [])]
    for result in results:
        assert result.provenance["not_rounded"] == "RuntimeError: no kernel for this device"
        assert result.scores["right"]["value"] == 0.5 and result.held_out.loss > 0
    assert "2 tokens, seed 0 is saved without its bits, because rounding its prompt failed (RuntimeError: no" in said


def test_an_interrupted_score_stops_the_sweep(scored, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        scored(fails(KeyboardInterrupt()))
    assert not list(tmp_path.glob("results/**/*.json"))


def test_facts_that_a_result_cannot_record_are_refused_before_training(scored, monkeypatch) -> None:
    monkeypatch.setattr(loop, "train", None)  # a call of it would raise an error
    with pytest.raises(SoftPromptsError, match=r"what Scored.facts returns is or holds .*\(set\), which a result"):
        scored(lambda: GOOD, seen={3})


def test_samples_are_as_long_as_the_context_allows(neox) -> None:
    """The model has 128 positions; 80 of the prompt and 40 of the start leave 8."""
    for n_tokens, start, n_new in ((80, 40, 8), (0, 40, 48), (88, 40, 0)):
        prompt = SoftPrompt(torch.zeros(n_tokens, 32))
        held_out = [Example(np.full(2 * start, 5), np.full(2 * start, IGNORE), "d")]
        bench = Bench(neox, Encoding(neox.tokenizer, neox.separator, 80), held_out, 10**6)
        asked = Asked(bench, prompt)
        continuations(asked, held_out)  # the model refuses more than its context
        assert asked.lengths == [n_new]


@dataclass(frozen=True)
class Asked(PromptedModel):
    """Keeps how many new tokens were asked for."""

    lengths: list[int] = field(default_factory=list)

    def generate(self, starts, n_new, *rest):
        self.lengths.append(n_new)
        return super().generate(starts, n_new, *rest)


def test_help_teaches_in_a_process_of_its_own() -> None:
    shown = subprocess.run([sys.executable, "-m", "tests.chess_test", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    options = ("--models", "--n-tokens", "--games", "--test-games", "--train.eval-documents", "--force")
    for words in ("How far is playing chess", *options):
        assert words in shown.stdout


@pytest.mark.parametrize("script", [tests.chess_test, exploratory_tests.recipe_test], ids=lambda s: s.__name__)
def test_every_experiment_runs_two_steps(script, folders, games, tmp_path) -> None:
    """Importing a script defines its DEFAULT and does nothing else."""
    sweep, models = script.DEFAULT, (str(folders["llama"]),)
    recipe = replace(sweep.train, steps=2, batch_size=2, max_tokens=48, eval_documents=4, n_evaluations=0)
    task = replace(sweep.task, games=str(games))
    sweep = replace(
        sweep, models=models, task=task, n_tokens=(0, 1), seeds=(0,), controls=(), train=recipe, out=tmp_path
    )
    results = run(sweep)
    assert len(results) == 2 * len(sweep.recipes)
    assert all(r.experiment == script.DEFAULT.experiment for r in results)
