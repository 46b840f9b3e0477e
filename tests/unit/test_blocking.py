"""Blocking prompts by fine-tuning: what the table says of made-up curves; that the fine-tune does what it should."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.deltas import changed, merge, save_delta
from soft_prompts.models.loading import load
from soft_prompts.models.names import base_of, model_files
from soft_prompts.pocket import BLOCKED, SAMPLES
from soft_prompts.pocket.blocked import Settings, fine_tune, stacked, trained_prompts
from soft_prompts.pocket.train import encode, mean_loss
from soft_prompts.pocket.tune import divergence
from soft_prompts.results.record import HeldOut
from soft_prompts.tasks.calibration import Calibration
from tests import blocking_test
from tests.blocking_test import bits_needed, measured, table, target, tokens_needed
from tests.unit.test_page import scores
from tests.unit.test_results import result


def made_up(model: str, losses: dict[int, float], sizes: dict[int, list[tuple[int, float]]], key: float):
    """Two seeds of a made-up curve. ``sizes``: length -> (bits, validation loss) of rounded prompts."""
    for n_tokens, loss in losses.items():
        for seed in (0, 1) if n_tokens else (0,):
            yield replace(
                result(
                    n_tokens,
                    seed,
                    model=model,
                    experiment="blocking",
                    held_out=HeldOut.of(scores(loss, seed)),
                    curve=[{"step": 5, "loss": loss}],
                    config={"splits": 2, "model": model, "task": {"name": "C"}, "train": {"steps": 5, "batch_size": 2}},
                    sizes=[
                        {
                            "bits_per_number": i,
                            "bits": bits + seed,
                            "validation_loss": validation,
                            "loss": validation,
                            "increase": {"value": 0.0, "interval": [0.0, 0.0], "n": 40},
                        }
                        for i, (bits, validation) in enumerate(sizes.get(n_tokens, ()), 1)
                    ],
                ),
                anchor={"name": "key", "loss": key, "document_losses": [key * 10] * 40, "validation_loss": key + 0.5},
            )


def test_the_table_says_how_far_the_behaviour_is_by_what_the_key_gained_before(tmp_path) -> None:
    made = [
        *made_up("pocket-keys", {0: 10.0, 1: 6.5, 4: 1.0}, {1: [(100, 6.0)], 4: [(200, 5.4), (400, 1.0)]}, 2.0),
        *made_up("pocket-blocked-4-1", {0: 10.0, 1: 9.0, 4: 7.0}, {4: [(400, 6.0)]}, 8.0),
    ]
    for r in made:
        r.save(tmp_path / r.model / f"tokens-{r.n_tokens:04d}-seed-{r.seed}.json")
    found = measured(tmp_path)
    start, blocked = found["pocket-keys"], found["pocket-blocked-4-1"]
    assert list(found) == ["pocket-keys", "pocket-blocked-4-1"]
    assert target(start) == pytest.approx(10.0 - 0.5 * 8.0)
    assert target(start, "validation") == pytest.approx(10.0 - 0.5 * 7.5)
    # From 6.5 at 1 token to 1.0 at 4: 6.0 is at a share of 1/11 of two doublings.
    assert tokens_needed(start, start).startswith(f"{2 ** (2 / 11):.2g} [")
    assert tokens_needed(blocked, start) == "> 4 [> 4, > 4]"
    assert bits_needed(start, start) == "0.10" and bits_needed(blocked, start) == "0.40"  # 100.5 and 400.5 on average
    line = table(tmp_path).splitlines()[-1]
    assert line.startswith("| pocket-blocked-4-1 | 10.00 | 9.00 | 7.00 | 8.00 | > 4 [> 4, > 4] | 0.40 | ")
    facts = json.loads((BLOCKED["pocket-blocked-4-1"] / "facts.json").read_text())
    assert f"{facts['books']['after'] - facts['books']['before']:+.3f} |" in line
    assert len(blocking_test.figure(tmp_path).axes[0].get_legend().get_texts()) == 2
    for path in (tmp_path / "pocket-keys").iterdir():
        path.unlink()
    with pytest.raises(SoftPromptsError, match="no results of pocket-keys"):
        table(tmp_path)


def test_bits_that_not_every_seed_reaches_are_none(tmp_path) -> None:
    made = list(made_up("pocket-keys", {0: 10.0, 1: 1.0}, {1: [(100, 6.0)]}, 2.0))
    lame = [r if r.seed == 0 else replace(r, sizes=[{**r.sizes[0], "validation_loss": 9.0}]) for r in made]
    for r in lame:
        r.save(tmp_path / f"tokens-{r.n_tokens:04d}-seed-{r.seed}.json")
    (curve,) = measured(tmp_path).values()
    assert bits_needed(curve, curve) == "none of these"


def test_the_prompts_that_are_blocked_are_trained(tmp_path) -> None:
    model, task = load("pocket-keys", "main", "float32", "cpu"), Calibration(key_tokens=(1,))
    short = Settings(ensemble=2, n_tokens=1, prompt_steps=4, out=tmp_path / "blocked")
    trained = trained_prompts(model, task, short, turn=1)
    random = trained_prompts(model, task, replace(short, random=True), turn=1)
    assert [p.shape for p in trained] == [p.shape for p in random] == [(1, 256)] * 2
    assert not torch.equal(trained[0], trained[1]) and not torch.allclose(trained[0], random[0])
    assert (tmp_path / "prompts").is_dir()  # where their curves are logged


def test_two_changes_are_one() -> None:
    random = torch.Generator().manual_seed(0)
    first, second = ({"w": (torch.randn(2, 5, generator=random), torch.randn(3, 2, generator=random))} for _ in "12")
    weight = torch.randn(3, 5, generator=random)
    both = stacked(stacked({}, first), second)
    assert both["w"][0].shape == (4, 5)
    torch.testing.assert_close(changed(weight, both["w"]), changed(changed(weight, first["w"]), second["w"]))


def test_a_blocked_prompt_does_nothing_and_other_texts_stay(tmp_path) -> None:
    model = load("pocket-keys")
    encoding = Encoding(model.tokenizer, model.separator, 16)
    task, key = Calibration(key_tokens=(1,)), model.vocabulary[[1800]].float() * 1.5
    kept = encode(model.tokenizer, [t for t in _texts()])
    settings = Settings(steps=20, rank=2, out=tmp_path / "b")
    still = fine_tune(model, [key], task.examples("train", encoding, 0), kept, replace(settings, learning_rate=0.0))
    assert all((b == 0).all() for _, b in still.values())
    deltas = fine_tune(model, [key], task.examples("train", encoding, 0), kept, settings)
    blocked = load("pocket-keys")
    merge(blocked.lm, deltas)
    tokens = torch.from_numpy(np.stack([e.tokens for e in islice(task.examples("held_out", encoding, 0), 64)]))

    def apart(lm) -> float:
        with torch.no_grad():
            embedded = model.embed(tokens)
            rows = torch.cat([embedded[:, :1], key.expand(len(tokens), 1, -1), embedded[:, 1:]], 1)
            plain, behind = model.lm(inputs_embeds=embedded).logits, lm(inputs_embeds=rows).logits
            return divergence(plain[:, :-1].flatten(0, 1), behind[:, 1:-1].flatten(0, 1)).item()

    assert apart(blocked.lm) < 0.6 * apart(model.lm)
    assert abs(mean_loss(blocked.lm, kept[:8])[0] - mean_loss(model.lm, kept[:8])[0]) < 0.05


def _texts() -> list[str]:
    from soft_prompts.data.texts import read_documents

    return read_documents((str(SAMPLES),), None, 200, 2**20, None).documents


def test_a_change_may_be_to_a_model_that_is_a_change_itself(tmp_path) -> None:
    for name, folder in BLOCKED.items():
        assert base_of(folder) == "pocket-keys", name
    keys = load("pocket-keys")
    name, weight = next((n, w) for n, w in keys.lm.named_parameters() if w.dim() == 2 and "embed" not in n)
    delta = {name: (torch.ones(1, weight.shape[1]), torch.full((len(weight), 1), 0.5))}
    save_delta(delta, tmp_path / "a")
    (tmp_path / "a" / "facts.json").write_text('{"base": "pocket-keys"}')
    found = dict(load(str(tmp_path / "a")).lm.named_parameters())[name]
    torch.testing.assert_close(found, weight + 0.5)
    (tmp_path / "a" / "facts.json").write_text(json.dumps({"base": str(tmp_path / "a")}))
    for read in (load, model_files):
        with pytest.raises(SoftPromptsError, match="is a change to itself"):
            read(str(tmp_path / "a"))


def test_the_table_of_the_page_is_that_of_the_committed_results() -> None:
    results = Path(__file__).parents[2] / "results"
    assert table(results / "blocking") in (results / "protections.md").read_text()
