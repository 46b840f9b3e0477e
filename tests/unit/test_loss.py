"""Cross-entropy in slices equals the plain computation, and held-out scores are of documents and runs."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from soft_prompts.engine import loss as loss_module
from soft_prompts.engine.evaluate import TokenScores, evaluate
from soft_prompts.engine.loss import cross_entropy, score_tokens
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.language_model import Head
from tests.unit.conftest import make_examples

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest difference of gradients, by dtype. Losses are float32 or finer."""

HEADS = {"plain": {}, "scaled": {"factor": 0.25}, "capped": {"cap": 0.7}, "both": {"factor": 3.0, "cap": 1.5}}
"""What models do to their logits behind the matrix. The caps are so low that most logits are bent."""


@pytest.fixture(params=product(TOLERANCE, HEADS), ids=lambda p: f"{p[0]}-{p[1]}".removeprefix("torch."))
def case(request):
    """An unembedding, hidden states and labels, in each dtype and for each kind of head."""
    dtype, kind = request.param
    torch.manual_seed(0)
    weight, bias = torch.randn(11, 6, dtype=dtype) / 2, torch.randn(11, dtype=dtype) / 2
    return Head(weight, bias, **HEADS[kind]), torch.randn(23, 6, dtype=dtype), torch.randint(11, (23,))


def test_a_head_multiplies_its_logits_and_then_bends_them() -> None:
    head = Head(torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 4.0]), factor=0.5, cap=3.0)
    wanted = [3 * math.tanh(0.5 / 3), 3 * math.tanh(3 / 3)]
    assert head(torch.tensor([1.0])).tolist() == pytest.approx(wanted)


def plain_logits(head: Head, hidden: torch.Tensor) -> torch.Tensor:
    """As ``head`` makes them, but bent in float32 or finer."""
    linear = nn.functional.linear(hidden, head.weight, head.bias)
    logits = linear.to(torch.promote_types(hidden.dtype, torch.float32)) * head.factor
    return logits if head.cap is None else head.cap * (logits / head.cap).tanh()


@pytest.mark.parametrize("slice_logits", [1, 23 * 4, 10**6])
def test_losses_and_gradients_equal_the_plain_computation(case, slice_logits: int, monkeypatch) -> None:
    monkeypatch.setitem(loss_module.SLICE_LOGITS, "cpu", slice_logits)
    head, hidden, labels = case
    upstream = torch.randn(23, dtype=hidden.dtype)
    ours, plain = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    logits = plain_logits(head, plain)
    got, wanted = cross_entropy(head, ours, labels), nn.functional.cross_entropy(logits, labels, reduction="none")
    tolerance = TOLERANCE[hidden.dtype]
    torch.testing.assert_close(got, wanted, atol=min(tolerance, 1e-5), rtol=0)
    (got * upstream).sum().backward()
    (wanted * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, atol=tolerance, rtol=0)


@pytest.mark.parametrize("slice_logits", [1, 23 * 4, 10**6])
def test_scored_tokens_are_the_losses_and_the_favourites(case, slice_logits: int, monkeypatch) -> None:
    monkeypatch.setitem(loss_module.SLICE_LOGITS, "cpu", slice_logits)
    head, hidden, labels = case
    labels[:7] = plain_logits(head, hidden[:7]).argmax(1)
    losses, correct = score_tokens(head, hidden, labels)
    logits = plain_logits(head, hidden)
    assert torch.equal(correct, logits.argmax(1) == labels)
    torch.testing.assert_close(losses, nn.functional.cross_entropy(logits, labels, reduction="none"))


def test_of_equal_logits_the_first_is_the_choice(monkeypatch) -> None:
    """As in greedy decoding, whether both stand in one slice or not. In bfloat16 many logits are equal."""
    head = Head(torch.tensor([[1.0], [2.0], [2.0]]))
    for slice_logits in (1, 3, 9):
        monkeypatch.setitem(loss_module.SLICE_LOGITS, "cpu", slice_logits)
        _, correct = score_tokens(head, torch.ones(3, 1), torch.arange(3))
        assert correct.tolist() == [False, True, False]


def test_no_tokens_have_no_losses() -> None:
    head = Head(torch.randn(11, 6))
    nothing = torch.zeros(0, 6, requires_grad=True)
    assert cross_entropy(head, nothing, torch.zeros(0, dtype=torch.long)).shape == (0,)
    assert [x.shape for x in score_tokens(head, nothing.detach(), torch.zeros(0, dtype=torch.long))] == [(0,), (0,)]


def test_logits_beyond_the_range_of_exp_stay_finite() -> None:
    head = Head(torch.tensor([[1000.0], [-1000.0]]))
    hidden = torch.ones(1, 1, requires_grad=True)
    loss = cross_entropy(head, hidden, torch.tensor([1]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(2000)
    assert hidden.grad.item() == pytest.approx(2000)


def test_the_gradient_of_a_token_that_is_nearly_sure_keeps_its_digits_in_bfloat16() -> None:
    head = Head(torch.tensor([[1.0], [-1.0]], dtype=torch.bfloat16))
    hidden = torch.full((1, 1), 4.0, dtype=torch.bfloat16, requires_grad=True)  # the label has probability 0.99966
    cross_entropy(head, hidden, torch.tensor([0])).sum().backward()
    assert hidden.grad.item() == pytest.approx(-2 / (1 + math.e**8), rel=0.01)


# --- held-out scores ---


def test_held_out_losses_are_summed_by_document_and_weigh_documents_by_their_tokens() -> None:
    losses = [np.array([1.0, 2.0, 3.0], np.float32), np.array([10.0], np.float32)]
    scores = TokenScores(["a", "b"], losses, [x > 2 for x in losses])
    assert (scores.sums.tolist(), scores.counts.tolist(), scores.loss) == ([6, 10], [3, 1], 4)


def test_sums_of_a_document_keep_what_single_precision_loses() -> None:
    """Beside 2^24, single precision has no room for 1."""
    scores = TokenScores(["a"], [np.array([2**24, 1], np.float32)], [np.zeros(2, bool)])
    assert scores.sums.tolist() == [2**24 + 1]


def test_prompts_that_are_scored_together_get_the_scores_that_each_gets_alone(neox) -> None:
    examples = make_examples(12)
    prompts = [SoftPrompt(neox.vocabulary[:n]) for n in (0, 3)]
    together, alone = evaluate(neox, prompts, examples, 200), [evaluate(neox, [p], examples, 200)[0] for p in prompts]
    for ours, own in zip(together, alone, strict=True):
        np.testing.assert_allclose(np.concatenate(ours.losses), np.concatenate(own.losses), atol=1e-4)
        np.testing.assert_array_equal(np.concatenate(ours.correct), np.concatenate(own.correct))
    first, second = (np.concatenate(own.correct) for own in alone)
    assert (first != second).any()
