"""How fast is a training step, beside a naive loop and PEFT, and how near the machine's own limit?

Random weights of real shapes. All contenders of a case take turns, so whatever else the machine does hits all alike.
Ratios are of medians. The contenders with this project's settings wait in one process, those without in another. In a
shared process the others would profit from the memory that this project keeps, and alone they pay for fresh memory in
every step.

Expected: a step is several times as fast as that of the loop one writes first, thanks to a frozen model, faster kernels
and a loss at scored positions only. With bfloat16 it is faster again, where the processor has it. And the loop never
waits for data.

    python -m exploratory_tests.throughput_test --quick       # about three minutes on two cores
    python -m exploratory_tests.throughput_test --quick --device cuda
    python -m exploratory_tests.throughput_test               # everything, about fifty minutes

PEFT must be installed: it is in requirements-dev.txt.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import chess.pgn
import numpy as np
import torch
import transformers
import tyro
import zstandard
from matplotlib.figure import Figure

import tests.chess_test
import tests.pathfinding_test
from exploratory_tests.contenders import TRAINER_STEPS, Case, Step, bare, naive, new_lm, ours, peft_loop, peft_trainer
from soft_prompts.console import say
from soft_prompts.data.boards import board_texts, move_texts, stream
from soft_prompts.data.pgn import GameFilter, read_games
from soft_prompts.files import write_atomically
from soft_prompts.models.cpu import choose_kernels, settle_process
from soft_prompts.models.loading import load
from soft_prompts.pocket import GAMES
from soft_prompts.prepare import make_bench
from soft_prompts.report.plots import save_figure
from soft_prompts.report.tables import as_markdown, print_tables
from soft_prompts.sweep import Sweep, plan
from soft_prompts.tasks.pathfinding import Pathfinding
from soft_prompts.training.log import Logs
from soft_prompts.training.loop import train

USUAL = Case("70m", 8, 256, 16)
"""The case that most others vary."""
TRAINING = [
    *(replace(USUAL, n_tokens=n) for n in (1, 16, 64)),
    replace(USUAL, scored=0.1),
    Case("14m", 32, 256, 16),
    Case("160m", 8, 256, 16),
    Case("pocket", 8, 160, 16),
    *(replace(USUAL, n_tokens=n, conditional=True) for n in (64, 512, 1024)),
]
"""Cases of one run in training."""
FORWARD_ONLY = [replace(USUAL, batch=32, what="evaluation"), replace(USUAL, length=64, what="generation")]
"""Cases without gradients."""
TOGETHER = [
    replace(USUAL, n_runs=5),
    *(Case("70m", 1, 64, 16, n_runs=n) for n in (5, 15)),
    *(Case("pocket", 8, 160, 16, n_runs=n) for n in (5, 15)),
]
"""Cases of several runs that share forward passes."""
ON_A_GPU = [replace(USUAL, shape=shape) for shape in ("410m", "1b")]
"""Cases that take too long on a CPU."""
QUICK = [USUAL, Case("pocket", 8, 160, 16), Case("70m", 1, 64, 16, n_runs=15)]
"""Cases of --quick."""
CAPTION = (
    "Medians over rounds, spread: interquartile range over the median. In system: processor time in the operating "
    "system, nearly all for fresh memory. x first: times as fast as the first of the case. Of peak: needed operations "
    "over what the machine's own matrix products reach in that dtype. The bare kernels: only the products with the "
    "model's weights and torch's attention, a limit for all that use them."
)
"""What stands below the tables."""
FEW_FAULTS = 1000
"""A step that takes fewer pages of fresh memory than this (4 MB) has found nearly all that it needs."""
WITH_TRAINER = replace(USUAL, n_tokens=64)
"""The only case in which transformers' Trainer takes part, because it takes long."""
LARGE = replace(USUAL, batch=32)
"""The case in which memory is measured."""
Tables = list[tuple[str, list[list[str]]]]
"""(title, rows of cells, of which the first is the header) of each table."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    quick: bool = False
    """A few cases and rounds, and no file."""
    rounds: int = 5
    """Turns that every contender takes."""
    out: Path = Path("results/throughput")
    """Folder of numbers, tables and plot."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    memory_of: str = ""
    """Only measure the memory of one contender (used by the benchmark itself)."""


