"""The rooms of the package: who may import whom, what is imported at the start, and what is exported."""

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from soft_prompts.report.pictures import DRAWN

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "soft_prompts"
GROUND = {
    "addresses",
    "console",
    "errors",
    "files",
    "lazily",
    "locks",
    "options",
    "pocket",
    "processes",
    "stats",
    "stopwatch",
    "texts",
}
"""Modules that all others may use; of pocket and texts, only the paths."""
MAY_IMPORT = {
    "ground": set(),
    "data": set(),
    "interventions": set(),
    "models": set(),
    "engine": {"data", "interventions", "models"},
    "tasks": {"data", "interventions", "models", "engine"},
    "training": {"data", "interventions", "models", "engine", "tasks"},
    "hard": {"data", "interventions", "models", "engine", "tasks", "training"},
    "probes": {"data", "interventions", "models", "engine"},
    "results": {"data", "interventions", "models", "engine"},
    "report": {"results"},
    "sweep": {"models", "tasks", "training"},
    "prepare": {"data", "engine", "models", "results", "sweep", "tasks", "training"},
    "save": {"data", "engine", "prepare", "probes", "report", "results", "sweep", "tasks", "training"},
    "serving": {"data", "engine", "interventions", "models", "results", "tasks"},
    "inspect_provider": {"data", "serving", "tasks"},
    "export": {"models", "report", "results", "serving"},
    "probing": {"engine", "hard", "interventions", "prepare", "probes", "results", "sweep", "training"},
    "shares": {"training"},
    "measure": {"prepare", "readback", "results", "save", "shares", "sweep", "training"},
    "readback": {"interventions", "models"},
    "cli": {"measure", "probing", "models", "tasks", "training", "results", "report", "sweep"},
    "experiments": set(),
    "answers": {"cli", "report", "results", "sweep"},
    "records": {"models"},
    "model": {"models"},
}
"""Room -> rooms below it that its modules may import, beside themselves and the ground."""


def module_of(path: Path) -> str:
    """soft_prompts/data/pgn.py -> data.pgn; a package by its own name."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Modules of this package that a file imports, also those within functions and for type checkers."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = PACKAGE.joinpath(*node.module.split(".")[1:], f"{alias.name}.py")
                names.add(f"{node.module}.{alias.name}" if inner.exists() else node.module)
    return {name.removeprefix("soft_prompts.") for name in names if name.startswith("soft_prompts.")}


MODULES = {module_of(path): imports_of(path) for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"}


def room(module: str) -> str:
    first = module.split(".")[0]
    if module.startswith(("pocket.", "texts.")):
        return "makers"  # the scripts that made what ships stand above all else
    return "ground" if first in GROUND else first


def test_imports_point_downwards_only() -> None:
    assert len(MODULES) > 40
    for module, imported in MODULES.items():
        if room(module) != "makers":
            allowed = {room(module), "ground"} | MAY_IMPORT[room(module)]
            assert {room(name) for name in imported} <= allowed, f"{module} imports {imported}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    list(graphlib.TopologicalSorter(MODULES).static_order())  # raises CycleError with the circle


def test_a_circle_and_an_import_upwards_would_be_seen(tmp_path) -> None:
    inside = tmp_path / "inside.py"
    inside.write_text("def late():\n    from soft_prompts.tasks import base\n")
    assert imports_of(inside) == {"tasks.base"}
    assert room("tasks.base") not in MAY_IMPORT["engine"]
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter({**MODULES, "tasks.base": {"training.run"}}).static_order())


def test_the_report_names_no_single_experiment() -> None:
    experiments = {path.stem.removesuffix("_test") for path in (ROOT / "tests").glob("*_test.py")}
    experiments -= set(DRAWN)  # kinds of samples, which any experiment may have
    for path in (PACKAGE / "report").glob("*.py"):
        strings = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert not strings & experiments, path


EXPERIMENTS = [f"tests.{path.stem}" for path in sorted((ROOT / "tests").glob("*_test.py"))]
SLOW = {"torch", "transformers", "datasets", "matplotlib", "pandas", "scipy", "pyarrow", "tensorboard", "jsonschema"}


@pytest.mark.parametrize("module", [*EXPERIMENTS, "exploratory_tests.recipe_test", "soft_prompts.report"])
def test_help_imports_nothing_that_is_slow(module: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", module, "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0 and "usage: " in shown.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in shown.stderr.splitlines() if "|" in line}
    assert "numpy" in imported  # the list is read rightly
    assert not imported & SLOW


INTERRUPTED = """
import runpy, sys

class CtrlC:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
sys.argv = ["chess_test", "pocket", "--out", {out!r}]
runpy.run_module("tests.chess_test", run_name="__main__")
"""


@pytest.mark.parametrize(
    "module", ["soft_prompts.sweep", "soft_prompts.tasks.chess_moves", "tyro", "torch", "transformers"]
)
def test_ctrl_c_during_start_up_ends_in_a_sentence(module: str, tmp_path) -> None:
    """The interrupt comes at the import of a module: in the script's own imports, in the command line's, in torch's."""
    code = INTERRUPTED.format(module=module, out=str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode in (130, -2)
    assert "interrupted; finished runs are kept" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_documented_imports_work_and_so_do_those_of_before() -> None:
    import soft_prompts
    import soft_prompts.models.loading
    from soft_prompts.model import load as documented
    from soft_prompts.models import load
    from soft_prompts.results import load_prompt, load_results

    assert load is documented is soft_prompts.models.loading.load
    assert load_prompt.__name__ == "load_prompt" and load_results.__name__ == "load_results"
    before = "IGNORE Batch Encoding Example PromptGenerator Run Scored SoftPrompt SoftPromptsError Sweep Task"
    for name in [*before.split(), "TrainConfig", "collate", "insert", "main", *soft_prompts.__all__]:
        assert getattr(soft_prompts, name) is not None
    assert soft_prompts.Scored is soft_prompts.TaskScores
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        soft_prompts.nothing  # noqa: B018


def test_scripts_use_what_is_exported() -> None:
    """Every exported name is used by an experiment or by the README's example, or is one that a new experiment
    needs."""
    import soft_prompts

    texts = [path.read_text() for path in [*ROOT.glob("tests/*_test.py"), *ROOT.glob("exploratory_tests/*.py")]]
    texts += [path.read_text() for path in (PACKAGE / "tasks").glob("*.py")]
    words = set(" ".join([*texts, (ROOT / "README.md").read_text()]).replace("(", " ").replace(",", " ").split())
    assert set(soft_prompts.__all__) - words <= {"added_later"}


def test_every_module_says_what_it_is() -> None:
    for module in MODULES:
        if module not in ("report.__main__", "inspect_provider"):  # the latter needs a package that is no requirement
            assert importlib.import_module(f"soft_prompts.{module}").__doc__, module
