"""Tables for the terminal: what stands where, on narrow and on wide ones."""

import pytest

from soft_prompts.report.tables import print_tables, title
from soft_prompts.results.curve import curves
from tests.unit.test_results import result

HEADER = ["P", "held-out loss", "seeds", "empty", "gain over 0", "legal after 40", "flags"]
BODY = [
    ["0", "1.767 ±0.032", "1", "", "", "0.111 ±0.037", ""],
    [
        "16",
        "1.665 ±0.035",
        "3 (1.664 to 1.666)",
        "",
        "0.102 ±0.011",
        "",
        "search not exhausted: twice the steps gained 0.006",
    ],
    ["trigram given conditions", "4.021", "", "", "", "", ""],
]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_number_is_broken_or_left_out_on_a_narrow_terminal(width: int, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_tables([("a table", [HEADER, *BODY])], caption="What it is.")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    for row in BODY:
        for cell in row[1:-1]:
            assert not cell or any(cell in line for line in lines)
    assert "empty" not in " ".join(lines)
    n_parts = sum("P" in line.split() for line in lines)
    assert n_parts == {40: 4, 60: 2, 80: 2, 200: 1}[width]
    assert " ".join(line.strip() for line in lines if line).endswith(
        "P=16: search not exhausted: twice the steps gained 0.006 What it is."
    )


def test_baselines_stand_only_where_they_have_a_number(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    print_tables([("a table", [HEADER, *BODY])])
    assert capsys.readouterr().out.count("trigram") == 1


@pytest.mark.parametrize(
    ("intervention", "said"), [("lora", "rank of a LoRA"), ("steering", "number of steered layers")]
)
def test_a_title_says_what_p_is_if_it_counts_no_tokens(intervention: str, said: str) -> None:
    def titled(**train: str) -> str:
        config = {"train": {"steps": 5, "batch_size": 2, **train}, "task": {"name": "T"}}
        return title(curves([result(0, config=config), result(4, config=config)])[0])

    assert titled(intervention=intervention).endswith(f"5 steps of 2 documents; P is the {said})")
    assert titled().endswith("5 steps of 2 documents)") and titled(intervention="prompt") == titled()