@dataclass(frozen=True)
class Turn:
    """What a training step took."""

    seconds: float
    """By the clock, the device's work included."""
    system_seconds: float
    """Processor time spent in the operating system, nearly all of it for fresh memory."""


@dataclass(frozen=True)
class Contender:
    """A step, and how it takes a turn."""

    step: Step
    """The function that is timed."""
    warm_ups: int = 3
    """At most so many calls before the one that counts. They end as soon as one finds all the memory that it needs."""
    steps: int = 1
    """Training steps that one call takes."""

    def turn(self, device: str) -> Turn:
        """Warm up, then time one call.

        Args:
            device: Name of the torch device that does the work.
        """
        for _ in range(self.warm_ups):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            self.step()
            if resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < FEW_FAULTS:
                break
        synchronize(device)
        system, started = resource.getrusage(resource.RUSAGE_SELF).ru_stime, time.perf_counter()
        self.step()
        synchronize(device)
        seconds, system = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_stime - system
        return Turn(seconds / self.steps, system / self.steps)


def synchronize(device: str) -> None:
    """Wait until the device has done all its work.

    Args:
        device: "cpu" or "cuda".
    """
    if device == "cuda":
        torch.cuda.synchronize()


def contenders(case: Case, device: str, fast: bool) -> dict[str, Contender]:
    """Those that take part in a case, by name, in the order of the table.

    The others are compared with the first of those without this project's settings, or with the first of all if there
    are none without.

    Args:
        case: What a step computes.
        device: "cpu" or "cuda".
        fast: True: those with this project's settings. False: those without.
    """

    def lm(dtype: torch.dtype = torch.float32) -> transformers.GPTNeoXForCausalLM:
        return new_lm(case.shape, dtype, device)

    unconditional = case.what == "training" and not case.conditional
    if case.n_runs > 1:
        if not fast:
            return {}
        shared = lm()
        return {
            "one run after another": Contender(ours(case, shared, together=False)),
            "all runs in one pass": Contender(ours(case, shared)),
        }
    entered = {}
    if not fast:
        # One warm-up is enough: these take fresh memory in every step, however often they warm up.
        entered["naive"] = Contender(naive(case, lm()), 1)
        if unconditional:
            entered["PEFT"] = Contender(peft_loop(case, lm()), 1)
        if case == WITH_TRAINER:
            entered["PEFT, Trainer"] = Contender(peft_trainer(case, lm()), 0, TRAINER_STEPS)
        return entered
    for dtype, words in ((torch.float32, ""), (torch.bfloat16, ", bfloat16")):
        if unconditional:
            entered[f"PEFT, our settings{words}"] = Contender(peft_loop(case, lm(dtype)))
        entered[f"ours{words}"] = Contender(ours(case, lm(dtype)))
        if case.what == "training":
            entered[f"the bare kernels{words}"] = Contender(bare(case, lm(dtype)))
    return entered


LONGEST_PRODUCT = 1.0
"""Seconds that one matrix product may take."""


def peak(dtype: torch.dtype, device: str) -> float:
    """The machine's own matrix-product rate: the best of a few products of 2,048 squared, or of 256 squared where the
    large ones would take seconds, as in bfloat16 on a processor that does not multiply it.

    Args:
        dtype: Of the matrices.
        device: "cpu" or "cuda".

    Returns:
        Floating-point operations per second.
    """
    rate = 0.0
    for size in (256, 2048):
        if rate and 2 * size**3 > LONGEST_PRODUCT * rate:
            break
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        product = Contender(lambda a=a, b=b: a @ b)
        rate = 2 * size**3 / min(product.turn(device).seconds for _ in range(4))
    return rate


def wait_for_turns(pipe: Connection, case: Case, device: str, fast: bool) -> None:
    """What a process of contenders does: it says who they are, then does what it is asked, until it is sent None.

    A name asks for that contender's turn, a dtype for the machine's peak in it.

    Args:
        pipe: Where questions come from and answers go.
        case: What a step computes.
        device: "cpu" or "cuda".
        fast: Whether this project's settings are made in this process.
    """
    quiet()
    if fast:
        settle_process(torch.device(device))
    entered = contenders(case, device, fast)
    pipe.send(list(entered))
    # These errors mean that the race was given up, and the main process says so.
    with suppress(EOFError, KeyboardInterrupt):
        while asked := pipe.recv():
            pipe.send(peak(asked, device) if isinstance(asked, torch.dtype) else entered[asked].turn(device))


