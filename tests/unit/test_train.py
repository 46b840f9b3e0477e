"""Training: runs that share passes do not disturb each other, and the gradients are those of a plain loop."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.batch import insert
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.lora import LoRA
from soft_prompts.interventions.soft_prompt import PromptGenerator, SoftPrompt, TokenwiseGenerator
from soft_prompts.interventions.steering import Steering
from soft_prompts.interventions.words import Words
from soft_prompts.models.loading import load
from soft_prompts.tasks.base import Task
from soft_prompts.tasks.permuted import PermutedLabels
from soft_prompts.training import loop
from soft_prompts.training.log import Logs
from soft_prompts.training.loop import accumulate_gradients, train
from soft_prompts.training.recipe import RECIPES, TrainConfig
from soft_prompts.training.run import Run
from soft_prompts.training.state import TrainingState, make_intervention
from tests.unit.conftest import make_examples

CONFIG = TrainConfig(lr=0.1, steps=6, batch_size=3, max_tokens=24, n_evaluations=2, eval_documents=5)


@dataclass(frozen=True)
class Documents(Task):
    """Random documents without a behaviour to learn."""

    n_conditions: int = 0
    leak: int | None = None
    """Whose documents are trained on as well: 0 of the held-out ones, 1 of those for validation."""
    last: int = 10**9
    """Batches of four documents after which the training documents end."""

    def examples(self, split, encoding, seed) -> Iterator[Example]:
        if split != "train":
            yield from make_examples(5, seed=10**6 + (split == "validation"), n_conditions=self.n_conditions)
            return
        for i in range(self.last):
            yield from make_examples(
                4, seed=1000 * seed + i if self.leak is None else 10**6 + self.leak, n_conditions=self.n_conditions
            )


def run(n_tokens: int, seed: int = 0, task: Task | None = None, **changes) -> Run:
    return Run("plumbing", task or Documents(), "no-model", n_tokens, seed, replace(CONFIG, **changes), "float32")


def train_all(model, runs: list[Run], folder, token_budget: int = 10**6) -> list[TrainingState]:
    encoding = Encoding(model.tokenizer, model.separator, CONFIG.max_tokens)
    held_out, validation = (list(runs[0].target.examples(s, encoding, 0)) for s in ("held_out", "validation"))
    return train(Bench(model, encoding, held_out, token_budget, validation), runs, Logs(folder))


@pytest.mark.parametrize("n_conditions", [0, 2])
def test_runs_trained_together_equal_each_alone(model, tmp_path, n_conditions: int) -> None:
    task = Documents(n_conditions)
    runs = [run(3, task=task), run(3, seed=1, task=task), run(1, task=task, lr=0.3)]
    runs += [run(0, task=task), run(7, task=task, init="zeros")]
    together = train_all(model, runs, tmp_path / "together", token_budget=200)
    for t in together:
        (alone,) = train_all(model, [t.run], tmp_path / "alone")
        for name, tensor in alone.intervention.state_dict().items():
            # Adam divides a gradient by its own size, so rounding shows where a gradient is nearly zero.
            torch.testing.assert_close(t.intervention.state_dict()[name], tensor, atol=1e-3 * t.run.train.lr, rtol=1e-5)
        assert t.scores.loss == pytest.approx(alone.scores.loss, abs=1e-5)
        assert [point["step"] for point in t.curve] == [point["step"] for point in alone.curve]


RULE = {"schedule": "until_flat", "steps": 100, "warmup": 0.0, "n_evaluations": 9}


def losses(*values: float) -> list[dict[str, float]]:
    """Validation losses after 0, 10, 20 ... steps."""
    return [{"step": 10 * k, "loss": loss} for k, loss in enumerate(values)]


@pytest.mark.parametrize(
    ("patience", "curve", "flat", "end"),
    [
        (2, losses(), 80, 100),  # nothing is known yet
        (2, losses(5.0, 4.0, 3.0, 2.95), 80, 100),  # 0.05 is more than 2 % of 2 nats
        (2, losses(5.0, 4.0, 3.0, 2.99, 2.97), 40, 50),  # together no more than 0.0406
        (1, losses(5.0, 4.0, 3.0, 2.97), 30, 38),
        (2, losses(5.0, 4.0, 3.0, 3.5, 4.0, 1.0), 40, 50),  # what comes later changes nothing
        (1, losses(5.0, 4.0, 4.1), 20, 25),
        (2, losses(5.0, 4.0, 3.0, 2.5, 2.99), 80, 100),  # the best of the two looks counts, not the latest
        (1, losses(5.0, 5.0), 10, 13),
        (1, losses(5.0, 4.0, 3.9797), 20, 25),  # 0.0203 of 1.0203: the latest counts as gained
        (1, losses(2.0, 1.994, 1.988), 80, 100),  # 0.006 each: more than 0.005
        (1, losses(2.0, 1.996), 10, 13),
        (2, losses(9, 8, 7, 6, 5, 4, 3, 3, 3), 80, 100),  # flat where the rate falls anyway
    ],
)
def test_a_loss_is_flat_after_so_many_evaluations_without_a_gain(patience, curve, flat, end) -> None:
    recipe = TrainConfig(**RULE, patience=patience)
    assert (recipe.flat_after(curve), recipe.last_step(curve)) == (flat, end)
    rates = [recipe.lr_share(step, curve) for step in range(end)]
    assert rates[:flat] == [1.0] * flat
    assert rates[flat:] == pytest.approx([1 - k / (end - flat) for k in range(end - flat)])


def test_prompts_are_trained_until_each_is_flat_together_as_alone(neox, tmp_path) -> None:
    rule = {**RULE, "steps": 20, "n_evaluations": 4}
    runs = [run(0, **rule), run(2, lr=1e-6, patience=1, **rule), run(4, lr=0.1, patience=9, **rule)]
    together = train_all(neox, runs, tmp_path / "together")
    # One hardly moves: flat at the first look, after 4 steps, and one more with a falling rate. The last waits longer.
    assert [[point["step"] for point in t.curve] for t in together] == [[0], [0, 4, 5], [0, 4, 8, 12, 16, 20]]
    assert together[1].n_data_tokens < together[2].n_data_tokens / 2
    for t in together:
        (alone,) = train_all(neox, [t.run], tmp_path / "alone")
        assert [point["step"] for point in t.curve] == [point["step"] for point in alone.curve]
        assert t.n_data_tokens == alone.n_data_tokens
        assert t.scores.loss == pytest.approx(alone.scores.loss, abs=1e-5)


def test_a_prompt_grows_from_a_quarter_of_its_tokens_in_half_of_the_steps() -> None:
    recipe = TrainConfig(steps=16, grow=True)
    assert [recipe.shown(64, step) for step in range(17)] == [1, 1, 1, *[4] * 2, *[16] * 4, *[64] * 8]
    assert [recipe.shown(n, 1) for n in (0, 1, 3, 4, 8)] == [0, 1, 3, 1, 2]
    assert TrainConfig(steps=16).shown(64, 1) == 64
    assert [TrainConfig(steps=steps, grow=True).shown(8, 0) for steps in (0, 1, 2)] == [8, 8, 2]
    with pytest.raises(SoftPromptsError, match="give one of them"):
        TrainConfig(grow=True, schedule="until_flat").check()


@pytest.mark.parametrize("changes", [{}, {"task": Documents(2)}, {"task": Documents(2), "generator": "tokenwise"}])
def test_a_growing_prompt_is_trained_as_a_shorter_one_and_then_as_itself(neox, tmp_path, changes) -> None:
    recipe = {"steps": 8, "n_evaluations": 1, "grow": True, **changes}
    runs = [run(8, **recipe), run(3, **{**recipe, "grow": False}), run(0, **recipe)]
    together = train_all(neox, runs, tmp_path / "together")
    assert [t.intervention.n_tokens for t in together] == [8, 3, 0]
    n_documents = 8 * CONFIG.batch_size
    grown, short, _ = together
    assert grown.n_positions - grown.n_data_tokens == n_documents / 2 * (2 + 8)
    assert short.n_positions - short.n_data_tokens == n_documents * 3
    (alone,) = train_all(neox, [runs[0]], tmp_path / "alone")
    assert alone.scores.loss == pytest.approx(grown.scores.loss, abs=1e-5)
    if not changes:  # so far it was a prompt of 2 tokens, which begins with the same rows
        (quarter,) = train_all(neox, [run(2, **{**recipe, "grow": False})], tmp_path / "quarter")
        early = [[point["loss"] for point in t.curve[:2]] for t in (quarter, alone)]
        assert early[0] == pytest.approx(early[1], abs=1e-6)


def test_the_published_recipe_moves_zeros_by_a_thousandth_in_the_model_s_own_units(neox, tmp_path) -> None:
    recipe = {**RECIPES["nordby2024"], "steps": 3}
    (state,) = train_all(neox, [run(2, **recipe)], tmp_path)
    rows = state.intervention(torch.zeros(1, 0))
    assert neox.scale != pytest.approx(1, rel=0.1)  # or the test would say little
    # Adam's first steps are as long as the rate; three in one direction at most.
    assert 0.9e-3 < rows.abs().max().item() <= 3.001e-3
    assert [state.lr(step) for step in (1, 2, 3)] == [1e-3] * 3


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_s_conditional_prompt_is_trained_like_any_other(neox, tmp_path, name) -> None:
    (state,) = train_all(neox, [run(2, task=Documents(2), **RECIPES[name])], tmp_path)
    kinds = {"nordby2024": TokenwiseGenerator, "lora": LoRA, "steering": Steering, "words": Words}
    assert type(state.intervention) is kinds.get(name, PromptGenerator)
    assert state.run.train.steps == CONFIG.steps and np.isfinite(state.scores.loss)


def test_peft_s_recipe_starts_at_random_numbers_of_size_one_and_ends_at_a_rate_of_nearly_nothing(neox) -> None:
    config = replace(CONFIG, steps=100, **RECIPES["peft"])
    rows = make_intervention(neox, Run("e", Documents(), "m", 64, 0, config, "float32"), 0)(torch.zeros(1, 0))
    assert rows.std().item() == pytest.approx(1, rel=0.05)
    assert [config.lr * config.lr_share(step) for step in (0, 50, 99)] == pytest.approx([0.03, 0.015, 0.0003])


def test_runs_of_different_steps_are_trained_together_as_alone(neox, tmp_path) -> None:
    runs = [run(0), run(2, steps=3, n_evaluations=0), run(2, steps=9, n_evaluations=2), run(3, steps=6, starts=2)]
    together = train_all(neox, runs, tmp_path / "together")
    steps = [[point["step"] for point in t.curve] for t in together]
    assert steps[:3] == [[0], [0, 3], [0, 3, 6, 9]] and {0, 2, 6} <= set(steps[3])  # a start is chosen after 2
    for t in together:
        (alone,) = train_all(neox, [t.run], tmp_path / "alone")
        assert [point["step"] for point in t.curve] == [point["step"] for point in alone.curve]
        assert t.start == alone.start and t.n_data_tokens == alone.n_data_tokens
        assert t.scores.loss == pytest.approx(alone.scores.loss, abs=1e-5)


def test_of_several_starts_the_best_on_validation_after_a_quarter_of_the_steps_goes_on(
    neox, tmp_path, monkeypatch
) -> None:
    steps, choice = 6, 2
    alone = []
    for start in range(4):
        monkeypatch.setattr(
            loop, "make_intervention", lambda model, run, n, _, start=start: make_intervention(model, run, n, start)
        )
        runs = [run(n, seed=1, steps=steps, n_evaluations=2) for n in (0, 2)]
        alone.append(train_all(neox, runs, tmp_path / f"alone-{start}")[1])
    monkeypatch.undo()
    early = [next(point["loss"] for point in t.curve if point["step"] == choice) for t in alone]
    best = early.index(min(early))
    assert best != 0  # or the test would say little

    several = [run(n, seed=1, steps=steps, n_evaluations=2, starts=4) for n in (0, 2)]
    nothing, kept = train_all(neox, several, tmp_path)
    torch.testing.assert_close(kept.intervention.rows, alone[best].intervention.rows, atol=1e-4, rtol=1e-4)
    assert kept.scores.loss == pytest.approx(alone[best].scores.loss, abs=1e-5)
    curves = [[point["loss"] for point in t.curve] for t in (kept, alone[best])]
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    # Four starts for two steps, one for the other four: it is charged with all of it.
    tokens = [t.n_data_tokens for t in alone]
    assert tokens[0] < kept.n_data_tokens < 4 * tokens[0]
    assert not nothing.intervention.trainable and nothing.n_data_tokens == 0
    place = tmp_path / kept.run.path
    assert sorted(path.name for path in place.iterdir() if path.is_dir()) == ["start-1", "start-2", "start-3"]


def test_of_several_starts_those_whose_numbers_stop_being_finite_are_passed_over(neox, tmp_path, monkeypatch) -> None:
    def broken(model, of: Run, n_conditions: int, start: int):
        prompt = make_intervention(model, of, n_conditions, start)
        if start < bad:
            prompt.rows.data[:] = torch.nan
        return prompt

    monkeypatch.setattr(loop, "make_intervention", broken)
    bad = 2
    (kept,) = train_all(neox, [run(2, starts=3)], tmp_path / "some")
    assert not kept.failure and np.isfinite(kept.scores.loss)
    bad = 3
    (kept,) = train_all(neox, [run(2, starts=3)], tmp_path / "all")
    assert "stopped being finite" in kept.failure and kept.scores is None


def test_of_several_starts_one_that_failed_is_chosen_only_if_all_did(neox, tmp_path) -> None:
    def started(failure: str, loss: float) -> TrainingState:
        state = TrainingState(run(1), make_intervention(neox, run(1), 0), Logs(tmp_path / f"{loss}").of(run(1)))
        state.failure, state.curve = failure, [{"step": 2, "loss": loss}]
        return state

    sound, lucky = started("", 3.0), started("it stopped being finite", 1.0)
    assert loop.best_starts([lucky, sound]) == [sound]
    assert loop.best_starts([lucky]) == [lucky]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("architecture", ["neox", "llama"])
def test_gradients_of_one_pass_equal_those_of_separate_passes(folders, architecture, dtype, tolerance: float) -> None:
    model = load(str(folders[architecture]), dtype=dtype)
    random = torch.Generator().manual_seed(0)
    prompts = [PromptGenerator(torch.randn(n, 32), 1.0, (2, 8), random).to(model.dtype) for n in (3, 3, 1, 3, 0)]
    examples = [make_examples(4, seed=r, n_conditions=2) for r in range(5)]
    accumulate_gradients(model, Task(), prompts, examples, 150)
    together = [[p.grad.clone() for p in prompt.parameters()] for prompt in prompts]
    for prompt, of_run, wanted in zip(prompts, examples, together, strict=True):
        prompt.zero_grad()
        accumulate_gradients(model, Task(), [prompt], [of_run], 10**6)
        for parameter, gradient in zip(prompt.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("token_budget", [1, 60, 10**6])
def test_how_rows_are_packed_changes_no_gradient(model, token_budget: int) -> None:
    examples, prompts = make_examples(6), [SoftPrompt(torch.randn(n, 32)) for n in (2, 0, 2)]
    losses = accumulate_gradients(model, Task(), prompts, [examples] * 3, token_budget)
    for prompt, loss in zip(prompts, losses, strict=True):
        plain = prompt.rows.detach().clone().requires_grad_()
        wanted = plain_loss(model, plain, examples)
        wanted.backward()
        assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
        torch.testing.assert_close(prompt.rows.grad, plain.grad, atol=1e-5, rtol=1e-4)


def plain_loss(model, rows: torch.Tensor, examples: list[Example]) -> torch.Tensor:
    """The reference: one row at a time goes through the whole model. Labels move with the inserted prompt."""
    total, weight = torch.zeros(()), 0.0
    for e in examples:
        at = torch.tensor([e.insert_at])
        embeddings = insert(model.embed(torch.from_numpy(e.tokens))[None], rows[None], at)
        labels = insert(torch.from_numpy(e.labels)[None], torch.full((1, len(rows)), IGNORE), at)[0]
        weights = e.weights if e.weights is not None else np.ones(len(e))
        logits = model.lm(inputs_embeds=embeddings).logits[0]
        losses = nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORE, reduction="none")
        scored = labels[1:] != IGNORE
        total = total + (losses[scored] * torch.from_numpy(weights[e.labels != IGNORE])).sum()
        weight += e.total_weight
    return total / weight


def test_weights_scale_what_each_token_contributes(neox) -> None:
    examples = [replace(e, weights=np.linspace(0, 2, len(e))) for e in make_examples(4)]
    prompt = SoftPrompt(torch.randn(2, 32))
    (loss,) = accumulate_gradients(neox, Task(), [prompt], [examples], 10**6)
    plain = prompt.rows.detach().clone().requires_grad_()
    wanted = plain_loss(neox, plain, examples)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
    torch.testing.assert_close(prompt.rows.grad, plain.grad, atol=1e-5, rtol=1e-4)


def test_a_prompt_of_real_token_embeddings_equals_those_tokens(model) -> None:
    words = np.array([17, 200, 41])
    plain = [replace(e, insert_at=1) for e in make_examples(6)]
    spelled = [
        replace(e, tokens=np.insert(e.tokens, 1, words), labels=np.insert(e.labels, 1, [IGNORE] * 3)) for e in plain
    ]
    soft, none = SoftPrompt(model.embed(torch.from_numpy(words))), SoftPrompt(torch.zeros(0, 32))
    (behind_prompt,), (behind_words,) = evaluate(model, [soft], plain, 10**6), evaluate(model, [none], spelled, 10**6)
    np.testing.assert_allclose(behind_prompt.sums, behind_words.sums, rtol=1e-5)


def test_evaluating_many_prompts_in_one_pass_equals_one_row_at_a_time(model) -> None:
    examples = make_examples(7, n_conditions=2)
    random = torch.Generator().manual_seed(0)
    prompts = [PromptGenerator(torch.randn(n, 32), 1.0, (2, 8), random) for n in (0, 1, 4)]
    for together, prompt in zip(evaluate(model, prompts, examples, 100), prompts, strict=True):
        alone = [evaluate(model, [prompt], [e], 10**6)[0] for e in examples]
        np.testing.assert_allclose(together.sums, [x.sums[0] for x in alone], rtol=1e-5)
        assert all((a.correct[0] == b).all() for a, b in zip(alone, together.correct, strict=True))
        assert together.documents == [e.document for e in examples]
        assert together.counts.tolist() == [e.n_scored for e in examples]


def test_training_lowers_the_loss_of_its_own_documents(model, tmp_path) -> None:
    (t,) = train_all(model, [run(8, steps=60, task=Documents(last=60 * 3))], tmp_path)
    events = read_events(tmp_path / t.run.path)
    losses = [event.value for event in events.Scalars("loss/train")]
    assert losses[-1] < losses[0] - 0.1


def read_events(folder) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_tensorboard_holds_every_curve_and_the_configuration(neox, tmp_path) -> None:
    (t,) = train_all(neox, [run(2, steps=20)], tmp_path)
    t.log.samples(20, [{"text": "once", "continuation": "upon"}])
    t.log.close()
    events = read_events(tmp_path / t.run.path)
    losses_and_speed = {"loss/train", "loss/validation", "loss/held_out", "speed/data_tokens_per_second"}
    of_training = {"learning_rate", "gradient_norm", "prompt_norm_over_vocabulary_norm"}
    assert set(events.Tags()["scalars"]) == losses_and_speed | {f"training/{name}" for name in of_training}
    assert [event.step for event in events.Scalars("loss/validation")] == [0, 7, 13, 20]
    assert [event.step for event in events.Scalars("loss/held_out")] == [20]  # looked at once
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert '"batch_size": 3' in texts["config/text_summary"]
    assert "continuation: upon" in texts["samples/text_summary"]


def test_a_redone_run_leaves_no_points_of_the_first(neox, tmp_path) -> None:
    for steps in (20, 10):
        (t,) = train_all(neox, [replace(run(2), train=replace(CONFIG, steps=steps))], tmp_path)
        t.log.close()
    again = replace(t.run, train=replace(CONFIG, steps=10))
    (t,) = train_all(neox, [again], tmp_path)
    t.log.close()
    assert len(read_events(tmp_path / t.run.path).Scalars("loss/validation")) == 4


def test_a_run_that_diverges_is_given_up_and_the_others_are_untouched(neox, tmp_path) -> None:
    bad, good = train_all(neox, [run(2, lr=1e38, steps=20, seed=1), run(2, steps=20)], tmp_path / "both")
    (alone,) = train_all(neox, [run(2, steps=20)], tmp_path / "alone")
    assert "stopped being finite" in bad.failure
    assert "--train.lr (now 1e+38)" in bad.failure
    assert not good.failure
    assert good.scores.loss == pytest.approx(alone.scores.loss, abs=1e-5)


def test_a_bfloat16_body_trains_float32_prompts_on_almost_the_same_gradients(folders) -> None:
    random = torch.Generator().manual_seed(0)
    initial, gradients = torch.randn(3, 32, generator=random), []
    for dtype in ("float32", "bfloat16"):
        model, prompt = load(str(folders["neox"]), dtype=dtype), SoftPrompt(initial)
        (loss,) = accumulate_gradients(model, Task(), [prompt], [make_examples(4)], 10**6)
        assert prompt.rows.grad.dtype == loss.dtype == torch.float32
        gradients.append(prompt.rows.grad.flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_a_prompt_of_no_tokens_is_evaluated_and_not_trained(neox, tmp_path) -> None:
    (t,) = train_all(neox, [run(0)], tmp_path)
    assert [point["step"] for point in t.curve] == [0]
    assert t.n_data_tokens == 0


@pytest.mark.parametrize("leak", [0, 1])
def test_training_on_a_document_of_another_split_is_refused(neox, tmp_path, leak: int) -> None:
    said = rf"training document document-100000{leak}-0 is held out or for validation as well"
    with pytest.raises(SoftPromptsError, match=said):
        train_all(neox, [run(1, task=Documents(leak=leak))], tmp_path)


def test_training_is_watched_on_validation_documents_and_measured_on_held_out_ones(neox, tmp_path) -> None:
    (t,) = train_all(neox, [run(2, steps=20)], tmp_path)
    held_out, validation = (make_examples(5, seed=seed) for seed in (10**6, 10**6 + 1))
    (own,), (watched,) = (evaluate(neox, [t.intervention], documents, 10**6) for documents in (held_out, validation))
    assert t.scores.documents == [e.document for e in held_out]
    assert (t.scores.loss, t.curve[-1]["loss"]) == pytest.approx((own.loss, watched.loss), abs=1e-5)
    assert abs(own.loss - watched.loss) > 1e-3  # so the two cannot be confused


def test_permuted_labels_are_as_regular_as_the_labels_and_nothing_else_changes(neox) -> None:
    encoding, task = Encoding(neox.tokenizer, neox.separator, 24), Documents()
    plain, permuted = (list(t.examples("held_out", encoding, 0)) for t in (task, PermutedLabels(task)))
    mapped = {}
    for e, other in zip(plain, permuted, strict=True):
        assert (e.tokens == other.tokens).all() and (e.insert_at, e.document) == (other.insert_at, other.document)
        assert ((e.labels == IGNORE) == (other.labels == IGNORE)).all()
        for label, new in zip(e.labels, other.labels, strict=True):
            assert mapped.setdefault(int(label), int(new)) == new  # the same token always becomes the same other one
    del mapped[IGNORE]
    assert len(set(mapped.values())) == len(mapped) > 30  # and no two become one
    assert sum(old == new for old, new in mapped.items()) < 5
    assert run(2).target == Documents()
    assert replace(run(2), control="permuted").target == PermutedLabels(Documents())


def test_running_out_of_training_documents_is_one_sentence(neox, tmp_path) -> None:
    with pytest.raises(SoftPromptsError, match="ran out"):
        train_all(neox, [run(1, task=Documents(last=2))], tmp_path)


def test_the_same_seed_starts_the_same_prompt_and_another_another(neox) -> None:
    first, again, other = (make_intervention(neox, run(4, seed), 2).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["rows"], other["rows"])


def test_the_text_initialiser_starts_at_the_texts_own_embeddings(neox) -> None:
    prompt = make_intervention(neox, run(2, init="text", init_text="ab"), 0)
    wanted = neox.embed(torch.tensor(neox.tokenizer("ab")["input_ids"]))
    torch.testing.assert_close(prompt(torch.zeros(1, 0))[0], wanted)


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    config = TrainConfig(steps=100, warmup=0.1)
    shares = [config.lr_share(step) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == pytest.approx(shares[9], abs=0.03)
    assert shares[100] == pytest.approx(0)
    assert [TrainConfig(schedule="constant", warmup=0).lr_share(step) for step in (0, 4000)] == [1, 1]


def test_a_permutation_reaches_the_largest_token_id_where_ids_have_gaps() -> None:
    class Gappy:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 3}

        def __len__(self) -> int:
            return 2

    class Largest(Task):
        def examples(self, split, encoding, seed) -> Iterator[Example]:
            yield Example(np.array([0, 3, 0]), np.array([IGNORE, 3, 0]), "d")

    (permuted,) = PermutedLabels(Largest()).examples("held_out", Encoding(Gappy(), 0, 8), 0)
    assert set(permuted.labels[1:].tolist()) <= {0, 1, 2, 3} and permuted.labels[0] == IGNORE
