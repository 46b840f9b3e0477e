"""Intervals cover as often as they say, in simulated experiments with documents and training luck drawn anew: 2,000 a
case with ``-m slow``, the first 800 of them otherwise."""

import numpy as np
import pytest

from soft_prompts.results import distance as module
from soft_prompts.results.distance import PairedLosses, crossings
from soft_prompts.stats import band, comparison_widths, ratio_interval, seed_variance, two_level_draws

LENGTHS = np.array([0, 1, 4, 16, 64])
FALLING, FLAT = [3, 2.5, 2.1, 2.03, 2.0], [3, 2.5, 2.0, 2.0, 2.0]
FEWER_DRAWS = 500


@pytest.fixture(params=[800, pytest.param(2000, marks=pytest.mark.slow)])
def n_experiments(request) -> int:
    return request.param


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """500 draws instead of 4,000 in each of thousands of experiments."""
    monkeypatch.setattr(module, "two_level_draws", lambda sums, counts: two_level_draws(sums, counts, FEWER_DRAWS))


def experiment(random, losses, n=200, seeds=3, luck=0.02, unequal=True, control=None, baseline=None, anchor=None):
    """One experiment: documents of own lengths and difficulty, a prompt's luck, and each prompt's luck with each
    document."""
    counts = np.maximum(5, 100 * random.lognormal(0, 0.7, n)).astype(int) if unequal else np.full(n, 100)
    hard = 0.3 * random.normal(size=n)

    def measured(loss: float, n_seeds: int, luck: float) -> np.ndarray:
        lucky = luck * random.normal(size=(n_seeds, 1))
        return counts * (loss + lucky + hard + 0.05 * random.normal(size=(n_seeds, n)))

    def lengths(values) -> tuple[np.ndarray, ...]:
        return tuple(measured(loss, seeds if k else 1, luck if k else 0) for k, loss in enumerate(values))

    return PairedLosses(
        LENGTHS[: len(losses)],
        lengths(losses),
        counts,
        control=lengths(control) if control else (),
        baselines=(measured(baseline, seeds, 0.002),) if baseline else (),
        anchor=measured(anchor, 1, 0) if anchor else None,
    )


def share_covered(intervals: list, truth) -> float:
    low, high = np.array(intervals).reshape(-1, 2).T
    return float(np.mean((low - 1e-9 <= truth) & (truth <= high + 1e-9)))


CASES = {
    "200 documents, equal seeds": {"luck": 0.0},
    "200 documents, seeds that differ": {"luck": 0.05},
    "30 unequal documents": {"n": 30},
    "30 equal documents": {"n": 30, "unequal": False},
    "five seeds": {"seeds": 5},
    "one seed, no luck": {"seeds": 1, "luck": 0.0},
}


@pytest.mark.parametrize("case", CASES)
def test_intervals_of_losses_gains_and_anchored_distances_cover(case: str, n_experiments) -> None:
    random = np.random.default_rng(1)
    target = 3 - 0.95 * (3 - 2.0)
    truth = crossings(LENGTHS, np.array([FALLING]), np.array([target]))[0]
    of_loss, of_gain, of_distance = [], [], []
    for _ in range(n_experiments):
        measured = experiment(random, FALLING, anchor=2.0, **CASES[case])
        of_loss.append(np.quantile(measured.draws[:, 2], [0.025, 0.975]))
        of_gain.append(measured.gains().interval(1))
        distance = measured.distance_to_anchor(0.95)
        of_distance.append([distance.low, distance.high])
    assert 0.93 <= share_covered(of_loss, FALLING[2]) <= 0.985
    assert 0.93 <= share_covered(of_gain, FALLING[0] - FALLING[2]) <= 0.985
    assert 0.93 <= share_covered(of_distance, truth) <= 0.985


@pytest.mark.parametrize("case", ["30 unequal documents", "200 documents, seeds that differ"])
def test_intervals_of_contributions_cover(case: str, n_experiments) -> None:
    random = np.random.default_rng(2)
    control, baseline = [4, 3, 2.5, 2.3, 2.2], 2.35
    truth = np.minimum(control, baseline) - np.array(FALLING)
    intervals = [[], [], []]
    for _ in range(n_experiments):
        contribution = experiment(random, FALLING, control=control, baseline=baseline, **CASES[case]).contribution()
        for i, k in enumerate((1, 2, 4)):
            intervals[i].append(contribution.interval(k))
    for i, k in enumerate((1, 2, 4)):
        # The least of two rivals that are equally good is drawn too low: the interval errs towards no contribution.
        assert 0.93 <= share_covered(intervals[i], truth[k]) <= 0.995