@dataclass(frozen=True)
class Row:
    """One contender in one case: the median over rounds."""

    case: str
    """The case in words."""
    contender: str
    """The contender's name."""
    milliseconds: float
    """Of a step, by the clock."""
    spread: float
    """Interquartile range over the median."""
    tokens_per_second: float
    """Data tokens, prompts not included."""
    system_milliseconds: float
    """Of processor time, in the operating system."""
    ratio: float
    """Times as fast as the first contender of the case."""
    share_of_peak: float
    """Needed operations per second over the machine's own matrix-product rate in this dtype; on a GPU the model-FLOP
    utilisation."""


def start(case: Case, device: str, fast: bool) -> Connection:
    """Start a process of contenders.

    Args:
        case: What a step computes.
        device: "cpu" or "cuda".
        fast: Whether this project's settings are made in the process.

    Returns:
        A pipe to the process.
    """
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    spawn.Process(target=wait_for_turns, args=(there, case, device, fast), daemon=True).start()
    # Now only the process holds this end, so the end of the process is the end of the pipe.
    there.close()
    return here


def race(case: Case, rounds: int, device: str) -> list[Row]:
    """Let all contenders of a case take turns.

    Args:
        case: What a step computes.
        rounds: Turns that each of them takes.
        device: "cpu" or "cuda".

    Returns:
        A row of each contender.

    Raises:
        EOFError, ConnectionError: A process of contenders ended before its time.
    """
    pipes = [start(case, device, fast) for fast in (False, True)]
    home = {name: pipe for pipe in pipes for name in pipe.recv()}
    turns: dict[str, list[Turn]] = {name: [] for name in home}
    peaks: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}

    def ask(pipe: Connection, what: str | torch.dtype) -> Turn | float:
        pipe.send(what)
        return pipe.recv()

    for _ in range(rounds):
        for name, taken in turns.items():
            taken.append(ask(home[name], name))
        for dtype, rates in peaks.items():
            rates.append(ask(pipes[1], dtype))  # the second process has our settings
    for pipe in pipes:
        pipe.send(None)
    rows, first = [], 0.0
    for name, taken in turns.items():
        low, middle, high = map(float, np.quantile([turn.seconds for turn in taken], [0.25, 0.5, 0.75]))
        first = first or middle
        limit = float(np.median(peaks[torch.bfloat16 if "bfloat16" in name else torch.float32]))
        row = Row(
            case=str(case),
            contender=name,
            milliseconds=middle * 1000,
            spread=(high - low) / middle,
            tokens_per_second=case.tokens / middle,
            system_milliseconds=float(np.median([turn.system_seconds for turn in taken])) * 1000,
            ratio=first / middle,
            share_of_peak=case.flops() / middle / limit,
        )
        rows.append(row)
    return rows


# --- memory ---


def memory(case: Case, contender: str) -> int:
    """Measure, in a new process, what two steps add to the peak resident memory of a process with a loaded model.

    Args:
        case: What a step computes.
        contender: "naive", "PEFT", "ours" or "ours, bfloat16".

    Returns:
        Bytes.
    """
    command = [sys.executable, "-m", "exploratory_tests.throughput_test"]
    command += ["--memory-of", json.dumps([asdict(case), contender])]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(said.stdout.split()[-1])


