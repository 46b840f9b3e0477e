"""The notebook in docs/: it is committed executed, and executing it anew gives the same numbers.

After a change to it: `jupyter execute --inplace docs/first_measurement.ipynb`.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "first_measurement.ipynb"
LARGEST = 100_000
"""Bytes."""


def cells() -> list[dict]:
    """The code cells as they are committed."""
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def printed(of: list[dict]) -> list[str]:
    """The lines that code cells have printed."""
    streams = [output for cell in of for output in cell["outputs"] if output["output_type"] == "stream"]
    return "".join("".join(output["text"]) for output in streams).splitlines()


def losses(lines: list[str]) -> dict[int, float]:
    """Prompt length -> nats per token, from the lines that say so."""
    found = (re.match(r"P = (\d+): (\S+) nats per token", line) for line in lines)
    return {int(match[1]): float(match[2]) for match in found if match}


def test_it_is_committed_executed_and_small() -> None:
    assert NOTEBOOK.stat().st_size < LARGEST
    assert [cell["execution_count"] for cell in cells()] == list(range(1, 1 + len(cells())))
    pictures = [output for cell in cells() for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert len(pictures) == 1
    by_length = losses(printed(cells()))
    assert list(by_length) == [0, 1, 4] and by_length[0] > by_length[1] > by_length[4]
    for loss in by_length.values():  # the text names what the cells have printed
        assert f"{loss:.2f}" in "".join(json.loads(NOTEBOOK.read_text())["cells"][6]["source"])
    assert not re.search(r"/(home|root|tmp|work)/", NOTEBOOK.read_text())


def test_without_the_package_it_asks_for_its_address(tmp_path) -> None:
    first = "".join(cells()[0]["source"])
    alone = [sys.executable, "-I", "-S", "-c", first]  # without installed packages
    done = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "set REPOSITORY above to the address of its repository" in done.stderr
    within = subprocess.run(alone, cwd=NOTEBOOK.parent, capture_output=True, text=True)
    assert within.returncode == 0, within.stderr


def test_executed_anew_it_gives_the_same_numbers() -> None:
    """Other kernels may train a prompt slightly differently: losses agree to a tenth of a nat."""
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    here = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=here).execute()
    anew = printed([cell for cell in notebook.cells if cell.cell_type == "code"])
    assert losses(anew) == pytest.approx(losses(printed(cells())), abs=0.1)
    assert anew[-1] == printed(cells())[-1] and anew[-1].count(" the sea") == 8
    assert anew[-2].startswith("P = 0: ") and " the sea" not in anew[-2]
