"""Rounded prompts: what a number of bits allows, and how few bits are enough."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.interventions.base import SCALE_BITS
from soft_prompts.interventions.rounding import RoundedPrompt, round_rows
from soft_prompts.interventions.soft_prompt import PromptGenerator, SoftPrompt
from soft_prompts.probes import bits
from soft_prompts.probes.bits import LOSSLESS, rounded_sizes
from soft_prompts.stats import ratio
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


def test_a_prompt_is_rounded_until_nothing_is_lost_on_the_validation_documents(neox) -> None:
    held_out, validation = make_examples(30, n_conditions=2), make_examples(12, n_conditions=2, seed=5)
    bench = Bench(neox, Encoding(neox.tokenizer, 0, 64), held_out, 4096, validation)
    rows = neox.vocabulary[5:9]
    prompt = PromptGenerator(rows, neox.scale, (2, 8), torch.Generator().manual_seed(0))
    (own,), (validated,) = (evaluate(neox, [prompt], documents, 4096) for documents in (held_out, validation))
    sizes = rounded_sizes(bench, prompt, own, validated.loss)
    assert [s.bits_per_number for s in sizes] == [1, 2, 3, 4, 6, 8][: len(sizes)]
    lost = [s.validation_loss - validated.loss for s in sizes]
    assert lost[-1] <= LOSSLESS < min(lost[:-1], default=1.0)
    for size in sizes:
        rounded = RoundedPrompt(prompt, size.bits_per_number)
        again, again_validated = (evaluate(neox, [rounded], documents, 4096)[0] for documents in (held_out, validation))
        assert (size.loss, size.validation_loss) == pytest.approx((again.loss, again_validated.loss))
        assert size.increase["value"] == pytest.approx(again.loss - own.loss)
        assert size.bits == 4 * (rows.shape[1] * size.bits_per_number + SCALE_BITS)
        assert (size.numbers, size.trained_numbers) == (rows.numel(), sum(p.numel() for p in prompt.parameters()))
    worse = rounded_sizes(bench, prompt, own, validated.loss + 100)  # what rounding costs does not depend on it
    assert [s.validation_loss - 100 for s in worse] == pytest.approx([s.validation_loss for s in sizes])
    assert rounded_sizes(bench, SoftPrompt(rows[:0]), own, 0.1) == []


def test_rounding_is_checked_on_some_of_the_documents_and_its_cost_is_added_to_the_whole_loss(
    neox, monkeypatch
) -> None:
    monkeypatch.setattr(bits, "CHECKED", 7)
    held_out, validation = make_examples(30), make_examples(12, seed=5)
    for documents in (held_out, validation):  # nothing is scored in one of them
        documents[2] = replace(documents[2], labels=np.full_like(documents[2].labels, IGNORE))
    bench = Bench(neox, Encoding(neox.tokenizer, 0, 64), held_out, 4096, validation)
    prompt = SoftPrompt(neox.vocabulary[5:9].float())
    (own,) = evaluate(neox, [prompt], held_out, 4096)
    first = rounded_sizes(bench, prompt, own, -100.0)[0]
    assert first.bits_per_number == 1
    (rounded,) = evaluate(neox, [RoundedPrompt(prompt, 1)], held_out, 4096)
    seven = [0, 1, 3, 4, 5, 6, 7]
    increase = ratio((rounded.sums - own.sums)[seven], own.counts[seven])
    assert first.increase["n"] == increase["n"] == 7
    assert [first.increase["value"], *first.increase["interval"]] == pytest.approx(
        [increase["value"], *increase["interval"]]
    )
    assert first.loss == pytest.approx(own.loss + increase["value"])
    assert first.loss != pytest.approx(rounded.loss, abs=1e-6)
    checked = [validation[i] for i in seven]
    (own,), (rounded,) = (evaluate(neox, [of], checked, 4096) for of in (prompt, RoundedPrompt(prompt, 1)))
    assert first.validation_loss == pytest.approx(-100 + rounded.loss - own.loss)