def print_memory(case: Case, contender: str) -> None:
    """Take two steps and print how many bytes they added to this process's peak memory.

    Args:
        case: What a step computes.
        contender: "naive", "PEFT", "ours" or "ours, bfloat16".
    """
    others = {"naive": naive, "PEFT": peft_loop}
    lm = new_lm(case.shape, torch.bfloat16 if "bfloat16" in contender else torch.float32, "cpu")
    if contender not in others:
        settle_process(torch.device("cpu"))
    step = others.get(contender, ours)(case, lm)
    before = peak_memory()
    step()
    step()
    print(peak_memory() - before)


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    # getrusage would count what the parent process held as well.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def memory_cells() -> list[list[str]]:
    """A table of what contenders add to the memory in the case LARGE, and of what five runs of ours add."""
    used = {name: memory(LARGE, name) for name in ("naive", "PEFT", "ours", "ours, bfloat16")}
    used["ours, 5 runs"] = memory(replace(LARGE, n_runs=5), "ours")
    cells = [["variant", "GB", "of naive"]]
    return cells + [[name, f"{n / 1e9:.2f}", f"{n / used['naive']:.2f}"] for name, n in used.items()]


# --- data ---


def data() -> list[list[str]]:
    """A table of how fast games and boards are made, and of what share of a training's time the loop waits for them."""
    cells = [["what", "a second", "beside"]]
    text = zstandard.ZstdDecompressor().stream_reader(GAMES.open("rb")).read()
    with tempfile.TemporaryDirectory() as folder:
        many = Path(folder) / "games.pgn"
        many.write_bytes(text * 20)
        seconds = []
        for i in range(3):
            started = time.perf_counter()
            n = len(read_games(str(many), GameFilter(), None, Path(folder) / str(i)))
            seconds.append(time.perf_counter() - started)
        ours_rate = n / float(np.median(seconds))
        started = time.perf_counter()
        with many.open() as lines:
            for _ in range(200):
                " ".join(move.uci() for move in chess.pgn.read_game(lines).mainline_moves())
        naive_rate = 200 / (time.perf_counter() - started)
        cells.append(["games read, checked and cached", f"{ours_rate:,.0f}", f"python-chess: {naive_rate:,.0f}"])
        made, n = stream(Pathfinding().shape, (0,)), 0
        started = time.perf_counter()
        while n < 100_000:
            boards = next(made)
            n += len(list(zip(board_texts(boards, True, True), move_texts(boards, True), strict=True)))
        cells.append(["boards of 8 x 8 with their text", f"{n / (time.perf_counter() - started):,.0f}", "one core"])
        for sweep in (tests.chess_test.POCKET, tests.pathfinding_test.POCKET):
            cells.append([f"{sweep.experiment} on pocket: waiting for data", waiting(sweep, folder), ""])
    return cells


def waiting(sweep: Sweep, folder: str) -> str:
    """The share of a training's time that goes into making batches.

    Args:
        sweep: The experiment. It is trained on pocket for a few steps.
        folder: Where the runs leave their files.

    Returns:
        The share in per cent, as a cell of a table.
    """
    recipe = replace(sweep.train, steps=60, n_evaluations=0, eval_documents=16)
    sweep = replace(sweep, train=recipe, out=Path(folder))
    runs = [run for run in plan(sweep, "pocket") if run.n_tokens]
    bench = make_bench(sweep, load("pocket"), runs[0])
    trained = train(bench, runs, Logs(Path(folder)))
    examples = sweep.task.examples("train", bench.encoding, 0)
    list(islice(examples, recipe.batch_size))  # the first batch pays for opening the data
    started = time.perf_counter()
    list(islice(examples, recipe.batch_size * recipe.steps))
    return f"{(time.perf_counter() - started) / sum(t.seconds for t in trained):.1%}"


# --- what is shown ---


def quiet() -> None:
    """Keep everything off the screen but the benchmark's own words."""
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)  # between PEFT and transformers


