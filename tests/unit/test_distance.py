"""Distances, saturation and contribution of curves whose answer is known."""

import math

import numpy as np
import pytest

from soft_prompts.results.distance import Distance, Estimates, PairedLosses, crossings, smallest_with_score

LENGTHS = np.array([0, 1, 4, 16, 64])


def rows(losses, n_seeds: int, spread: float, counts: np.ndarray, hard: np.ndarray) -> tuple[np.ndarray, ...]:
    """Nats by seed and document whose losses are exactly the given ones; seeds differ by ``spread`` around them."""
    luck = np.linspace(-spread, spread, n_seeds) if n_seeds > 1 else np.zeros(1)
    return tuple((loss + luck[:, None] + hard) * counts for loss in losses)


def losses_of(losses, n_seeds: int = 3, spread: float = 0.0, n: int = 200, control=(), baselines=(), anchor=None):
    """Documents of 10 to 49 tokens, each with a difficulty of its own that is the same everywhere."""
    random = np.random.default_rng(0)
    counts = random.integers(10, 50, n)
    hard = 0.5 * random.normal(size=n)
    hard -= (hard * counts).sum() / counts.sum()
    known = rows(baselines, n_seeds, 0.0, counts, hard)
    return PairedLosses(
        n_tokens=LENGTHS[: len(losses)],
        sums=rows(losses[:1], 1, 0.0, counts, hard) + rows(losses[1:], n_seeds, spread, counts, hard),
        counts=counts,
        control=rows(control, n_seeds, spread, counts, hard),
        baselines=known,
        anchor=rows([anchor], 1, 0.0, counts, hard)[0] if anchor else None,
    )


def test_losses_are_means_over_seeds_per_scored_token() -> None:
    np.testing.assert_allclose(losses_of([5, 3, 2, 2.5, 1], spread=0.1).losses, [5, 3, 2, 2.5, 1])
    two = PairedLosses(np.array([0, 1]), (np.array([[2.0, 6.0]]), np.array([[1.0, 3.0], [3.0, 5.0]])), np.array([1, 3]))
    np.testing.assert_allclose(two.losses, [8 / 4, (4 + 8) / 2 / 4])


# --- where a curve crosses its target ---


@pytest.mark.parametrize(
    ("losses", "target", "at"),
    [
        ([3, 2, 1], 3.0, 0),  # reached without a prompt
        ([3, 2, 1], 2.5, 0.5),  # between 0 and 1 token, linear in the length
        ([3, 2, 1], 2.0, 1),
        ([3, 2, 1], 1.5, 2),  # half-way from 1 to 4 in the logarithm
        ([3, 2, 1], 1.75, 2**0.5),
        ([3, 2, 1], 1.0, 4),
        ([3, 2, 1], 0.9, math.inf),
        ([3, 1, 2], 1.5, 0.75),  # a longer prompt that is worse changes nothing
    ],
)
def test_a_crossing_is_interpolated_in_the_logarithm_of_the_length(losses, target: float, at: float) -> None:
    assert crossings(LENGTHS[:3], np.array([losses], float), np.array([target]))[0] == pytest.approx(at)


def test_the_distance_to_an_anchor_is_the_shortest_prompt_that_closes_the_share() -> None:
    losses = losses_of([5, 3, 1.1, 1.0, 1.0], anchor=1.0)
    distance = losses.distance_to_anchor(0.95)  # target 1.2
    assert (distance.value, distance.below, distance.longest) == (4, 1, 64)
    assert distance.at == pytest.approx(2 ** (2 * 1.8 / 1.9))
    assert distance.low == pytest.approx(distance.at) == distance.high  # the documents agree, and so do the seeds
    assert str(distance) == "(1, 4], about 3.7 [3.7, 3.7]"
    assert losses.distance_to_anchor(0.4).value == 1
    assert losses_of([5, 3, 1.1, 1.0, 1.0], anchor=0.5).distance_to_anchor(0.95).value is None
    with pytest.raises(ValueError, match="needs an anchor"):
        losses_of([5, 3]).distance_to_anchor(0.5)


