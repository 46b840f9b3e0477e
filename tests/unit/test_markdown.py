"""Tables in Markdown: where columns stand, and what becomes of a cell that holds Markdown itself."""

import pytest

from soft_prompts.report.markdown import markdown_table, with_interval

HEAD = ["model", "P=0", "P=1"]
BODY = [["pocket", "1.50", "0.25 [0.20, 0.30]"], ["a|b <i> [c](d)\ne", "", "> 4"]]


def test_texts_begin_at_the_left_and_numbers_end_at_the_right() -> None:
    assert markdown_table(HEAD, BODY[:1]) == (
        "| model | P=0 | P=1 |\n| --- | ---: | ---: |\n| pocket | 1.50 | 0.25 [0.20, 0.30] |"
    )
    assert markdown_table(HEAD, [], texts=(0, 2)).splitlines()[1] == "| --- | ---: | --- |"
    assert markdown_table(HEAD, [], texts=()).splitlines()[1] == "| ---: | ---: | ---: |"


def test_a_cell_makes_no_other_cell_line_tag_or_link() -> None:
    assert markdown_table(HEAD, BODY[1:]).splitlines()[2:] == ["| a\\|b &lt;i> [c]\\(d) e |  | > 4 |"]
    assert markdown_table(["a|b"], []).splitlines()[0] == "| a\\|b |"  # names of columns come from outside, too


@pytest.mark.parametrize(
    ("form", "shown"), [(".2f", "0.25 [-0.50, 1.00]"), (".0%", "25% [-50%, 100%]"), ("+.1f", "+0.2 [-0.5, +1.0]")]
)
def test_all_three_numbers_are_written_in_one_form(form: str, shown: str) -> None:
    assert with_interval({"value": 0.25, "interval": [-0.5, 1.0], "n": 8}, form) == shown
