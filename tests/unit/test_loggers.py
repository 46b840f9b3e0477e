"""What --log names: trackio and Weights & Biases read back what was written, and nothing lies elsewhere.

Both are no requirements: their tests run where they are installed. No network is used.
"""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from soft_prompts.errors import SoftPromptsError
from soft_prompts.sweep import Sweep, plan
from soft_prompts.tasks.base import Task
from soft_prompts.training import wandb as ours
from soft_prompts.training.log import LOGGERS, Logs
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run

RUN = Run("e", Task(), "m", 4, 0, TrainConfig(steps=30, lr=0.25), "float32")
NAME = "/".join(RUN.path.parts[1:])
OTHERS = ("trackio", "wandb")
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=OTHERS)
def logger(request, monkeypatch) -> str:
    """The name of an installed logger, which is told nothing by the environment."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):  # which it sets: they are put back behind the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", os.devnull)  # nobody is logged in
    return request.param


def curves(folder: Path, logger: str, run: Run = RUN) -> dict[str, dict[int, float]]:
    """Name -> step -> value, of all that a logger holds of a run; later rows of a step come last."""
    found: dict[str, dict[int, float]] = {}
    for step, values in (_of_trackio if logger == "trackio" else _of_wandb)(folder, run):
        for name, value in values.items():
            found.setdefault(name, {})[step] = value
    return found


def _of_trackio(folder: Path, run: Run) -> Iterator[tuple[int, dict]]:
    from trackio import sqlite_storage

    sqlite_storage.TRACKIO_DIR = folder.resolve() / "trackio"
    for row in sqlite_storage.SQLiteStorage.get_logs("e", "/".join(run.path.parts[1:])):
        yield row.pop("step"), {k: v for k, v in row.items() if k != "timestamp"}


def _of_wandb(folder: Path, run: Run) -> Iterator[tuple[int, dict]]:
    """All of W&B's files of a run, in the order in which they were made."""
    for path in sorted((folder / run.path / "wandb").glob("offline-run-*/run-*.wandb")):
        for record in _finished(path):
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            if items:
                step = items.pop("_step")
                yield step, {k: v for k, v in items.items() if k not in ("_timestamp", "_runtime")}


