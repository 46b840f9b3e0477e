"""What a report keeps for the next one: it is used as long as results and code are the same, and never if damaged."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from soft_prompts.report.__main__ import KEPT, write_report
from soft_prompts.report.collection import Filter, collect
from soft_prompts.report.kept import Kept, digest
from soft_prompts.results.summary import Summary
from tests.unit.test_page import LOSSES, measured, save_curve


def report(folder: Path, out: Path) -> dict[str, str]:
    """The table's row of every curve and its summary, as a report of the folder says them."""
    collection = collect([folder], Filter(), Kept(out / KEPT))
    write_report(collection, (), out)
    return {s.curve.model: f"{s.curve.points[1].interval} {s.curve.gains[1]} {s.summary}" for s in collection.shown}


@pytest.fixture
def results(tmp_path) -> Path:
    save_curve(tmp_path / "r" / "a", model="a")
    save_curve(tmp_path / "r" / "b", model="b")
    return tmp_path / "r"


def forged(path: Path, changed: bool = False) -> None:
    """Write another number into the file: the interval at P = 1 of all curves; with a digest that is right."""
    kept = json.loads(path.read_bytes())
    values = [v for v in kept["values"].values() if isinstance(v, dict) and "intervals" in v]
    assert len(values) == 2
    for value in values:
        value["intervals"][1] = [7.0, 8.0]
    content = {"code": "another" if changed else kept["code"], "values": kept["values"]}
    path.write_text(json.dumps({"digest": digest(content), **content}))


def test_what_was_kept_is_said_again_and_a_changed_loss_changes_its_own_curve_only(results, tmp_path) -> None:
    out = tmp_path / "out"
    first = report(results, out)
    pictures = {path: path.stat().st_mtime_ns for path in out.glob("curve-*")}
    assert len(pictures) == 4
    assert report(results, out) == first
    forged(out / KEPT)  # now it is seen that the file is what numbers come from
    assert all(said.startswith("[7.0, 8.0] ") for said in report(results, out).values())
    measured(1, LOSSES[1] + 0.5, model="a").save(results / "a" / "tokens-0001-seed-0.json")
    then = report(results, out)
    assert then["b"].startswith("[7.0, 8.0] ")
    fresh = report(results, tmp_path / "elsewhere")
    assert then["a"] == fresh["a"] != first["a"]
    redrawn = {path.name for path, at in pictures.items() if path.stat().st_mtime_ns != at}
    assert len(redrawn) == 2 and all(name.startswith("curve-e-a-") for name in redrawn)


def test_numbers_of_another_version_of_the_code_are_computed_anew(results, tmp_path) -> None:
    first = report(results, tmp_path)
    forged(tmp_path / KEPT, changed=True)
    assert report(results, tmp_path) == first


def test_a_damaged_file_is_named_and_never_trusted(results, tmp_path, capsys) -> None:
    first = report(results, tmp_path)
    whole = (tmp_path / KEPT).read_bytes()
    start = whole.index(b'"intervals": [[') + 15
    digit = whole[start : start + 1]
    edited = whole[:start] + (b"3" if digit == b"4" else b"4") + whole[start + 1 :]
    for content in (edited, whole[: len(whole) // 2], b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"values": 3}'):
        (tmp_path / KEPT).write_bytes(content)
        capsys.readouterr()
        assert report(results, tmp_path) == first
        assert capsys.readouterr().err.startswith("warning: ")
        report(results, tmp_path)
        assert not capsys.readouterr().err.startswith("warning")  # the file was replaced


def test_a_picture_that_was_changed_or_is_gone_is_drawn_again(results, tmp_path) -> None:
    report(results, tmp_path)
    one, other = sorted(tmp_path.glob("curve-*.png"))
    content = one.read_bytes()
    one.write_bytes(b"damaged")
    other.unlink()
    report(results, tmp_path)
    assert one.read_bytes() == content and other.is_file()


def test_a_file_that_is_no_longer_a_result_is_not_taken_for_one(results, tmp_path) -> None:
    report(results, tmp_path)
    path = results / "a" / "tokens-0001-seed-0.json"
    path.write_text(path.read_text().replace('"n_tokens": 1', '"n_tokens": "1"'))
    collection = collect([results], Filter(), Kept(tmp_path / KEPT))
    assert "tokens-0001-seed-0.json is" in " ".join(collection.unreadable)


def test_a_summary_comes_back_from_json_as_it_was(results) -> None:
    summary = collect([results], Filter()).shown[0].summary
    again = Summary.of_plain(json.loads(json.dumps(asdict(summary))))
    assert again == summary and str(again) == str(summary)
