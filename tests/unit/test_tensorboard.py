"""TensorBoard logs: what TensorBoard reads back, and disks that are full."""

import os
import threading

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from soft_prompts.tasks.base import Task
from soft_prompts.training.log import Logs
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run

RUN = Run("e", Task(), "m", 4, 0, TrainConfig(steps=20), "float32")


def read(folder) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    return found.Reload()


def points(found: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(e.step, pytest.approx(e.value)) for e in found.Scalars(name)]


def test_tensorboard_reads_back_what_was_written_also_while_the_run_goes_on(tmp_path) -> None:
    n_threads = threading.active_count()
    log = Logs(tmp_path).of(RUN)
    log.training(10, 2.5, 0.5, 0.1, 1.5, 1000.0)
    log.validation(10, 2.25)
    assert threading.active_count() == n_threads
    found = read(tmp_path / RUN.path)  # not closed yet
    assert points(found, "loss/train") == [(10, 2.5)] and points(found, "loss/validation") == [(10, 2.25)]
    assert points(found, "training/learning_rate") == [(10, 0.1)]
    log.samples(20, [{"kind": "text", "text": "a", "continuation": "b"}])
    log.pictures(20, {"board": np.zeros((4, 6, 3), np.uint8)})
    log.held_out(20, 2.0)
    log.final(RUN, 2.0, {"exact": {"value": 0.75}, "none": {"value": None}})
    log.close()
    found = read(tmp_path / RUN.path)
    assert points(found, "loss/held_out") == [(20, 2.0)] and points(found, "final/exact") == [(20, 0.75)]
    (picture,) = found.Images("pictures/board")
    assert (picture.step, picture.height, picture.width) == (20, 4, 6)
    (text,) = found.Tensors("samples/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "    text: a\n    continuation: b"
    assert found.PluginTagToContent("hparams")  # the tab that compares runs


def test_a_log_that_goes_on_holds_every_step_once(tmp_path) -> None:
    log = Logs(tmp_path).of(RUN)
    for step in (10, 20, 30):
        log.validation(step, float(step))
    log.close()
    log = Logs(tmp_path).of(RUN, done=20)
    log.validation(30, 31.0)
    log.close()
    assert points(read(tmp_path / RUN.path), "loss/validation") == [(10, 10.0), (20, 20.0), (30, 31.0)]
    Logs(tmp_path).of(RUN).close()  # anew
    assert "loss/validation" not in read(tmp_path / RUN.path).Tags()["scalars"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_said_once_and_stops_no_run(tmp_path, capfd, monkeypatch) -> None:
    log = Logs(tmp_path).of(RUN)
    log._writers["tensorboard"]._file = open("/dev/full", "wb")  # noqa: SIM115 - the log closes it
    for step in range(3):
        log.validation(step, 1.0)
        log.training(step, 1.0, 1.0, 1.0, 1.0, 1.0)
    log.samples(1, [{"text": "x" * 100_000}])
    log.close()
    said = " ".join(capfd.readouterr().err.split())
    assert "cannot be written (No space left on device); the run goes on without it." in said
    assert said.count("cannot be written") == 1  # nothing is told to a log that was given up
    assert "Traceback" not in said


def test_a_log_that_cannot_be_begun_stops_no_run(tmp_path, capfd) -> None:
    (tmp_path / "runs").write_text("in the way")
    log = Logs(tmp_path / "runs").of(RUN)
    log.validation(0, 1.0)
    log.final(RUN, 1.0, {})
    log.close()
    assert "cannot be written (Not a directory); the run goes on" in " ".join(capfd.readouterr().err.split())
