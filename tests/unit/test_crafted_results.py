"""Whatever a result file holds, it loads or is refused in one sentence, and a report shows the good ones beside it."""

from __future__ import annotations

import copy
import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from soft_prompts.errors import SoftPromptsError
from soft_prompts.report.__main__ import write_report
from soft_prompts.report.collection import Filter, collect
from soft_prompts.report.documents import filled
from soft_prompts.report.export import frame, write
from soft_prompts.report.page import page
from soft_prompts.report.plots import saturation_figure
from soft_prompts.report.tables import markdown, models_by_length, print_tables, tables
from soft_prompts.results.curve import curves
from soft_prompts.results.enough_bits import enough_bits
from soft_prompts.results.record import HeldOut, Result
from soft_prompts.results.summary import summarise
from tests.unit.browser import in_browser, needs_browser
from tests.unit.test_page import SAMPLES, measured, scores
from tests.unit.test_results import baseline

LOSSES = {0: 5.0, 1: 2.7, 16: 1.05}
"""Of the good results beside a crafted one, which has 4 tokens."""


def complete(n_tokens: int, loss: float, **changes) -> Result:
    """A result that has all that a result can have."""
    sums = [round(x, 4) for x in scores(1.5).sums.tolist()]
    score = {"value": 0.5, "interval": [0.4, 0.6], "n": 40}
    size = {
        "numbers": 8,
        "trained_numbers": 9,
        "validation_loss": loss,
        "bits_per_number": 1,
        "bits": 272,
        "loss": loss,
    }
    level = {"loss": loss, "accuracy": 0.5, "document_losses": sums[:5], "slope": 0.1}
    fragility = {
        "draws": 2,
        "documents": [f"d{i}" for i in range(5)],
        "unmoved": level,
        "noise": [{"size": size, **level, "loss": 5.0} for size in (0.5, 1.0)],
        "left_out": [{"share": 0.5, **level}],
        "shuffled": level,
        "curvature": {"random": 1.0, "gradient": 2.0},
    }
    full = {
        "fragility": fragility if n_tokens else None,
        "baselines": {"uniform": baseline(8.0), "unigram": {**baseline(1.5, *sums), "validation_loss": 1.5}},
        "anchor": {"name": "known", "loss": 1.0, "document_losses": sums, "validation_loss": 1.0, "bits": 10.0},
        "scores": {"hits": score, "by elo": {"1500": score, "1600": {"value": None, "interval": None, "n": 0}}},
        "curve": [{"step": 0, "loss": 2.5}, {"step": 5, "loss": loss}],
        "samples": [{"kind": kind, **sample} for kind, samples in SAMPLES.items() for sample in samples],
        "sizes": [{**size, "increase": score}] if n_tokens else [],
        "config": {
            "splits": 2,
            "control": "",
            "model_files": "0123",
            "task": {"name": "T", "text": ["pile"], "skip": [2]},
            "train": {"steps": 5, "batch_size": 2, "lr": 0.1},
        },
        "provenance": {
            "model": {"weights": "89ab", "name": "m"},
            "data": {"complete": True},
            "commit": "c0ffee",
            "device": "cpu",
        },
        "variant": {"label": "skip 2", "options": ["skip"], "control_of": {"skip": [1]}},
    }
    return measured(n_tokens, loss, **{**full, **changes})


def values_of(result: Result, path: Path) -> dict[str, Any]:
    """The content of a result's file, without its checksum."""
    result.save(path)
    values = json.loads(path.read_text())
    path.unlink()
    del values["checksum"]
    return values


def places(value: Any, way: tuple = ()) -> Iterator[tuple]:
    """The ways to all leaves and branches, of long lists only to the first and last."""
    if way:
        yield way
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        if not isinstance(value, list) or key in (0, len(value) - 1) or isinstance(part, dict):
            yield from places(part, (*way, key))


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


LITERALS = {
    "nan": "NaN",
    "infinite": "-Infinity",
    "beyond floats": "1e999",
    "long": "9" * 5000,
    "long that Python reads": "9" * 400,
    "deep": "[" * 100_000,
    "null": "null",
    "true": "true",
    "zero": "0",
    "minus": "-1",
    "half": "0.5",
    "large": "1e99",
    "larger than 64 bits": str(2**64),
    "no text": '""',
    "text": '"text"',
    "script": json.dumps("</title><script>alert(1)</script><img src=x onerror=alert(2)> ' \" & | [a](b)\n|"),
    "commands": json.dumps("\x1b[31m\x00\x07\n\r=1+1"),
    "half a character": r'"\ud800"',
    "long text": json.dumps("x" * 20_000),
    "empty list": "[]",
    "empty dict": "{}",
    "dict": '{"value": 1, "a": {"value": 2}}',
    "list": "[1, 2]",
    "mixed list": '[1, "a", null, [2]]',
    "levels": json.dumps(nested(40)),
    "more levels": json.dumps(nested(400)),
}
"""What stands in the place of a value."""


