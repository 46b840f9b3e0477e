"""The language experiments on pocket and its samples: which tokens they score, and what their scores mean."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.loading import load
from soft_prompts.pocket import SAMPLES
from soft_prompts.prepare import make_bench
from soft_prompts.stats import ratio
from soft_prompts.sweep import plan
from soft_prompts.tasks.autoregressive import Autoregressive
from soft_prompts.tasks.chat_detuning import REQUESTS, SYSTEMS, ChatDetuning, dialogues
from soft_prompts.tasks.repetition import Repetition, _until_miss
from soft_prompts.tasks.skip_tokens import SkipTokens
from soft_prompts.training.log import Logs
from soft_prompts.training.loop import train
from tests.autoregressive_test import POCKET as AUTOREGRESSIVE

TEXT = (str(SAMPLES),)


def encoding(model, max_tokens: int = 161) -> Encoding:
    return Encoding(model.tokenizer, model.separator, max_tokens)


def unprompted(model, held_out=()) -> PromptedModel:
    """The model behind a prompt of no tokens."""
    return PromptedModel(Bench(model, encoding(model), held_out, 16_384), SoftPrompt(model.vocabulary[:0]))


def test_skipping_k_tokens_wants_the_token_k_behind_the_next(pocket) -> None:
    for k in (1, 2, 8):
        plain = list(Autoregressive(text=TEXT).examples("held_out", encoding(pocket), 0))
        tokens = {e.document: e.tokens for e in plain}
        for e in SkipTokens(text=TEXT, skip=(k,)).examples("held_out", encoding(pocket), 0):
            text = tokens[e.document]
            for position in range(1, len(text)):
                # Here ordinary prediction wants text[position].
                wanted = text[position + k] if position + k < len(text) else IGNORE
                assert e.labels[position] == wanted
            assert e.labels[0] == IGNORE


def test_a_document_without_a_token_that_far_ahead_is_no_skipping_example(pocket) -> None:
    task = SkipTokens(text=TEXT, skip=(8,))
    assert {e.n_scored for e in task.examples("held_out", encoding(pocket, 10), 0)} == {1}
    for split in ("held_out", "train"):
        with pytest.raises(SoftPromptsError, match="--train.max-tokens is 9; it must be at least 10"):
            next(task.examples(split, encoding(pocket, 9), 0))


def test_every_skip_and_every_string_with_its_random_ones_is_a_curve_of_its_own() -> None:
    assert [v.skip for v in SkipTokens(skip=(1, 4)).variants()] == [(1,), (4,)]
    variants = Repetition(strings=("a", "b")).variants()
    assert [(*v.strings, *v.targets) for v in variants] == [(s, t) for s in "ab" for t in range(11)]
    assert [v.variant().control_of for v in variants[:3]] == [None, {"targets": [0]}, {"targets": [0]}]
    assert len({v.variant().label for v in variants}) == 22


def test_ten_random_strings_have_as_many_tokens_as_the_string_and_all_differ(pocket) -> None:
    natural, *random = (v.unit(encoding(pocket)) for v in Repetition(strings=("meowster jones",)).variants())
    assert list(natural) == pocket.tokenizer(" meowster jones")["input_ids"]
    assert {len(unit) for unit in random} == {len(natural)}
    assert len({tuple(unit) for unit in (natural, *random)}) == 11


@pytest.mark.parametrize("target", [0, 1])
def test_a_repetition_is_text_then_the_string_over_and_over_behind_the_prompt(pocket, target: int) -> None:
    task = Repetition(text=TEXT, strings=("meowster jones",), targets=(target,))
    unit = task.unit(encoding(pocket))
    assert not set(unit) & set(pocket.tokenizer.all_special_ids)
    lengths = set()
    for e in islice(task.examples("train", encoding(pocket, 128), 0), 50):
        assert len(e) == 128
        repeated = e.tokens[e.insert_at :]
        assert len(repeated) >= 64 and e.insert_at >= 5
        np.testing.assert_array_equal(repeated, [unit[i % len(unit)] for i in range(len(repeated))])
        np.testing.assert_array_equal(e.labels[e.insert_at :], repeated)
        assert (e.labels[: e.insert_at] == IGNORE).all()
        lengths.add(e.insert_at)
    assert len(lengths) > 10  # the prompt stands at many positions
    first, second = (task.examples("held_out", encoding(pocket, 128), seed) for seed in (0, 1))
    assert [(e.document, e.insert_at) for e in first] == [(e.document, e.insert_at) for e in second]


def test_repetition_counts_the_tokens_before_the_first_miss(pocket) -> None:
    wanted = np.array([1, 2, 3, 1])
    assert [_until_miss(np.array(c), wanted) for c in ([1, 2, 3, 1], [1, 2, 2, 1], [2], [], [1, 2])] == [4, 2, 0, 0, 2]
    task = Repetition(text=TEXT, strings=("pee",), targets=(0,), continued=8)
    held_out = list(task.examples("held_out", encoding(pocket, 128), 0))
    scores = task.score(unprompted(pocket, held_out), held_out).scores
    assert scores["exact"]["value"] == 0 and scores["exact"]["n"] == 8  # no prompt, no repetition


def test_a_repetition_without_room_for_text_is_refused(pocket) -> None:
    task = Repetition(text=TEXT, strings=("pee",), targets=(0,))
    with pytest.raises(SoftPromptsError, match="--train.max-tokens 66 leaves 2 .* at least 70"):
        next(task.examples("train", encoding(pocket, 66), 0))


def test_accuracy_counts_the_first_choices_that_are_right(pocket) -> None:
    task = Autoregressive(text=TEXT)
    held_out = list(islice(task.examples("held_out", encoding(pocket), 0), 10))
    prompted = unprompted(pocket, held_out)
    right = n = 0
    for e in held_out:
        logits = pocket.head(pocket.body(pocket.embed(torch.from_numpy(e.tokens)[None])))[0]
        right += int((logits[:-1].argmax(-1).numpy() == e.tokens[1:]).sum())
        n += len(e) - 1
    assert task.score(prompted, held_out).scores["accuracy"]["value"] == pytest.approx(right / n)


def test_no_prompt_beats_pocket_on_its_own_samples(pocket, tmp_path) -> None:
    """The null test of the method. A gain here would be a fault of splits, pairing or scoring.

    It is not for want of training that nothing is gained: the same recipe gains on digits at random, which a prompt can
    announce.
    """
    settings = replace(AUTOREGRESSIVE.train, steps=30, n_evaluations=0, eval_documents=80, max_tokens=129)
    digits = np.random.default_rng(0).integers(0, 10, (600, 40))
    (tmp_path / "digits.txt").write_text("\n\n".join(" ".join(map(str, row)) for row in digits))

    def gains(text: str) -> list[dict]:
        sweep = replace(AUTOREGRESSIVE, train=settings, n_tokens=(0, 1, 8), task=Autoregressive(text=(text,)))
        sweep = replace(sweep, seeds=(0,), controls=())
        runs = plan(sweep, "pocket")
        none, *prompted = train(make_bench(sweep, pocket, runs[0]), runs, Logs(tmp_path))
        return [ratio(none.scores.sums - t.scores.sums, none.scores.counts) for t in prompted]

    of_samples, of_digits = gains(str(SAMPLES)), gains(str(tmp_path / "digits.txt"))
    assert len(of_samples) == len(of_digits) == 2
    for gain in of_samples:
        assert gain["interval"][0] <= 0, of_samples
        assert gain["value"] > -1, "the prompt did not learn at all"
    for gain in of_digits:
        assert gain["interval"][0] > 1, of_digits


# --- chat detuning ---


@pytest.fixture(scope="module")
def chat():
    """pocket's chat version."""
    return load("pocket-chat")


