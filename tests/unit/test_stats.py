"""Ratios and rates, and the intervals around them."""

import numpy as np
import pytest

from soft_prompts.stats import comparison_widths, rate, ratio, ratio_interval, resampled


def test_a_ratio_weighs_documents_by_their_tokens() -> None:
    score = ratio(np.array([10.0, 2.0]), np.array([10, 1]))
    assert score["value"] == pytest.approx(12 / 11)
    assert score["n"] == 2


def test_nothing_counted_has_no_value() -> None:
    assert ratio(np.zeros(3), np.zeros(3)) == {"value": None, "interval": None, "n": 0}
    assert rate(np.array([], bool)) == {"value": None, "interval": None, "n": 0}


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


def test_the_interval_is_the_same_every_time() -> None:
    sums, counts = np.arange(20.0), np.ones(20)
    assert ratio_interval(sums, counts) == ratio_interval(sums, counts)


def test_a_rate_has_room_for_doubt_at_zero_and_one() -> None:
    none, all_ = rate(np.zeros(20, bool)), rate(np.ones(20, bool))
    assert (none["value"], all_["value"]) == (0, 1)
    assert none["interval"] == pytest.approx([0, 0.161], abs=1e-3)  # Wilson's interval for 0 of 20
    assert all_["interval"] == pytest.approx([0.839, 1], abs=1e-3)
