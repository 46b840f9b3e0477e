"""The package as others install it: everything is in it, and experiments run from any folder."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from soft_prompts.experiments import scripts

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_all_packages_are_named() -> None:
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "soft_prompts").rglob("__init__.py")}
    assert set(SETTINGS["packages"]) == there | {"soft_prompts.scripts"}


def test_every_script_has_a_name() -> None:
    package, found = scripts()
    assert package == "tests"
    assert set(found) == {path.name.removesuffix("_test.py") for path in (ROOT / "tests").glob("*_test.py")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder in which the package is installed."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("soft_prompts", "tests", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        source, target = ROOT / name, folder / "source" / name
        target.parent.mkdir(exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__", "unit")
        shutil.copytree(source, target, ignore=ignored) if source.is_dir() else shutil.copy(source, target)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site")]
    done = subprocess.run([*command, str(folder / "source")], capture_output=True, text=True)
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("no package index to take setuptools from")
    assert done.returncode == 0, done.stderr
    return folder / "site"


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "soft_prompts.experiments", *arguments]
    return subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True)


def test_an_installed_experiment_runs_from_any_folder(installed) -> None:
    said = run(installed, "--help")
    assert said.returncode == 0 and "\n  chess " in said.stdout, said.stderr
    short = ("--n-tokens", "0", "--seeds", "0", "--controls", "--train.eval-documents", "4", "--train.max-tokens", "24")
    measured = run(installed, "autoregressive", "pocket", *short, "--train.validation-documents", "4")
    assert measured.returncode == 0, measured.stdout + measured.stderr
    assert len(list(installed.parent.glob("results/autoregressive/*/*/tokens-*.json"))) == 2
    assert run(installed, "rivals", "pocket", "--help").returncode == 0  # it imports other scripts


def test_what_is_asked_for_must_be_there(installed) -> None:
    said = run(installed, "ches")
    assert said.returncode == 2 and "there is no experiment 'ches'; known: attribution, " in said.stderr + said.stdout


def test_all_data_is_in_the_package(installed) -> None:
    kinds = (".zst", ".json", ".jsonl", ".safetensors", ".html", ".jinja", ".js")
    for path in (ROOT / "soft_prompts").rglob("*"):
        if path.suffix in kinds:
            assert (installed / path.relative_to(ROOT)).is_file(), path


def test_inspect_finds_its_provider(installed) -> None:
    (package,) = importlib.metadata.distributions(name="soft-prompts", path=[str(installed)])
    (entry,) = package.entry_points.select(group="inspect_ai")
    assert (entry.name, entry.value) == ("soft_prompts", "soft_prompts.inspect_provider")
    assert (installed / f"{entry.value.replace('.', '/')}.py").is_file()


def test_the_lock_file_agrees_with_the_requirements() -> None:
    """What `uv lock` would change is seen here: other pins, packages that are missing or not asked for."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    versions = {package["name"]: package.get("version") for package in lock["package"]}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert {name: versions.get(name) for name in pins} == pins
    (own,) = (package for package in lock["package"] if package["name"] == "soft-prompts")
    asked_for = {of["name"]: of["specifier"] for of in own["metadata"]["requires-dist"] if "marker" not in of}
    assert asked_for == {name: f"=={version}" for name, version in pins.items()}
    extras = {
        (re.search("'(.+)'", of["marker"])[1], of["name"] + of["specifier"])
        for of in own["metadata"]["requires-dist"]
        if "marker" in of
    }
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras == {(name, package) for name, packages in optional.items() for package in packages}
    assert {package["source"].get("registry") for package in lock["package"] if package is not own} == {
        "https://pypi.org/simple"
    }