def without(value: Any) -> Any:
    return value[:-1] if isinstance(value, list) else dict(list(value.items())[1:])


def with_more(value: Any) -> Any:
    return [*value, *value[:1]] if isinstance(value, list) else {**value, "<b>more": 1}


RESHAPED = {"without one": without, "one more": with_more}
"""What happens to a list or dict."""


def crafted(values: dict[str, Any], kind: str) -> Iterator[str]:
    """Texts of files, each with one fault of a kind at another place."""
    for way in places(values):
        changed = copy.deepcopy(values)
        at = changed
        for key in way[:-1]:
            at = at[key]
        if kind in LITERALS:
            at[way[-1]] = "@@@"
            yield json.dumps(changed).replace('"@@@"', LITERALS[kind])
        elif isinstance(at[way[-1]], (list, dict)) and at[way[-1]]:
            at[way[-1]] = RESHAPED[kind](at[way[-1]])
            yield json.dumps(changed)


def survivors(folder: Path, kind: str, version: int = 4) -> Iterator[Result]:
    """The crafted results that load; the others must be refused in a sentence with their path."""
    values = values_of(complete(4, 1.1, experiment="EXPERIMENT"), folder / "good.json")
    path, n, n_loaded = folder / "crafted.json", 0, 0
    for text in crafted({**values, "schema": version}, kind):
        n += 1
        path.write_text(text.replace("EXPERIMENT", f"e{n}"))
        try:
            loaded = Result.load(path)
        except SoftPromptsError as error:
            assert str(path) in str(error) and len(str(error)) < 1000
            assert "--force" in str(error)
        else:
            n_loaded += 1
            yield loaded
    assert n > 20


@pytest.mark.parametrize("kind", [*LITERALS, *RESHAPED])
def test_a_crafted_result_is_refused_in_a_sentence_or_can_be_shown_with_the_others(tmp_path, kind, capsys) -> None:
    for bad in survivors(tmp_path, kind):
        good = [
            complete(n, loss, experiment=bad.experiment, model=bad.model, config=bad.config)
            for n, loss in LOSSES.items()
        ]
        found = curves([*good, bad])
        for curve in found:
            str(summarise(curve, found))
        assert "1.050 ±" in markdown(found)
        print_tables([*models_by_length(found), *tables(found)])
        assert len(frame([*good, bad])) == 4


