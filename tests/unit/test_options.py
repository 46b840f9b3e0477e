"""A result's identity: what it depends on, what it does not, and that options which come later leave it alone."""

import hashlib
import importlib
import json
from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soft_prompts.errors import SoftPromptsError
from soft_prompts.measure import finished, measure
from soft_prompts.options import added_later, option, recorded
from soft_prompts.pocket import SAMPLES
from soft_prompts.results.curve import curves
from soft_prompts.results.record import Result, result_files
from soft_prompts.sweep import Sweep, plan
from soft_prompts.tasks.base import Task
from soft_prompts.tasks.chess_moves import ChessMoves
from soft_prompts.tasks.repetition import Repetition
from soft_prompts.tasks.skip_tokens import SkipTokens
from soft_prompts.tasks.text import TextTask
from soft_prompts.training.recipe import TrainConfig
from tests.unit.made_up import encoding, write, write_games
from tests.unit.test_results import result

ROOT = Path(__file__).parents[2]
WITHOUT_SWEEP = {
    *("vocabulary_test", "prompt_generation_test", "soft_to_hard_test"),
    *("decay_test", "overlap_test", "attribution_test", "shared_dictionary_test", "metatoken_test"),
}
"""They are no sweeps, or their models do not ship; their own tests ask of their results what is asked here."""
EXPERIMENTS = sorted({path.stem for path in (ROOT / "tests").glob("*_test.py")} - WITHOUT_SWEEP)


def preset(experiment: str) -> Sweep:
    """What the committed results of an experiment were made with."""
    return replace(importlib.import_module(f"tests.{experiment}").POCKET, dtype="float32", device="cpu")


def with_a_new_field(options):
    """The same options as if a later version of their class had one more, at its default."""
    kind = type(options)
    later = make_dataclass(kind.__name__, [("invented", int, added_later(3))], bases=(kind,), frozen=True)
    return later(**{name: getattr(options, name) for name in (f.name for f in fields(kind))})


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_committed_results_are_found_as_finished_also_after_options_were_added(experiment: str) -> None:
    sweep = preset(experiment)
    later = replace(sweep, task=with_a_new_field(sweep.task), train=with_a_new_field(sweep.train))
    for model in sweep.models:
        runs, runs_later = plan(sweep, model), plan(later, model)
        assert all(finished(run, ROOT) for run in runs)
        assert [run.path for run in runs] == [run.path for run in runs_later]
        assert runs_later[0].task.invented == 3
        for changed in (replace(runs_later[0].task, invented=4), replace(runs_later[0].train, invented=4)):
            what = {"task": changed} if hasattr(changed, "examples") else {"train": changed}
            assert not finished(replace(runs_later[0], **what), ROOT)  # another setting is another result


def test_every_committed_result_lies_where_its_configuration_says() -> None:
    paths = result_files(ROOT / "results")
    assert len(paths) > 100
    for path in paths:
        config = json.dumps(json.loads(path.read_text())["config"], sort_keys=True)
        assert path.parent.name == hashlib.blake2b(config.encode(), digest_size=4).hexdigest()


def test_an_option_that_stands_as_before_it_existed_is_not_recorded() -> None:
    @dataclass(frozen=True)
    class Options:
        old: int = 1
        same: int = added_later(2)
        better: int = added_later(5, before=0)
        files: tuple[str, ...] = ()
        path: Path = Path("a/b.txt")

    assert recorded(Options()) == {"old": 1, "better": 5, "files": [], "path": "b.txt"}
    assert recorded(Options(same=3, better=0)) == {"old": 1, "same": 3, "files": [], "path": "b.txt"}
    assert option("max_tokens") == "max-tokens"


