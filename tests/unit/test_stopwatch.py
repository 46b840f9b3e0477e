"""The stages of a command add up to its time, also where one stands within another or fails."""

import pytest

from soft_prompts import stopwatch
from soft_prompts.stopwatch import OTHER, Stopwatch, in_words


def test_a_stage_within_another_pauses_it_and_all_stages_add_up(monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now)
    clock = Stopwatch()
    now += 1
    with clock.stage("training"):
        now += 20
        with clock.stage("validation"):
            now += 3
        now += 40
    with pytest.raises(ValueError), clock.stage("validation"):
        now += 4
        raise ValueError
    now += 5
    assert clock.read() == {OTHER: 6.0, "training": 60.0, "validation": 7.0}
    now += 1
    assert clock.read()[OTHER] == 7.0
    assert in_words({OTHER: 5.0, "training": 15.0}) == f"training 15 s (75 %), {OTHER} 5 s (25 %)"
