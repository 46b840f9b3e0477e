"""The tables in the log of open questions are those of the committed results."""

import math
import shutil
import sys
from pathlib import Path

import pytest

from exploratory_tests import bits_test, learned_test, rates_test, rivals_test, searches_test
from soft_prompts.answers import check_folder, check_whole, run_or_print
from soft_prompts.errors import SoftPromptsError
from soft_prompts.records import save_record
from tests import protection_test

ROOT = Path(__file__).parents[2]
TABLES = {
    "bits": bits_test.table,
    "learned": learned_test.table,
    "rates": rates_test.table,
    "rivals": rivals_test.table,
    "searches": searches_test.table,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_log_is_what_its_script_prints(name: str) -> None:
    assert TABLES[name](ROOT / "results" / name) in (ROOT / "exploratory_tests" / "README.md").read_text()


def test_results_of_another_experiment_are_refused_in_a_sentence(tmp_path) -> None:
    check_folder(ROOT / "results" / "rates", {"rates", "rivals"})
    with pytest.raises(
        SoftPromptsError, match="must hold results of rates or rivals and of nothing else; it holds bits"
    ):
        check_folder(ROOT / "results" / "bits", {"rates", "rivals"})
    for name in ("bits", "autoregressive"):
        shutil.copy(min((ROOT / "results" / name).rglob("tokens-*.json")), tmp_path / f"tokens-{name}.json")
    with pytest.raises(SoftPromptsError, match="nothing else; it holds autoregressive, bits"):
        check_folder(tmp_path, {"rates"})


def test_the_table_of_an_experiment_that_is_at_work_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys) -> None:
    """Its answer would compare with another length, or with nothing."""
    measured = ROOT / "results" / "protection" / "pocket-declines"
    (kept, *_) = sorted(path for path in measured.rglob("tokens-*.json") if "tokens-0001" in path.name)
    shutil.copy(kept, tmp_path)
    check_whole(tmp_path, {"rates"})  # which has none in its table
    monkeypatch.setattr(sys, "argv", ["protection_test", "table", str(tmp_path)])
    sentence = "has no loss at 0 tokens of protection on pocket-declines"
    with pytest.raises(SystemExit) as ended:
        run_or_print(protection_test.table, protection_test.DEFAULT, "")
    assert ended.value.code == 2 and sentence in " ".join(capsys.readouterr().err.split())
    shutil.copy(kept.with_name("tokens-0000-seed-0.json"), tmp_path)
    run_or_print(protection_test.table, protection_test.DEFAULT, "")
    assert "| pocket-declines, " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run_or_print(lambda folder: "", protection_test.DEFAULT, "")
    assert "holds nothing yet that the table is made of" in " ".join(capsys.readouterr().err.split())


def test_a_slope_is_1_where_bits_double_with_the_key_and_0_where_they_stay() -> None:
    assert bits_test.slope({key: (10.0 * key, {}) for key in (1, 2, 8)}) == pytest.approx(1)
    assert bits_test.slope({key: (10.0, {}) for key in (1, 2, 8)}) == pytest.approx(0, abs=1e-9)


def test_the_bits_of_a_text_are_those_of_its_tokens_and_the_best_search_of_a_length_counts(tmp_path) -> None:
    def searched(name: str, k: int, n: int, losses: list[float]) -> None:
        config = {"experiment": "soft_to_hard", "behaviour": f"a key of {k}"}
        found = [{"validation_loss": loss} for loss in losses]
        record = {"config": config, "n_tokens": n, "legal_tokens": 1024, "zero_validation_loss": 10.0, "found": found}
        save_record(tmp_path / f"search-{name}-text.json", record)

    anchors = {1: 0.0, 2: 2.0}  # 95 % of the way to the key of 2 is 2.4 nats
    searched("a", 2, 1, [5.0, 2.41])
    searched("b", 2, 2, [9.0, 2.39])
    searched("c", 2, 4, [2.0])
    searched("d", 1, 1, [0.51])
    # Two tokens of 1,024 are 20 bits; which of three lengths it is, log2 3 more.
    assert bits_test.fewest_in_text(tmp_path, anchors) == {2: (pytest.approx(20 + math.log2(3)), {"tokens": 2})}
    searched("e", 1, 2, [0.49])
    searched("f", 3, 8, [0.0])  # a key that no calibration knows
    assert bits_test.fewest_in_text(tmp_path, anchors)[1] == (pytest.approx(20 + math.log2(3)), {"tokens": 2})
