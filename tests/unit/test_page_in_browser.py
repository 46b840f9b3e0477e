"""The report's page in a real browser: what is chosen, clicked and pressed shows the numbers of the results."""

import hashlib
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from soft_prompts.engine.evaluate import TokenScores
from soft_prompts.report import page as report_page
from soft_prompts.report.__main__ import _write_page
from soft_prompts.report.charts import charts
from soft_prompts.report.collection import Filter, collect
from soft_prompts.report.reference import published
from soft_prompts.results.record import HeldOut
from tests.unit.browser import Page, browser, needs_browser
from tests.unit.commands import start
from tests.unit.test_page import LOSSES, measured, save_curve
from tests.unit.test_results import baseline

BESIDE = {"baselines": {"uniform": baseline(8.0), "unigram": baseline(4.0), "bigram": baseline(1.5, *[15.0] * 40)}}


LONG = "a-model-of-a-long-name/" * 6


def by_document(*losses: float) -> HeldOut:
    """Held-out losses of as many documents of ten tokens."""
    n = len(losses)
    scores = TokenScores([f"d{i}" for i in range(n)], [np.full(10, x) for x in losses], [np.ones(10, bool)] * n)
    return HeldOut.of(scores)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three models: a and b on the same documents, c on others. Each length has a sample."""
    folder = tmp_path_factory.mktemp("results")
    for n, loss in LOSSES.items():
        of_length = {**BESIDE, "samples": [{"kind": "text", "prompt": "Say", "continuation": f"reply of {n}"}]}
        for model, more in (("a", 0.0), ("b", 0.25 if n else 0.0)):
            measured(n, loss + more, model=model, **of_length).save(folder / model / f"tokens-{n:04d}-seed-0.json")
        other = measured(n, loss, model=LONG, held_out=by_document(*[loss] * 5))
        other.save(folder / "c" / f"tokens-{n:04d}-seed-0.json")
    return folder


@pytest.fixture(scope="module")
def opened(folder, tmp_path_factory) -> Page:
    out = tmp_path_factory.mktemp("page")
    (out / "report.html").write_text(report_page.page(collect([folder], Filter())))
    with browser(out) as shown:
        shown.open(out / "report.html")
        yield shown


def test_the_difference_of_two_curves_is_that_of_their_losses_document_by_document(tmp_path) -> None:
    """Both documents differ by 0.5 at P = 1, so the difference has no width, though the losses vary."""
    for model, more in (("a", 0.0), ("b", 0.5)):
        for n, losses in {0: (3.0, 4.0), 1: (1.0, 2.5)}.items():
            held_out = by_document(*(loss - more * n for loss in losses))
            measured(n, 0, model=model, held_out=held_out).save(tmp_path / model / f"tokens-000{n}-seed-0.json")
    ((places, difference),) = charts(collect([tmp_path], Filter()))["pairs"].items()
    assert places == "0 1" and difference["lengths"] == [0, 1]
    for name in ("values", "low", "high"):
        assert difference[name] == pytest.approx([0.0, 0.5]), name


def test_documents_are_sorted_by_what_the_best_prompt_gains_on_them(tmp_path) -> None:
    for n, losses in {0: (3.0, 4.0, 5.0), 1: (2.5, 2.0, 5.5), 4: (2.9, 3.9, 4.9)}.items():
        measured(n, 0, held_out=by_document(*losses)).save(tmp_path / f"tokens-000{n}-seed-0.json")
    (curve,) = charts(collect([tmp_path], Filter()))["curves"]
    assert curve["gains"]["n_tokens"] == 1 and curve["gains"]["documents"] == ["d1", "d0", "d2"]
    assert curve["gains"]["gains"] == pytest.approx([2.0, 0.5, -0.5])


@needs_browser
def test_two_chosen_curves_show_their_difference(opened) -> None:
    ids = dict(opened.run("[...document.querySelectorAll('#first option')].map(o => [o.textContent, o.value])"))
    a, b, c = (ids[f"e on {model}"] for model in ("a", "b", LONG))
    opened.run("document.querySelector('#compare').scrollIntoView()")
    opened.wait("document.querySelectorAll('#difference tr').length > 1")
    cells = "[...document.querySelectorAll('#difference tr')].map(r => [...r.cells].map(c => c.textContent))"
    opened.choose("#first", b)
    opened.choose("#second", a)
    header, zero, *prompted = opened.run(cells)
    assert header == ["P", "first minus second", "band", "better"]
    # The same noise for both models: every document differs by 0.25.
    assert zero == ["0", "0.000", "[0.000, 0.000]", "not told apart"]
    assert prompted == [[str(n), "0.250", "[0.250, 0.250]", "second"] for n in LOSSES if n]
    opened.choose("#first", a)
    opened.choose("#second", b)
    assert opened.run(cells)[-1] == ["64", "-0.250", "[-0.250, -0.250]", "first"]
    marks = opened.run("[...document.querySelectorAll('#difference-chart [aria-label^=\"P = 64\"]')].length")
    assert marks == 1
    opened.choose("#first", c)
    assert opened.run("document.querySelector('#second').value") == ""
    assert "No other curve" in opened.run("document.querySelector('#difference-chart').textContent")
    opened.choose("#first", a)


@needs_browser
def test_the_slider_shows_the_sample_of_its_length_beside_that_without_a_prompt(opened) -> None:
    opened.run(
        "document.querySelector('details.samples').open = true; document.querySelector('.samples input').focus()"
    )
    shown = (
        "[...document.querySelector('.samples').querySelectorAll('[data-length]')].filter(b => b.offsetParent)"
        ".map(b => b.textContent.match(/reply of \\d+/)[0])"
    )
    assert opened.run(shown) == ["reply of 0", "reply of 64"]
    opened.press("ArrowLeft")
    assert opened.run(shown) == ["reply of 0", "reply of 16"]
    assert opened.run("document.querySelector('.samples output').textContent") == "P = 16"
    assert opened.run("document.querySelector('.samples input').getAttribute('aria-valuetext')") == "P = 16"


@needs_browser
def test_the_findings_say_their_numbers_to_hover_and_to_the_keyboard(opened, folder) -> None:
    opened.run("document.querySelector('#findings').scrollIntoView()")
    opened.wait("document.querySelectorAll('#findings-chart [aria-label]').length > 0")
    said = {
        s.curve.model: str(s.summary.contribution) for s in collect([folder], Filter()).shown if s.curve.model != "c"
    }
    opened.choose("#measure", "nats")
    labels = "[...document.querySelectorAll('#findings-chart [tabindex]')].map(m => m.getAttribute('aria-label'))"
    assert sorted(opened.run(labels)) == [f"e · {model}: {said[model]}" for model in "ab"]
    tip = "document.querySelector('#tip').hidden ? null : document.querySelector('#tip').textContent"
    opened.run("document.querySelector('#findings-chart [tabindex=\"0\"]').focus()")
    first = opened.run(tip)
    opened.press("ArrowRight")
    assert {first, opened.run(tip)} == {f"e · {model}: {said[model]}" for model in "ab"}
    opened.choose("#only-model", "b")
    assert opened.run(labels) == [f"e · b: {said['b']}"]
    assert opened.run("[...document.querySelectorAll('article')].filter(a => a.offsetParent).length") == 1
    opened.choose("#only-model", "")


@needs_browser
def test_the_published_curve_is_drawn_behind_ours_with_its_own_numbers(tmp_path) -> None:
    model = "EleutherAI/pythia-70m-deduped"
    for n, loss in {0: 3.5, 4: 3.0}.items():
        measured(n, loss, experiment="chess", model=model, **BESIDE).save(tmp_path / f"r/tokens-{n:04d}-seed-0.json")
    (tmp_path / "report.html").write_text(report_page.page(collect([tmp_path / "r"], Filter())))
    drawn = "[...document.querySelectorAll('article .chart [aria-label^=published]')].map(m => m.ariaLabel)"
    with browser(tmp_path) as shown:
        shown.open(tmp_path / "report.html")
        shown.run("document.querySelector('article .chart').scrollIntoView()")
        shown.wait(f"{drawn}.length > 0")
        (curve,) = collect([tmp_path / "r"], Filter()).curves
        theirs = published(curve)
        said = {f"published (other documents and recipe), P = {n}: {loss:.3f}" for n, loss in theirs.items()}
        assert set(shown.run(drawn)) == said and "P = 1024" in "".join(said)
        ours = "[...document.querySelectorAll('article .chart [aria-label^=\"P = 4\"]')].length"
        assert shown.run(ours) > 0


@needs_browser
def test_level_lines_too_near_to_be_told_apart_have_one_label(tmp_path) -> None:
    levels = {"uniform": 8.0, "unigram": 3.4, "trigram": 2.01, "bigram": 2.0}
    beside = {"baselines": {name: baseline(y) for name, y in levels.items()}}
    for n, loss in {0: 3.5, 4: 1.5}.items():
        measured(n, loss, **beside).save(tmp_path / f"r/tokens-{n:04d}-seed-0.json")
    (tmp_path / "report.html").write_text(report_page.page(collect([tmp_path / "r"], Filter())))
    texts = "[...document.querySelectorAll('article .chart svg text')].map(t => t.textContent)"
    with browser(tmp_path) as shown:
        shown.open(tmp_path / "report.html")
        shown.run("document.querySelector('article .chart').scrollIntoView()")
        shown.wait(f"{texts}.length > 0")
        labels = [text for text in shown.run(texts) if "gram" in text]
    assert labels == ["bigram and 1 more", "unigram"]


@needs_browser
def test_tab_reaches_every_control_and_every_chart_once(opened) -> None:
    opened.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    opened.wait(  # a chart is drawn when it is in sight for a moment
        "(left => (left[0]?.scrollIntoView(), !left.length))"
        "([...document.querySelectorAll('.chart')].filter(c => c.offsetParent && !c.hasChildNodes()))"
    )
    opened.run("document.activeElement.blur(); scrollTo(0, 0)")
    opened.run(
        "window.reached = new Set(); addEventListener('focusin', e => reached.add(e.target));"
        "window.all = 'select, input, summary, a[href], .wide[tabindex], .chart [tabindex=\"0\"]';"
        "window.wanted = [...document.querySelectorAll(all)].filter(e => e.checkVisibility())"
    )
    n = opened.run("wanted.length")
    assert n > 20
    for _ in range(n + 20):
        opened.press("Tab")
    left = "wanted.filter(e => !reached.has(e)).map(e => e.outerHTML.slice(0, 80))"
    assert opened.run(left) == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1000])
def test_the_page_fits_its_window_and_has_the_colours_of_its_scheme(opened, scheme, width) -> None:
    opened.see(width, 800, scheme)
    opened.run("document.querySelectorAll('.chart').forEach(c => c.scrollIntoView())")
    opened.wait(
        "[...document.querySelectorAll('.chart svg')].every(s => s.getBoundingClientRect().right <= innerWidth + 1)"
    )
    assert opened.run("document.documentElement.scrollWidth") <= opened.run("innerWidth")
    paper = opened.run("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) == (scheme == "dark")
    opened.see()


@needs_browser
def test_a_page_that_is_followed_shows_the_newest_with_the_same_choices(tmp_path) -> None:
    save_curve(tmp_path / "r" / "a", model="a")
    save_curve(tmp_path / "r" / "b", model="b")
    _write_page(collect([tmp_path / "r"], Filter()), (), tmp_path, live=True)
    with browser(tmp_path) as shown:
        shown.open(tmp_path / "report.html")
        shown.choose("#only-model", "b")
        shown.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        seen = "[...document.querySelectorAll('article')].find(a => a.offsetParent)"
        for n, live in ((3, True), (4, False)):  # the last page of all is not followed
            shown.run(f"window.old = true; {seen}.scrollIntoView()")
            save_curve(tmp_path / "r" / f"{n}", model=f"{n}")
            _write_page(collect([tmp_path / "r"], Filter()), (), tmp_path, live=live)
            shown.wait("!window.old && document.readyState === 'complete'")
            assert shown.run("document.querySelectorAll('article').length") == n
            assert bool(shown.run("document.documentElement.dataset.live")) == live
            assert shown.run("document.querySelector('#only-model').value") == "b"
            assert shown.run(f"{seen}.querySelector('h2').textContent") == "e on b"
            assert shown.run(f"[...{seen}.querySelectorAll('details')].every(d => d.open)")
            shown.wait(f"Math.abs({seen}.getBoundingClientRect().top) < 100")


def test_live_writes_the_page_as_runs_finish_and_ctrl_c_ends_it_with_a_sentence(tmp_path) -> None:
    command = [sys.executable, "-m", "soft_prompts.report", str(tmp_path / "r"), "--live", "--out", str(tmp_path / "o")]
    process = start(command, {**os.environ, "COLUMNS": "200"})

    def articles(n: int) -> None:
        html = tmp_path / "o" / "report.html"
        while not (html.exists() and html.read_text().count("<article") == n):
            assert process.poll() is None
            time.sleep(0.1)

    try:
        articles(0)
        save_curve(tmp_path / "r" / "a", model="a")
        articles(1)
        assert "data-live=" in (tmp_path / "o" / "report.html").read_text()
        save_curve(tmp_path / "r" / "b", model="b")
        articles(2)
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 0 and "no longer followed" in said and "Traceback" not in said
    assert "data-live=" not in (tmp_path / "o" / "report.html").read_text()
    assert len(list((tmp_path / "o").glob("curve-*.png"))) == 2


def test_the_scripts_of_others_are_those_that_were_published() -> None:
    vendor = Path(report_page.__file__).parent / "vendor"
    named = dict(re.findall(r"`(\S+?\.js)` \|.*`([0-9a-f]{64})`", (vendor / "README.md").read_text()))
    assert named == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in vendor.glob("*.js")}
    assert len(named) == 2