def test_an_anchor_that_is_no_better_than_no_prompt_gives_no_distance() -> None:
    for anchor in (5.0, 6.0):
        distance = losses_of([5, 3, 1], anchor=anchor).distance_to_anchor(0.95)
        assert (distance.value, str(distance)) == (None, "none, as it is no better than no prompt")
    # Better by 0.01 nats a token on average, but not on every document.
    counts, luck = np.full(50, 10.0), np.random.default_rng(0).normal(size=50)
    luck -= luck.mean()
    zero, one, anchor = (np.full((1, 50), 10.0 * x) for x in (5, 3, 4.99))
    lucky = PairedLosses(np.array([0, 1]), (zero, one), counts, anchor=anchor + 10 * luck)
    assert str(lucky.distance_to_anchor(0.95)) == "none, as it is no better than no prompt"
    sure = PairedLosses(np.array([0, 1]), (zero, one), counts, anchor=anchor + 0.01 * luck)
    assert sure.distance_to_anchor(0.95).value == 1


def test_the_anchor_and_not_the_longest_prompt_sets_the_target() -> None:
    """The same curve cut at any length has the same distance, where its lengths reach that far."""
    for n in (3, 4, 5):
        assert losses_of([5, 3, 1.1, 0.9, 0.7][:n], anchor=1.0).distance_to_anchor(0.95).value == 4


def test_a_curve_that_still_falls_has_no_plateau_and_no_distance_to_it() -> None:
    falling = losses_of([5, 3, 2, 1.5, 1.0])
    assert str(falling.saturation()) == str(falling.distance_to_plateau(0.95)) == "> 64"
    cut = losses_of([5, 3, 2])
    assert str(cut.distance_to_plateau(0.95)) == "> 4"


def test_the_plateau_is_the_mean_from_saturation_on() -> None:
    losses = losses_of([5, 3, 1.1, 1.0, 1.05])
    assert losses.saturation().value == 4  # longer ones are better by 0.1, less than 5 % of the gain of 4
    distance = losses.distance_to_plateau(0.5)  # plateau 1.05, target 3.025
    assert distance.value == 1 and distance.below == 0
    assert distance.at == pytest.approx((5 - 3.025) / 2)
    assert distance.low == pytest.approx(distance.at) == distance.high  # it is the mean in every draw


def test_saturation_takes_its_tolerance_from_the_contribution_where_it_is_known() -> None:
    losses = [5, 3, 1.1, 1.0, 1.0]
    assert losses_of(losses).saturation().value == 4  # 0.1 nats of a gain of 4
    assert losses_of(losses, baselines=[1.5]).saturation().value == 16  # but of a contribution of 0.5
    assert losses_of([5, 3, 1.02, 1.0, 1.0], baselines=[2.0]).saturation().value == 4  # 0.02 of the largest, 1.0
    assert losses_of([5, 3, 1.1, 1.0, 4.9]).saturation().value == 4  # the gain is that of the best length
    assert losses_of(losses).saturation(tolerance=0.05).value == 16
    assert losses_of(losses).saturation(tolerance=2.5).value == 1


def test_what_gains_nothing_has_no_distance() -> None:
    flat = losses_of([2, 2, 2, 2, 2], spread=0.01, anchor=1.0)
    assert str(flat.distance_to_anchor(0.5)) == str(flat.distance_to_plateau(0.5)) == "no gain"
    worse = losses_of([2, 2.1, 2.1, 2.1, 2.1])
    assert str(worse.distance_to_plateau(0.95)) == "no gain"


# --- what the model contributed ---


def test_contribution_is_measured_against_the_better_of_control_and_baseline_at_each_length() -> None:
    losses = losses_of([5, 3, 1.1, 1.0, 1.0], control=[9, 5, 2.5, 1.6, 1.2], baselines=[2.0, 4.0])
    contribution = losses.contribution()
    np.testing.assert_allclose(contribution.values, [-3, -1, 0.9, 0.6, 0.2])
    np.testing.assert_allclose(contribution.draws.mean(0), contribution.values, atol=1e-9)
    assert contribution.seen
    assert losses_of([5, 3]).contribution() is None
    only_control = losses_of([5, 3, 1.1, 1.0, 1.0], control=[9, 5, 2.5, 1.6, 1.2]).contribution()
    np.testing.assert_allclose(only_control.values, [4, 2, 1.4, 0.6, 0.2])


