"""Metatokens: what a pair of models reads differs in nothing else; the bins; what the table says of made-up curves."""

import json
import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard

from soft_prompts.data.documents import Encoding, document_id, split_of
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import TokenScores
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.loading import load
from soft_prompts.options import recorded
from soft_prompts.pocket import corpus, train
from soft_prompts.pocket.metatokens import (
    PIECE,
    WIDTHS,
    Document,
    Settings,
    check,
    lines_of_ratings,
    main,
    make_rows,
    new_tokenizer,
    of_split,
    pieces,
    plan,
    read_documents,
    steps,
    taken_out,
    without_ratings,
    worth,
)
from soft_prompts.results import load_results
from soft_prompts.results.record import HeldOut
from soft_prompts.tasks.base import effect_of_condition, strangers
from soft_prompts.tasks.sentences import LIMITS, N_BINS, Sentences, bin_of, metatoken, words_per_sentence
from tests import metatoken_test
from tests.metatoken_test import GAMES, PROSE, effects, estimate, measured, table
from tests.unit.made_up import encoding, write, write_games
from tests.unit.test_results import result

RESULTS = Path(__file__).parents[2] / "results"


# --- the rule ---


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("One two three. Four five!", 2.5),
        ("“Is it?” she said. He had 3.5 of them", 9 / 2),  # the point within a number ends nothing
        ("no end at all", 4.0),
        ("He left... “Why?” (So he did.) end", 7 / 3),
    ],
)
def test_sentences_end_where_a_reader_would_say_so(text: str, n: float) -> None:
    assert words_per_sentence(text) == pytest.approx(n)


def test_a_bin_begins_at_its_limit() -> None:
    assert list(LIMITS) == sorted(set(LIMITS)) and N_BINS == 8
    words = [int(np.ceil(limit)) for limit in LIMITS]
    assert [bin_of("word " * n) for n in words] == list(range(1, 8))
    assert bin_of("word " * (words[0] - 1)) == 0 and bin_of("A. b. c.") == 0


def test_the_condition_is_that_of_the_whole_text_and_the_anchor_its_own_metatoken(tmp_path, monkeypatch) -> None:
    texts = [f"Text {i} begins here{'. And' * (i % 5)} goes on and on {'again ' * (i % 20)}" for i in range(60)]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps({"text": t}) + "\n" for t in texts))
    task = Sentences(text=(path,))
    known = {document_id(t.strip()): bin_of(t) for t in texts}
    for split, most in (("held_out", 20), ("validation", 20), ("train", 50)):
        examples = list(islice(task.examples(split, encoding(max_tokens=12), 0), most))
        assert len(examples) > 1 and all(len(e) == 12 for e in examples)
        assert task.bins(examples) == [known[e.document] for e in examples]
        conditions = [(known[e.document] - 3.5) / 2 for e in examples]
        np.testing.assert_allclose([e.condition for e in examples], np.array(conditions)[:, None])
    asked = []
    monkeypatch.setattr("soft_prompts.engine.behind.behind_texts", lambda bench, texts: (asked.extend(texts), 1, 1))

    class Held:
        held_out = examples

    task.anchor(Held())
    assert asked == [f"<|sentences {known[e.document]}|>" for e in examples]


# --- conditions of others ---


def test_strangers_have_the_conditions_of_other_documents() -> None:
    for n in (2, 3, 50):
        examples = [Example(np.zeros(1, int), np.array([IGNORE]), str(i), condition=np.array([i])) for i in range(n)]
        got = strangers(examples)
        assert [e.document for e in got] == [e.document for e in examples]
        assert all(e.condition[0] != int(e.document) for e in got)
        assert sorted(e.condition[0] for e in got) == list(range(n))


def test_an_effect_is_what_another_s_condition_costs_by_document() -> None:
    def of(*losses: float) -> TokenScores:
        return TokenScores(["a", "b"], [np.full(n, x) for n, x in zip((2, 6), losses, strict=True)], [])

    effect = effect_of_condition(of(1.0, 2.0), of(1.5, 2.25))
    assert effect["value"] == pytest.approx((2 * 0.5 + 6 * 0.25) / 8)
    assert effect["document_nats"] == [1.0, 1.5] and effect["n"] == 2


