"""Run an experiment by its name, from any folder: `python -m soft_prompts.experiments chess pocket`."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

from soft_prompts.console import ends_in_a_sentence, interrupts_end_in_a_sentence
from soft_prompts.errors import SoftPromptsError

CHECKOUT = Path(__file__).parents[1] / "tests"
"""Where the scripts lie in a checkout."""
INSTALLED = "soft_prompts.scripts"
"""The same scripts where the package is installed; pyproject.toml puts them there."""


def scripts() -> tuple[str, dict[str, Path]]:
    """The package that the experiments' scripts are in, and each of them by its name.

    Raises:
        SoftPromptsError: They are not there.
    """
    checkout = (CHECKOUT / "chess_test.py").is_file()
    folder = CHECKOUT if checkout else Path(__file__).parent / "scripts"
    found = {path.stem.removesuffix("_test"): path for path in sorted(folder.glob("*_test.py"))}
    if not found:
        raise SoftPromptsError(f"there are no experiments in {folder}; install the package again.")
    return "tests" if checkout else INSTALLED, found


def help_text(found: dict[str, Path]) -> str:
    """How it is called, and the question of every experiment."""
    lines = ["python -m soft_prompts.experiments NAME [preset] [options]; NAME --help explains them.", ""]
    width = max(map(len, found))
    for name, path in found.items():
        question = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]
        lines.append(f"  {name:{width}}  {' '.join(question.split())}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Run one.

    Raises:
        SoftPromptsError: There is none of this name.
    """
    package, found = scripts()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text(found))
        return
    name, *options = arguments
    if name not in found:
        raise SoftPromptsError(f"there is no experiment {name!r}; known: {', '.join(found)}.")
    if package == "tests" and str(CHECKOUT.parent) not in sys.path:
        sys.path.insert(0, str(CHECKOUT.parent))
    sys.argv = [f"{package}.{name}_test", *options]
    runpy.run_module(f"{package}.{name}_test", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    interrupts_end_in_a_sentence()
    with ends_in_a_sentence():
        main(sys.argv[1:])
