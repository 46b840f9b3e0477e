"""What training documents cost before they were trained on, against a loop that counts it by hand."""

import numpy as np
import pytest
import torch

from soft_prompts.engine.evaluate import evaluate
from soft_prompts.results.summary import summarise
from soft_prompts.training.state import make_intervention
from tests.unit.conftest import make_examples
from tests.unit.test_checkpoint import go, same
from tests.unit.test_exhaustion import only_curve, trained
from tests.unit.test_train import run, train_all


def test_nats_before_are_those_of_every_batch_behind_the_prompt_that_it_then_trains(neox, tmp_path) -> None:
    recipe = {"steps": 3, "batch_size": 4, "prequential": True}
    nothing, prompted = train_all(neox, [run(0, **recipe), run(2, seed=1, **recipe)], tmp_path)
    assert nothing.nats_after is None and float(nothing.nats_before) == 0
    batches = [make_examples(4, seed=1000 + i) for i in range(3)]
    # By hand: a run of 0, 1 and 2 steps of the same schedule, scored on the batch that comes next.
    wanted = 0.0
    for n_steps, batch in enumerate(batches):
        prompt = make_intervention(neox, prompted.run, 0)
        optimizer = torch.optim.AdamW(prompt.parameters(), weight_decay=prompted.run.train.weight_decay)
        for step in range(n_steps):
            for group in optimizer.param_groups:
                group["lr"] = prompted.run.train.lr * prompted.run.train.lr_share(step)
            optimizer.zero_grad()
            _mean_loss(neox, prompt, batches[step]).backward()
            torch.nn.utils.clip_grad_norm_(prompt.parameters(), prompted.run.train.clip_norm)
            optimizer.step()
        wanted += evaluate(neox, [prompt], batch, 10**6)[0].sums.sum()
    assert float(prompted.nats_before) == pytest.approx(wanted, rel=1e-4)
    after = sum(evaluate(neox, [prompted.intervention], batch, 10**6)[0].sums.sum() for batch in batches)
    assert prompted.nats_after == pytest.approx(after, rel=1e-5)


def _mean_loss(model, prompt, examples) -> torch.Tensor:
    """Nats per scored token, one row after another."""
    nats, n = 0.0, 0
    for e in examples:
        embedded = model.lm.get_input_embeddings()(torch.from_numpy(e.tokens))
        rows = prompt(torch.zeros(1, 0))[0]
        logits = model.lm(
            inputs_embeds=torch.cat([embedded[: e.insert_at], rows, embedded[e.insert_at :]])[None]
        ).logits
        labels = torch.from_numpy(np.insert(e.labels, e.insert_at, [-100] * len(rows)))
        nats = nats + torch.nn.functional.cross_entropy(logits[0, :-1], labels[1:], reduction="sum")
        n += e.n_scored
    return nats / n


def test_the_count_goes_on_after_an_interruption(neox, tmp_path) -> None:
    from soft_prompts.console import Interrupted

    runs = [run(2, steps=6, prequential=True), run(3, steps=6)]
    undisturbed = go(neox, runs, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        go(neox, runs, tmp_path / "stopped", 4)
    again = go(neox, runs, tmp_path / "stopped")
    same(again, undisturbed)
    assert float(again[0].nats_before) == float(undisturbed[0].nats_before) > 0
    assert again[0].nats_after == undisturbed[0].nats_after
    assert again[1].nats_after is None and again[1].nats_before == 0.0


def test_bits_are_the_mean_over_the_seeds_of_every_length() -> None:
    def counted(n: int, seed: int, before: float, after: float):
        known = {"documents": 40, "nats_before": before, "nats_after": after}
        return trained(n, 2.0, seed).__class__(**{**vars(trained(n, 2.0, seed)), "prequential": known})

    ln2 = float(np.log(2))
    curve = only_curve([trained(0, 4.0), counted(1, 0, 90 * ln2, 50 * ln2), counted(1, 1, 70 * ln2, 10 * ln2)])
    assert summarise(curve).learned == "bits learned from 40 documents: 50 (P=1)"
    assert "; bits learned from 40 documents: 50 (P=1)" in str(summarise(curve))
    assert summarise(only_curve([trained(0, 4.0), trained(1, 2.0)])).learned == ""