# --- what a pair reads ---


def test_a_row_is_separator_metatoken_and_text_and_the_twin_s_the_same_without() -> None:
    documents = [(np.array([7, 8]), np.array([1, 2, 3, 4, 5])), (np.array([9]), np.array([6, 5]))]
    told = make_rows(documents, 6)
    assert told.tokens.tolist() == [[0, 7, 8, 1, 2, 3], [0, 9, 6, 5, 0, 0]]
    assert told.labels.tolist() == [[-1, -1, -1, 1, 2, 3], [-1, -1, 6, 5, -1, -1]]
    both = taken_out(told, np.array([True, True]))
    assert both.tokens.tolist() == [[0, 1, 2, 3, 0, 0], [0, 6, 5, 0, 0, 0]]
    assert both.labels.tolist() == [[-1, 1, 2, 3, -1, -1], [-1, 6, 5, -1, -1, -1]]
    assert not both.is_meta.any()
    second = taken_out(told, np.array([False, True]))
    assert second.tokens.tolist() == [told.tokens[0].tolist(), both.tokens[1].tolist()]
    assert second.is_meta.tolist() == [[False, True, True, False, False, False], [False] * 6]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Settings:
    """Made-up prose, in which the sentences of a document are either short or without end, and games."""
    folder, dice = tmp_path_factory.mktemp("metatokens"), random.Random(0)
    lines = []
    for i in range(400):
        # Other words too, so that the first word is known as soon as the metatoken is.
        known = ["sun.", "moon.", "sea."] if i % 2 else ["wood", "stone", "iron"]
        words = [dice.choice(known) for _ in range(60)]
        lines.append(json.dumps({"text": " ".join(words)}))
    (folder / "prose.jsonl.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))
    games = write_games(folder / "games.pgn", 80)
    out = folder / "out"
    sizes = {"width": 32, "layers": 1, "tokens": 30_000, "batch": 512, "learning_rate": 0.02, "measured": 200}
    return Settings((folder / "prose.jsonl.zst",), (games,), out=out, **sizes)


def test_a_pair_differs_in_nothing_but_the_metatokens(files) -> None:
    tokenizer = new_tokenizer()
    documents = {kind: of_split(of, held_out=False) for kind, of in read_documents(files).items()}
    marks = {tokenizer.convert_tokens_to_ids(metatoken(i)) for i in range(N_BINS)}
    assert len(marks) == N_BINS and min(marks) >= len(tokenizer) - N_BINS
    settings, n_rows, n_marked = replace(files, tokens=20 * 512), 0, 0
    told, untold = (steps(documents, tokenizer, settings, told) for told in (True, False))
    counts = {kind: len(of) for kind, of in documents.items()}
    assert len(told) == len(untold) == 20
    for (kind, chosen, unmarked), own, other in zip(plan(counts, settings), told, untold, strict=True):
        (rows, labels), (bare, bare_labels) = own(), other()
        assert rows.shape == bare.shape == (512 // WIDTHS[kind], WIDTHS[kind])
        for i, which in enumerate(chosen):
            document = documents[kind][which]
            # By hand: the line's tokens stand behind the separator or, in unmarked rows, nowhere.
            line = [] if unmarked[i] else tokenizer(document.line, add_special_tokens=False)["input_ids"]
            row, expected = rows[i].tolist(), bare[i].tolist()
            assert row[: 1 + len(line)] == [0, *line]
            text = tokenizer(document.text, add_special_tokens=False)["input_ids"]
            n = min(len(text), WIDTHS[kind] - 1 - len(tokenizer(document.line, add_special_tokens=False)["input_ids"]))
            assert [x for x in row if x][len(line) :] == [x for x in expected if x] == text[:n]
            assert [x for x in labels[i].tolist() if x >= 0] == [x for x in bare_labels[i].tolist() if x >= 0]
            assert [x for x in labels[i].tolist() if x >= 0] == text[:n]  # no metatoken is scored
            assert not set(expected) & marks
            n_rows, n_marked = n_rows + 1, n_marked + bool(line)
    assert 0.8 < n_marked / n_rows < 0.97


def test_the_models_of_a_pair_start_alike_and_another_seed_reads_another_order(files) -> None:
    first, second = (train.new_model(files.shape, 3080).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    orders = [[chosen for _, chosen, _ in plan({"prose": 99, "game": 99}, replace(files, seed=s))] for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_pieces_are_whole_words_and_nothing_is_lost() -> None:
    passage = " ".join(f"word{i}" for i in range(200)) + "\nand " + "x" * 400 + " end"
    cut = pieces(passage)
    assert " ".join(cut).split() == passage.split()
    assert all(len(p) <= PIECE for p in cut if "x" not in p) and max(map(len, cut)) == 400
    assert min(len(p) for p in cut[:-3]) > PIECE - 10
    assert pieces("") == []


def test_documents_say_what_their_line_says_and_no_split_has_those_of_another(files) -> None:
    documents = read_documents(files)
    assert all(d.line == metatoken(bin_of(d.text)) for d in documents["prose"])
    assert {d.line for d in documents["prose"]} == {metatoken(0), metatoken(N_BINS - 1)}
    assert all(d.line.startswith("White ") and d.line.endswith(".\n") for d in documents["game"])
    for of in documents.values():
        known, unknown = ({d.text for d in of_split(of, held_out)} for held_out in (False, True))
        assert known and unknown and not known & unknown
        assert [{split_of(document_id(t)) for t in of} for of in (known, unknown)] == [{"train"}, {"held_out"}]
    # Read as chess experiments read them: the same games are held out.
    task = replace(GAMES.task, games=str(files.games[0]))
    games = {e.document for e in task.examples("held_out", Encoding(new_tokenizer(), 0, 400), 0)}
    assert games == {document_id(d.text) for d in of_split(documents["game"], held_out=True)}


@pytest.mark.parametrize("muon", [True, False])
def test_an_interrupted_training_ends_as_if_it_had_not_been(tmp_path, monkeypatch, files, muon: bool) -> None:
    monkeypatch.setattr(train, "KEPT_EVERY", -1)
    rows = [torch.randint(1, 60, (4, 8), generator=torch.Generator().manual_seed(i)) for i in range(6)]

    def trained(steps: list, kept: Path | None) -> dict[str, torch.Tensor]:
        model = train.new_model(files.shape, 64)
        train.fit(model, steps, 0.01, "test", torch.float32, muon, kept)
        return dict(model.state_dict())

    def broken() -> None:
        raise KeyboardInterrupt

    steps = [lambda x=x: (x, x) for x in rows]
    whole, kept = trained(steps, None), tmp_path / "kept.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained([*steps[:3], broken, *steps[4:]], kept)
    with pytest.raises(SoftPromptsError, match="is of a training of another size; delete it"):
        trained(steps[:5], kept)
    resumed = trained([broken] * 3 + steps[3:], kept)  # the first three are not done again
    assert all(torch.equal(whole[name], resumed[name]) for name in whole) and not kept.exists()


# --- pocket's own twin ---


def test_pocket_s_twin_reads_its_rows_without_the_lines_of_ratings(pocket) -> None:
    tokenizer = pocket.tokenizer
    game = corpus.game_text((1532, 980), "e2e4 e7e5 g1f3")
    texts = ["White men came. White 15, Black", game, "Any moves.\ne2e4", "White 1200, Black sheep.\n", game]
    stream = np.concatenate(train.encode(tokenizer, texts)).astype(np.int64)
    length = len(stream)
    found = lines_of_ratings(stream[None], tokenizer)[0]
    assert tokenizer.decode(stream[found]) == "White 1532, Black 980.\n" * 2
    rows, labels = without_ratings(torch.from_numpy(stream[None]), tokenizer)
    wanted = [texts[0], "e2e4 e7e5 g1f3", texts[2], texts[3], "e2e4 e7e5 g1f3"]
    bare = np.concatenate(train.encode(tokenizer, wanted)).tolist()
    assert rows[0].tolist() == bare + [0] * (length - len(bare))
    assert labels[0].tolist() == bare + [-1] * (length - len(bare))


# --- what a model makes of them ---


def test_the_worth_of_metatokens_is_seen_where_it_is_known(pocket) -> None:
    """pocket plays below a line of ratings and goes astray or tells stories below none."""
    games = [Document(*_head_and_rest(text)) for text in _games(12)]
    mazes = [Document("Maze\n", corpus.maze(i).partition("\n")[2]) for i in range(12)]
    mixed = [d for both in zip(games, mazes, strict=True) for d in both]
    found = worth(pocket, mixed, 40)
    assert found["gain"]["interval"][0] > 0 and found["none"] - found["own"] == pytest.approx(
        found["gain"]["value"], abs=2e-4
    )
    assert found["others"]["interval"][0] > 0  # a maze behind a line of ratings, a game behind that of mazes
    same = worth(pocket, [d._replace(line="Maze\n") for d in mixed], 40)
    assert same["others"]["value"] == 0.0


def _head_and_rest(text: str) -> tuple[str, str]:
    head, _, rest = text.partition("\n")
    return head + "\n", rest


def _games(n: int) -> list[str]:
    from soft_prompts.pocket import GAMES as SHIPPED

    return [corpus.game_text(elos, moves) for elos, moves in islice(corpus.games([SHIPPED]), n)]


def test_the_gate_refuses_a_model_that_makes_nothing_of_sentence_lengths() -> None:
    def facts(low: float) -> dict:
        return {"worth": {"prose": {"others": {"interval": [low, 0.1]}}}}

    check("m", facts(0.001))
    for low in (0.0, -0.01):
        with pytest.raises(SoftPromptsError, match="m is refused: another document's sentence length costs"):
            check("m", facts(low))


def test_a_tiny_pair_is_trained_measured_and_compared_from_end_to_end(files, monkeypatch) -> None:
    monkeypatch.setattr("soft_prompts.pocket.metatokens.WIDTHS", {"prose": 64, "game": 32})
    main(files)
    facts = [json.loads((files.out / name / "facts.json").read_text()) for name in ("told-0", "untold-0")]
    assert [f["told"] for f in facts] == [True, False] and facts[0]["steps"] == facts[1]["steps"] == 30_000 // 512
    told, untold = (f["worth"]["prose"]["others"] for f in facts)
    assert told["interval"][0] > 0 and told["value"] > abs(untold["value"])
    model = load(str(files.out / "told-0"))
    assert len(model.tokenizer(metatoken(3), add_special_tokens=False)["input_ids"]) == 1
    games = next(iter(corpus.games([files.out / "games.pgn"])))
    assert games in corpus.games(files.games)
    recipe = replace(PROSE.train, steps=2, eval_documents=8, validation_documents=4, max_tokens=40)
    task = replace(PROSE.task, text=(str(files.out / "prose.jsonl.zst"),))
    names = tuple(str(files.out / name) for name in ("told-0", "untold-0"))
    sweep = replace(PROSE, task=task, models=names, n_tokens=(0, 1), seeds=(0, 1), train=recipe, out=files.out)
    from soft_prompts.cli import run

    run(replace(sweep, controls=(), log="none"))
    folder = files.out / "results" / "metatoken"
    for name in ("told-0", "untold-0"):
        (folder / name / "facts.json").write_bytes((files.out / name / "facts.json").read_bytes())
    lines = table(folder).splitlines()
    assert lines[2].startswith("| sentence length | told-0 | ") and lines[3].startswith(
        "| sentence length | untold-0 |"
    )
    assert f"{told['value']:.4f} [" in lines[2]
    assert len(metatoken_test.figure(folder).axes) == 1


# --- what the table says ---


def made_up(model: str, losses: dict[int, float], effect: float, line: float, folder: Path) -> None:
    """Three seeds that agree, on 40 documents of ten tokens that are alike but for a little."""
    apart = np.linspace(-0.01, 0.01, 40)
    for n_tokens, loss in losses.items():
        for seed in (0, 1, 2) if n_tokens else (0,):
            of = TokenScores([f"d{i}" for i in range(40)], [np.full(10, loss + x) for x in apart], [np.ones(10)] * 40)
            lost = (10 * (effect + apart)).round(4).tolist() if n_tokens else [0.0] * 40
            score = {"value": effect, "interval": [effect, effect], "n": 40, "document_nats": lost}
            made = replace(
                result(
                    n_tokens,
                    seed,
                    experiment="metatoken",
                    task="Sentences",
                    model=model,
                    held_out=HeldOut.of(of),
                    scores={"length_effect": score},
                    config={"task": {"name": "Sentences"}, "model": model, "train": {"steps": 5, "batch_size": 2}},
                ),
                anchor={"name": "the metatoken", "loss": line, "document_losses": (10 * (line + apart)).tolist()},
            )
            made.save(folder / model / f"tokens-{n_tokens:04d}-seed-{seed}.json")


def test_the_table_says_what_sets_a_pair_apart(tmp_path) -> None:
    made_up("told-0", {0: 3.0, 1: 2.5}, 0.3, 2.4, tmp_path)
    made_up("untold-0", {0: 2.9, 1: 2.8}, 0.1, 3.1, tmp_path)
    facts = {"worth": {"prose": {"others": {"value": 0.5, "interval": [0.4, 0.6]}}}}
    (tmp_path / "told-0" / "facts.json").write_text(json.dumps(facts))
    lines = table(tmp_path).splitlines()
    assert lines[2].startswith(
        "| sentence length | told-0 | 3.0000 | 2.5000 | 2.4000 | 0.5000 [0.4000, 0.6000] | 0.3000 ["
    )
    assert lines[3].startswith("| sentence length | untold-0 | 2.9000 | 2.8000 | 3.1000 |  | 0.1000 [")
    differences = [cell.split(" [")[0] for cell in lines[-1].strip("| ").split(" | ")]
    assert lines[2].endswith("| 2.8000 (unigram) |  |")  # nothing was scrambled
    # Its own metatoken is at 2.4, and each gains over its own loss at P=0: 3.0 and 2.9.
    assert differences == ["sentence length", "told-0", "1", "0.1000", "0.5000", "0.1000", "0.2000"]
    curve = measured(tmp_path)["Sentences"]["told-0"]
    assert effects(curve.points[1]).shape == (3, 40)
    (drawn,) = metatoken_test.figure(tmp_path).axes
    assert drawn.get_title("left") == "told of: sentence length"
    for path in (tmp_path / "untold-0").iterdir():
        path.unlink()
    with pytest.raises(SoftPromptsError, match="no results of a pair, such as told-0 and untold-0"):
        table(tmp_path)


def test_an_estimate_is_paired_by_document() -> None:
    noise = np.random.default_rng(0).normal(0, 100, (1, 60))
    counts = np.full(60, 10)
    of = estimate([noise + 20.0], [noise + 5.0], counts)
    assert of["value"] == pytest.approx(1.5) and of["interval"] == pytest.approx([1.5, 1.5])
    low, high = estimate([noise + 20.0], [], counts)["interval"]
    assert high - low > 2


# --- what ships ---


def _named(value):
    """An option as results record it where its file is there: without the path below runs/."""
    if isinstance(value, list):
        return [_named(one) for one in value]
    return Path(value).name if isinstance(value, str) and value.startswith("runs/") else value


@pytest.mark.parametrize("preset", [PROSE, GAMES])
def test_the_committed_results_were_made_with_the_presets(preset) -> None:
    """The models do not ship, so that nothing but their files can be another."""
    configs = [
        r.config
        for r in load_results([RESULTS / "metatoken"])
        if r.config["task"]["name"] == type(preset.task).__name__
    ]
    assert configs and {c["model"] for c in configs} >= {Path(name).name for name in preset.models}
    for config in configs:
        task = {name: value for name, value in config["task"].items() if name != "data"}
        read = {name: _named(value) for name, value in preset.task.recorded().items()}  # the files are not here
        assert task == {"name": type(preset.task).__name__, **read}
        assert config["train"] == recorded(preset.train, ("init_from",))
        assert config["experiment"] == "metatoken" and config["dtype"] == preset.dtype == "float32"


def test_the_page_has_the_table_of_the_committed_results() -> None:
    assert table(RESULTS / "metatoken") in (RESULTS / "metatokens.md").read_text()
