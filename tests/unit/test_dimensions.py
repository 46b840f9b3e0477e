"""The bits of a subspace by a logistic curve: curves whose crossing is known, and results made to lie on one."""

import numpy as np
import pytest

from soft_prompts.results.curve import curves, without_controls
from soft_prompts.results.dimensions import dimensions, logistic_crossings
from tests.unit.test_enough_bits import CONFIG, point, size

X = np.arange(5.0, 10.0)


def curve(x, slope: float, middle: float):
    return 1 / (1 + np.exp(-slope * (np.asarray(x) - middle)))


@pytest.mark.parametrize(("slope", "middle"), [(1.0, 5.0), (2.0, 7.0), (4.0, 8.3)])
def test_a_logistic_curve_is_found_through_its_own_points(slope: float, middle: float) -> None:
    """It reaches 95 % where slope (x - middle) is log 19."""
    rows = np.stack([curve(X, slope, middle), curve(X, slope, middle - 0.5)])
    found = logistic_crossings(X, rows, 0.95)
    assert found == pytest.approx(np.array([middle, middle - 0.5]) + np.log(19) / slope, abs=0.1)
    assert logistic_crossings(X, rows, 0.5) == pytest.approx([middle, middle - 0.5], abs=0.05)


def test_more_than_a_doubling_beyond_what_was_tried_is_beyond() -> None:
    assert np.isinf(logistic_crossings(X, curve(X, 1.0, 9.0)[None], 0.95))[0]  # at 11.9, and the last is 9
    assert logistic_crossings(X, curve(X, 4.0, 9.0)[None], 0.95)[0] == pytest.approx(9.74, abs=0.1)


def results(middle: float, seeds: tuple[float, ...] = (0.0,), coarse: float = 0.0) -> list:
    """L(0) is 5 and the anchor 1. 2^x directions close a share of the gap that is logistic in x; one bit a number loses
    ``coarse`` nats more, two bits nothing."""
    made = [point(0, 5.0)]
    for x in (5, 6, 7, 8):
        config = {**CONFIG, "train": {**CONFIG["train"], "subspace": 2**x}}
        for seed, luck in enumerate(seeds):
            loss = 5.0 - 4.0 * float(curve(x, 2.0, middle + luck))
            sizes = [{**size(0, loss + more, loss + more), "bits_per_number": b} for b, more in ((1, coarse), (2, 0.0))]
            for of_bits, more in zip(sizes, (coarse, 0.0), strict=True):
                of_bits["increase"] = {"value": more, "interval": [more, more], "n": 2}
            made.append(point(8, loss, *sizes, seed=seed, config=config))
            made.append(point(0, 5.0, config=config))
    return made[1:]


def found(*made, share: float = 0.9):
    of_subspaces = [c for c in without_controls(curves(made)) if c.recipe.get("subspace")]
    return dimensions(of_subspaces, share)


def test_the_fewest_bits_are_directions_times_their_bits_and_a_scale() -> None:
    """90 % at log2 d = 6 + log(9) / 2: 137 directions."""
    one = found(*results(6.0))
    assert one.bits_per_number == 1 and one.dimensions == pytest.approx(2 ** (6 + np.log(9) / 2), rel=0.05)
    assert one.bits == pytest.approx(one.dimensions + 16)
    # Rounded to one bit, half of the gap is never closed: two bits are cheaper, of as many directions.
    two = found(*results(6.0, coarse=2.0))
    assert two.bits_per_number == 2 and two.bits == pytest.approx(2 * one.dimensions + 16)
    # Where one bit costs a little, it takes more directions than two bits do, and fewer bits.
    cheap = found(*results(6.0, coarse=0.1))
    assert cheap.bits_per_number == 1 and one.dimensions < cheap.dimensions < 2 * one.dimensions


def test_the_interval_holds_the_luck_of_the_seeds() -> None:
    alone, apart = (found(*results(6.0, seeds)) for seeds in ((0.0, 0.0, 0.0), (-0.3, 0.0, 0.3)))
    widths = [np.subtract(*np.quantile(of.draws, [0.975, 0.025], method="nearest")) for of in (alone, apart)]
    assert widths[0] == pytest.approx(0) and widths[1] > 0.3 * apart.bits
    assert str(alone).startswith(f"{alone.bits:,.0f} [{alone.bits:,.0f}, {alone.bits:,.0f}] (")


def test_what_was_not_reached_is_beyond_and_one_number_of_directions_is_no_curve() -> None:
    assert str(found(*results(12.0))).startswith("beyond [beyond, beyond]")
    assert found(*results(6.0)[:2]) is None