def test_one_bad_file_of_each_kind_leaves_the_report_of_the_good_ones_as_it_was(tmp_path) -> None:
    """What is left out is counted and named with its file."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    for n, loss in LOSSES.items():
        complete(n, loss).save(good / f"tokens-{n:04d}-seed-0.json")
    values = values_of(complete(4, 1.1), tmp_path / "r.json")
    bad.mkdir()
    faults = {kind: next(crafted(values, kind)) for kind in LITERALS} | {"nothing": "", "pickle": "\x80\x04K\x05."}
    for i, text in enumerate(faults.values()):
        (bad / f"tokens-{i}.json").write_text(text.replace('"experiment": "', '"experiment": 5, "x": "'))
    os.mkfifo(bad / "tokens-pipe.json")
    (bad / "tokens-folder.json").mkdir()
    (bad / "tokens-link.json").symlink_to("/dev/zero")
    (bad / "tokens-nowhere.json").symlink_to(tmp_path / "nowhere")
    with (bad / "tokens-large.json").open("wb") as file:
        file.truncate(10**12)  # takes no room on the disk
    n_bad = len(faults) + 5
    alone, together = collect([good], Filter()), collect([good, bad], Filter())
    assert together.unreadable[0] == f"{n_bad} of {n_bad + 3} files cannot be read as results and are left out:"
    for path in bad.iterdir():
        assert sum(f"{path} " in sentence for sentence in together.unreadable) == 1
    assert markdown(together.curves) == markdown(alone.curves)
    assert [str(s.summary) for s in together.shown] == [str(s.summary) for s in alone.shown]
    assert "cannot be read as results" in page(together)


MARKUP = (
    "</title></svg>--><script>alert(1)</script><img src=x onerror=alert(2)>'\" & | [a](javascript:b) ![c](http://d)\n|"
)
"""A text that wants to be a tag, a script, a link or a line of a table."""


def hostile(folder: Path) -> Path:
    """A folder of a curve that has MARKUP wherever a result has a text, and a picture and folder named after it."""
    for n, loss in LOSSES.items():
        values = values_of(complete(n, loss), folder / "r.json")
        for way in places(values):
            *inner, last = way
            at = values
            for key in inner:
                at = at[key]
            if isinstance(at[last], str) and last != "kind" and way[:2] != ("config", "control"):
                at[last] = MARKUP
        values["scores"] = {MARKUP: values["scores"]["hits"], f"{MARKUP} 2": values["scores"]["by elo"]}
        values["baselines"][MARKUP] = {**values["baselines"]["unigram"], "loss": 0.5}
        values["config"]["task"][MARKUP] = MARKUP
        values["samples"] += [{"kind": MARKUP, MARKUP: MARKUP}, {**values["samples"][0], "start": "e2e4"}]
        values["anchor"]["loss"] = 1.0
        path = folder / f"tokens-{n:04d}-seed-0.json"
        path.write_text(json.dumps(values))
        path.with_suffix(".<b onclick=x>.png").write_bytes(b"\x89PNG")
        path.with_suffix(".no<b>.png").write_bytes(b"<script>")
    return folder


class Tags(HTMLParser):
    """All tags with the names of their attributes, all addresses, and all that a browser would run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[tuple[str, ...]] = set()
        self.addresses: list[str] = []
        self.comments: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add((tag, *sorted(name for name, _ in attrs)))
        self.addresses += [value for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_comment(self, data) -> None:
        self.comments.append(data)


def tags(html: str) -> Tags:
    parser = Tags()
    parser.feed(html)
    parser.close()
    return parser


def test_no_text_of_a_result_becomes_a_tag_an_attribute_or_a_script(tmp_path) -> None:
    """The page of a hostile curve has the tags, attributes and scripts of a plain one and no others."""
    plain = tmp_path / "plain"
    for n, loss in LOSSES.items():
        complete(n, loss).save(plain / f"tokens-{n:04d}-seed-0.json")
        (plain / f"tokens-{n:04d}-seed-0.a.png").write_bytes(b"\x89PNG")
        (plain / f"tokens-{n:04d}-seed-0.b.png").write_bytes(b"no")
    (tmp_path / "hostile").mkdir()
    pages = [page(collect([folder], Filter())) for folder in (plain, hostile(tmp_path / "hostile"))]
    of_plain, of_hostile = map(tags, pages)
    assert "alert(1)" in pages[1] and pages[1].count("<script") == pages[0].count("<script") == 4
    assert {tag for tag, *_ in of_hostile.tags} <= {tag for tag, *_ in of_plain.tags} | {"br"}
    names = [{name for _, *attributes in of.tags for name in attributes} for of in (of_hostile, of_plain)]
    assert names[0] <= names[1] and not any(name.startswith("on") for name in names[0])
    assert all(re.match(r"#|data:image/png;base64,", address) for address in of_hostile.addresses)
    assert not any("alert" in comment for comment in of_hostile.comments)
    scripts = [re.findall(r"<script>.*?</script>", html, re.DOTALL) for html in pages]
    assert scripts[0] == scripts[1] and len(scripts[0]) == 3


def test_no_text_of_a_result_ends_the_json_of_the_page(tmp_path) -> None:
    """What a browser takes for the JSON: all up to the first </script>, whatever a comment in it says."""
    (tmp_path / "hostile").mkdir()
    html = page(collect([hostile(tmp_path / "hostile")], Filter()))
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script', html, re.DOTALL)
    assert "<" not in content
    (curve,) = json.loads(content)["curves"]
    assert curve["experiment"] == MARKUP and curve["baselines"][MARKUP] == 0.5 and curve["anchor"]["name"] == MARKUP
    assert MARKUP in curve["scores"] and MARKUP in curve["gains"]["documents"]


WATCH = """<script>window.ran = []; window.alert = x => ran.push(x);</script>"""
ACT = """new Promise(done => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  const n = (what) => document.querySelectorAll(what).length, charts = [...document.querySelectorAll(".chart")];
  const act = () => {
    const events = ["click", "pointerover", "mouseover", "error", "focus", "focusin", "input"];
    for (const tag of document.querySelectorAll("*"))
      if (!tag.matches("a[href]")) for (const name of events) tag.dispatchEvent(new Event(name, {bubbles: true}));
    for (const link of document.querySelectorAll("a[href^='javascript:']")) ran.push(link.href);
    setTimeout(() => done({ran, articles: n("article"), charts: n("article svg[aria-label]")}), 500);
  };
  let looks = 0;  // a chart is drawn when it is seen
  const look = () => {
    if (charts.every(chart => !chart.clientWidth || chart.children.length) || looks > 100) return act();
    charts[looks++ % charts.length]?.scrollIntoView();
    setTimeout(look, 200);
  };
  look();
})"""


def watched(html: str) -> str:
    """A page that remembers what scripts from elsewhere did: calls of alert, and links that are scripts."""
    opening = re.search(r"<head>|<html[^>]*>", html).group(0)
    return html.replace(opening, opening + WATCH, 1)


@needs_browser
def test_no_text_of_a_result_runs_as_a_script_in_a_browser(tmp_path) -> None:
    """Every field at once wants to call alert. The same texts in a page that escapes nothing do."""
    (tmp_path / "hostile").mkdir()
    html = page(collect([hostile(tmp_path / "hostile")], Filter()))
    assert html.count("alert(1)") > 10
    assert in_browser(watched(html), tmp_path, ACT) == {"ran": [], "articles": 1, "charts": 3}
    bare = f"<html><head></head><body><title>{MARKUP}<a href='javascript:alert(3)'>x</a><b onclick=alert(4)>y</b>"
    assert {1, 2, 4, "javascript:alert(3)"} == set(in_browser(watched(bare), tmp_path, ACT)["ran"])


def test_a_hostile_report_writes_into_its_folder_only_and_its_tables_stay_tables(tmp_path) -> None:
    (tmp_path / "hostile").mkdir()
    (tmp_path / "empty").mkdir()
    folder, out = hostile(tmp_path / "hostile"), tmp_path / "out"
    for path in folder.glob("*.json"):  # names that would lead elsewhere
        values = json.loads(path.read_text())
        path.write_text(json.dumps(values | {"experiment": "../../empty/" + MARKUP, "model": "/etc/" + MARKUP}))
    before = {p for p in tmp_path.rglob("*") if out not in p.parents}
    collection = collect([folder], Filter())
    write_report(collection, (), out)
    results = [r for curve in collection.curves for r in curve.results]
    for kind in ("csv", "parquet"):
        write(results, kind, out)
    assert {p for p in tmp_path.rglob("*") if out not in p.parents} - before == {out}
    assert all(p.parent == out for p in out.rglob("*"))
    for path in out.glob("*.svg"):
        ElementTree.parse(path)
        assert "<script" not in path.read_text()
    table = (out / "table.md").read_text()
    assert "<" not in table and "](" not in table
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines() if line.startswith("|")]
    assert len(set(widths)) == 1
    rows = list(csv.reader((out / "results.csv").open(newline="")))
    assert len(rows) == 1 + len(results) and len({len(row) for row in rows}) == 1
    (tmp_path / "results").symlink_to(folder)
    marked = filled("<!-- results/.: -->\n<!-- end -->", tmp_path)
    assert filled(marked, tmp_path) == marked and marked.count("<") == 2


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t"])
def test_a_text_is_no_formula_in_a_spreadsheet(tmp_path, begin: str) -> None:
    text = f"{begin}HYPERLINK(A1)"
    changed = {"model": text, "baselines": {"uniform": baseline(8.0), "unigram": baseline(3.0), text: baseline(2.0)}}
    path = write([complete(4, 1.1, **changed)], "csv", tmp_path)
    header, row = csv.reader(path.open(newline=""))
    assert row[header.index("model")] == "'" + text
    assert "'" + text in header and not any(cell.startswith(begin) for cell in (*header, *row))