def test_the_chat_model_without_a_prompt_closes_nothing_and_is_its_own_distribution(chat) -> None:
    task = ChatDetuning(text=TEXT, base="pocket", reply_tokens=24)
    held_out = list(islice(task.examples("held_out", encoding(chat), 0), 60))
    scored = task.score(unprompted(chat, held_out), held_out)
    assert scored.scores["gap_closed"]["value"] == pytest.approx(0, abs=1e-9)
    assert scored.scores["nats_from_chat"]["value"] == pytest.approx(0, abs=1e-5)
    assert scored.scores["nats_from_base"]["interval"][0] > 0
    assert len(scored.samples) == len(SYSTEMS) * len(REQUESTS)
    assert all(sample["before"] == sample["after"] for sample in scored.samples)


def test_dialogues_are_read_in_the_chat_template_without_a_second_bos(chat) -> None:
    battery = dialogues(unprompted(chat).bench)
    assert len(battery) == len(SYSTEMS) * len(REQUESTS) >= 30
    system, user, example = battery[0]
    assert chat.tokenizer.decode(example.tokens) == (
        f"<|endoftext|><|system|>\n{system}<|endoftext|>\n<|user|>\n{user}<|endoftext|>\n<|assistant|>\n"
    )


SAYS_SO = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
OF_USERS = "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}</u>{% endif %}{% endfor %}<a>"


@pytest.mark.parametrize("template", [SAYS_SO + OF_USERS, OF_USERS])
def test_a_system_message_opens_the_users_where_the_template_knows_no_system_role(folders, template: str) -> None:
    model = load(str(folders["neox"]))
    model.tokenizer.chat_template = template
    for system, user, example in dialogues(unprompted(model).bench):
        message = f"{system}\n\n{user}" if system else user
        assert model.tokenizer.decode(example.tokens) == f"<|endoftext|><u>{message}</u><a>"


@pytest.mark.parametrize(
    ("template", "cause"), [("{{ raise_exception('not today') }}", "not today"), ("<a>", "it leaves the messages out")]
)
def test_a_chat_template_that_cannot_be_used_is_refused(folders, template: str, cause: str) -> None:
    model = load(str(folders["neox"]))
    model.tokenizer.chat_template = template
    with pytest.raises(SoftPromptsError, match=rf"chat template of 'neox' cannot be used \({cause}\)"):
        dialogues(unprompted(model).bench)


def test_a_base_with_another_tokenizer_and_a_model_without_template_are_refused_before_training(chat, folders) -> None:
    task = ChatDetuning(text=TEXT, base=str(folders["neox"]))
    held_out = list(islice(task.examples("held_out", encoding(chat), 0), 4))
    with pytest.raises(SoftPromptsError, match="has another tokenizer than 'pocket-chat'.*--base"):
        task.check(unprompted(chat, held_out).bench)
    with pytest.raises(SoftPromptsError, match="has no chat template"):
        task.check(unprompted(load(str(folders["neox"]))).bench)
    bench = unprompted(chat, held_out).bench
    longest = max(len(e) for _, _, e in dialogues(bench))
    fitting = replace(task, base="pocket", reply_tokens=chat.context - longest - 4)
    fitting.check(bench, 4)
    message = f"a prompt of 5 tokens, a dialogue of {longest} .*but pocket-chat has {chat.context}; use a smaller"
    with pytest.raises(SoftPromptsError, match=message):
        fitting.check(bench, 5)
    with pytest.raises(SoftPromptsError, match="could not be loaded"):
        replace(task, base="no/such-base").check(unprompted(chat, held_out).bench)
