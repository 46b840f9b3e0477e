"""The tables of finished results, in a terminal and in Markdown pages."""

import sys
from dataclasses import replace

import pytest

from soft_prompts.console import progress_bar, say
from soft_prompts.errors import SoftPromptsError
from soft_prompts.report.documents import filled
from soft_prompts.report.plots import saturation_figure, save_figure
from soft_prompts.report.tables import markdown, print_table, rows, tables
from soft_prompts.results.curve import curves
from soft_prompts.results.record import Result
from tests.unit.commands import ran
from tests.unit.test_results import result


def test_a_curve_has_a_row_for_every_length_and_its_gain_is_paired() -> None:
    results = [result(0, losses=(3.0, 3.2)), result(1, losses=(2.0, 2.2)), result(1, seed=1, losses=(2.0, 2.2))]
    (curve,) = curves(results)
    header, zero, one, uniform, unigram = rows(curve, ["hits"])
    assert header == ["P", "held-out loss", "paired", "seeds", "gain over 0", "hits", "flags"]
    # Two documents are few: half the spread of 0.1 becomes 0.1 x (12.71 / 1.96) x 2^(1/2).
    assert zero[:5] == ["0", "3.100 ±0.917", "±0.000", "1", ""]
    # Both documents gain 1.0 with both seeds. So the paired interval has no width, though the losses vary.
    assert one[:6] == ["1", "2.100 ±0.917", "±0.000", "2 (2.100 to 2.100)", "1.000 ±0.000", "0.500 ±0.100"]
    assert (uniform[:2], unigram[:2]) == (["uniform", "5.000"], ["unigram", "2.800"])


def test_a_longer_prompt_that_does_worse_is_flagged() -> None:
    results = [result(0), result(1, losses=(1.0, 1.1)), result(4, losses=(1.5, 1.6)), result(16, losses=(4, 4))]
    (curve,) = curves(results)
    assert curve.flags == [[], [], ["worse than P=1"], ["worse than P=1", "worse than unigram"]]


def test_results_on_other_documents_are_not_compared() -> None:
    other, shorter = result(1), result(1)
    other.held_out.documents[0] = "z"
    shorter.held_out.document_scored[0] = 9
    for strange in (other, shorter):
        (curve,) = curves([result(0), strange])
        assert curve.flags[1] == ["other documents"]


def test_two_recipes_have_a_table_each_that_says_how_they_differ() -> None:
    config = {"task": {"name": "T"}, "train": {"steps": 5, "batch_size": 2, "lr": 0.3}}
    names = [name for name, _ in tables(curves([result(1), result(1, config=config)]), [])]
    assert len(names) == 2
    assert sum("lr 0.3" in name or "lr 0.1" in name for name in names) == 1


def test_many_recipes_share_one_table_named_by_what_differs() -> None:
    recipes = [{"steps": 5, "batch_size": 2, "lr": lr} for lr in (0.1, 0.1, 0.3)]
    recipes[1]["batch_size"] = 3
    results = [result(n, config={"task": {"name": "T"}, "train": train}) for train in recipes for n in (1, 4)]
    ((_, (header, *body)),) = tables(curves(results), [])
    assert header == ["variant", "1 tokens", "4 tokens"]
    assert sorted(row[0] for row in body) == ["batch_size 3", "default", "lr 0.3"]


def test_two_models_of_one_name_are_told_apart_by_their_weights_and_keep_their_controls() -> None:
    def of(files: str | None, weights: str, **changes) -> Result:
        known = result(n_tokens=0)
        provenance = {"model": {"weights": weights}}
        return replace(known, provenance=provenance, config={**known.config, "model_files": files, **changes})

    first, second = of("a", "11111111aaaa"), of("b", "22222222bbbb")
    control = of("a", "99999999cccc", control="scrambled")
    assert [c.model for c in curves([first])] == [first.model]
    named = curves([control, second, first])
    assert sorted(c.model for c in named) == sorted(
        [f"{first.model} (11111111)", f"{first.model} (11111111)", f"{first.model} (22222222)"]
    )
    assert [len(c.controls) for c in named if c.weights == "11111111aaaa"] == [1]
    titles = [name for name, _ in tables(named)]
    assert len(titles) == 2 and "(11111111)" in "".join(titles) and "(22222222)" in "".join(titles)
    copied = of("c", "11111111aaaa")  # the same weights in a folder with another file beside them
    assert {c.model for c in curves([first, copied])} == {first.model}


def test_markdown_is_a_table_of_as_many_columns_as_its_header() -> None:
    lines = [line for line in markdown(curves([result(0), result(1)]), ["hits"]).splitlines() if line.startswith("|")]
    assert len(lines) == 6
    assert len({line.count("|") for line in lines}) == 1


def test_the_command_line_prints_results_and_refuses_an_empty_folder(tmp_path) -> None:
    result().save(tmp_path / "full" / "tokens-0004-seed-0.json")
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "soft_prompts.report"]
    shown = ran([*command, str(tmp_path / "full"), "--as-markdown"])
    assert "| 4 | 2.500 ±4.584 |" in shown.stdout
    refused = ran([*command, str(tmp_path / "empty")])
    assert refused.returncode == 2
    assert "no results in" in refused.stderr


def test_a_page_is_filled_with_the_tables_it_names_and_a_filled_one_stays(tmp_path) -> None:
    for n_tokens, losses in ((0, (3.0, 3.2)), (1, (2.0, 2.2))):
        result(n_tokens, losses=losses).save(tmp_path / "results" / "e" / f"tokens-{n_tokens}.json")
    page = "Before.\n\n<!-- results/e: hits -->\nold\n<!-- end -->\n\nAfter."
    full = filled(page, tmp_path)
    assert "| 1 | 2.100 ±0.917 |" in full and "old" not in full and full.count("<!--") == 2
    assert "conditional distance" in full
    assert (full[:9], full[-6:]) == ("Before.\n\n", "After.")
    assert filled(full, tmp_path) == full
    with pytest.raises(SoftPromptsError, match="no results in .*none"):
        filled(page.replace("results/e", "results/none"), tmp_path)


@pytest.mark.parametrize("name", ["[/INST]", "[red]", "$\\frac{$", "a_{b^", "\x1b[31m", "</svg>"])
def test_names_that_look_like_markup_are_shown_as_they_stand(name: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    variant = {"label": name, "options": ["name"], "control_of": None}
    named = [
        result(n, losses=(3.0, 3.0 - n), variant=variant | {"label": label}, config=config(label))
        for n in (0, 1)
        for label in (name, "plain")
    ]
    found = curves(named)
    print_table(found, ["hits"])
    say(name)
    with progress_bar(name, 1):
        pass
    shown = capsys.readouterr()
    if "\x1b" not in name:
        assert name in shown.out and name in shown.err
    save_figure(saturation_figure(found, ["hits"]), tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").stat().st_size > 1000


def config(name: str) -> dict:
    return {"task": {"name": name}, "train": {"steps": 5, "batch_size": 2}}
