"""Rounded prompts: what a number of bits allows, and how few bits are enough."""

import numpy as np
import pytest
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.interventions.rounding import RoundedPrompt, round_rows
from soft_prompts.interventions.soft_prompt import PromptGenerator, SoftPrompt
from soft_prompts.probes.bits import SCALE_BITS, fewest_bits
from tests.unit.conftest import make_examples


@pytest.mark.parametrize("n_bits", [1, 2, 3, 8])
def test_a_row_takes_as_many_values_as_its_bits_allow(n_bits: int) -> None:
    rows = torch.randn(3, 5, 400, generator=torch.Generator().manual_seed(0))
    rounded = round_rows(rows, n_bits)
    for row in rounded.reshape(-1, 400):
        assert len(row.unique()) <= 2**n_bits
    assert (rounded.sign() == rows.sign()).float().mean() > 0.99  # no level is 0


def test_more_bits_err_less_and_one_bit_finds_the_best_scale() -> None:
    rows = torch.randn(20, 512, generator=torch.Generator().manual_seed(0))
    errors = [(round_rows(rows, b) - rows).square().mean().item() for b in (1, 2, 3, 4, 6, 8)]
    assert errors == sorted(errors, reverse=True)
    # The best symmetric quantisers of a standard normal err by 0.3634, 0.1188 and 0.0374 (Max 1960, evenly spaced
    # levels).
    np.testing.assert_allclose(errors[:3], [0.3634, 0.1188, 0.0374], rtol=0.06)


def test_the_fewest_bits_are_measured_and_stop_at_the_tolerance(neox) -> None:
    held_out = make_examples(30, n_conditions=2)
    bench = Bench(neox, Encoding(neox.tokenizer, 0, 64), held_out, 4096)
    rows = neox.vocabulary[5:9]
    prompt = PromptGenerator(rows, neox.scale, (2, 8), torch.Generator().manual_seed(0))
    (own,) = evaluate(neox, [prompt], held_out, 4096)
    sizes = fewest_bits(bench, prompt, own, tolerance=0.003)
    assert [s.bits_per_number for s in sizes] == [1, 2, 3, 4, 6, 8][: len(sizes)]
    *too_few, enough = (s.increase["interval"][1] for s in sizes)
    assert enough <= 0.003 < min(too_few)
    (again,) = evaluate(neox, [RoundedPrompt(prompt, sizes[0].bits_per_number)], held_out, 4096)
    assert sizes[0].loss == pytest.approx(again.loss)
    assert sizes[0].increase["value"] == pytest.approx(again.loss - own.loss)
    assert sizes[0].bits == 4 * (rows.shape[1] + SCALE_BITS)
    assert len(fewest_bits(bench, prompt, own, tolerance=100.0)) == 1
    assert fewest_bits(bench, SoftPrompt(rows[:0]), own, 0.1) == []
