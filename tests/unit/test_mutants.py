"""The faults that `make mutants` tries: each still fits its file, and its tests are there."""

from tests.mutants import FAULTS, ROOT


def test_every_fault_fits_its_file_and_names_tests_that_exist() -> None:
    for fault in FAULTS:
        fault.applied((ROOT / "soft_prompts" / fault.file).read_text())  # raises if it does not occur once
    assert len(FAULTS) > 700
    tests = {test for fault in FAULTS for test in fault.tests if test.endswith(".py")}
    assert [test for test in tests if not (ROOT / test).is_file()] == []
