"""Models in parts, whose layers are on several devices or come there for each pass, compute what a whole one does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from accelerate.utils import compute_module_sizes
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig

from soft_prompts.engine.evaluate import evaluate
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.lora import LoRA
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models import controls
from soft_prompts.models.controls import control_of
from soft_prompts.models.fitness import check_cache, check_fitness
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load
from soft_prompts.models.spread import device_map
from soft_prompts.sweep import Sweep
from soft_prompts.tasks.base import Task
from soft_prompts.training.loop import accumulate_gradients
from tests.unit.conftest import CONFIGS, make_examples

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
SMALL["vocab_size"] = 900  # so the ends are larger than a layer
DEEP = {
    "neox": GPTNeoXConfig(num_hidden_layers=6, **SMALL),
    "llama": LlamaConfig(num_hidden_layers=6, **SMALL),
    "tied": LlamaConfig(num_hidden_layers=6, tie_word_embeddings=True, **SMALL),
}


def in_parts(model: LanguageModel, folder) -> LanguageModel:
    """The model with its layers on the disk: a layer's weights are there only while it computes."""
    names = [name for name, part in model.lm.named_modules() if name and not list(part.children())]
    layers = [name for name in names if ".layers." in name]
    devices = {name: "disk" if name in layers else "cpu" for name in names}
    lm = dispatch_model(model.lm, devices, main_device="cpu", offload_dir=str(folder))
    assert sum(weight.is_meta for weight in lm.parameters()) > 10
    return replace(model, lm=lm)


@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_a_model_in_parts_has_the_losses_gradients_and_weights_of_the_whole(folders, tmp_path, architecture) -> None:
    whole = load(str(folders[architecture]))
    parts = in_parts(load(str(folders[architecture])), tmp_path)
    check_fitness(parts)
    check_cache(parts)
    assert parts.device == whole.device
    assert parts.weight_hash == whole.weight_hash
    torch.testing.assert_close(parts.vocabulary, whole.vocabulary, atol=0, rtol=0)
    examples, found = make_examples(4), []
    for model in (whole, parts):
        prompt = SoftPrompt(torch.ones(2, 32))
        lora = LoRA.on(model.lm, 2, torch.Generator().manual_seed(0)) if model is whole else found[0][-1]
        (loss,) = accumulate_gradients(model, Task(), [prompt], [examples], 100)
        (scores, changed) = evaluate(model, [prompt, lora], examples, 100)
        found.append((loss.item(), prompt.rows.grad, scores.sums, changed.sums, lora))
    (first, second) = found
    assert first[0] == second[0]
    torch.testing.assert_close(first[1], second[1], atol=0, rtol=0)
    for i in (2, 3):
        np.testing.assert_array_equal(first[i], second[i])


@pytest.mark.parametrize("control", ["scrambled", "untrained"])
def test_controls_of_a_model_in_parts_are_those_of_the_whole(folders, tmp_path, monkeypatch, control) -> None:
    whole = load(str(folders["neox"]))
    parts = in_parts(load(str(folders["neox"])), tmp_path)
    monkeypatch.setattr(controls, "spread", lambda lm: lm)  # which needs a GPU
    assert control_of(parts, control).weight_hash == control_of(whole, control).weight_hash != whole.weight_hash
    assert parts.weight_hash == whole.weight_hash


@pytest.mark.parametrize("name", list(DEEP))
@pytest.mark.parametrize(("n_layers", "last"), [(2.5, "cpu"), (4.5, 1), (20, 0)])
def test_layers_go_to_devices_in_order_and_the_ends_to_the_first(name: str, n_layers: float, last) -> None:
    """Each of two GPUs has room for so many layers of six, the first one also for the ends."""
    lm = AutoModelForCausalLM.from_config(DEEP[name])
    sizes = compute_module_sizes(lm)
    (layer,) = {size for path, size in sizes.items() if path.count(".") == 2 and ".layers." in path}
    ends = {
        id(p): p.nbytes for end in (lm.get_input_embeddings(), lm.get_output_embeddings()) for p in end.parameters()
    }
    room = int(n_layers * layer)
    memory = {0: sum(ends.values()) + room, 1: room, "cpu": 10**9}
    found = device_map(lm, memory)
    if last == 0:
        assert set(found.values()) == {0}
        return
    for end in (lm.get_input_embeddings(), lm.get_output_embeddings()):
        (path,) = [path for path, part in lm.named_modules() if part is end]
        assert found[path] == 0
    layers = [[where for path, where in found.items() if f".layers.{i}" in path] for i in range(6)]
    assert [len(set(places)) for places in layers] == [1] * 6  # none is torn apart
    order = [[*memory].index(places[0]) for places in layers]
    assert order == ([0, 0, 1, 1, 2, 2] if last == "cpu" else [0, 0, 0, 0, 1, 1])
    assert {name for name, _ in lm.named_parameters()} == {
        name for name, _ in lm.named_parameters() if any(name.startswith(f"{path}.") for path in found)
    }
    for device, room in memory.items():
        parts = {id(p): p for path, at in found.items() if at == device for p in lm.get_submodule(path).parameters()}
        assert sum(p.nbytes for p in parts.values()) <= room


def test_a_device_that_holds_not_even_the_embeddings_is_refused() -> None:
    lm = AutoModelForCausalLM.from_config(DEEP["neox"])
    with pytest.raises(SoftPromptsError, match="embeddings and unembedding take 0.0 GiB, but device 0 has only"):
        device_map(lm, {0: 1000, 1: 10**9, "cpu": 10**9})


def test_a_device_map_needs_a_gpu_and_one_process_on_a_machine(folders, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SoftPromptsError, match="--device-map auto needs a GPU"):
        load(str(folders["neox"]), device_map="auto")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(SoftPromptsError, match="but 4 processes were started here; start one on each machine"):
        Sweep("test", Task(), ("m",), (0,), device_map="auto").check()