def test_a_model_that_does_as_its_scrambled_self_has_contributed_nothing() -> None:
    curve = [5, 3, 1.1, 1.0, 1.0]
    same = losses_of(curve, spread=0.01, control=curve, baselines=[2.0])
    assert not same.contribution().seen
    assert str(same.distance_to_contribution(0.95)) == "no contribution seen"
    counted = losses_of(curve, spread=0.01, control=[9] * 5, baselines=[0.99])
    assert not counted.contribution().seen  # counting does better than any prompt


def test_the_distance_to_a_contribution_is_where_it_is_nearly_all_there() -> None:
    losses = losses_of([5, 3, 1.1, 1.0, 1.0], baselines=[2.0])
    distance = losses.distance_to_contribution(0.95)  # contributions -3, -1, 0.9, 1, 1
    assert (distance.below, distance.value) == (4, 16)
    assert losses.distance_to_contribution(0.5).value == 4


def test_with_an_anchor_a_contribution_is_a_share_of_the_anchors_own() -> None:
    still_falling = losses_of([5, 3, 1.1, 0.9, 0.7], baselines=[2.0, 2.5], anchor=1.2)  # the anchor contributes 0.8
    distance = still_falling.distance_to_contribution(0.5)  # 0.4 is there at a loss of 1.6
    assert (distance.below, distance.value) == (1, 4)
    assert distance.at == pytest.approx(4 ** ((3 - 1.6) / (3 - 1.1)))
    assert distance.low < distance.at < distance.high
    assert losses_of([5, 3, 1.1, 0.9, 0.7], baselines=[2.0]).distance_to_contribution(0.5).value is None  # censored
    # Without a prompt the control is the better rival here, so the anchor contributes 0.4; with one it knows nothing.
    control = [1.6, 5, 5, 5, 5]
    other = losses_of([5, 3, 1.5, 0.9, 0.7], baselines=[2.0], control=control, anchor=1.2)
    assert other.distance_to_contribution(1.0).at == pytest.approx(4 ** ((3 - 1.6) / (3 - 1.5)))
    useless = losses_of([5, 3, 1.1, 1.0, 1.04], baselines=[2.0], anchor=2.5)
    alone = losses_of([5, 3, 1.1, 1.0, 1.04], baselines=[2.0])
    assert useless.distance_to_contribution(0.5).at == alone.distance_to_contribution(0.5).at


def test_the_largest_contribution_is_the_mean_from_saturation_on() -> None:
    losses = losses_of([5, 3, 1.1, 1.0, 1.04], baselines=[2.0])  # contributions from saturation on: 1 and 0.96
    distance = losses.distance_to_contribution(0.5)  # half of 0.98 is there at a loss of 1.51
    assert distance.at == pytest.approx(2 ** (2 * (3 - 1.51) / (3 - 1.1)))
    assert distance.low == pytest.approx(distance.at) == distance.high


def test_gains_are_what_prompts_save_in_every_draw() -> None:
    gains = losses_of([5, 3, 1.1, 1.0, 1.0]).gains()
    np.testing.assert_allclose(gains.values, [2, 3.9, 4, 4])
    np.testing.assert_allclose(gains.draws, np.tile(gains.values, (len(gains.draws), 1)))
    assert gains.seen
    assert not losses_of([2, 3, 4]).gains().seen


# --- what documents leave open ---


def half_and_half(*pairs: tuple[float, float]) -> PairedLosses:
    """The lengths 0, 1 and so on, each with the nats of either half of 100 documents of one token."""
    sums = tuple(np.repeat(pair, 50)[None] for pair in np.array(pairs, float))
    return PairedLosses(np.arange(len(pairs)), sums, np.ones(100, int))


