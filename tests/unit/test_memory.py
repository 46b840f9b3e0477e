"""Running out of memory: passes become smaller, and no number changes."""

import numpy as np
import pytest
import torch

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine import memory
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.forward import pack
from soft_prompts.engine.memory import Memory, within_memory
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.tasks.base import Task
from soft_prompts.training.loop import accumulate_gradients
from tests.unit.conftest import make_examples


@pytest.fixture(autouse=True)
def a_memory_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(memory, "MEMORY", fresh := Memory())
    for module in ("forward", "generate"):
        monkeypatch.setattr(f"soft_prompts.engine.{module}.MEMORY", fresh)


def smaller_than(limit: int, model, monkeypatch) -> list[int]:
    """Let passes of more than ``limit`` positions run out of memory; returns the sizes of those that were tried."""
    sizes: list[int] = []
    body = type(model).body

    def fits(self, embeddings):
        sizes.append(embeddings.shape[0] * embeddings.shape[1])
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return body(self, embeddings)

    monkeypatch.setattr(type(model), "body", fits)
    return sizes


def test_gradients_and_losses_are_those_of_smaller_passes_and_the_cut_is_remembered(neox, monkeypatch, capsys) -> None:
    prompts = [SoftPrompt(neox.vocabulary[i : i + 3].float()) for i in (5, 9)]
    examples = [make_examples(12)] * 2
    expected = accumulate_gradients(neox, Task(), prompts, examples, 130)
    gradients = [p.rows.grad.clone() for p in prompts]
    held_out = evaluate(neox, prompts, examples[0], 130)

    for prompt in prompts:
        prompt.zero_grad()
    sizes = smaller_than(150, neox, monkeypatch)
    losses = accumulate_gradients(neox, Task(), prompts, examples, 1000)
    torch.testing.assert_close(losses, expected)
    for prompt, gradient in zip(prompts, gradients, strict=True):
        torch.testing.assert_close(prompt.rows.grad, gradient)
    assert memory.MEMORY.positions == 125
    said = " ".join(capsys.readouterr().err.split())
    assert "out of memory: passes have at most 125 positions from now on, instead of 250." in said
    assert "--token-budget 125 starts so" in said

    n_tried = len(sizes)
    again = evaluate(neox, prompts, examples[0], 1000)
    assert max(sizes[n_tried:]) <= 125  # what was learned while training holds for evaluation
    for one, other in zip(again, held_out, strict=True):
        np.testing.assert_allclose(one.sums, other.sums, rtol=1e-5)


def test_what_the_failed_pass_left_is_taken_back(neox) -> None:
    prompt = SoftPrompt(neox.vocabulary[:2].float())
    left, tries = [], []

    def work() -> str:
        tries.append(list(left))
        left.append("half")
        if len(tries) < 3:
            raise torch.OutOfMemoryError("out")
        return "done"

    assert within_memory(work, 1024, left.clear) == "done"
    assert tries == [[], [], []] and memory.MEMORY.positions == 256
    labels = np.array([IGNORE, *[1] * 125])
    of_one_length = [Example(np.ones(126, int), labels, str(i)) for i in range(4)]
    assert [len(rows) for rows in pack([prompt], [of_one_length], 10_000)] == [2, 2]


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        within_memory(broken, 1024)
    assert memory.MEMORY.positions is None


def test_a_text_that_does_not_fit_alone_ends_in_a_sentence(neox, monkeypatch) -> None:
    sizes = smaller_than(10, neox, monkeypatch)
    with pytest.raises(SoftPromptsError, match=r"does not hold the model and one text at a time; use a smaller model"):
        evaluate(neox, [SoftPrompt(neox.vocabulary[:2].float())], make_examples(3), 512)
    assert len(sizes) == 4  # 512, 256, 128, 64


@pytest.mark.parametrize(
    "sign",
    [
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
        "could not create a primitive",
        "std::bad_alloc",
    ],
)
def test_a_processor_s_ways_of_saying_so_are_known(sign: str) -> None:
    tries = []

    def work() -> int:
        tries.append(memory.MEMORY.positions)
        if len(tries) == 1:
            raise RuntimeError(sign)
        return 1

    assert within_memory(work, 4096) == 1 and tries == [None, 2048]
