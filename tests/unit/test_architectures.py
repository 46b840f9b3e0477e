"""Architectures of every kind are computed as one row alone through the whole model, or refused. docs/models.md has
more of them."""

import pytest

from tests.architectures import ARCHITECTURES, PAGE, Found, table, try_architecture

EXACT = (
    "gpt2",
    "gpt_neo",
    "opt, projected embeddings",
    "bloom",
    "mistral",
    "qwen2, sliding",
    "qwen3_next",
    "gemma2",
    "granite",
    "cohere2",
    "gpt_oss",
    "minimax",
    "mamba",
    "falcon_h1",
    "xglm",
    "ctrl",
)
"""One of each kind: learned, rotary and linear positions, windows, experts, states, scaled embeddings, scaled and
capped logits, embeddings that the model changes in place, models without sdpa, models without a cache of our kind."""
WITHOUT_A_CACHE = {"minimax", "mamba"}
SHARING = {"gpt2", "opt, projected embeddings", "bloom", "granite", "xglm", "ctrl", "falcon_h1"}
"""Those that read a prompt once for all texts: they have no windows, and gradients go through what they keep."""


@pytest.mark.parametrize("name", EXACT)
def test_an_architecture_computes_what_single_rows_through_the_whole_model_do(name: str, tmp_path) -> None:
    found = try_architecture(name, tmp_path)
    assert found.exact, found
    assert found.has_cache == (name not in WITHOUT_A_CACHE)
    assert found.shares_starts == (name in SHARING)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gemma3n", "reading the embeddings of tokens instead of tokens changes its logits"),
        ("gemma4", "fed with embeddings, its own code stops with RuntimeError: It seems like you tried to call"),
        ("bert, bidirectional", "what stands behind a token changes its logits"),
        ("bert, causal", "taking its head for a matrix with the factor and the cap"),
    ],
)
def test_an_architecture_that_cannot_be_measured_is_refused_for_what_it_does(name: str, reason: str, tmp_path) -> None:
    assert reason in try_architecture(name, tmp_path).refused


def test_wrong_numbers_show_in_the_table() -> None:
    rows = table(
        [Found("a", same_texts=False), Found("b", loss=0.01), Found("c", "why | not"), Found("d")]
    ).splitlines()
    assert rows[-4].startswith("| a | yes | 0e+00 | 0e+00 | WRONG")
    assert rows[-2] == "| c | refused |  |  | why  not |"
    assert any("of 4 architectures, 1 are" in row for row in rows)


def test_the_page_has_a_row_for_every_architecture_and_none_is_wrong() -> None:
    page = PAGE.read_text()
    assert [name for name in ARCHITECTURES if f"| {name} | " not in page] == []
    assert "WRONG" not in page
