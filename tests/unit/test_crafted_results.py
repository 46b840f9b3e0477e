"""Whatever a result file holds, it loads or is refused in one sentence, and a report shows the good ones beside it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from soft_prompts.errors import SoftPromptsError
from soft_prompts.report.export import frame
from soft_prompts.report.tables import markdown, models_by_length, print_tables, tables
from soft_prompts.results.curve import curves
from soft_prompts.results.record import Result
from soft_prompts.results.summary import summarise
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
    full = {
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