@dataclass(frozen=True)
class Anything(Task):
    file: str | Path = "x"
    text: str = "x"
    value: Any = 0

    file_options = ("file",)


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.arange(3), (0, 1, 2)),
        (range(3), (0, 1, 2)),
        ([np.int32(1), ["a", None]], (1, ("a", None))),
        ((np.str_("a"),), ("a",)),
    ],
)
def test_values_of_numpy_and_lists_are_recorded_as_python_s_own(value: Any, same: Any) -> None:
    given, plain = Anything(value=value), Anything(value=same)
    assert given == plain and hash(given) == hash(plain)
    assert json.dumps(given.recorded()) == json.dumps(plain.recorded())


@pytest.mark.parametrize(("name", "value"), [("skip", (1, -1)), ("max_documents", -3)])
def test_counts_below_0_are_refused_when_a_task_is_made(name: str, value: Any) -> None:
    with pytest.raises(SoftPromptsError, match=rf"--{name.replace('_', '-')} holds -\d, but must be at least 0"):
        SkipTokens(**{name: value})
    SkipTokens(**{name: (0,) if name == "skip" else 0})


def test_counts_of_numpy_make_the_same_runs() -> None:
    sweep = preset("chess_test")
    n_tokens, seeds = np.array(sweep.n_tokens), [np.int64(seed) for seed in sweep.seeds]
    train = replace(sweep.train, steps=np.int64(sweep.train.steps), lr=np.float64(sweep.train.lr))
    task = replace(sweep.task, max_games=np.int64(sweep.task.max_games), continued_from=[*sweep.task.continued_from])
    same = replace(sweep, n_tokens=n_tokens, seeds=seeds, train=train, task=task, out=str(sweep.out))
    assert same == sweep
    assert [run.path for run in plan(same, "pocket")] == [run.path for run in plan(sweep, "pocket")]


def test_a_path_and_its_text_are_the_same_option(tmp_path) -> None:
    file = tmp_path / "deep" / "a.txt"
    for path in (file, tmp_path / "none.txt"):
        of_path, of_text = Anything(file=path, text=path), Anything(file=str(path), text=str(path))
        assert of_path.recorded() == of_text.recorded()
        assert of_path.text == str(path)
    write(tmp_path / "a.jsonl", "".join(f'{{"text": "document {i}"}}\n' for i in range(60)))
    of_path, of_text = (TextTask(text=(kind(tmp_path / "a.jsonl"),)) for kind in (Path, str))
    assert of_path == of_text and of_path.facts(encoding()) == of_text.facts(encoding())
    games = write_games(tmp_path / "games.pgn", 60)
    of_path, of_text = ChessMoves(games=games), ChessMoves(games=str(games))
    assert of_path == of_text and of_path.facts(encoding()) == of_text.facts(encoding())
    assert of_path.recorded()["games"] == "games.pgn"
    assert Sweep("x", of_path, models=(tmp_path,), n_tokens=(0,)).models == (str(tmp_path),)


@pytest.mark.parametrize("value", [{1, 2}, b"x", float("nan"), (1, float("inf")), Anything(), {1: 2}, print])
def test_an_option_that_json_cannot_hold_is_refused_before_anything_is_done(value: Any) -> None:
    sweep = Sweep("x", Anything(value=value), models=("pocket",), n_tokens=(0,), dtype="float32", device="cpu")
    message = r"the option value of Anything is or holds .*which a result cannot record; give text, finite numbers"
    with pytest.raises(SoftPromptsError, match=message):
        measure(sweep, plan(sweep, "pocket"))


def test_results_from_before_and_after_an_option_share_a_curve() -> None:
    before = {"task": {"name": "T"}, "train": recorded(TrainConfig())}
    after = {"task": {"name": "T"}, "train": recorded(with_a_new_field(TrainConfig()))}
    changed = {"task": {"name": "T"}, "train": recorded(replace(with_a_new_field(TrainConfig()), invented=4))}
    assert len(curves([result(0, config=before), result(1, config=after)])) == 1
    assert len(curves([result(0, config=before), result(1, config=changed)])) == 2


