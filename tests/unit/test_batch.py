"""Examples as batches: padding, packing into passes, and which position predicts a label."""

import numpy as np
import pytest
import torch

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.batch import collate
from soft_prompts.engine.forward import forward_pass, pack
from soft_prompts.interventions.soft_prompt import SoftPrompt
from tests.unit.conftest import make_examples


def test_padding_is_on_the_right_never_scored_and_weightless() -> None:
    a = Example(np.array([1, 2, 3]), np.array([IGNORE, 2, 3]), "a", weights=np.array([9.0, 0.5, 2.0]))
    b = Example(np.array([4, 5, 6, 7]), np.array([IGNORE, IGNORE, 6, 7]), "b", insert_at=4)
    batch = collate([a, b])
    assert batch.tokens.tolist() == [[1, 2, 3, 0], [4, 5, 6, 7]]
    assert batch.labels.tolist() == [[IGNORE, 2, 3, IGNORE], [IGNORE, IGNORE, 6, 7]]
    assert batch.weights.tolist() == [[0, 0.5, 2, 0], [0, 0, 1, 1]]
    assert batch.lengths.tolist() == [3, 4]
    assert batch.insert_at.tolist() == [1, 4]
    assert batch.condition.shape == (2, 0)
    assert (a.n_scored, a.total_weight, b.n_scored, b.total_weight) == (2, 2.5, 2, 2)


@pytest.mark.parametrize(
    ("tokens", "labels", "at", "message"),
    [
        ([], [], 0, "0 tokens and 0 labels"),
        ([1, 2], [IGNORE], 1, "2 tokens and 1 labels"),
        ([1, 2], [1, 2], 1, "place 0 is scored"),
        ([1, 2], [IGNORE, 2], 3, r"insert_at 3 is outside 0\.\.2"),
    ],
)
def test_impossible_examples_are_refused_with_their_document(tokens, labels, at: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"game-7: .*{message}"):
        Example(np.array(tokens), np.array(labels), "game-7", at)


@pytest.mark.parametrize("budget", [1, 50, 10**6])
def test_packing_covers_every_row_once_with_one_length_a_pass_inside_the_budget(budget: int) -> None:
    prompts = [SoftPrompt(torch.zeros(n, 4)) for n in (4, 0, 4, 16)]
    examples = [make_examples(5, seed=r) for r in range(4)]
    passes = list(pack(prompts, examples, budget))
    assert sorted(row for rows in passes for row in rows) == [(r, i) for r in range(4) for i in range(5)]
    for rows in passes:
        lengths = {prompts[r].n_tokens for r, _ in rows}
        assert len(lengths) == 1
        positions = len(rows) * (max(len(examples[r][i]) for r, i in rows) + lengths.pop())
        assert positions <= budget or len(rows) == 1


@pytest.mark.parametrize("n_tokens", [0, 1, 3])
def test_scored_tokens_do_not_depend_on_prompt_length(neox, n_tokens: int) -> None:
    examples = make_examples(6)
    scoring = forward_pass(neox, [SoftPrompt(torch.zeros(n_tokens, 32))], [examples], [(0, i) for i in range(6)])
    assert scoring.labels.tolist() == [label for e in examples for label in e.labels[e.labels != IGNORE]]
    assert scoring.counts == [e.n_scored for e in examples]


@pytest.mark.parametrize("n_tokens", [0, 1, 3])
def test_each_label_is_predicted_from_what_stands_just_before_it(model, n_tokens: int) -> None:
    """The reference is naive: it builds every row on its own and inserts the prompt into a list."""
    examples, prompt = make_examples(6), SoftPrompt(torch.randn(n_tokens, 32))
    scoring = forward_pass(model, [prompt], [examples], [(0, i) for i in range(6)])
    wanted = []
    for e in examples:
        vectors = list(model.embed(torch.from_numpy(e.tokens)))
        labels: list[int] = e.labels.tolist()
        vectors[e.insert_at : e.insert_at] = list(prompt.rows)
        labels[e.insert_at : e.insert_at] = [IGNORE] * n_tokens
        hidden = model.body(torch.stack(vectors)[None])[0]
        wanted += [hidden[i - 1] for i, label in enumerate(labels) if label != IGNORE]
    torch.testing.assert_close(scoring.hidden, torch.stack(wanted), atol=1e-5, rtol=1e-4)
