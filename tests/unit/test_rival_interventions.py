"""Steering vectors and LoRAs as rivals of prompts: they do to the model what is written by hand, and they are trained,
rounded and saved as prompts are."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from soft_prompts.console import Interrupted
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.generate import generate
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.base import SCALE_BITS
from soft_prompts.interventions.lora import LoRA
from soft_prompts.interventions.rounding import round_rows
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.interventions.steering import Steering, layers_of, sizes_passed_on
from soft_prompts.interventions.subspace import Subspace
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.probes.bits import rounded_sizes
from soft_prompts.results.snapshot import load_prompt, save_prompt
from soft_prompts.tasks.base import Task
from soft_prompts.training.loop import accumulate_gradients
from soft_prompts.training.recipe import RECIPES, TrainConfig
from soft_prompts.training.state import make_intervention, steered
from tests.unit.conftest import make_examples
from tests.unit.test_checkpoint import bench_of, go, same
from tests.unit.test_train import Documents, run, train_all


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pushed(model: LanguageModel, layers: tuple[int, ...], size: float = 2.0, seed: int = 0) -> Steering:
    """Steering with random vectors of ``size`` times what the layers pass on."""
    steering = Steering.on(model.lm, layers)
    steering.vectors.data = size * torch.randn(steering.vectors.shape, generator=seeded(seed))
    return steering


def changed(model: LanguageModel, seed: int = 0) -> LoRA:
    """A LoRA that does something."""
    lora = LoRA.on(model.lm, 2, seeded(seed))
    for b in lora.b:
        b.data = torch.randn(b.shape, generator=seeded(seed)) / 4
    return lora


def loss(model: LanguageModel, intervention, examples) -> float:
    return evaluate(model, [intervention], examples, 10**6)[0].loss


def biased(model: LanguageModel, steering: Steering) -> LanguageModel:
    """The reference: the vectors added to the last bias of each layer, whose output is what the layer adds."""
    lm = copy.deepcopy(model.lm)
    with torch.no_grad():
        for layer, vector in zip(steering.layers, steering.vectors * steering.scales[:, None], strict=True):
            layers_of(lm)[layer].mlp.dense_4h_to_h.bias += vector
    return replace(model, lm=lm)


def test_steering_adds_its_vectors_to_what_the_layers_pass_on_of_its_own_rows(neox) -> None:
    examples = make_examples(6)
    one, both = pushed(neox, (1,)), pushed(neox, (0, 1), seed=1)
    nothing = SoftPrompt(neox.vocabulary[:0])
    together = [s.loss for s in evaluate(neox, [one, nothing, both], examples, 10**6)]
    wanted = [loss(m, nothing, examples) for m in (biased(neox, one), neox, biased(neox, both))]
    assert together == pytest.approx(wanted, rel=1e-5)
    assert len({round(x, 2) for x in wanted}) == 3


def test_generation_is_steered(neox) -> None:
    steering, nothing = pushed(neox, (0,)), SoftPrompt(neox.vocabulary[:0])
    starts = [Example(np.array([0, i, i + 1]), np.array([IGNORE, i, i + 1]), f"start {i}") for i in range(5, 9)]
    own, by_hand, before = (
        [row.tolist() for row in generate(m, i, starts, 8, 0.0, seeded())]
        for m, i in ((neox, steering), (biased(neox, steering), nothing), (neox, nothing))
    )
    assert own == by_hand != before


def test_what_layers_pass_on_is_measured_as_a_plain_pass_has_it(model) -> None:
    measured = sizes_passed_on(model.lm)
    assert not any(module._forward_hooks for module in model.lm.modules())
    tokens = torch.randint(len(model.lm.get_input_embeddings().weight), (1, 32), generator=seeded())
    hidden = model.lm(tokens, output_hidden_states=True).hidden_states[1]  # behind the first layer
    torch.testing.assert_close(measured[0], hidden[0].square().mean(-1).sqrt().median())


def test_new_vectors_change_nothing_and_only_they_learn(model) -> None:
    examples, steering = make_examples(5), Steering.on(model.lm, (0, 1))
    before = loss(model, steering, examples)
    assert before == pytest.approx(loss(model, SoftPrompt(model.vocabulary[:0]), examples), rel=1e-6)
    accumulate_gradients(model, Task(), [steering], [examples], 10**6)
    assert [name for name, _ in steering.named_parameters()] == ["vectors"]
    torch.optim.SGD(steering.parameters(), 0.5).step()
    assert loss(model, steering, examples) < before - 1e-3


class Spoken(Task):
    """Texts that a steered model wrote."""

    def __init__(self, rows: list[np.ndarray]):
        self.texts = [Example(row, np.array([IGNORE, *row[1:]]), f"text {i}") for i, row in enumerate(rows)]


def test_a_planted_direction_is_found_from_what_the_steered_model_writes(neox) -> None:
    planted = pushed(neox, (0,), size=1.0)
    start = Example(np.array([0, 5]), np.array([IGNORE, 5]), "start")
    rows = generate(neox, planted, [start] * 256, 40, 1.0, seeded(1))
    task = Spoken([np.array([0, 5, *row]) for row in rows if len(row) > 5])
    found = Steering.on(neox.lm, (0,))
    optimizer = torch.optim.AdamW(found.parameters(), 0.05, weight_decay=0.0)
    for step in range(120):
        batch = [task.texts[(32 * step + i) % len(task.texts)] for i in range(32)]
        accumulate_gradients(neox, task, [found], [batch], 10**6)
        optimizer.step()
        optimizer.zero_grad()
    cosine = nn.functional.cosine_similarity(found.vectors[0], planted.vectors[0], dim=0).item()
    assert cosine > 0.9


def test_places_are_spread_over_the_depth() -> None:
    assert [list(steered(6, 1, start, 6)) for start in range(6)] == [[0], [1], [2], [3], [4], [5]]
    assert [list(steered(30, 2, start, 3)) for start in range(3)] == [[0, 1], [14, 15], [28, 29]]
    assert list(steered(6, 2, 0, 1)) == [2, 3]
    assert list(steered(6, 6, 2, 4)) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(SoftPromptsError, match="7 layers cannot be steered, the model has 6"):
        steered(6, 7, 0, 1)


def test_the_place_of_a_vector_is_chosen_on_the_validation_documents(neox, tmp_path, monkeypatch) -> None:
    of_two = run(1, intervention="steering", starts=2, steps=8, lr=0.05)
    assert [make_intervention(neox, of_two, 0, start).layers for start in (0, 1)] == [(0,), (1,)]
    (state,) = train_all(neox, [of_two], tmp_path / "both")
    assert state.intervention.layers == (state.start,)
    losses = []
    for layer in (0, 1):  # the same steps, both starts in one place
        monkeypatch.setattr("soft_prompts.training.state.steered", lambda *_, layer=layer: range(layer, layer + 1))
        (alone,) = train_all(neox, [of_two], tmp_path / str(layer))
        losses.append(next(point["loss"] for point in alone.curve if point["step"] == of_two.recipe.choice))
    assert state.start == int(np.argmin(losses)) and abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("kind", ["lora", "steering"])
def test_it_is_trained_interrupted_and_saved_as_a_prompt_is(neox, tmp_path, kind: str) -> None:
    runs = [run(2, intervention=kind, steps=6, lr=0.05), run(0, intervention=kind), run(3, steps=6)]
    undisturbed = go(neox, runs, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        go(neox, runs, tmp_path / "stopped", 4)
    same(go(neox, runs, tmp_path / "stopped"), undisturbed)
    trained, nothing, prompt = (s.intervention for s in undisturbed)
    assert [type(i).__name__ for i in (trained, nothing, prompt)] == [
        {"lora": "LoRA", "steering": "Steering"}[kind],
        "SoftPrompt",
        "SoftPrompt",
    ]
    examples = make_examples(5)
    assert loss(neox, trained, examples) != pytest.approx(loss(neox, nothing, examples), abs=1e-4)
    save_prompt(trained, neox, {}, tmp_path / "x.safetensors")
    loaded = load_prompt(tmp_path / "x.safetensors", neox)
    assert loss(neox, loaded, examples) == loss(neox, trained, examples)
    assert loaded.config() == trained.config()


@pytest.mark.parametrize("kind", ["lora", "steering"])
def test_a_snapshot_of_other_layers_is_refused(folders, tmp_path, neox, kind: str) -> None:
    made = changed(neox) if kind == "lora" else pushed(neox, (0,))
    for wrong in ({"rank": 3}, {"layers": {}}) if kind == "lora" else ({"layers": [2]}, {"width": 31}):
        config = {**made.config(), **wrong}
        with pytest.raises(ValueError, match="do not fit the model's layers"):
            type(made).check(config, made.state_dict(), neox.lm)
    type(made).check(made.config(), made.state_dict(), neox.lm)


def test_rounded_each_row_has_a_scale_of_its_own(neox) -> None:
    bench = bench_of(neox, Documents())
    lora, steering = changed(neox), pushed(neox, (0, 1))
    torch.testing.assert_close(steering.rounded(2).vectors, round_rows(steering.vectors, 2))
    rounded = lora.rounded(1)
    assert all(len(row.abs().unique()) == 1 for a in rounded.a for row in a)
    assert all(len(column.abs().unique()) == 1 for b in rounded.b for column in b.T)
    assert all(len(row.abs().unique()) > 1 for a in lora.a for row in a)  # it is left as it was
    for made, n_scales in ((lora, 2 * 2 * len(lora.layers)), (steering, 2)):
        (scores,) = evaluate(neox, [made], bench.held_out, 10**6)
        (validated,) = evaluate(neox, [made], bench.validation, 10**6)
        sizes = rounded_sizes(bench, made, scores, validated.loss)
        numbers = sum(p.numel() for p in made.parameters())
        assert [s.bits for s in sizes] == [numbers * s.bits_per_number + n_scales * SCALE_BITS for s in sizes]
        coarse = made.rounded(sizes[0].bits_per_number)
        assert sizes[0].validation_loss == pytest.approx(loss(neox, coarse, bench.validation), abs=1e-6)
        assert abs(sizes[0].validation_loss - validated.loss) > 1e-3


def test_few_directions_of_a_rival_are_its_start_moved(neox) -> None:
    examples = make_examples(5)
    for inner in (changed(neox), pushed(neox, (0,))):
        few = Subspace(inner, 3, seed=0)
        assert loss(neox, few, examples) == pytest.approx(loss(neox, inner, examples), abs=1e-6)
        few.theta.data[:] = 3 * torch.randn(3, generator=seeded(5))
        assert loss(neox, few, examples) == pytest.approx(loss(neox, few.plain(), examples), abs=1e-5)
        assert abs(loss(neox, few, examples) - loss(neox, inner, examples)) > 1e-3
        accumulate_gradients(neox, Task(), [few], [examples], 10**6)
        assert few.theta.grad.abs().min() > 0


def test_what_means_nothing_without_tokens_is_refused() -> None:
    for wrong in ({"noise": 10.0}, {"grow": True}, {"init": "text", "init_text": "a"}):
        with pytest.raises(SoftPromptsError, match="--train.intervention lora has no tokens"):
            TrainConfig(intervention="lora", **wrong).check()
    for name in ("lora", "steering"):
        TrainConfig(**RECIPES[name]).check()
