"""Ratios and rates, and the intervals around them."""

import numpy as np
import pytest

from soft_prompts.stats import (
    band,
    comparison_widths,
    estimated,
    rate,
    ratio,
    ratio_interval,
    resampled,
    seed_variance,
    two_level_draws,
)


def test_a_ratio_weighs_documents_by_their_tokens() -> None:
    score = ratio(np.array([10.0, 2.0]), np.array([10, 1]))
    assert score["value"] == pytest.approx(12 / 11)
    assert score["n"] == 2


def test_nothing_counted_has_no_value() -> None:
    assert ratio(np.zeros(3), np.zeros(3)) == {"value": None, "interval": None, "n": 0}
    assert rate(np.array([], bool)) == {"value": None, "interval": None, "n": 0}


def test_documents_that_count_nothing_are_not_among_those_that_do() -> None:
    assert ratio(np.array([3.0, 0.0]), np.array([2, 0]))["n"] == 1
    draws = resampled(np.array([3.0, 0.0]), np.array([2, 0]))  # a quarter of them holds the second document only
    np.testing.assert_array_equal(draws, np.full(len(draws), 1.5))


def test_documents_are_drawn_with_their_tokens() -> None:
    """If all tokens cost the same, no draw of long and short documents makes a difference."""
    counts = np.array([1, 10, 100])
    np.testing.assert_allclose(resampled(2.0 * counts, counts), 2)


def test_the_interval_cuts_a_fortieth_off_either_end() -> None:
    """Of 100 documents, half cost a nat. A draw holds as many of them as 100 tosses of a coin give heads: between 40
    and 60 in 95 % of the cases, between 42 and 58 in 90 %."""
    assert ratio_interval(np.repeat([0.0, 1.0], 50), np.ones(100)) == pytest.approx([0.4, 0.6], abs=0.005)


def test_a_score_from_draws_has_its_own_value_and_their_ends() -> None:
    found = estimated(np.float64(7.0), np.random.default_rng(0).permutation(np.arange(41.0)))
    assert found == {"value": 7.0, "interval": pytest.approx([1.0, 39.0])}
    assert type(found["value"]) is float


def test_the_interval_has_the_width_of_the_normal_approximation() -> None:
    random = np.random.default_rng(0)
    counts = np.full(400, 50)
    sums = counts * random.normal(3, 0.4, 400)
    low, high = ratio_interval(sums, counts)
    assert high - low == pytest.approx(2 * 1.96 * 0.4 / 400**0.5, rel=0.15)
    assert low < sums.sum() / counts.sum() < high


def test_the_interval_covers_the_truth_as_often_as_it_says_with_tokens_that_hang_together() -> None:
    """The tokens of a document share a level. Intervals that took them as independent would cover far too seldom."""
    random, truth, covered = np.random.default_rng(1), 3.0, 0
    for trial in range(200):
        counts = random.integers(20, 200, 100)
        sums = counts * (truth + random.normal(0, 0.5, 100)) + random.normal(0, 1, 100) * counts**0.5
        low, high = ratio_interval(sums, counts, seed=trial)
        covered += low <= truth <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_intervals_to_compare_by_overlap_unless_the_paired_difference_is_sure() -> None:
    random = np.random.default_rng(2)
    counts = random.integers(20, 200, 300)
    hard = random.normal(3, 0.5, 300)  # what documents have in common at every length
    noise = np.array([0.2, 0.05, 0.02, 0.02, 0.01])[:, None] * random.normal(size=(5, 300))
    sums = counts * (hard + noise)
    widths = comparison_widths(resampled(sums, counts))
    for j in range(5):
        for k in range(j):
            low, high = ratio_interval(sums[j] - sums[k], counts)
            assert (high - low) / 2 <= widths[j] + widths[k] + 1e-12
            assert widths[j] + widths[k] <= (high - low)  # they are less than twice as wide as needed
        low, high = ratio_interval(sums[j], counts)
        assert widths[j] < (high - low) / 4 or j == 0
    low, high = ratio_interval(sums[0] - sums[1], counts)
    assert comparison_widths(resampled(sums[:2], counts)) == pytest.approx(np.full(2, (high - low) / 4))


