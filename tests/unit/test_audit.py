"""The audit of the pinned packages: what is loose, changed or gone is named."""

import base64
import hashlib
import json
from importlib.metadata import PathDistribution
from pathlib import Path
from types import SimpleNamespace

import pytest

from soft_prompts.errors import SoftPromptsError
from tests import audit


def test_what_the_requirements_pin_is_read_and_a_loose_line_refused() -> None:
    text = "# words\n-r requirements.txt\na-b==1.2.3  # why\n\nc==0.1+cpu\n"
    assert audit.pins(text) == {"a-b": "1.2.3", "c": "0.1+cpu"}
    for loose in ("a>=1", "a", "a==1.*", "https://host/a.whl"):
        with pytest.raises(SoftPromptsError, match="is not pinned; write NAME==VERSION"):
            audit.pins(f"b==1\n{loose}\n")
    for file in audit.FILES:
        assert len(audit.pins((audit.ROOT / file).read_text())) >= 4


@pytest.fixture
def package(tmp_path: Path) -> PathDistribution:
    """An installed package of two files."""
    info = tmp_path / "thing-1.0.dist-info"
    info.mkdir()
    lines = []
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(f"# {name}")
        digest = base64.urlsafe_b64encode(hashlib.sha256(f"# {name}".encode()).digest()).decode().rstrip("=")
        lines.append(f"{name},sha256={digest},6")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    (info / "RECORD").write_text("\n".join([*lines, "thing-1.0.dist-info/RECORD,,"]))
    return PathDistribution(info)


def test_a_changed_or_missing_file_of_a_package_is_named(package, tmp_path) -> None:
    assert audit.changed_files(package) == []
    (tmp_path / "a.py").write_text("# worse")
    (tmp_path / "b.py").unlink()
    assert audit.changed_files(package) == [f"{tmp_path / 'a.py'} was changed", f"{tmp_path / 'b.py'} is missing"]


def test_another_version_and_a_package_that_is_not_there_are_named(package, monkeypatch) -> None:
    monkeypatch.setattr(audit, "distribution", lambda name: package)
    assert audit.differences("thing", "1.0") == audit.differences("thing", "1.0+cpu") == []
    assert audit.differences("thing", "1.1") == ["thing is 1.0 and not 1.1"]
    monkeypatch.undo()
    assert audit.differences("no-such-thing", "1.0") == ["no-such-thing is not installed"]


def test_without_the_database_files_are_compared_and_what_is_wrong_ends_it(monkeypatch, capsys) -> None:
    monkeypatch.setattr(audit, "looked_up", lambda pinned: ([], ["torch"]))
    monkeypatch.setattr(audit, "differences", lambda name, version: [])
    audit.audit()
    assert "compared with their hashes" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(audit, "differences", lambda name, version: [f"{name} {version} is odd"])
    with pytest.raises(SoftPromptsError, match=r"torch 2\S+ is odd\. Install anew, or pin another version"):
        audit.audit()


def test_what_the_database_knows_is_told(monkeypatch) -> None:
    packages = [
        {"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]},
        {"name": "b", "version": "1", "vulns": []},
        {"name": "c", "skip_reason": "not found"},
    ]
    pinned = {"a": "1", "b": "1", "c": "1"}
    for said, expected in (
        (json.dumps({"dependencies": packages}), (["a 1 has X-1; fixed in 2"], ["c"])),
        ("", ([], ["a", "b", "c"])),
    ):
        monkeypatch.setattr(audit.subprocess, "run", lambda *_, said=said, **__: SimpleNamespace(stdout=said))
        assert audit.looked_up(pinned) == expected
