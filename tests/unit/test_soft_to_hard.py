"""From soft prompts to text: what prompts are made of, and what is lost between two interfaces, on numbers by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.errors import SoftPromptsError
from soft_prompts.hard.behaviour import INTERFACES, MIXTURE, SOFT, TEXT, Effort, prompt_of, searched
from soft_prompts.hard.legal import Legal
from soft_prompts.hard.search import mixture
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.pocket import SAMPLES
from soft_prompts.prepare import make_bench
from soft_prompts.records import save_record
from soft_prompts.sweep import plan
from soft_prompts.tasks.autoregressive import Autoregressive
from tests.soft_to_hard_test import (
    INTERFACE_NAMES,
    KEYS,
    POCKET,
    Found,
    check,
    figure,
    measured,
    run,
    shown,
    sweep_of,
    table,
)

TASK = Autoregressive(text=(str(SAMPLES),))


@pytest.fixture(scope="module")
def bench(pocket) -> Bench:
    encoding = Encoding(pocket.tokenizer, pocket.separator, 24)
    held_out = list(islice(TASK.examples("held_out", encoding, 0), 4))
    return Bench(pocket, encoding, held_out, 4096)


def test_the_names_are_those_of_the_searches() -> None:
    assert INTERFACE_NAMES == tuple(INTERFACES) == (SOFT, MIXTURE, TEXT)


def test_a_prompt_is_made_of_what_its_interface_allows(pocket, bench) -> None:
    legal = Legal.of(pocket)
    found = {name: searched(bench, TASK, legal, INTERFACES[name], 2, Effort((0, 1), 48, 2)) for name in INTERFACES}
    for name, attempts in found.items():
        assert len({tuple(a.start.tolist()) for a in attempts}) == 2 and all(48 <= a.spent < 60 for a in attempts)
        starts = [legal.random(2, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
        assert [a.start.tolist() for a in attempts] == [s.tolist() for s in starts]  # the same for all interfaces
        for attempt in attempts:
            rows = prompt_of(attempt, name)(torch.zeros(1, 0))[0].detach()
            at_start = legal.rows[attempt.start]
            if name == TEXT:
                assert legal.survives(attempt.prompt[None])[0]
                torch.testing.assert_close(rows, legal.rows[attempt.prompt])
            else:
                assert (rows - at_start).norm() > 0.1 * at_start.norm()
    # No mixture of tokens reaches further in any direction than the token that reaches furthest.
    directions = torch.randn(50, 256, generator=torch.Generator().manual_seed(0))
    (rows, free) = (prompt_of(found[name][0], name)(torch.zeros(1, 0))[0].detach() for name in (MIXTURE, SOFT))
    furthest = (legal.rows[legal.ids] @ directions.T).amax(0)
    assert (rows @ directions.T <= furthest + 1e-4).all()
    assert torch.cdist(rows, legal.rows).min() > 0.1 * rows.norm(dim=-1).min()  # and it is no token
    assert (free @ directions.T > furthest).any() or (free - rows).norm() > 0.1


def test_a_mixture_that_does_not_sharpen_keeps_the_rows_that_were_scored(pocket, bench) -> None:
    (attempt,) = searched(
        bench, TASK, Legal.of(pocket), partial(mixture, temperatures=(1.0, 1.0)), 1, Effort((0,), 12, 2)
    )
    (scores,) = evaluate(pocket, [prompt_of(attempt, MIXTURE)], attempt.examples, 4096)
    assert scores.loss == pytest.approx(attempt.soft_loss, abs=1e-5)


COUNTS = np.array([10, 30])


def found(**sums: list[list[float]]) -> Found:
    config = {"behaviour": "chess", "model": "pocket"}
    return Found(config, 4, COUNTS, {name: np.array(of) for name, of in sums.items()}, ["a", "b"])


def test_losses_are_means_over_tokens_and_seeds_and_shares_are_of_the_soft_gain() -> None:
    one = found(
        soft=[[10.0, 30.0], [20.0, 20.0]], mixture=[[20.0, 60.0]] * 2, text=[[30.0, 70.0]] * 2, zero=[[40.0, 120.0]]
    )
    assert {name: of[0] for name, of in one.losses.items()} == {"soft": 1.0, "mixture": 2.0, "text": 2.5, "zero": 4.0}
    assert one.kept("mixture")[0] == pytest.approx(2 / 3) and one.kept("text")[0] == pytest.approx(0.5)
    assert one.kept("soft")[0] == 1.0
    # Paired: documents that are hard for one are hard for the other.
    same = found(soft=[[10.0, 90.0]], text=[[20.0, 120.0]], zero=[[40.0, 160.0]])
    assert np.ptp((same.losses["text"] - same.losses["soft"])[1:]) < 1e-9
    assert np.ptp(same.losses["soft"][1:]) > 0.5


def test_a_share_of_nothing_is_not_shown() -> None:
    draws = np.concatenate([[0.5], np.linspace(0.4, 0.6, 1001)])
    assert shown(draws) == "0.50 [0.41, 0.59]"  # 95 % of an even spread
    assert shown(draws, "%") in ("50% [40%, 60%]", "50% [40%, 59%]", "50% [41%, 59%]")
    assert shown(np.concatenate([[0.5], np.linspace(-9, 9, 1001)]), "%") == "-"


def record(path, name: str, documents: list[str], losses: list[list[float]], behaviour: str = "chess") -> None:
    config = {"experiment": "soft_to_hard", "behaviour": behaviour, "model": "pocket"}
    head = {"config": config, "interface": name, "n_tokens": 1, "documents": documents, "scored": [10, 30]}
    of_seeds = [{"seed": i, "text": " Black", "spent": 9, "document_losses": of} for i, of in enumerate(losses)]
    save_record(path / f"search-0001-{name}.json", {**head, "zero": [40.0, 120.0], "found": of_seeds})


def test_the_table_says_what_is_lost_between_interfaces(tmp_path) -> None:
    record(tmp_path, "soft", ["x", "y"], [[10.0, 30.0], [10.0, 30.0]])
    record(tmp_path, "text", ["x", "y"], [[20.0, 60.0], [20.0, 60.0]])
    row = table(tmp_path).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:6] == ["chess, pocket", "1", "4.00", "1.00", "", "2.00"]
    assert cells[6:9] == ["", "", ""] and cells[9].startswith("67%") and "Black" in cells[10]
    record(tmp_path, "mixture", ["x", "y"], [[15.0, 45.0], [15.0, 45.0]])
    cells = [cell.strip() for cell in table(tmp_path).splitlines()[2].strip("|").split("|")]
    assert cells[6].startswith("0.50 [") and cells[7].startswith("0.50 [") and cells[8].startswith("83%")


def test_interfaces_on_different_documents_are_not_compared(tmp_path) -> None:
    record(tmp_path, "soft", ["x", "y"], [[10.0, 30.0]])
    record(tmp_path, "text", ["x", "z"], [[20.0, 60.0]])
    with pytest.raises(SoftPromptsError, match="different documents"):
        measured(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"behaviours": ("chess", "go")}, "no behaviour 'go'"),
        ({"n_tokens": ()}, "--n-tokens is"),
        ({"seeds": (1, 1)}, "--seeds is"),
        ({"n_tokens": (0,)}, "above 0"),
        ({"passes": 0}, "--passes"),
        ({"interfaces": ("text", "text")}, "--interfaces is"),
        ({"size": "smollm2", "behaviours": ("a key of 4",)}, "'a key of 4' is known of models that ship only"),
    ],
)
def test_options_that_cannot_work_are_refused(change, said) -> None:
    with pytest.raises(SoftPromptsError, match=said):
        check(replace(POCKET, **change))


def test_a_behaviour_is_one_task_of_its_experiment() -> None:
    assert sweep_of(POCKET, "looking ahead").task.skip == (1,)
    assert sweep_of(POCKET, "text").models == ("pocket-chat",)
    assert sweep_of(replace(POCKET, models=("pocket",)), "text").models == ("pocket",)
    assert {sweep_of(POCKET, name).task.key_tokens: k for name, k in KEYS.items()} == {(k,): k for k in (1, 2, 4, 8)}
    assert not set(KEYS) & set(POCKET.behaviours)


def test_what_is_there_is_not_searched_again_unless_it_is_forced(pocket, tmp_path, capsys) -> None:
    settings = replace(
        POCKET, models=("pocket",), behaviours=("text",), n_tokens=(1,), seeds=(0,), passes=12, batch=2, out=tmp_path
    )
    run(settings)
    files = sorted((tmp_path / "results").rglob("search-*.json"))
    assert [path.stem for path in files] == [f"search-0001-{name}" for name in sorted(INTERFACE_NAMES)]
    texts = [path.read_text() for path in files]
    config, documents = (json.loads(texts[0])[name] for name in ("config", "documents"))
    assert config["behaviour"] == "text" and config["passes"] == 12 and len(documents) == 64
    text = json.loads((files[0].parent / "search-0001-text.json").read_text())
    assert text["legal_tokens"] == int(Legal.of(pocket).mask.sum())
    sweep = sweep_of(settings, "text")
    validation = make_bench(sweep, pocket, plan(sweep, "pocket")[0]).validation
    (found,) = text["found"]
    ids = pocket.tokenizer(found["text"], add_special_tokens=False)["input_ids"]
    prompts = [SoftPrompt(pocket.vocabulary[torch.tensor(of, dtype=torch.long)].float()) for of in (ids, [])]
    losses = [scores.loss for scores in evaluate(pocket, prompts, validation, 4096)]
    assert [found["validation_loss"], text["zero_validation_loss"]] == pytest.approx(losses, abs=1e-4)
    assert (tmp_path / "results" / "soft_to_hard" / "answer.png").stat().st_size > 10_000
    for path in files:
        path.write_text(path.read_text().replace('"spent"', '"paid"'))
    run(settings)
    assert all('"paid"' in path.read_text() for path in files)
    run(replace(settings, force=True))
    assert not any('"paid"' in path.read_text() for path in files)
    assert "text, pocket" in capsys.readouterr().out
    run(replace(settings, interfaces=("text",), out=tmp_path / "text"))
    assert [path.name for path in (tmp_path / "text").rglob("search-*.json")] == ["search-0001-text.json"]


def test_what_has_no_soft_prompt_to_be_compared_with_has_no_panel_beside_what_has(tmp_path) -> None:
    record(tmp_path / "a", "soft", ["x", "y"], [[10.0, 30.0]])
    record(tmp_path / "b", "text", ["x", "y"], [[20.0, 60.0]], behaviour="a key of 2")
    assert [ax.get_title("left") for ax in figure(tmp_path).axes if ax.get_visible()] == ["chess, pocket"]
    assert [ax.get_title("left") for ax in figure(tmp_path / "b").axes if ax.get_visible()] == ["a key of 2, pocket"]