def test_an_export_holds_options_of_any_kinds_in_one_column(tmp_path) -> None:
    values: list[Any] = [1, 0.5, "a", None, True, [1, "b"], {"c": 1}, 10**400, -(2**63), [[1]]]
    configs = [{"task": {"x": v}, "train": {"steps": 1, "batch_size": 1}} for v in values]
    results = [complete(4, 1.1, config=config) for config in configs]
    for kind in ("csv", "parquet"):
        assert write(results, kind, tmp_path).stat().st_size > 1000
    assert frame(results)["task.x"].tolist()[:3] == ["1", "0.5", "a"]
    assert frame(results[:2])["task.x"].tolist() == [1, 0.5]
    long = [replace(results[0], config={**configs[0], "task": {"x": x}}) for x in (1, 2**70)]
    assert write(long, "parquet", tmp_path).stat().st_size > 1000
    assert frame(long)["task.x"].tolist() == ["1", str(2**70)]


def test_two_states_of_one_model_are_told_apart_everywhere_and_a_copy_of_a_result_is_left_out(tmp_path) -> None:
    """Two states of one name of the hub: the configuration is the same, the weights are not."""

    def of(folder: str, weights: str, shift: float, control: str = "") -> None:
        for n, loss in LOSSES.items():
            config = {"task": {"name": "T"}, "train": {"steps": 1, "batch_size": 1}}
            config |= {"control": control} if control else {}
            known = {"config": config, "provenance": {"model": {"weights": weights}}}
            known |= {"anchor": None, "fragility": None}
            one = complete(n, loss + shift, variant={"label": "", "options": [], "control_of": None}, **known)
            one.save(tmp_path / folder / f"tokens-{n:04d}-seed-0.json")

    of("old", "11111111aaaa", 0.0)
    of("new", "22222222bbbb", 0.25)
    of("control", "33333333cccc", 3.0, "scrambled")
    of("copy", "11111111aaaa", 0.0)
    collection = collect([tmp_path / name for name in ("old", "new", "control", "copy")], Filter())
    names = {curve.model for curve in collection.curves}
    assert names == {"m (11111111)", "m (22222222)", "m (one of 2)"}
    assert [c.knows_nothing for c in collection.curves] == [None] * 3  # nobody knows whose control it is
    assert "the scrambled control of a model whose own curve is not there or not known: e on m (one of 2)" in " ".join(
        collection.lacking
    )
    copies = [s for s in collection.lacking if "is left out" in s]
    assert len(copies) == 3 and all(f"{tmp_path / 'copy'}" in s and f"{tmp_path / 'old'}" in s for s in copies)
    table = markdown(collection.curves)
    assert table.count("m (11111111)") == 1 and "5.000 ±" in table and "5.250 ±" in table
    assert all(name in page(collection) for name in names)
    exported = frame([r for curve in collection.curves for r in curve.results])
    assert exported.groupby("weights").size().to_dict() == dict.fromkeys(
        ("11111111aaaa", "22222222bbbb", "33333333cccc"), 3
    )
    of("other control", "44444444dddd", 3.0, "scrambled")
    for path in (tmp_path / "other control").iterdir():
        values = json.loads(path.read_text())
        del values["checksum"]
        values["config"]["model_files"] = "of another folder"
        path.write_text(json.dumps(values))
    controls = collect([tmp_path / "control", tmp_path / "other control"], Filter())
    assert {curve.model for curve in controls.curves} == {"m (33333333)", "m (44444444)"}
    one = collect([tmp_path / "old", tmp_path / "control"], Filter())
    assert [c.model for c in one.curves] == ["m"] and one.curves[0].knows_nothing is not None


