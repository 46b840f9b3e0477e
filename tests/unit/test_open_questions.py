"""The tables in the log of open questions are those of the committed results."""

import shutil
from pathlib import Path

import pytest

from exploratory_tests import bits_test, learned_test, rates_test, rivals_test
from soft_prompts.answers import check_folder
from soft_prompts.errors import SoftPromptsError

ROOT = Path(__file__).parents[2]
TABLES = {
    "bits": bits_test.table,
    "learned": learned_test.table,
    "rates": rates_test.table,
    "rivals": rivals_test.table,
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


def test_a_slope_is_1_where_bits_double_with_the_key_and_0_where_they_stay() -> None:
    assert bits_test.slope({key: (10.0 * key, {}) for key in (1, 2, 8)}) == pytest.approx(1)
    assert bits_test.slope({key: (10.0, {}) for key in (1, 2, 8)}) == pytest.approx(0, abs=1e-9)
