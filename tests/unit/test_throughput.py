"""The benchmark: its contenders compute the same, and it counts the operations that they do."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from exploratory_tests import contenders, throughput_test
from exploratory_tests.contenders import IGNORE, Case, documents, new_lm
from exploratory_tests.throughput_test import Settings, race
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.interventions.soft_prompt import SoftPrompt

TINY = Case("tiny", 2, 24, 4)


@pytest.mark.parametrize("changes", [{}, {"scored": 0.3}])
def test_the_naive_loop_and_ours_have_the_same_loss(changes: dict) -> None:
    case = replace(TINY, what="evaluation", **changes)
    lm = new_lm("tiny", torch.float32, "cpu")
    torch.manual_seed(1)
    loss = contenders.naive(case, lm)
    torch.manual_seed(1)
    prompt = SoftPrompt(torch.randn(case.n_tokens, 32) * 0.02)  # what the naive loop starts from
    (scores,) = evaluate(contenders.random_model(case, lm), [prompt], documents(case), 10_000)
    assert scores.loss == pytest.approx(loss().item(), rel=1e-5)
    assert scores.counts.sum() == sum((e.labels != IGNORE).sum() for e in documents(case))


class _Counter(TorchDispatchMode):
    """Adds up the operations of matrix products as they are called.

    It does not know the operations of attention on a CPU, so it counts the calls of attention's kernels.
    """

    total = n_attention = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if count := flop_registry.get(function._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        self.n_attention += "attention" in str(function)
        return out


@pytest.mark.parametrize("case", [TINY, replace(TINY, scored=0.5), replace(TINY, batch=3, n_runs=2)])
def test_the_operations_counted_are_those_that_are_needed(case: Case) -> None:
    step = contenders.ours(case, new_lm("tiny", torch.float32, "cpu"))
    with _Counter() as counter:
        step()
    scored = sum((e.labels != IGNORE).sum() for e in documents(case)) / (case.batch * (case.length - 1))
    needed = replace(case, scored=float(scored)).flops()
    width, layers, row = 32, 2, case.length + case.n_tokens
    attention = case.n_runs * case.batch * row * layers * row * width * 6
    assert needed - attention == pytest.approx(counter.total)


@pytest.mark.slow
@pytest.mark.parametrize("case", [TINY, replace(TINY, n_runs=3)])
def test_all_take_their_turns_and_are_compared_with_the_first(case: Case) -> None:
    rows = race(case, 2, "cpu")
    assert rows[0].ratio == 1
    names = {"naive", "PEFT", "ours", "ours, bfloat16"}
    if case.n_runs > 1:
        names = {"one run after another", "all runs in one pass"}
    assert {row.contender for row in rows} >= names
    assert all(row.ratio == pytest.approx(rows[0].milliseconds / row.milliseconds) for row in rows)
    assert all(row.milliseconds > 0 <= row.system_milliseconds for row in rows)


@pytest.mark.parametrize("changes", [{"conditional": True}, {"what": "generation"}, {"what": "evaluation"}])
def test_conditional_prompts_evaluation_and_generation_are_raced_with_the_naive_loop(changes: dict) -> None:
    case = replace(TINY, **changes)
    assert list(throughput_test.contenders(case, "cpu", False)) == ["naive"]
    for contender in throughput_test.contenders(case, "cpu", True).values():
        assert contender.turn("cpu").seconds > 0


def test_transformers_trainer_takes_part_in_one_case(monkeypatch) -> None:
    monkeypatch.setattr(throughput_test, "WITH_TRAINER", TINY)
    assert throughput_test.contenders(TINY, "cpu", False)["PEFT, Trainer"].turn("cpu").seconds > 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.slow
def test_memory_is_that_of_the_contender_whatever_its_parent_held() -> None:
    held = np.ones(2**27)  # 1 GiB
    del held
    logits = 4 * 8 * 255 * 50_304
    assert 2 * logits < throughput_test.memory(Case("14m", 8, 256, 1), "naive") < 10 * logits
    assert throughput_test.memory(Case("14m", 8, 256, 1), "ours") < logits


def test_the_benchmark_writes_its_numbers(tmp_path, monkeypatch, capsys) -> None:
    for name, cases in {"TRAINING": [TINY], "FORWARD_ONLY": [], "TOGETHER": []}.items():
        monkeypatch.setattr(throughput_test, name, cases)
    monkeypatch.setattr(throughput_test, "data", lambda: [["what", "a second", "beside"]])
    monkeypatch.setattr(throughput_test, "memory", lambda case, contender: 10**9)
    throughput_test.main(Settings(rounds=1, out=tmp_path))
    facts = json.loads((tmp_path / "cpu.json").read_text())
    assert {row["contender"] for row in facts["rows"]} >= {"naive", "PEFT", "ours"}
    assert facts["rows"][0]["ratio"] == 1 and all(row["milliseconds"] > 0 for row in facts["rows"])
    assert (tmp_path / "cpu.png").stat().st_size > 1000
    assert "| ours, bfloat16 |" in (tmp_path / "cpu.md").read_text()
    assert "tokens/s" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(SystemExit, match="--device is cuda, but torch sees no GPU here"):
        throughput_test.main(Settings(quick=True, device="cuda"))


def test_the_bare_kernels_are_the_products_of_the_step_and_its_attention() -> None:
    step = contenders.bare(TINY, new_lm("tiny", torch.float32, "cpu"))
    with _Counter() as counter:
        step()
    attention = TINY.batch * 28 * 2 * 28 * 32 * 6  # rows x positions x layers x positions x width x products
    assert TINY.flops() - attention == pytest.approx(counter.total)
    assert counter.n_attention == 2 * 2  # layers, forward and backward


@pytest.mark.parametrize(("seconds", "size"), [(1.0, 256), (1e-4, 2048)])
def test_the_peak_is_that_of_large_products_unless_they_would_take_too_long(monkeypatch, seconds, size) -> None:
    class Timed(throughput_test.Contender):
        def turn(self, device: str):
            return replace(super().turn(device), seconds=seconds)

    monkeypatch.setattr(throughput_test, "Contender", Timed)
    assert throughput_test.peak(torch.float32, "cpu") == pytest.approx(2 * size**3 / seconds)