def test_seeds_on_other_documents_are_left_out_of_a_point_and_said() -> None:
    other = measured(1, 2.0, 1, held_out=HeldOut.of(scores(2.0, n=39)))
    (curve,) = curves([measured(0, 5.0), measured(1, 2.7), other, measured(4, 1.1)])
    assert curve.point(1).losses == pytest.approx([2.7])
    assert curve.flags[1] == ["1 seeds on other documents left out"]
    assert "P=1 1 seeds on other documents left out" in summarise(curve).flags


def test_a_curve_is_no_random_target_of_itself() -> None:
    variant = {"label": "", "options": [], "control_of": {}}
    found = curves([measured(n, loss, variant=variant) for n, loss in LOSSES.items()])
    assert tables(found)[0][0].startswith("e on m")
    saturation_figure(found)


@pytest.mark.parametrize(
    "change",
    [{"validation_loss": None}, {"validation_loss": 5.0}, {"loss": scores(5.0).loss}],
    ids=["none", "no gap", "none held out"],
)
def test_without_a_gap_to_the_anchor_nothing_is_said_of_bits(change) -> None:
    anchor = {**complete(0, 5.0).anchor, **change}
    if anchor["validation_loss"] is None:
        del anchor["validation_loss"]
    (curve,) = curves([complete(n, loss, anchor=anchor) for n, loss in {**LOSSES, 4: 1.1}.items()])
    assert enough_bits(curve, 0.95, 4) is None
    (known,) = curves([complete(n, loss) for n, loss in {**LOSSES, 4: 1.1}.items()])
    assert enough_bits(known, 0.5, 4) is not None