def main(settings: Settings) -> None:
    """Run all cases, print tables, and write the numbers and a plot.

    Args:
        settings: Options of the command line.

    Raises:
        SystemExit: The options are impossible, a process of contenders ended, or Ctrl-C was pressed.
    """
    if settings.rounds < 1:
        sys.exit(f"error: --rounds is {settings.rounds}; it must be at least 1, and 5 make a median one can trust.")
    quiet()
    if settings.memory_of:
        case, contender = json.loads(settings.memory_of)
        print_memory(Case(**case), contender)
        return
    if settings.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: --device is cuda, but torch sees no GPU here; nvidia-smi says whether there is one.")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device
    kept = "" if settings.quick else f" The cases before it are in {settings.out}."
    rows: list[Row] = []
    cases = QUICK if settings.quick else [*TRAINING, *FORWARD_ONLY, *TOGETHER, *ON_A_GPU * (device == "cuda")]
    for case in cases:
        say(f"{case} ...")
        try:
            rows += race(case, 3 if settings.quick else settings.rounds, device)
        except (EOFError, ConnectionError):
            sys.exit(f"error: a contender's process ended in {case}; most likely memory ran out.{kept}")
        except KeyboardInterrupt:
            sys.exit(f"stopped in {case}.{kept}")
        if not settings.quick:
            write(settings.out, device, rows, [])
    others = []
    if not settings.quick:
        others.append(("data", data()))
        if device == "cpu" and Path("/proc/self/status").exists():
            others.append((f"memory above the model: {LARGE}", memory_cells()))
        write(settings.out, device, rows, others)
        say(f"numbers, tables and a plot: {settings.out}")
    print_tables(speed_tables(rows) + others, CAPTION)


def write(folder: Path, device: str, rows: Sequence[Row], others: Tables) -> None:
    """Write numbers, tables and a plot of what is known so far.

    Args:
        folder: Where the files are written.
        device: "cpu" or "cuda"; the files are named by it.
        rows: The contenders of all cases that were run.
        others: The tables of data and memory.

    Raises:
        SoftPromptsError: A file cannot be written.
    """
    facts = {
        "device": name_of(device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "float32 kernels": choose_kernels() if device == "cpu" else "highest (no TF32)",
        "rows": [asdict(row) for row in rows],
        "tables": dict(others),
    }
    write_atomically(folder / f"{device}.json", (json.dumps(facts, indent=1) + "\n").encode())
    title = f"# Speed on {facts['device']}\n\n{CAPTION}\n"
    text = [title, *(as_markdown(*table) for table in speed_tables(rows) + others)]
    write_atomically(folder / f"{device}.md", "\n".join(text).encode())
    save_figure(figure(rows), folder / f"{device}.png")


def name_of(device: str) -> str:
    """The machine in words.

    Args:
        device: "cpu" or "cuda".
    """
    if device == "cuda":
        return torch.cuda.get_device_name()
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _cpuinfo() -> list[str]:
    """Lines about the processor; none if the system has no /proc."""
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def speed_tables(rows: Sequence[Row]) -> Tables:
    """A table for every case.

    Args:
        rows: The contenders of all cases.
    """
    header = ["variant", "ms a step", "spread", "tokens/s", "ms in system", "x first", "of peak"]
    tables: dict[str, list[list[str]]] = {}
    for row in rows:
        of_training = row.case.startswith("training")  # only there are the operations counted
        cells = [
            row.contender,
            f"{row.milliseconds:.0f}",
            f"{row.spread:.0%}",
            f"{row.tokens_per_second:,.0f}",
            f"{row.system_milliseconds:.0f}",
            f"{row.ratio:.2f}",
            f"{row.share_of_peak:.0%}" if of_training else "",
        ]
        tables.setdefault(row.case, [header]).append(cells)
    return list(tables.items())


def figure(rows: Sequence[Row]) -> Figure:
    """A plot with a bar for every contender: how many times as fast as the first of its case.

    Args:
        rows: The contenders of all cases. The bare kernels are left out.
    """
    rows = [row for row in rows if "bare" not in row.contender]
    made = Figure(figsize=(8, 0.22 * len(rows) + 1), layout="constrained")
    ax = made.subplots()
    heights = np.arange(len(rows))[::-1]
    cases = list(dict.fromkeys(row.case for row in rows))
    ax.barh(heights, [row.ratio for row in rows], color=[f"C{cases.index(row.case) % 2}" for row in rows])
    names = [f"{row.case}: {row.contender}" if row.ratio == 1 else row.contender for row in rows]
    ax.set_yticks(heights, names, fontsize=7)
    ax.bar_label(ax.containers[0], [f"{row.ratio:.1f}" for row in rows], fontsize=7, padding=2)
    ax.axvline(1, color="gray", linewidth=0.8)
    ax.margins(y=0.01)
    ax.set_xlabel("times as fast as the first of its case")
    ax.spines[["top", "right"]].set_visible(False)
    return made


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
