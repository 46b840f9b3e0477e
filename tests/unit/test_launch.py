"""Processes that are launched together: the same results as of one process, whatever they share out."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import pytest
import torch

from exploratory_tests import clusters
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.loading import load
from soft_prompts.processes import Crew, connected, copied, folder_leaders, told
from soft_prompts.results import load_results
from soft_prompts.shares import cost, shares
from soft_prompts.tasks.base import Task
from soft_prompts.training.checkpoint import Checkpoints
from soft_prompts.training.log import Logs
from soft_prompts.training.loop import accumulate_gradients, train
from soft_prompts.training.run import Run
from tests.unit.commands import Started
from tests.unit.conftest import make_examples
from tests.unit.made_up import write_games
from tests.unit.test_checkpoint import bench_of, command
from tests.unit.test_processes import ENVIRONMENT, begun, logs, until
from tests.unit.test_train import Documents, run

PROCESSES = multiprocessing.get_context("spawn")


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def environment(rank: int, n: int, port: str, address: str = "127.0.0.1") -> dict[str, str]:
    """What a launcher tells one of its processes."""
    numbers = {"RANK": str(rank), "WORLD_SIZE": str(n), "LOCAL_RANK": str(rank)}
    return {**numbers, "MASTER_ADDR": address, "MASTER_PORT": port}


def launched(commands: Sequence[list[str]]) -> list[Started]:
    """One process of each command, as a launcher starts them."""
    port = free_port()
    return [begun(words, **environment(rank, len(commands), port)) for rank, words in enumerate(commands)]


def outcomes(processes: Sequence[Started | subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    ends = [process.communicate(timeout=400) for process in processes]
    return [(p.returncode, out, " ".join(err.split())) for p, (out, err) in zip(processes, ends, strict=True)]


def losses(out: Path) -> dict[tuple, list[float]]:
    results = load_results([out / "results"])
    return {(r.n_tokens, r.seed, r.config.get("control")): r.held_out.document_losses for r in results}


def alike(out: Path, other: Path) -> None:
    """The same results, but for rounding."""
    first, second = (load_results([folder / "results"]) for folder in (out, other))
    assert losses(out).keys() == losses(other).keys() and len(first) > 0
    for result, of_other in zip(first, second, strict=True):
        assert result.held_out.loss == pytest.approx(of_other.held_out.loss, abs=1e-5)  # nats a token
        assert result.held_out.document_losses == pytest.approx(of_other.held_out.document_losses, rel=1e-5)


@pytest.fixture
def words(folders, tmp_path) -> Callable[..., list[str]]:
    """A function: the folder of results, and more options -> a command of four runs."""
    games = write_games(tmp_path / "games.pgn", 60)

    def words_of(out: str, *more: str, steps: int = 40) -> list[str]:
        few = ["--train.n-evaluations", "1", "--train.validation-documents", "3", "--train.eval-documents", "3"]
        several = ["--n-tokens", "0", "2", "3", "4"]
        return [*command(folders, games, tmp_path / out, steps), *several, *few, *more]

    return words_of


def alone(words: list[str]) -> tuple[str, str]:
    ((code, shown, said),) = outcomes([begun(words)])
    assert code == 0, said
    return shown, said


def test_accelerate_launch_gives_the_numbers_of_one_process_to_the_bit_and_the_first_speaks(words, tmp_path) -> None:
    shown, _ = alone(words("alone"))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", free_port()]
    ((code, shown_by_two, said),) = outcomes([begun([*launch, *words("two")[1:]])])
    assert code == 0, said
    assert shown_by_two == shown
    assert losses(tmp_path / "two") == losses(tmp_path / "alone")
    events = [path.name.split(".") for path in tmp_path.glob("two/runs/chess/**/events.out.*")]
    assert len(events) == 4  # each run was trained once
    assert len({name[-1] for name in events}) == 2  # by two processes
    assert said.count("time:") == said.count("gain over 0") + 1 == 1
    assert "process 1 on" not in said and "Traceback" not in said


def test_the_warnings_and_errors_of_another_process_are_seen(words) -> None:
    first, second = words("out"), words("out", "--train.eval-documents", "1")
    outs = outcomes([begun(of, RANK=str(rank), WORLD_SIZE="2") for rank, of in enumerate([first, second])])
    assert outs[0][0] == 0 and outs[1][0] == 2
    assert f"process 1 on {socket.gethostname()}: error: --train.eval-documents is 1" in outs[1][2]
    assert "gain over 0" in outs[0][1] and not outs[1][1]


# --- a crew: processes that train the same runs ---


def in_crew(rank: int, n: int, port: str, folder: str, answers, work: str) -> None:
    """One process of a crew does something and gives what comes of it."""
    torch.set_num_threads(1)
    os.environ.update(environment(rank, n, port))
    with connected():
        answers.put((rank, globals()[work](Crew(rank, n), Path(folder))))


def of_crew(work: Callable, n: int, folder: Path) -> list:
    """What each process of a crew makes of a function of this module."""
    answers, port = PROCESSES.Queue(), free_port()
    given = (n, port, str(folder), answers, work.__name__)
    processes = [PROCESSES.Process(target=in_crew, args=(rank, *given)) for rank in range(n)]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [found[rank] for rank in range(n)]


def runs_of_all_kinds() -> list[Run]:
    task = Documents()
    return [run(0, task=task), run(3, task=task), run(2, task=task, seed=1, starts=3), run(1, task=task, lr=0.3)]


def trained(crew: Crew, folder: Path):
    """What comes of training in a crew, and of its parts."""
    model = load(str(folder / "model"))
    examples = [make_examples(n, seed=n) for n in (5, 1)]  # of the second, one process has nothing
    prompts = [SoftPrompt(torch.ones(n, 32)) for n in (2, 1)]
    step = accumulate_gradients(model, Task(), prompts, examples, 100, crew)
    (scores,) = evaluate(model, prompts[:1], examples[0], 100, crew)
    checkpoints = Checkpoints(folder / f"checkpoints-{crew.size}", 1e-9)
    runs = runs_of_all_kinds()
    states = train(bench_of(model, runs[0].task), runs, Logs(folder / f"logs-{crew.size}"), checkpoints, crew)
    return {
        "losses": step.tolist(),
        "gradients": [p.rows.grad.flatten().tolist() for p in prompts],
        "scores": [x.tolist() for x in scores.losses],
        "correct": [x.tolist() for x in scores.correct],
        "trained": [s.scores.loss for s in states],
        "starts": [s.start for s in states],
        "curves": [[point["loss"] for point in s.curve] for s in states],
        "tokens": [(s.n_data_tokens, s.n_positions) for s in states],
    }


def test_a_crew_trains_as_one_process_does(folders, tmp_path) -> None:
    (tmp_path / "model").symlink_to(folders["neox"])
    torch.set_num_threads(1)
    wanted = trained(Crew(), tmp_path)
    first, second = of_crew(trained, 2, tmp_path)
    assert first == second  # to the bit: their prompts must not drift apart
    assert wanted["starts"][2] != 0 or wanted["starts"] == first["starts"]
    for name in ("starts", "tokens", "correct"):
        assert first[name] == wanted[name], name
    for name in ("losses", "trained"):
        assert first[name] == pytest.approx(wanted[name], abs=1e-5), name
    for name in ("gradients", "scores", "curves"):
        for of, of_one in zip(first[name], wanted[name], strict=True):
            assert of == pytest.approx(of_one, abs=1e-5), name
    for place in ("logs", "checkpoints"):  # only the first process writes
        once, by_two = ([p.name[:6] for p in sorted((tmp_path / f"{place}-{n}").rglob("*.*"))] for n in (1, 2))
        assert once == by_two and once


def talked(crew: Crew, folder: Path):
    """What a crew tells each other."""

    def fails_in_the_second() -> None:
        if not crew.is_first:
            raise SoftPromptsError("the second cannot.")

    def fails() -> None:
        raise SoftPromptsError("the first cannot.")

    said = []
    asked = (lambda: crew.together(fails_in_the_second), lambda: crew.decides(fails), lambda: crew.first_does(fails))
    for ask in asked:
        with pytest.raises(SoftPromptsError) as error:
            ask()
        said.append(str(error.value))
    own = folder / f"folder-{crew.rank}"
    (own / "deep").mkdir(parents=True)
    if crew.is_first:
        (own / "deep" / "file").write_bytes(bytes(range(256)))
        (own / "empty").write_bytes(b"")
    copied(own, ["deep/file", "empty"] if crew.is_first else [], 0, wanted=True)
    content = [(own / name).read_bytes() for name in ("deep/file", "empty")]
    return {
        "said": said,
        "decided": crew.decides(lambda: [crew.rank, "first"]),
        "told": told({"rank": crew.rank}),
        "leaders": [folder_leaders(folder), folder_leaders(own)],
        "copied": content == [bytes(range(256)), b""],
        "largest": crew.largest(10 * crew.rank + 3, 5 - crew.rank),
        "left": [path.name for path in folder.glob(".launch-*")],
    }


def test_what_processes_tell_each_other_arrives_and_an_error_of_one_ends_all(tmp_path) -> None:
    for answer in of_crew(talked, 2, tmp_path):
        assert answer["said"] == ["the second cannot.", "the first cannot.", "the first cannot."]
        assert answer["decided"] == [0, "first"]
        assert answer["told"] == [{"rank": 0}, {"rank": 1}]
        assert answer["leaders"] == [[0, 0], [0, 1]]
        assert answer["copied"] and answer["largest"] == [13, 5] and answer["left"] == []


# --- shares ---


def test_a_run_costs_its_positions() -> None:
    sizes = {"steps": 10, "batch_size": 4, "max_tokens": 20, "validation_documents": 8, "eval_documents": 6}
    assert cost(run(0, n_evaluations=3, **sizes)) == 20 * (8 + 6)
    assert cost(run(5, n_evaluations=3, **sizes)) == 25 * (2 * 40 + 5 * 8 + 6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_shares_are_whole_and_near_the_best_there_are(n: int) -> None:
    runs = [run(length, seed=seed) for length, seed in product((0, 1, 8, 40), (0, 1)) if length or not seed]
    of_each = shares(runs, n)
    assert sorted(str(r.path) for share in of_each for r in share) == sorted(str(r.path) for r in runs)
    assert all(share == [r for r in runs if r in share] for share in of_each)  # in their order
    longest = max(sum(map(cost, share)) for share in of_each)
    choices = product(range(n), repeat=len(runs))
    best = min(max(sum(cost(r) for r, at in zip(runs, c, strict=True) if at == k) for k in range(n)) for c in choices)
    assert best <= longest <= best * (4 / 3 - 1 / (3 * n))  # what the greedy rule promises (Graham 1969)


def test_documents_are_shared_out_by_length() -> None:
    parts = [Crew(rank, 2).part([5, 1, 4, 2, 3], lambda x: x) for rank in range(2)]
    assert parts == [[1, 3, 5], [2, 4]]
    assert Crew().part([5, 1, 4], lambda x: x) == [5, 1, 4]
    later = [Crew(rank, 4).part([7, 6], lambda x: x, dealt=5) for rank in range(4)]
    assert later == [[], [6], [7], []]  # five were dealt, the last one to process 0


def test_the_table_of_costs_is_what_its_script_prints(tmp_path) -> None:
    assert clusters.table() in (Path(clusters.__file__).parents[1] / "docs" / "clusters.md").read_text()


def test_hours_add_up_however_they_are_shared_out() -> None:
    runs = [run(n, seed=seed, steps=3600, batch_size=2) for n in (0, 1, 3) for seed in (0, 1) if n or not seed]
    measured = {1: 0.5, 3: 1.5}  # seconds a document
    hours = 2 * 2 * (0.5 + 1.5)
    for n in (1, 2, 3, 8):
        for by in (clusters.hours_by_runs, clusters.hours_by_documents):
            assert sum(by(runs, n, measured)) == pytest.approx(hours)
    assert clusters.hours_by_runs(runs, 2, measured) == pytest.approx([4, 4])
    assert max(clusters.hours_by_runs(runs, 8, measured)) == pytest.approx(3)
    assert max(clusters.hours_by_documents(runs, 8, measured)) == pytest.approx(1.5)


# --- slow: more processes, killed ones, machines without a common folder ---

slow = pytest.mark.slow


@slow
@pytest.mark.parametrize("shard", ["runs", "documents"])
def test_four_processes_give_the_numbers_of_one(words, tmp_path, shard: str) -> None:
    shown, _ = alone(words("alone", "--controls", "scrambled"))
    four = outcomes(launched([words("four", "--controls", "scrambled", "--shard", shard)] * 4))
    assert [code for code, _, _ in four] == [0] * 4, four
    assert [out for _, out, _ in four] == [shown, "", "", ""]
    assert not any(said for _, _, said in four[1:])
    assert set(logs(tmp_path / "four").values()) == {2}  # of the model and of its control
    if shard == "runs":
        assert losses(tmp_path / "four") == losses(tmp_path / "alone")
    alike(tmp_path / "four", tmp_path / "alone")


@slow
def test_the_runs_of_a_killed_process_are_finished_by_the_others_and_it_is_named(words, tmp_path) -> None:
    processes = launched([words("out", steps=400)] * 3)
    pid = processes[1].pid
    until(lambda: any(f'"pid": {pid},' in path.read_text() for path in tmp_path.glob("out/runs/locks/**/1")))
    processes[1].kill()
    ends = outcomes(processes)
    assert [code for code, _, _ in ends] == [0, -signal.SIGKILL, 0], ends
    assert f"warning: process {pid} on {socket.gethostname()} is gone" in ends[0][2] + ends[2][2]
    assert "gain over 0" in ends[0][1] and len(losses(tmp_path / "out")) == 4


def folders_apart(tmp_path: Path, words, processes_of: Callable[[list[list[str]]], list[Started]], *more: str):
    """Two processes with a folder each do a sweep, whose results of an earlier call lie in one of them."""
    alone(words("alone"))
    alone([*words("b"), "--n-tokens", "2"])  # one is finished, on the second machine
    both = outcomes(processes_of([words(folder, *more) for folder in ("a", "b")]))
    assert [code for code, _, _ in both] == [0, 0], both
    assert "1 of 4 runs were finished before" in both[0][2] and not both[1][2].count("step 0/")
    for folder in ("a", "b"):
        alike(tmp_path / folder, tmp_path / "alone")
        assert len(list((tmp_path / folder).glob("snapshots/**/*.safetensors"))) == 4
    stamps = [[r.seconds for r in load_results([tmp_path / folder / "results"])] for folder in ("a", "b")]
    assert stamps[0] == stamps[1]  # copies, not trained twice


@slow
@pytest.mark.parametrize("shard", ["runs", "documents"])
def test_without_a_common_folder_results_and_snapshots_are_sent(words, tmp_path, shard: str) -> None:
    folders_apart(tmp_path, words, launched, "--shard", shard)


@slow
def test_a_crew_without_a_common_folder_goes_on_from_the_first_ones_checkpoints(words, tmp_path) -> None:
    more = ("--shard", "documents", "--checkpoint-minutes", "0.001")
    commands = [words(folder, *more, steps=300) for folder in ("a", "b")]
    both = launched(commands)
    until(lambda: list(tmp_path.glob("a/runs/checkpoints/**/*.safetensors")))
    both[1].send_signal(signal.SIGTERM)  # one is told to, and both leave after the same step
    ends = outcomes(both)
    assert [code for code, _, _ in ends] == [143, 143], ends
    again = outcomes(launched(commands))
    assert [code for code, _, _ in again] == [0, 0] and "going on from step" in again[0][2], again
    undisturbed = outcomes(launched([words(folder, "--shard", "documents", steps=300) for folder in ("c", "d")]))
    assert [code for code, _, _ in undisturbed] == [0, 0], undisturbed
    assert losses(tmp_path / "a") == losses(tmp_path / "c")  # to the bit


@slow
def test_two_machines_with_networks_and_folders_of_their_own(words, tmp_path) -> None:
    """Two network namespaces that are connected by a cable stand for two machines."""

    def ip(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["ip", *arguments], capture_output=True, text=True)

    names = [f"soft-{os.getpid()}-{i}" for i in range(2)]
    ends = [f"soft{os.getpid() % 10**6}{x}" for x in "ab"]
    try:
        for name in names:
            made = ip("netns", "add", name)
            if made.returncode:
                pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
        assert not ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1]).returncode
        for i, (name, end) in enumerate(zip(names, ends, strict=True)):
            for step in (
                ("link", "set", end, "netns", name),
                ("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", end),
                ("-n", name, "link", "set", end, "up"),
                ("-n", name, "link", "set", "lo", "up"),
            ):
                assert not ip(*step).returncode, step

        def on_machines(commands: list[list[str]]) -> list[subprocess.Popen]:
            of = [environment(rank, 2, "29777", "10.77.0.1") for rank in range(2)]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            return [
                subprocess.Popen(
                    ["ip", "netns", "exec", name, *words],
                    env={**ENVIRONMENT, **env, "GLOO_SOCKET_IFNAME": end},
                    **pipes,
                )
                for name, words, env, end in zip(names, commands, of, ends, strict=True)
            ]

        folders_apart(tmp_path, words, on_machines)
    finally:
        for name in names:
            ip("netns", "delete", name)