def test_where_bars_fall_short_of_a_difference_the_wider_of_the_two_is_widened() -> None:
    """Independent numbers with standard deviations 3, 3, 1, 1: their differences are 8.316, 6.198 and 2.772 wide. Least
    squares gives 4.550 and 1.430, which together fall short of 6.198. So the wide ones become 6.198 - 1.430."""
    draws = np.random.default_rng(0).normal(size=(200_000, 4)) * [3, 3, 1, 1]
    np.testing.assert_allclose(comparison_widths(draws), [4.768, 4.768, 1.430, 1.430], atol=0.06)


def test_the_interval_is_the_same_every_time() -> None:
    sums, counts = np.arange(20.0), np.ones(20)
    assert ratio_interval(sums, counts) == ratio_interval(sums, counts)


def test_a_rate_has_room_for_doubt_at_zero_and_one() -> None:
    none, all_ = rate(np.zeros(20, bool)), rate(np.ones(20, bool))
    assert (none["value"], all_["value"]) == (0, 1)
    assert none["interval"] == pytest.approx([0, 0.161], abs=1e-3)  # Wilson's interval for 0 of 20
    assert all_["interval"] == pytest.approx([0.839, 1], abs=1e-3)


# --- documents and seeds ---


def test_few_documents_widen_the_draws_by_their_effective_number() -> None:
    """30 tokens in one document and 10 in each of three others count as 60^2 / 1200 = 3 documents, and Student's
    quantile for two degrees of freedom is 4.3027."""
    sums, counts = np.array([30.0, 20.0, 0.0, 10.0]), np.array([30, 10, 10, 10])
    draws = two_level_draws([sums[None]], counts)[:, 0]
    np.testing.assert_allclose(
        draws, 1 + 4.3027 / 1.96 * 1.5**0.5 * (resampled(sums, counts) - 1), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("losses", "half"),
    [
        ([1.0, 2.0, 3.0], 4.3027 / 3**0.5),  # standard deviation 1, Student's quantile for two degrees of freedom
        ([1.0, 3.0], 12.706),  # standard deviation 2^(1/2), of a mean of two
        ([2.0], 0.0),
    ],
)
def test_seeds_move_the_loss_as_students_interval_of_their_mean_says(losses: list[float], half: float) -> None:
    counts = np.array([10, 20, 30])
    draws = two_level_draws([np.array(losses)[:, None] * counts], counts, n_resamples=40_000)[:, 0]
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (low, high) == pytest.approx((2 - half, 2 + half), abs=1e-3 * half)


def test_the_luck_of_two_lengths_has_nothing_to_do_with_each_other() -> None:
    counts = np.array([10, 20, 30])
    seeds = np.array([1.0, 2.0, 3.0])[:, None] * counts
    ranks = two_level_draws([seeds, seeds], counts).argsort(0).argsort(0)
    assert abs(np.corrcoef(ranks.T)[0, 1]) < 0.1


def test_the_variance_between_seeds_is_that_of_their_losses_without_what_single_documents_add() -> None:
    """Losses 0 and 6 vary by 18. Each of the four numbers is 1 away from what its seed and its document say: 4 in all,
    over one degree of freedom and two tokens squared."""
    assert seed_variance(np.array([[0.0, 0.0], [4.0, 8.0]]), np.ones(2)) == pytest.approx(18 - 1)
    assert seed_variance(np.array([[1.0, 3.0], [3.0, 1.0]]), np.ones(2)) == 0  # 0 - 1 would be no variance


def test_the_band_is_as_wide_as_the_largest_of_all_deviations() -> None:
    """Of one normal number 95 % lie within 1.96, of ten independent ones all do within 2.80."""
    draws = np.random.default_rng(0).normal(3, 1, (40_000, 10))
    for n, half in ((1, 1.96), (10, 2.80)):
        low, high = band(np.full(n, 3.0), draws[:, :n])
        np.testing.assert_allclose((low, high), (np.full(n, 3 - half), np.full(n, 3 + half)), atol=0.05)