def test_identity_does_not_depend_on_the_working_folder(tmp_path, monkeypatch) -> None:
    sweep = preset("repetition_test")
    sweep = replace(sweep, task=replace(sweep.task, strings=("a" * 300, "deep/pee")))  # longer than any file name
    elsewhere = [run.path for run in plan(sweep, "pocket")]
    (tmp_path / "deep").mkdir()
    for name in ("cosine", "pee", "deep/pee", "vocabulary", "pocket.txt"):
        (tmp_path / name).write_text("a file named like an option")
    monkeypatch.chdir(tmp_path)
    again = [replace(run, seed=run.seed) for run in plan(sweep, "pocket")]  # nothing remembered
    assert [run.path for run in again] == elsewhere
    assert again[-1].config["task"]["strings"] == ["deep/pee"]


def test_a_file_is_recorded_by_its_name_and_content_wherever_it_lies(tmp_path) -> None:
    sweep = preset("repetition_test")
    copy = tmp_path / "elsewhere" / Path(sweep.task.text[0]).name
    copy.parent.mkdir()
    copy.write_bytes(Path(sweep.task.text[0]).read_bytes())
    moved = replace(sweep, task=replace(sweep.task, text=(str(copy),)))
    assert [run.path for run in plan(moved, "pocket")] == [run.path for run in plan(sweep, "pocket")]
    copy.write_bytes(b"\n" + copy.read_bytes())
    assert plan(moved, "pocket")[0].path != plan(sweep, "pocket")[0].path


@pytest.mark.parametrize(
    ("options", "label", "control_of"),
    [
        ({"skip": [2]}, "skip 2", None),
        ({"strings": ["pee"], "control": [False]}, "repetition of 'pee'", None),
        ({"strings": ["pee"], "control": [True]}, "random tokens, as many as 'pee'", {"control": [False]}),
        ({"width": 8}, "", None),
    ],
)
def test_older_files_say_what_they_are_as_new_ones_do(tmp_path, options, label: str, control_of) -> None:
    path = tmp_path / "tokens-0001-seed-0.json"
    config = {"task": {"name": "T", **options}, "train": {"steps": 1, "batch_size": 1}}
    result(1, config=config, task="Repetition", samples=[{"text": "a", "continuation": " pee pee"}]).save(path)
    values = json.loads(path.read_text())
    del values["checksum"]
    del values["variant"]
    path.write_text(json.dumps({**values, "schema": 2}))
    read = Result.load(path)
    assert (read.variant["label"], read.variant["control_of"], read.schema) == (label, control_of, 4)
    assert read.samples[0]["kind"] == "repetition"
    assert read.samples[0].get("wanted", "").startswith(" pee pee") == (options.get("control") == [False])


@pytest.mark.parametrize("name", ["batch_size", "eval_documents", "validation_documents"])
def test_recipes_that_are_compared_are_measured_on_the_same_documents(name: str) -> None:
    """They share forward passes and one bench, so a recipe of its own here would be recorded and not followed."""
    with pytest.raises(SoftPromptsError, match=f"recipes trained together share {name}"):
        replace(preset("chess_test"), recipes=({}, {name: 7})).check()
    replace(preset("chess_test"), recipes=({}, {"lr": 0.3, "steps": 7, "n_evaluations": 1})).check()


def test_controls_may_have_the_first_seeds_only() -> None:
    sweep = Sweep(
        "test", Repetition(text=(str(SAMPLES),), strings=("pee",), targets=(0,)), ("pocket",), (0, 2), seeds=(3, 1, 2)
    )
    assert {(r.control, r.seed) for r in plan(replace(sweep, control_seeds=2), "pocket") if r.n_tokens} == {
        *(("", seed) for seed in (3, 1, 2)),
        *(("scrambled", seed) for seed in (3, 1)),
        ("half", 3),
    }
    of_all = [r.path for r in plan(sweep, "pocket")]
    assert {r.path for r in plan(replace(sweep, control_seeds=1), "pocket")} < set(of_all)  # the same curves
    with pytest.raises(SoftPromptsError, match="--control-seeds is 0"):
        replace(sweep, control_seeds=0).check()
