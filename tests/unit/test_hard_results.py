"""The committed results of prompts in words: the page's tables are theirs, and they were made with the presets."""

import json
from pathlib import Path

import pytest

import tests.prompt_generation_test
import tests.retrodiction_test
import tests.soft_to_hard_test
from soft_prompts.records import place
from tests.prompt_generation_test import PRESETS, targets_of

RESULTS = Path(__file__).parents[2] / "results"


def test_the_page_has_the_committed_tables() -> None:
    page = (RESULTS / "hard_prompts.md").read_text()
    assert tests.prompt_generation_test.table(RESULTS / "prompt_generation") in page
    assert tests.soft_to_hard_test.table(RESULTS / "soft_to_hard") in page
    for folder in sorted(RESULTS.glob("retrodiction_*")):
        assert tests.retrodiction_test.table(folder) in page


@pytest.mark.parametrize("name", ["pocket", "pocket-long"])
def test_what_ships_as_results_was_made_with_the_presets_options(name) -> None:
    preset = PRESETS[name]
    configs = [
        json.loads(path.read_text())["config"] for path in (RESULTS / "prompt_generation").rglob("search-*.json")
    ]
    same = [c for c in configs if c["model"] == "pocket" and c["passes"] == preset.passes]
    assert same and all([tuple(t) for t in config["targets"]] == targets_of(preset) for config in same)


def test_every_behaviour_was_searched_through_every_interface_as_the_preset_asks() -> None:
    preset = tests.soft_to_hard_test.POCKET
    for behaviour in preset.behaviours:
        sweep = tests.soft_to_hard_test.sweep_of(preset, behaviour)
        config = tests.soft_to_hard_test.config_of(preset, sweep, behaviour, sweep.models[0])
        folder = RESULTS / place(config)
        for n in preset.n_tokens:
            for interface in tests.soft_to_hard_test.INTERFACE_NAMES:
                found = json.loads((folder / f"search-{n:04d}-{interface}.json").read_text())
                assert [one["seed"] for one in found["found"]] == list(preset.seeds)