def test_the_interval_of_a_distance_is_where_the_draws_cross() -> None:
    """The loss at 1 token is 1 with a standard error of 0.05, so 0.9 to 1.1 by Student's interval."""
    distance = half_and_half((2, 2), (0.5, 1.5)).distance_to_loss(1.2)
    assert distance.at == pytest.approx(0.8)
    assert (distance.low, distance.high) == pytest.approx((0.8 / 1.1, 0.8 / 0.9), rel=0.02)


def test_the_target_of_a_share_moves_with_the_loss_without_a_prompt() -> None:
    """All lengths get half the documents wrong by as much, so in every draw half the gap closes at the same place."""
    losses = half_and_half((4, 6), (0, 2), (0, 2))
    distance = losses.distance_to_plateau(0.5)
    assert (distance.at, distance.low, distance.high) == pytest.approx((0.5, 0.5, 0.5))


def test_saturation_needs_documents_enough_to_be_sure() -> None:
    unsure = half_and_half((2, 2), (0, 0), (-1, 1))  # 2 tokens are neither better nor worse than 1, give or take 0.2
    assert unsure.saturation(tolerance=0.1).value is None
    saturation = unsure.saturation(tolerance=0.3)
    assert (saturation.value, saturation.low, saturation.high) == (1, 1, 1)


def test_the_interval_of_saturation_holds_the_lengths_that_documents_do_not_rule_out() -> None:
    saturation = half_and_half((-0.7, 1.3), (0, 0), (0, 0)).saturation(
        tolerance=0.2
    )  # 0 tokens lack 0.3, give or take 0.2
    assert (saturation.value, saturation.low, saturation.high) == (1, 0, 1)


def test_the_interval_of_an_estimate_cuts_a_fortieth_off_either_end() -> None:
    draws = np.arange(1001.0)[:, None]
    assert Estimates(np.array([500.0]), draws).interval(0) == pytest.approx([25, 975])


def test_one_of_several_numbers_is_seen_above_zero_only_if_luck_among_all_cannot_explain_it() -> None:
    random = np.random.default_rng(0)
    draws = random.normal(size=(20_000, 20))
    value = np.zeros(20)
    value[3] = 2.2  # beyond the 1.96 of one number, not beyond what the largest of 20 reaches by chance
    assert not Estimates(value, draws + value).seen
    assert Estimates(value[3:4], (draws + value)[:, 3:4]).seen
    value[3] = 3.5
    assert Estimates(value, draws + value).seen
    assert not Estimates(-value, draws - value).seen


# --- the rest ---


def test_bits_saved_are_nats_over_ln_2() -> None:
    c = losses_of([5, 3, 2, 2, 1])
    np.testing.assert_allclose(c.bits_saved(4), 3 * c.counts / np.log(2))


def test_the_smallest_length_with_a_score_needs_its_whole_interval_above_the_target() -> None:
    intervals = [[0, 0.1], [0.4, 0.6], [0.55, 0.8], [0.9, 1.0]]
    reached = smallest_with_score([0, 1, 4, 16], intervals, 0.5)
    assert (reached.value, reached.low, reached.high) == (4, 1, 4)
    assert smallest_with_score([0, 1, 4, 16], intervals, 0.55).value == 4  # at the target is enough
    missed = smallest_with_score([0, 1, 4, 16], intervals, 0.95)
    assert (missed.value, missed.low, str(missed)) == (None, 16, "> 16")


@pytest.mark.parametrize(
    ("distance", "shown"),
    [
        (Distance(0, None, 0.0, 0.0, 0.0, 64), "0"),
        (Distance(16, 4, 9.2, 5.04, math.inf, 64), "(4, 16], about 9.2 [5, > 64]"),
        (Distance(64, 16, 31.4, 20.0, 60.0, 64), "(16, 64], about 31 [20, 60]"),
        (Distance(None, longest=16), "> 16"),
        (Distance(None, longest=16, why="no gain"), "no gain"),
    ],
)
def test_a_distance_is_shown_as_the_bracket_of_lengths_that_holds_it(distance: Distance, shown: str) -> None:
    assert str(distance) == shown
