"""The fewest bits that reach a target: over lengths and roundings, chosen on validation documents."""

import math
from dataclasses import replace

import pytest

from soft_prompts.measure import is_flat
from soft_prompts.results.curve import curves, without_controls
from soft_prompts.results.enough_bits import enough_bits
from soft_prompts.results.record import Result
from tests.unit.test_results import baseline, result

CONFIG = {"splits": 2, "train": {"steps": 5, "batch_size": 2}, "task": {"name": "T"}}
ANCHOR = {"name": "a text", "loss": 1.0, "document_losses": [10.0, 10.0], "validation_loss": 1.0, "bits": 120.0}


def size(bits: int, validation_loss: float, loss: float, trained: int | None = None) -> dict:
    increase = {"value": 0.0, "interval": [0.0, 0.0], "n": 2}
    numbers = {"numbers": 10, "trained_numbers": trained or 10}
    measured = {"validation_loss": validation_loss, "loss": loss, "increase": increase}
    return {"bits_per_number": 1, "bits": bits, **numbers, **measured}


def point(n_tokens: int, loss: float, *sizes: dict, seed: int = 0, **changes) -> Result:
    """A run whose validation and held-out losses are the same."""
    known = {"config": CONFIG, "curve": [{"step": 5, "loss": loss}], "sizes": list(sizes), "anchor": ANCHOR}
    return result(n_tokens, seed, (loss, loss), **{**known, **changes})


def of(*results: Result, share: float = 0.9, settled: int | None = 1):
    (curve,) = without_controls(curves(results))
    return enough_bits(curve, share, settled)


def test_a_long_coarse_prompt_may_need_fewer_bits_than_a_short_fine_one() -> None:
    """L(0) = 5 and the anchor 1: 90 % of the gap is a loss of 1.4."""
    short = point(1, 1.3, size(30, 2.0, 2.0), size(70, 1.35, 1.35))
    long = point(4, 1.1, size(60, 1.39, 1.5), size(90, 1.2, 1.2))
    enough = of(point(0, 5.0), short, long)
    assert (enough.bits, enough.lengths) == (60, (4,))
    assert enough.reached == pytest.approx((5 - 1.5) / 4)  # chosen by validation, checked on what was held out
    # A document has ten tokens: 3.5 nats less on each are 50.5 bits.
    assert enough.documents == pytest.approx(60 / (10 * (5 - 1.5) / math.log(2)))
    assert str(enough) == "0.06 kbit at P=4, 87.5% of it held out, saved again by 1.2 documents; a text has 120 bits"
    known = [replace(r, anchor={**ANCHOR, "own_bits": 31.4}) for r in (point(0, 5.0), short, long)]
    assert str(of(*known)).endswith("; a text has 120 bits, 31 in the model's own code")
    assert of(point(0, 5.0), short, long, share=0.92).bits == 90


def test_every_seed_chooses_for_itself_and_one_that_cannot_reach_it_leaves_no_answer() -> None:
    zero, first = point(0, 5.0), point(1, 1.3, size(50, 1.3, 1.3))
    second = point(4, 1.2, size(80, 1.2, 1.2), seed=1)
    enough = of(zero, first, second)
    assert (enough.bits, enough.lengths) == (65, (1, 4))
    assert enough.documents == pytest.approx(65 / (10 * (5 - 1.25) / math.log(2)))
    assert of(zero, first, replace(second, sizes=[size(80, 1.5, 1.2)])) is None


def test_a_conditional_prompt_says_how_large_its_generator_is() -> None:
    enough = of(point(0, 5.0), point(1, 1.0, size(50, 1.0, 1.0, trained=2000)))
    assert enough.trained_numbers == 2000
    assert "0.05 kbit in one condition (of a generator of 2,000 weights)" in str(enough)


def test_without_an_anchor_the_contribution_is_the_target() -> None:
    """The rival at P = 4 is the control, 2.0, better than the baseline 3.0; the loss 1.0 contributes 1.0."""
    counted = {**baseline(3.0, 30.0, 30.0), "validation_loss": 3.0}
    beside = {"anchor": None, "baselines": {"uniform": counted, "unigram": counted}}
    own = [point(0, 5.0, **beside), point(4, 1.0, size(40, 1.2, 1.3), size(60, 1.05, 1.06), **beside)]
    of_control = {**beside, "config": {**CONFIG, "control": "scrambled"}}
    control = [point(0, 6.0, **of_control), point(4, 2.0, **of_control)]
    enough = of(*own, *control, settled=4)
    assert (enough.bits, enough.reached) == (60, pytest.approx(2.0 - 1.06))
    assert of(*own, *control, settled=4, share=0.75).bits == 40
    alone = of(*own, settled=4)  # against the baseline the contribution is 2.0, and 1.2 reaches 90 % of it
    assert (alone.bits, alone.reached) == (40, pytest.approx((3.0 - 1.3) / 2.0))
    assert of(*own, *control, settled=None) is None  # not saturated: the largest contribution is not known
    worse = [point(0, 6.0, **of_control), point(4, 0.9, **of_control)]
    assert of(*own, *worse, settled=4) is None  # the control does better: there is no contribution


def test_results_of_an_older_version_have_no_answer() -> None:
    older = size(50, 1.0, 1.0)
    del older["validation_loss"]
    assert of(point(0, 5.0), point(1, 1.0, older)) is None


def test_twice_the_steps_do_not_help_if_no_length_gets_better() -> None:
    """The largest gain is 4, so 0.08 nats are too little to go on for."""
    before = [point(0, 5.0), point(1, 2.0), point(4, 1.0)]
    assert is_flat(before, [point(0, 5.0), point(1, 1.93, seed=0), point(4, 1.2)])
    assert not is_flat(before, [point(0, 5.0), point(1, 1.9), point(4, 1.0)])
    seeds = [*before, point(1, 2.2, seed=1)]  # the mean of 2.0 and 2.2 counts
    assert is_flat(seeds, [point(0, 5.0), point(1, 2.05), point(4, 1.0)])
    assert not is_flat(seeds, [point(0, 5.0), point(1, 1.97), point(4, 1.0)])
    control = {"config": {**CONFIG, "control": "scrambled"}}
    assert is_flat([*before, point(1, 9.0, **control)], [*before, point(1, 1.0, **control)])
    little = [point(0, 1.0), point(1, 1.0)]  # no gain: 0.005 nats are what counts
    assert is_flat(little, [point(0, 1.0), point(1, 0.996)])
    assert not is_flat(little, [point(0, 1.0), point(1, 0.994)])


def test_a_seed_without_a_control_of_its_own_is_held_against_the_first() -> None:
    counted = {**baseline(3.0, 30.0, 30.0), "validation_loss": 3.0}
    beside = {"anchor": None, "baselines": {"uniform": counted, "unigram": counted}}
    own = [point(0, 5.0, **beside)]
    own += [point(4, 1.0, size(40, 1.2, 1.3), size(60, 1.05, 1.06), seed=seed, **beside) for seed in (0, 1)]
    of_control = {**beside, "config": {**CONFIG, "control": "scrambled"}}
    enough = of(*own, point(0, 6.0, **of_control), point(4, 2.0, **of_control), settled=4)
    # Held against the baseline of 3.0, the second seed would need 40 bits only.
    assert (enough.bits, enough.reached) == (60, pytest.approx(2.0 - 1.06))