def _finished(path: Path) -> list:
    """The records of a finished run. W&B's process writes the last ones a moment later."""
    deadline = time.monotonic() + 60
    while not (found := list(_records(path))) or found[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < deadline, "the run did not end"
        time.sleep(0.01)
    return found


def _records(path: Path) -> Iterator:
    """The records of a file of W&B: blocks of 32 KiB of LevelDB's log format, behind 7 bytes of W&B's own."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32_768 - at % 32_768 < 7:  # no room for a header: the block is filled up
            at += 32_768 - at % 32_768
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        whole, at = whole + content[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def told(log) -> None:
    """All that a run tells its log, over 30 steps."""
    log.validation(0, 3.0)
    log.training(10, 2.5, 0.5, 0.1, 1.5, 1000.0)
    log.validation(10, 2.25)
    log.held_out(30, 2.0)
    log.samples(30, [{"kind": "text", "text": "a", "continuation": "b"}])
    log.scores(30, {"exact": {"value": 0.75}, "none": {"value": None}})
    log.final(RUN, 2.0, {"exact": {"value": 0.75}, "none": {"value": None}})
    log.close()


def test_every_logger_holds_the_same_curves_by_the_same_names(logger: str, tmp_path) -> None:
    other = replace(RUN, seed=1)
    both = [Logs(tmp_path, (logger,)).of(run) for run in (RUN, other)]  # many runs are trained together
    both[1].validation(10, 9.0)
    told(both[0])
    both[1].close()
    found = curves(tmp_path, logger)
    text = found.pop("samples")[30]
    assert (text if isinstance(text, str) else text["_value"]) == "    text: a\n    continuation: b"
    assert found == {
        "loss/validation": {0: 3.0, 10: 2.25},
        "loss/train": {10: 2.5},
        "training/learning_rate": {10: 0.1},
        "training/gradient_norm": {10: 0.5},
        "training/prompt_norm_over_vocabulary_norm": {10: 1.5},
        "speed/data_tokens_per_second": {10: 1000.0},
        "loss/held_out": {30: 2.0},
        "scores/exact": {30: 0.75},
        "final/held_out_loss": {30: 2.0},
        "final/exact": {30: 0.75},
    }
    assert curves(tmp_path, logger, other) == {"loss/validation": {10: 9.0}}
    told(Logs(tmp_path / "too").of(RUN))
    assert set(found) == tensorboard_names(tmp_path / "too" / RUN.path)


def tensorboard_names(folder: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return set(EventAccumulator(str(folder)).Reload().Tags()["scalars"])


def test_the_options_of_a_run_are_with_its_curves(logger: str, tmp_path) -> None:
    told(Logs(tmp_path, (logger,)).of(RUN))
    if logger == "trackio":
        import trackio

        (of,) = trackio.Api().runs("e")
        found = of.config
        assert of.name == NAME
    else:
        (path,) = (tmp_path / RUN.path).glob("wandb/offline-run-*/run-*.wandb")
        of = next(r.run for r in _finished(path) if r.WhichOneof("record_type") == "run")
        found = {item.key: json.loads(item.value_json) for item in of.config.update}
        assert (of.project, of.display_name) == ("e", NAME)
    assert (found["model"], found["n_tokens"], found["seed"], found["lr"], found["steps"]) == ("m", 4, 0, 0.25, 30)


def test_a_log_that_goes_on_is_the_same_run_and_one_anew_holds_nothing_of_before(logger: str, tmp_path) -> None:
    logs = Logs(tmp_path, (logger,))
    for done, steps in ((None, (10, 20)), (10, (20, 30))):
        log = logs.of(RUN, done=done)
        for step in steps:
            log.validation(step, float(step))
        log.close()
    assert curves(tmp_path, logger) == {"loss/validation": {10: 10.0, 20: 20.0, 30: 30.0}}
    if logger == "trackio":
        assert len(list(_of_trackio(tmp_path, RUN))) == 3  # what was computed again is there once
    else:
        begun = [path.stem for path in (tmp_path / RUN.path / "wandb").glob("offline-run-*/run-*.wandb")]
        assert len(begun) == 2 and begun[0] == begun[1]
    log = logs.of(RUN)
    log.validation(5, 5.0)
    log.close()
    assert curves(tmp_path, logger) == {"loss/validation": {5: 5.0}}


def test_further_starts_have_curves_of_their_own(logger: str, tmp_path) -> None:
    logs = [Logs(tmp_path, (logger,)).of(RUN, start) for start in (0, 1)]
    for start, log in enumerate(logs):
        log.validation(10, float(start))
        log.close()
    assert curves(tmp_path, logger) == {"loss/validation": {10: 0.0}}


def test_a_logger_that_cannot_write_is_named_once_and_the_others_go_on(logger: str, tmp_path, capfd) -> None:
    log = Logs(tmp_path, (logger, "tensorboard")).of(RUN)

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    log._writers[logger].numbers = fails
    told(log)
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("(No space left on device); the run goes on without it.") == 1 and f"the {logger} log" in said
    assert "loss/held_out" in tensorboard_names(tmp_path / RUN.path)


def test_a_folder_that_cannot_be_made_stops_no_run(logger: str, tmp_path, capfd) -> None:
    (tmp_path / "runs").write_text("in the way")
    told(Logs(tmp_path / "runs", (logger,)).of(RUN))
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("cannot be written (") == 1 and "the run goes on without it" in said
    assert (tmp_path / "runs").read_text() == "in the way"


SCRIPT = """
import sys
import time
from pathlib import Path
from tests.unit.test_loggers import RUN, told
from soft_prompts.training.log import Logs
told(Logs(Path(sys.argv[1]), (sys.argv[2],)).of(RUN))
"""


def test_nothing_is_written_elsewhere_and_nothing_is_said(logger: str, tmp_path) -> None:
    for name in ("home", "temporary", "here", "runs"):
        (tmp_path / name).mkdir()
    paths = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary")}
    python = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "runs"), logger],
        cwd=tmp_path / "here",
        env={**os.environ, **paths, **python, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"runs"}


def test_a_server_that_cannot_be_reached_is_said_once_and_the_logs_are_offline(tmp_path, monkeypatch, capfd) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setattr(ours, "SERVER", ours.Server())
    monkeypatch.setenv("WANDB_MODE", "online")
    real = wandb.init

    def away(**options: object) -> object:
        if options.get("mode") != "offline":
            raise wandb.errors.CommError("no such host")
        return real(**options)

    monkeypatch.setattr(wandb, "init", away)
    for seed in (0, 1):
        log = Logs(tmp_path, ("wandb",)).of(replace(RUN, seed=seed))
        log.validation(10, 1.0)
        log.close()
        assert curves(tmp_path, "wandb", replace(RUN, seed=seed)) == {"loss/validation": {10: 1.0}}
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("Weights & Biases takes no logs (no such host); they are kept offline") == 1


def sweep(log: str, tmp_path: Path) -> Sweep:
    return Sweep("e", Task(), ("m",), (0, 1), out=tmp_path, log=log)


def test_what_logs_is_asked_for_by_names_with_commas(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", pytest)  # any package that is installed
    assert sweep("tensorboard", tmp_path).logs == Logs(tmp_path / "runs", ("tensorboard",))
    assert sweep("tensorboard,trackio", tmp_path).logs.loggers == ("tensorboard", "trackio")
    assert sweep("none", tmp_path).logs.loggers == ()
    assert plan(sweep("none", tmp_path), "pocket") == plan(sweep("tensorboard", tmp_path), "pocket")  # no other result
    with pytest.raises(SoftPromptsError, match="--log is 'tensorbord', but must be some of tensorboard, tra"):
        sweep("tensorbord", tmp_path).check()


def test_a_logger_that_is_not_installed_is_named_before_anything_begins(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "wandb").mkdir()  # W&B leaves such a folder where it was used
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in OTHERS:
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(SoftPromptsError, match=f"--log {name} needs its package: pip install {LOGGERS[name]}"):
            sweep(name, tmp_path).check()


def test_how_curves_are_looked_at_is_said_of_each_logger(tmp_path) -> None:
    shown = Logs(Path("runs"), ("tensorboard", "trackio", "wandb")).shown(Path("chess", "pocket", "0123abcd"))
    assert "curves: tensorboard --logdir runs/chess/pocket/0123abcd\n" in shown
    assert "curves: TRACKIO_DIR=runs/trackio trackio show --project chess\n" in shown
    assert "wandb sync $(find runs/chess/pocket/0123abcd -type d -name 'offline-run-*')\n" in shown
    assert Logs(Path("runs"), ()).shown(Path("chess")) == ""
