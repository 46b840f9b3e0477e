"""An interrupted training goes on to the same end, to the bit, wherever it was stopped."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as save_safetensors

from soft_prompts.console import SIGNALS, Interrupted
from soft_prompts.data.documents import Encoding
from soft_prompts.engine.prompted import Bench
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import checksum
from soft_prompts.models.controls import control_of
from soft_prompts.models.loading import load
from soft_prompts.results import load_results
from soft_prompts.tasks.base import Task
from soft_prompts.training import checkpoint
from soft_prompts.training.checkpoint import Checkpoints
from soft_prompts.training.log import Logs
from soft_prompts.training.loop import train
from soft_prompts.training.run import Run
from soft_prompts.training.state import TrainingState
from tests.unit.commands import ran, start
from tests.unit.made_up import write_games
from tests.unit.test_train import CONFIG, Documents, read_events, run

STEPS = 8


def runs_of(n_conditions: int = 0) -> list[Run]:
    """Lengths, seeds and recipes that differ, a prompt of no tokens, and one with several starts."""
    task = Documents(n_conditions)
    often = {"task": task, "steps": STEPS, "n_evaluations": 3}
    return [run(0, **often), run(2, seed=1, starts=4, **often), run(5, seed=1, lr=0.3, grow=True, **often)]


def bench_of(model, task: Task) -> Bench:
    encoding = Encoding(model.tokenizer, model.separator, CONFIG.max_tokens)
    held_out, validation = (list(task.examples(s, encoding, 0)) for s in ("held_out", "validation"))
    return Bench(model, encoding, held_out, 10**6, validation)


def go(model, runs: list[Run], folder: Path, leave_at: int | None = None, minutes: float = 1e-9):
    """Train with checkpoints; a polite kill comes in the middle of a step."""
    update = TrainingState.update

    def disturbed(self, step: int, batch) -> torch.Tensor:
        if step == leave_at and SIGNALS.received is None:
            SIGNALS._handle(signal.SIGTERM, None)
        return update(self, step, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "update", disturbed)
        return train(bench_of(model, runs[0].target), runs, Logs(folder), Checkpoints(folder / "checkpoints", minutes))


def same(first: list[TrainingState], second: list[TrainingState]) -> None:
    for a, b in zip(first, second, strict=True):
        assert a.run == b.run and a.start == b.start
        for x, y in zip(a.intervention.parameters(), b.intervention.parameters(), strict=True):
            assert torch.equal(x, y)
        assert a.curve == b.curve
        assert (a.n_data_tokens, a.n_positions, a.failure) == (b.n_data_tokens, b.n_positions, b.failure)
        assert (a.scores is None) == (b.scores is None)
        if a.scores:
            np.testing.assert_array_equal(a.scores.sums, b.scores.sums)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_conditions", [0, 2])
def test_whatever_step_it_was_stopped_at_the_end_is_the_same_to_the_bit(folders, tmp_path, dtype, n_conditions) -> None:
    model, runs = load(str(folders["neox"]), dtype=dtype), runs_of(n_conditions)
    undisturbed = go(model, runs, tmp_path / "undisturbed")
    assert n_conditions or {t.start for t in undisturbed} != {0}  # a start that is not the first was chosen
    for stop in (1, 2, 3, STEPS - 1, STEPS):
        folder = tmp_path / str(stop)
        with pytest.raises(Interrupted) as left:
            go(model, runs, folder, stop)
        assert left.value.code == 143
        same(go(model, runs, folder), undisturbed)


def test_prompts_that_end_at_their_own_time_go_on_as_well(neox, tmp_path, capsys) -> None:
    rule = {"schedule": "until_flat", "steps": STEPS, "n_evaluations": 3}
    runs = [run(2, lr=1e-6, patience=1, **rule), run(5, lr=0.3, patience=9, **rule)]
    undisturbed = go(neox, runs, tmp_path / "undisturbed")
    assert [t.last_step for t in undisturbed] == [3, STEPS]
    for stop in range(1, STEPS + 1):
        with pytest.raises(Interrupted):
            go(neox, runs, tmp_path / str(stop), stop)
        capsys.readouterr()
        same(go(neox, runs, tmp_path / str(stop)), undisturbed)
        assert f"going on from step {stop}, where" in " ".join(capsys.readouterr().err.split())


def test_stopped_again_and_again_it_ends_the_same_and_its_curves_are_drawn_once(neox, tmp_path, capsys) -> None:
    runs = runs_of()
    undisturbed = go(neox, runs, tmp_path / "undisturbed")
    for stop in range(1, STEPS + 1):
        with pytest.raises(Interrupted):
            go(neox, runs, tmp_path / "often", stop)
    capsys.readouterr()
    ended = go(neox, runs, tmp_path / "often")
    assert f"going on from step {STEPS}" in " ".join(capsys.readouterr().err.split())
    same(ended, undisturbed)
    for states in (undisturbed, ended):
        for t in states:
            t.log.close()
    of_run = runs[2].path
    for name in ("loss/validation", "loss/train", "loss/held_out"):
        curves = [
            [(e.step, e.value) for e in read_events(tmp_path / of / of_run).Scalars(name)]
            for of in ("undisturbed", "often")
        ]
        assert curves[0] == curves[1] and len({step for step, _ in curves[0]}) == len(curves[0])


def checkpoints_of(folder: Path, of: Run) -> list[Path]:
    return sorted((folder / "checkpoints" / of.path).glob("*.safetensors"))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "empty"])
def test_a_damaged_checkpoint_is_found_out_and_the_one_before_is_used(neox, tmp_path, capsys, damage: str) -> None:
    runs = runs_of()
    undisturbed = go(neox, runs, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        go(neox, runs, tmp_path, 6)
    latest = checkpoints_of(tmp_path, runs[2])[-1]
    assert latest.stem == "start-0-step-00000006"
    content = bytearray(latest.read_bytes())
    content[-3] ^= 1  # within the tensors
    if damage == "missing":
        latest.unlink()
    else:
        latest.write_bytes({"flipped": content, "truncated": content[:200], "empty": b""}[damage])
    capsys.readouterr()
    ended = go(neox, runs, tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert "going on from step 5" in said
    assert ("is damaged" in said) == (damage != "missing")
    same(ended, undisturbed)


ODD_COUNTERS = {
    "no JSON": lambda _: "nonsense",
    "a list": lambda _: "[1, 2]",
    "deep": lambda _: "[" * 100_000,
    "a long number": lambda kept: kept.replace('"n_positions": ', '"n_positions": ' + "9" * 5000),
    "one lacks": lambda kept: kept.replace('"n_positions"', '"another"'),
    "no weights": lambda kept: kept.replace('"weights"', '"another"'),
    "another type": lambda kept: kept.replace('"failure": ""', '"failure": 5'),
    "a curve of words": lambda kept: kept.replace('"curve": [', '"curve": ["a", '),
    "a curve without losses": lambda kept: kept.replace('"loss"', '"lost"'),
}
ODD_TENSORS = {
    "one lacks": lambda kept: {name: x for name, x in kept.items() if name != "prompt/rows"},
    "a moment lacks": lambda kept: {name: x for name, x in kept.items() if name != "optimizer/0/exp_avg"},
    "one too many": lambda kept: {**kept, "optimizer/1/exp_avg": torch.zeros(2, 3)},
    "an odd name": lambda kept: {**kept, "more": torch.zeros(2)},
    "too short": lambda kept: {name: x[:1] if x.dim() == 2 else x for name, x in kept.items()},
    "a moment of another shape": lambda kept: {**kept, "optimizer/0/exp_avg": torch.zeros(3)},
    "halves": lambda kept: {name: x.half() for name, x in kept.items()},
    "another step": lambda kept: {**kept, "optimizer/0/step": torch.tensor(3.0)},
    "no step": lambda kept: {**kept, "optimizer/0/step": torch.tensor(float("nan"))},
}


def made_anew(path: Path, counters=lambda kept: kept, tensors=lambda kept: kept) -> None:
    """Change what a checkpoint holds, and give it the checksum of that."""
    with safe_open(path, "pt") as file:
        kept = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
        before = file.metadata()["counters"]
    words, kept = {"counters": counters(before)}, {name: x.contiguous() for name, x in tensors(kept).items()}
    digest = checksum({name: x.numpy() for name, x in kept.items()}, words)
    path.write_bytes(save_safetensors(kept, {**words, "checksum": digest}))


@pytest.mark.parametrize(
    ("odd", "change"),
    [*(("counters", change) for change in ODD_COUNTERS), *(("tensors", change) for change in ODD_TENSORS)],
)
def test_a_checkpoint_that_is_whole_but_odd_is_passed_over_with_a_warning(neox, tmp_path, capsys, odd, change) -> None:
    of_one = [run(2, steps=6)]
    with pytest.raises(Interrupted):
        go(neox, of_one, tmp_path, 4)
    latest = checkpoints_of(tmp_path, of_one[0])[-1]
    made_anew(latest)
    assert checkpoint._read(latest, neox.weight_hash, of_one[0])
    made_anew(latest, **{odd: (ODD_COUNTERS if odd == "counters" else ODD_TENSORS)[change]})
    capsys.readouterr()
    go(neox, of_one, tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{latest} is damaged" in said and "going on from step 3" in said


def test_only_what_was_given_up_before_its_first_step_has_no_moments(neox, tmp_path) -> None:
    of_one = run(2, steps=4)
    with pytest.raises(Interrupted):
        go(neox, [of_one], tmp_path, 3)
    latest = checkpoints_of(tmp_path, of_one)[-1]
    made_anew(latest, tensors=lambda kept: {name: x for name, x in kept.items() if name.startswith("prompt")})
    assert checkpoint._read(latest, neox.weight_hash, of_one) is None
    made_anew(latest, lambda kept: kept.replace('"failure": ""', '"failure": "not finite"'))
    assert checkpoint._read(latest, neox.weight_hash, of_one) is not None


def test_files_of_other_names_among_checkpoints_are_no_checkpoints(neox, tmp_path, capsys) -> None:
    of_one = [run(2, steps=4)]
    with pytest.raises(Interrupted):
        go(neox, of_one, tmp_path, 3)
    latest = checkpoints_of(tmp_path, of_one[0])[-1]
    for name in ("start-0-step-x", "start-a-b-step-00000009", "start-0-step-9", "start--1-step-00000009"):
        (latest.parent / f"{name}.safetensors").write_bytes(latest.read_bytes())
    (latest.parent / "start-0-step-00000008.safetensors").write_bytes(latest.read_bytes())  # a later step by name only
    (latest.parent / "start-0-step-00000007.safetensors").mkdir()
    capsys.readouterr()
    go(neox, of_one, tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert "another step than its name says" in said and "it is no file" in said and "going on from step 3" in said
    left = {path.stem for path in checkpoints_of(tmp_path, of_one[0]) if path.is_file()}
    assert {"start-0-step-00000003", "start-0-step-00000004"} <= left  # not those that only have later names
    assert "start-0-step-00000008" not in left


def test_a_checkpoint_of_a_prompt_of_another_width_is_one_sentence(neox, tmp_path) -> None:
    of_one = [run(2, steps=4)]
    with pytest.raises(Interrupted):
        go(neox, of_one, tmp_path, 3)
    for path in checkpoints_of(tmp_path, of_one[0]):
        made_anew(path, tensors=lambda kept: {name: x[:, :5] if x.dim() == 2 else x for name, x in kept.items()})
    with pytest.raises(SoftPromptsError, match="do not fit its prompt .*start again with --force"):
        go(neox, of_one, tmp_path)


def test_a_run_that_was_given_up_does_not_spoil_the_checkpoints_of_the_others(neox, tmp_path, capsys) -> None:
    both = [run(2, steps=6), run(3, steps=6, lr=1e30)]
    undisturbed = go(neox, both, tmp_path / "undisturbed")
    assert undisturbed[1].failure and not undisturbed[0].failure
    with pytest.raises(Interrupted):
        go(neox, both, tmp_path, 5)
    capsys.readouterr()
    ended = go(neox, both, tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert "going on from step 5" in said and "damaged" not in said
    same(ended[:1], undisturbed[:1])
    assert ended[1].failure == undisturbed[1].failure


def test_every_single_flipped_bit_is_found_out(neox, tmp_path) -> None:
    with pytest.raises(Interrupted):
        go(neox, [run(1, steps=2)], tmp_path, 1)
    (path,) = checkpoints_of(tmp_path, run(1, steps=2))
    whole = path.read_bytes()
    assert checkpoint._read(path, neox.weight_hash, run(1, steps=2)) is not None
    random = np.random.default_rng(0)
    for at in random.integers(len(whole), size=200):
        content = bytearray(whole)
        content[at] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
        assert checkpoint._read(path, neox.weight_hash, run(1, steps=2)) is None, at


def test_checkpoints_of_other_weights_are_not_used(neox, tmp_path, capsys) -> None:
    of_one = [run(2, steps=4)]
    with pytest.raises(Interrupted):
        go(neox, of_one, tmp_path, 3)
    capsys.readouterr()
    go(control_of(neox, "untrained"), of_one, tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert "other weights" in said and "going on" not in said


def test_the_last_two_of_each_start_are_kept_and_they_are_made_in_time(neox, tmp_path) -> None:
    of_one = [run(2, steps=6, n_evaluations=1)]
    go(neox, of_one, tmp_path / "often")
    assert [path.stem[-1] for path in checkpoints_of(tmp_path / "often", of_one[0])] == ["5", "6"]
    go(neox, of_one, tmp_path / "seldom", minutes=60)  # only at the validations, in the middle and at the end
    assert [path.stem[-1] for path in checkpoints_of(tmp_path / "seldom", of_one[0])] == ["3", "6"]


# --- the whole command, killed from outside ---


def command(folders, games: Path, out: Path, steps: int) -> list[str]:
    of_model = ["--models", str(folders["neox"]), "--games", str(games), "--out", str(out), "--dtype", "float32"]
    sizes = ["--train.steps", str(steps), "--train.batch-size", "2", "--train.max-tokens", "48"]
    few = ["--train.eval-documents", "6", "--n-tokens", "0", "2", "--seeds", "0", "--controls"]
    return [sys.executable, "-m", "tests.chess_test", *of_model, *sizes, *few, "--device", "cpu"]


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_command_that_is_told_to_leave_saves_and_goes_on_when_called_again(
    folders, tmp_path, number: int, code: int
) -> None:
    games = write_games(tmp_path / "games.pgn", 60)
    environment = {**os.environ, "COLUMNS": "300"}
    called = command(folders, games, tmp_path / "killed", 300)
    process = start(called, environment)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/runs/checkpoints/**/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "finished runs are kept" in said and "Traceback" not in said
    again = ran(called, environment)
    assert again.returncode == 0 and "going on from step" in again.stderr
    assert ran(command(folders, games, tmp_path / "whole", 300)).returncode == 0
    killed, whole = (load_results([tmp_path / of / "results"]) for of in ("killed", "whole"))
    assert [r.held_out.document_losses for r in killed] == [r.held_out.document_losses for r in whole]
    assert not list(tmp_path.glob("killed/runs/checkpoints/**/*.safetensors"))  # nothing stays of what is finished
