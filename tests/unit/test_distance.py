"""Distances of curves whose answer is known, and intervals that cover the truth as often as they say."""

import numpy as np
import pytest

from soft_prompts.results.distance import Distance, PairedLosses, smallest_with_score
from soft_prompts.stats import band, ratio_interval, resampled, seed_interval

LENGTHS = np.array([0, 1, 4, 16, 64])


def curve(losses: list[float], noise: float = 0.0, n: int = 200, shared: float = 0.5) -> PairedLosses:
    """Documents of 10 to 49 tokens. Each has a difficulty of its own, the same at every length, and noise."""
    random = np.random.default_rng(0)
    counts = random.integers(10, 50, n)
    per_token = np.array(losses)[:, None] + shared * random.normal(size=n)
    per_token = per_token + noise * random.normal(size=(len(losses), n))
    # Make the mean losses exactly those asked for.
    per_token += (np.array(losses) - (per_token * counts).sum(1) / counts.sum())[:, None]
    return PairedLosses(LENGTHS[: len(losses)], per_token * counts, counts)


def test_losses_and_envelope() -> None:
    c = curve([5, 3, 2, 2.5, 1])
    np.testing.assert_allclose(c.losses, [5, 3, 2, 2.5, 1])
    np.testing.assert_allclose(c.envelope, [5, 3, 2, 2, 1])


def test_distance_to_a_share_of_the_gap() -> None:
    c = curve([5, 3, 1.1, 1.05, 1])
    assert c.distance_to_share(0.45) == Distance(1, 1, 1, 64)
    assert c.distance_to_share(0.95) == Distance(4, 4, 4, 64)
    assert c.distance_to_share(1.0) == Distance(64, 64, 64, 64)
    assert str(c.distance_to_share(0.95)) == "4 [4, 4]"
    with pytest.raises(ValueError, match="loss at 0 tokens"):
        PairedLosses(LENGTHS[1:], c.sums[1:], c.counts).distance_to_share(0.5)


def test_pairing_sees_what_differences_between_documents_would_hide() -> None:
    """Documents differ by 2 nats and prompts by 0.1. The order is certain because the documents are paired."""
    c = curve([5, 4.9, 4.8, 4.7, 4.6], noise=0.05, shared=2.0)
    low, high = ratio_interval(c.sums[0], c.counts)
    assert high - low > 0.4
    assert c.distance_to_share(0.9) == Distance(64, 64, 64, 64)


def test_a_target_never_reached_is_censored() -> None:
    c = curve([5, 3, 2, 2, 2])
    assert c.distance_to_loss(1.0) == Distance(None, None, None, 64)
    assert str(c.distance_to_loss(1.0)) == "> 64"
    assert str(Distance(16, 4, None, 64)) == "16 [4, > 64]"


def test_a_target_within_the_noise_has_a_wide_interval_and_a_cautious_value() -> None:
    c = curve([5, 3, 2.0, 1.9, 1.0], noise=1.0, n=60)
    distance = c.distance_to_loss(2.0)
    assert distance.low == 4 and distance.high in (16, 64) and distance.value in (16, 64)
    assert distance.low <= distance.value


def test_saturation_is_where_nothing_longer_is_better_by_more_than_the_tolerance() -> None:
    assert curve([5, 3, 2, 1.995, 1.992]).saturation(0.01) == Distance(4, 4, 4, 64)
    assert curve([5, 3, 2, 1.9, 1.8]).saturation(0.01) == Distance(None, None, None, 64)
    assert curve([5, 3, 2, 2.2, 2.1]).saturation(0.01).value == 4  # longer prompts are worse, so they change nothing
    assert curve([5, 3, 2, 1.9, 1.8]).saturation(0.3).value == 4


def test_bits_saved_are_nats_over_ln_2() -> None:
    c = curve([5, 3, 2, 2, 1])
    np.testing.assert_allclose(c.bits_saved(4).mean(), 3 * c.counts.sum() / len(c.counts) / np.log(2))


def test_the_smallest_length_with_a_score_needs_its_whole_interval_above_the_target() -> None:
    intervals = [[0, 0.1], [0.4, 0.6], [0.55, 0.8], [0.9, 1.0]]
    assert smallest_with_score([0, 1, 4, 16], intervals, 0.5) == Distance(4, 1, 4, 16)
    assert smallest_with_score([0, 1, 4, 16], intervals, 0.95) == Distance(None, 16, None, 16)


# --- coverage ---


def test_intervals_cover_as_often_as_they_say() -> None:
    """2,000 experiments. The tokens of a document share its difficulty, and documents differ in length."""
    random = np.random.default_rng(0)
    n, covered = 200, 0
    for _ in range(2000):
        counts = random.geometric(0.05, n)
        sums = counts * (2 + 0.5 * random.normal(size=n)) + np.sqrt(counts) * random.normal(size=n)
        low, high = ratio_interval(sums, counts, n_resamples=500)
        covered += low <= 2 <= high
    assert 0.93 <= covered / 2000 <= 0.97


def test_tokens_taken_as_independent_would_cover_far_too_seldom() -> None:
    """The data are as above, but the tokens are taken as independent. This is why documents are what is resampled."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        counts = random.geometric(0.05, 200)
        difficulty = 2 + 0.5 * random.normal(size=200)
        tokens = np.repeat(difficulty, counts) + random.normal(size=counts.sum())
        half = 1.96 * tokens.std() / len(tokens) ** 0.5
        covered += abs(tokens.mean() - 2) <= half
    assert covered / 300 < 0.85


def test_the_band_holds_all_lengths_at_once_and_is_wider_than_each_interval() -> None:
    random = np.random.default_rng(0)
    everywhere = each = 0
    for _ in range(400):
        counts = random.geometric(0.05, 150)
        sums = counts * (2 + 0.5 * random.normal(size=(6, 150)))
        low, high = band(sums, counts)
        everywhere += bool(((low <= 2) & (high >= 2)).all())
        intervals = np.quantile(resampled(sums, counts, 500), [0.025, 0.975], axis=0)
        each += bool(((intervals[0] <= 2) & (intervals[1] >= 2)).all())
    assert 0.91 <= everywhere / 400 <= 0.985
    assert each < everywhere - 40


def test_seeds_have_an_interval_of_their_own() -> None:
    assert seed_interval(np.array([1.0])) is None
    low, high = seed_interval(np.array([1.0, 1.2, 1.4]))
    assert (low + high) / 2 == pytest.approx(1.2)
    t = 4.303  # of Student's distribution with two degrees of freedom
    assert (high - low) / 2 == pytest.approx(t * 0.2 / 3**0.5, rel=1e-3)
    random = np.random.default_rng(0)
    covered = [low <= 0 <= high for low, high in (seed_interval(x) for x in random.normal(size=(2000, 3)))]
    assert 0.93 <= np.mean(covered) <= 0.97
