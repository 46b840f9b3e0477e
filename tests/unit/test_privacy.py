"""Where something lies on this machine, whose it is and how data are reached stays out of all files written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from soft_prompts.cli import run
from soft_prompts.options import without_paths
from soft_prompts.report.__main__ import write_report
from soft_prompts.report.collection import Filter, collect
from soft_prompts.report.export import write
from soft_prompts.results.record import Result
from soft_prompts.sweep import Sweep
from soft_prompts.tasks.autoregressive import Autoregressive
from soft_prompts.tasks.base import TaskScores
from soft_prompts.tasks.chess_moves import ChessMoves
from soft_prompts.training.checkpoint import Checkpoints
from soft_prompts.training.recipe import TrainConfig
from tests.unit.made_up import write_games
from tests.unit.test_results import result

SECRET = "xyzzy"
RECIPE = TrainConfig(steps=2, batch_size=2, max_tokens=32, n_evaluations=1, eval_documents=4, validation_documents=2)


class Unscored(Autoregressive):
    """Its score fails with the path of a file."""

    def score(self, prompted, held_out) -> TaskScores:
        raise FileNotFoundError(2, "No such file", str(Path(self.text[0]).parent / "missing.txt"))


@pytest.fixture
def home(folders, tmp_path) -> Path:
    """A folder of a secret name with a model, games and texts."""
    folder = tmp_path / f"user-{SECRET}"
    shutil.copytree(folders["neox"], folder / "models" / "mine")
    write_games(folder / "games.pgn", 60)
    (folder / "texts.jsonl").write_text("".join(f'{{"text": "Document {i} of many."}}\n' for i in range(60)))
    return folder


def test_no_written_file_holds_the_path_of_model_games_texts_or_anchor(home, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", SECRET)
    monkeypatch.setattr(Checkpoints, "forget", lambda *_: None)  # they are looked at, too
    model = str(home / "models" / "mine")
    tasks = {"chess": ChessMoves(games=str(home / "games.pgn")), "text": Unscored(text=(str(home / "texts.jsonl"),))}
    for name, task in tasks.items():
        anchor = f"model:{model}"
        run(Sweep(name, task, (model,), (0, 2), (0,), ("scrambled",), RECIPE, anchor, out=home, dtype="float32"))
    collection = collect([home / "results"], Filter())
    write_report(collection, (), home / "report")
    for kind in ("csv", "parquet"):
        write([r for curve in collection.curves for r in curve.results], kind, home / "report")
    folders = [home / part for part in ("results", "snapshots", "runs", "report")]
    written = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    suffixes = {p.suffix for p in written}
    assert {".json", ".safetensors", ".png", ".html", ".md", ".svg", ".csv", ".parquet"} <= suffixes
    assert any("tfevents" in p.name for p in written)
    assert {p.relative_to(home).parts[:2] for p in written} >= {("runs", "checkpoints"), ("runs", "cache")}
    for path in written:
        assert SECRET.encode() not in path.read_bytes(), path
        assert SECRET not in str(path.relative_to(home))
    unscored = [r for curve in collection.curves for r in curve.results if "not_scored" in r.provenance]
    said = "FileNotFoundError: [Errno 2] No such file: 'missing.txt'"
    assert {r.provenance["not_scored"] for r in unscored} == {said}
    named = {r.anchor["name"] for curve in collection.curves for r in curve.results if r.anchor}
    assert named == {"the model mine"}


def test_an_address_with_a_password_makes_a_config_without_it() -> None:
    from tests.unit.test_train import run as run_of

    task = ChessMoves(games=f"https://me:{SECRET}@host/a.pgn?key={SECRET}")
    assert SECRET not in json.dumps(run_of(1, task=task).config)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("no '/home/me/a b.txt' here", "no 'a b.txt' here"),
        ("at C:\\Users\\me\\x.pt: bad", "at x.pt: bad"),
        ("/tmp/x and /home/me/y.txt, /z", "x and y.txt, /z"),
        ("src/own/c.txt and ./d/e/f.txt", "src/own/c.txt and ./d/e/f.txt"),
        ("1/2 of a/b, 3 / 4 and 5%/6", "1/2 of a/b, 3 / 4 and 5%/6"),
    ],
)
def test_paths_in_a_sentence_are_shortened_to_their_last_part(said: str, kept: str, tmp_path) -> None:
    assert without_paths(said) == kept
    replace(result(), provenance={"not_scored": said}).save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json").provenance["not_scored"] == kept