@pytest.mark.parametrize("luck", [0.0, 0.005, 0.02])
def test_nothing_is_seen_in_a_flat_curve_more_often_than_said(luck: float, n_experiments) -> None:
    """No gain and no contribution: each may be seen by chance in one case of forty, as only one side counts."""
    random = np.random.default_rng(3)
    gains = contributions = 0
    for _ in range(n_experiments):
        flat = experiment(random, [2] * 5, luck=luck, control=[2] * 5, baseline=2.0, n=60)
        gains += flat.gains().seen
        contributions += flat.contribution().seen
    assert gains / n_experiments <= 0.04
    assert contributions / n_experiments <= 0.04


def test_a_saturation_that_is_seen_is_there(n_experiments) -> None:
    """A flat curve is saturated at 4 tokens; a falling one is not called so before its end."""
    random = np.random.default_rng(4)
    too_early = seen = 0
    intervals = []
    for _ in range(n_experiments):
        saturation = experiment(random, FLAT, luck=0.005).saturation()
        if saturation.value is not None:
            seen += 1
            too_early += saturation.value < 4
            intervals.append([saturation.low, saturation.high])
    assert seen / n_experiments > 0.5
    assert too_early / n_experiments <= 0.03
    assert share_covered(intervals, 4) >= 0.93
    still_falling = [experiment(random, [3, 2.6, 2.4, 2.2, 2.0], luck=0.02).saturation().value for _ in range(500)]
    assert sum(value is not None for value in still_falling) <= 0.03 * 500


def test_the_distance_to_the_own_plateau_covers_where_saturation_is_seen(n_experiments) -> None:
    random = np.random.default_rng(5)
    truth = crossings(LENGTHS, np.array([FLAT]), np.array([3 - 0.95]))[0]
    distances = [experiment(random, FLAT, luck=0.005).distance_to_plateau(0.95) for _ in range(n_experiments)]
    intervals = [[d.low, d.high] for d in distances if d.value is not None]
    assert len(intervals) > n_experiments / 2
    assert 0.93 <= share_covered(intervals, truth) <= 0.99


def test_without_seeds_in_it_an_interval_covers_far_too_seldom() -> None:
    """What the second level is there for: documents alone cover half of the truth where seeds differ by 0.05 nats."""
    random = np.random.default_rng(6)
    intervals = []
    for _ in range(500):
        measured = experiment(random, FALLING, luck=0.05, anchor=2.0)
        gain = measured.sums[0].mean(0) - measured.sums[2].mean(0)
        intervals.append(ratio_interval(gain, measured.counts, n_resamples=FEWER_DRAWS))
    assert share_covered(intervals, FALLING[0] - FALLING[2]) < 0.6


def test_the_variance_between_seeds_leaves_out_what_documents_explain() -> None:
    random = np.random.default_rng(7)
    counts = random.integers(10, 50, 40)
    none, some = [], []
    for _ in range(2000):
        by_document = counts * 0.5 * random.normal(size=(4, 40))
        none.append(seed_variance(by_document, counts))
        some.append(seed_variance(by_document + counts * 0.3 * random.normal(size=(4, 1)), counts))
    by_chance = 0.25 * (counts**2).sum() / counts.sum() ** 2  # what each document's own luck adds to a loss's variance
    assert np.mean(none) < 0.6 * by_chance  # about half of it is cut off at 0
    assert np.mean(some) == pytest.approx(0.09, rel=0.1)
    assert seed_variance(np.array([[1.0, 3.0], [2.0, 6.0]]), np.array([1, 3])) == pytest.approx(0.5)


def test_the_band_holds_all_lengths_at_once_and_is_wider_than_each_interval() -> None:
    random = np.random.default_rng(0)
    everywhere = each = 0
    for _ in range(400):
        counts = random.geometric(0.05, 150)
        sums = counts * (2 + 0.5 * random.normal(size=(6, 1, 150)))
        draws = two_level_draws(list(sums), counts, 1000)
        low, high = band(sums.sum((1, 2)) / counts.sum(), draws)
        everywhere += bool(((low <= 2) & (high >= 2)).all())
        intervals = np.quantile(draws, [0.025, 0.975], axis=0)
        each += bool(((intervals[0] <= 2) & (intervals[1] >= 2)).all())
    assert 0.92 <= everywhere / 400 <= 0.985
    assert each < everywhere - 40


def test_lengths_whose_bars_do_not_overlap_differ() -> None:
    """The widths of two add up to at least the width of the interval of their difference."""
    random = np.random.default_rng(1)
    common = random.normal(size=(4000, 1))
    draws = common + random.normal(size=(4000, 4)) * [0.1, 0.1, 0.5, 0.02]
    widths = comparison_widths(draws)
    for j in range(4):
        for k in range(j):
            low, high = np.quantile(draws[:, j] - draws[:, k], [0.025, 0.975])
            assert widths[j] + widths[k] >= (high - low) / 2 - 1e-9
    assert widths[3] < 0.1  # what all have in common is left out
