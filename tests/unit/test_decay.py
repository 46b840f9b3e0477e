"""Decay: half-lives of made-up losses, mazes, how models are trained on, and what the tables of checkpoints say."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from soft_prompts.data.documents import Encoding, document_id, is_held_out
from soft_prompts.data.example import IGNORE
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.loading import load
from soft_prompts.options import recorded
from soft_prompts.pocket import corpus, fading
from soft_prompts.pocket import train as of_pocket
from soft_prompts.pocket.mazes import Mazes
from soft_prompts.pocket.tiny import new_model
from soft_prompts.results import load_results
from soft_prompts.results.half_life import half_gone, half_lives
from soft_prompts.results.record import HeldOut
from tests import decay_test
from tests.decay_test import POCKET, figure, gaps, step_of, table
from tests.unit.test_page import scores
from tests.unit.test_results import result

RESULTS = Path(__file__).parents[2] / "results"
STEPS = np.array([0, 2, 8, 32, 128, 512])

# --- half-lives ---


@pytest.mark.parametrize("life", [1.0, 5.0, 40.0, 500.0])
def test_the_half_life_of_an_exponential_comes_out_wherever_it_was_looked_at(life: float) -> None:
    gains = np.stack([3.0 * 0.5 ** (STEPS / life), 0.1 * 0.5 ** (STEPS / life)])
    steep = 0.5 ** (STEPS / life) < 1 / 64  # beyond, all counts as so much
    if not steep[(life <= STEPS).argmax()]:
        assert half_gone(STEPS, gains) == pytest.approx([life, life])
    else:
        assert (half_gone(STEPS, gains) > STEPS[(life <= STEPS).argmax() - 1]).all()


def test_a_gain_that_lasts_is_censored_and_no_gain_is_nothing_to_lose() -> None:
    gains = np.array([[2.0, 2.0, 1.9, 1.8, 1.5, 1.01], [0.0, 0, 0, 0, 0, 0], [-1.0, 0, 0, 0, 0, 0], [2, 1, 2, 2, 2, 2]])
    assert half_gone(STEPS, gains)[0] == np.inf
    assert np.isnan(half_gone(STEPS, gains)[1:3]).all()
    assert half_gone(STEPS, gains)[3] == 2.0  # the first time counts
    (fallen,) = half_gone(STEPS, np.array([[2.0, 2.0, -30.0, -30.0, -30.0, -30.0]]))
    assert fallen == pytest.approx(2 + 6 * np.log(2) / np.log(64))  # beyond nothing is no farther than 1/64


def nats(per_sum: float, spread: float = 0.0, n: int = 12) -> np.ndarray:
    """Three seeds of as many documents of 4 sums; seeds differ by ``spread``."""
    documents = np.linspace(-0.2, 0.2, n)
    return 4 * (per_sum + documents + spread * np.array([[-1.0], [0.0], [1.0]]))


def test_half_lives_go_by_the_best_rival_and_are_compared_in_the_same_draws() -> None:
    counts = np.full(12, 4)
    # A guess costs 2; at length 1 a twin behind its prompt costs 1, so half of the gain is gone at 0.5 already.
    fading = {0: [nats(2 - 2 * 0.5 ** (s / 10)) for s in STEPS], 1: [nats(1 - 0.5 ** (s / 40)) for s in STEPS]}
    never = {0: [nats(2.0), nats(9.0)], 1: [nats(2.0), nats(1.0)]}
    found = half_lives(STEPS, fading, never, counts)
    assert (found[0].steps, found[1].steps) == (pytest.approx(10), pytest.approx(40))
    assert found[0].low <= 10 <= found[0].high and found[1].times(found[0]).startswith("4 [")
    low, high = map(float, found[1].times(found[0])[3:-1].split(", "))
    assert 3.5 < low <= 4 <= high < 4.5
    lasting = half_lives(STEPS, {0: fading[0], 1: [nats(0.0)] * 6}, never, counts)
    assert str(lasting[1]) == "> 512 [> 512, > 512]"
    assert lasting[1].times(lasting[0]).startswith("> 51 [") and lasting[1].times(lasting[0]).endswith(", >]")
    assert lasting[0].times(lasting[1]) == ""  # how much shorter than what did not end?
    nothing = half_lives(STEPS, {0: [nats(3.0)] * 6}, {0: never[0]}, counts)
    assert str(nothing[0]) == "nothing to lose" and nothing[0].times(found[0]) == ""


def test_the_luck_of_models_widens_a_half_life() -> None:
    counts = np.full(12, 4)

    def width(spread: float) -> float:
        fading = {0: [nats(2 - 2 * 0.5 ** (s / 10), spread) for s in STEPS]}
        found = half_lives(STEPS, fading, {0: [nats(2.0)]}, counts)[0]
        return found.high - found.low

    assert width(0.1) > 2 * width(0.0)


# --- documents and models ---


def test_mazes_are_scored_on_their_path_and_held_out_ones_are_not_in_what_pocket_was_trained_on() -> None:
    tokenizer = load("pocket").tokenizer
    task, encoding = Mazes(n_mazes=600), Encoding(tokenizer, 0, 128)
    parts = {s: list(task.examples(s, encoding, 0)) for s in ("held_out", "validation")}
    assert all(parts.values())
    texts = {document_id(text): text for text in map(corpus.maze, range(600))}
    for split, examples in parts.items():
        for e in examples:
            assert is_held_out(e.document, of_pocket.HELD_OUT), split
            scored = e.tokens[e.labels != IGNORE]
            assert tokenizer.decode(scored) == texts[e.document].split("Path:")[1] + "<|endoftext|>"
            assert (e.labels[e.labels != IGNORE] == scored).all()
    train = list(islice(task.examples("train", encoding, 0), 100))
    assert not {e.document for e in train} & {e.document for of in parts.values() for e in of}
    assert not any(is_held_out(e.document, of_pocket.HELD_OUT) for e in train)
    short = Encoding(tokenizer, 0, 40)
    assert 0 < len(list(task.examples("held_out", short, 0))) < len(parts["held_out"])


def test_weight_decay_shrinks_weights_by_the_rate_in_every_step() -> None:
    rows = [torch.zeros(1, 2, dtype=torch.long)] * 3
    plain, shrunk = new_model(0), new_model(0)
    name = "gpt_neox.embed_in.weight"  # of entries that do not occur there is no gradient
    for lm, decay in ((plain, 0.0), (shrunk, 2.0)):
        list(fading.trained_on(lm, iter(rows), 3, fading.Pace(0.01, decay, warmup=1), "decay"))
    before = dict(new_model(0).named_parameters())[name][5:]
    torch.testing.assert_close(dict(plain.named_parameters())[name][5:], before)
    torch.testing.assert_close(dict(shrunk.named_parameters())[name][5:], before * (1 - 0.02) ** 3)


def test_a_learning_rate_rises_stays_and_falls() -> None:
    lm, seen = new_model(0), []
    weight = dict(lm.named_parameters())["gpt_neox.embed_in.weight"]
    rows = [torch.zeros(1, 2, dtype=torch.long)] * 8
    last = weight[5:].detach().clone()
    for step in fading.trained_on(lm, iter(rows), 8, fading.Pace(0.5, 1.0, warmup=4, falls=True), "rate"):
        if step:
            seen.append(1 - (weight[5, 0] / last[0, 0]).item())  # what weight decay takes says the rate
            last = weight[5:].detach().clone()
    assert seen == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.375, 0.25, 0.125], abs=1e-4)


def test_fading_writes_each_arm_once_with_its_kinds_of_text(tmp_path, monkeypatch) -> None:
    kinds = {"prose": "The sun went down. " * 40, "game": "White 1, Black 2.\ne2e4 " * 9, "stray": "d2d4 " * 30}
    texts = {kind: [text] * 3 for kind, text in {**kinds, "maze": corpus.maze(1)}.items()}
    monkeypatch.setattr(fading, "corpus_of", lambda settings: of_pocket.Corpus(texts, {}))
    settings = fading.Settings((), out=tmp_path, kept=(1, 2), batch=512)
    fading.main(settings)
    names = {"pocket-step-0", *(f"{arm}-step-{n}" for arm in fading.ARMS for n in (1, 2))}
    assert {path.name for path in tmp_path.iterdir()} == names
    start, first, second = (
        dict(load(str(tmp_path / name)).lm.named_parameters())
        for name in ("pocket-step-0", "without-mazes-step-1", "without-mazes-step-2")
    )
    weights = dict(load("pocket").lm.named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in start.items())
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    assert 0 < (first[name] - start[name]).abs().max() < (second[name] - start[name]).abs().max()
    facts = json.loads((tmp_path / "with-mazes-step-2" / "facts.json").read_text())
    assert (facts["step"], facts["kinds"]) == (2, ["prose", "game", "stray", "maze"])
    monkeypatch.setattr(fading, "trained_on", None)  # what is there is not trained again
    fading.main(settings)
    with pytest.raises(TypeError):
        fading.main(replace(settings, seed=1))  # other options are
    with pytest.raises(SoftPromptsError, match="--kept is"):
        fading.main(replace(settings, kept=()))


def test_the_arms_differ_in_mazes_and_keep_the_proportions_of_the_rest() -> None:
    tokenizer = load("pocket").tokenizer
    kinds = {"prose": " sun" * 90, "game": "e2e4 " * 40, "stray": "d2d4 " * 40, "maze": corpus.maze(1)}
    texts = of_pocket.Corpus({kind: [text] * 3 for kind, text in kinds.items()}, {})
    settings = fading.Settings((), kept=(24,), batch=512)
    shares = {}
    for arm, of_arm in fading.ARMS.items():
        steps = list(fading.steps_of(settings, texts, tokenizer, of_arm))
        assert len(steps) == 24 and all(s.numel() == 512 for s in steps)
        tokens = torch.cat([s.flatten() for s in steps]).numpy()
        ids = {kind: tokenizer(word)["input_ids"][0] for kind, word in (("game", "e2"), ("stray", "d2"))}
        shares[arm] = {kind: (tokens == i).mean() for kind, i in ids.items()}
        assert (tokens == tokenizer("Maze")["input_ids"][0]).any() == (arm == "with-mazes")
    for kind in ("game", "stray"):
        assert shares["without-mazes"][kind] / shares["with-mazes"][kind] == pytest.approx(1 / 0.94, abs=0.06)


# --- tables ---


@pytest.mark.parametrize(
    ("name", "series", "step"),
    [
        ("EleutherAI/pythia-70m@step143000", "EleutherAI/pythia-70m", 143000),
        ("without-mazes-step-16", "without-mazes", 16),
        ("step-8", "", 8),
        ("model_step8", "model", 8),
    ],
)
def test_a_step_is_read_from_a_name(name: str, series: str, step: int) -> None:
    assert step_of(name) == (series, step)


def test_a_folder_has_its_own_name_as_series_and_a_name_without_step_is_refused(tmp_path) -> None:
    (tmp_path / "mine-step-4").mkdir()
    assert step_of(str(tmp_path / "mine-step-4")) == ("mine", 4)
    with pytest.raises(SoftPromptsError, match="'EleutherAI/pythia-70m' has no step in its name"):
        step_of("EleutherAI/pythia-70m")
    with pytest.raises(SoftPromptsError, match="make the models first"):
        decay_test.run(replace(POCKET, models=("runs/fading/none-step-0",)))
    assert {step_of(m)[0] for m in decay_test.DEFAULT.models} == {"EleutherAI/pythia-70m-deduped"}


def made_up(folder: Path, model: str, losses: dict[int, float]) -> None:
    """Two seeds of a made-up curve. Counting alone costs 3 nats."""
    for n_tokens, loss in losses.items():
        for seed in (0, 1) if n_tokens else (0,):
            config = {"splits": 2, "model": model, "task": {"name": "M"}, "train": {"steps": 5, "batch_size": 2}}
            held_out = HeldOut.of(scores(loss, seed))
            counted = [3.0 * n for n in held_out.document_scored]
            made = result(n_tokens, seed, model=model, experiment="decay", held_out=held_out, config=config)
            made = replace(
                made,
                baselines={name: {"loss": 3.0, "document_losses": counted} for name in ("uniform", "unigram")},
                curve=[{"step": 5, "loss": loss}],
            )
            made.save(folder / model / f"tokens-{n_tokens:04d}-seed-{seed}.json")


def test_the_tables_say_what_was_lost_and_what_a_prompt_brings_back(tmp_path) -> None:
    made_up(tmp_path, "pocket-step-0", {0: 1.0, 4: 1.0})
    made_up(tmp_path, "without-x-step-10", {0: 2.0, 4: 1.2})
    made_up(tmp_path, "with-x-step-10", {0: 1.0, 4: 1.0})
    made_up(tmp_path, "without-x-step-40", {0: 4.0, 4: 1.6})
    made_up(tmp_path, "with-x-step-40", {0: 1.0, 4: 1.0})
    losses, lives, gap = table(tmp_path).split("\n\n")
    lines = losses.splitlines()
    assert [line.split(" | ")[0] + " " + line.split(" | ")[1] for line in lines[2:]] == [
        *(f"| without-x {step}" for step in (0, 10, 40)),
        *(f"| with-x {step}" for step in (0, 10, 40)),
    ]
    assert "it is the best" in lines[2] and lines[4].endswith("> 4 |")
    assert lives.splitlines()[2].startswith("| without-x | 10 [") and "| > 40 [" in lives.splitlines()[2]
    assert lives.splitlines()[3].startswith("| with-x | > 40 [> 40, > 40] | > 40")
    first, last = (line.split(" | ") for line in gap.splitlines()[2:])
    assert first[0] == "| 10" and first[1].startswith("1.000 [") and first[2].startswith("0.200 [")
    assert first[3].startswith("80% [") and last[3].startswith("80% [")  # 0.6 of 3 are left
    assert len(figure(tmp_path).legends[0].get_texts()) == 4
    made_up(tmp_path, "with-x-step-40", {0: 4.1, 4: 1.0})  # the one that kept it lost more
    assert table(tmp_path).split("\n\n")[2].splitlines()[3].endswith("|  |")


def test_a_gap_is_that_of_the_first_model_to_the_second(tmp_path) -> None:
    made_up(tmp_path, "without-x-step-1", {0: 2.0, 1: 1.5})
    made_up(tmp_path, "with-x-step-1", {0: 1.0, 1: 1.2})
    found = decay_test._curves_of(load_results([tmp_path]))
    values, draws = gaps(found["without-x"][1], found["with-x"][1], [0, 1])
    assert values == pytest.approx([1.0, 0.3], abs=1e-6) and draws.mean(0) == pytest.approx([1.0, 0.3], abs=0.05)


def test_what_is_no_result_is_refused(tmp_path) -> None:
    for folder in (tmp_path, RESULTS / "decay_tiny", RESULTS / "rates"):
        with pytest.raises(SoftPromptsError, match="must hold results of decay and of nothing else"):
            table(folder)


# --- what ships ---


def test_the_page_has_the_tables_of_the_committed_results() -> None:
    page = (RESULTS / "decay.md").read_text()
    assert all(part in page for part in table(RESULTS / "decay").split("\n\n"))


def test_the_committed_results_are_those_of_the_presets() -> None:
    assert {Path(step_of(m)[0]).name for m in POCKET.models} == {"pocket", *fading.ARMS}  # the folders are not here
    assert fading.Settings(()).kept == decay_test.STEPS
    found: dict[str, set] = {}
    for one in load_results([RESULTS / "decay"]):
        assert one.config["task"]["n_mazes"] == POCKET.task.n_mazes
        assert one.config["train"] == recorded(POCKET.train)
        found.setdefault(one.model, set()).add((one.n_tokens, one.seed))
    wanted = {(n, seed) for n in POCKET.n_tokens for seed in (POCKET.seeds if n else POCKET.seeds[:1])}
    assert found == {Path(model).name: wanted for model in POCKET.models}
