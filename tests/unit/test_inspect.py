"""Inspect's provider: a task of three lines on pocket-chat, with and without a prompt. Inspect is no requirement."""

import asyncio
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed")

from inspect_ai import Task, eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, ContentImage, GenerateConfig, get_model
from inspect_ai.scorer import includes
from inspect_ai.tool import ToolInfo

import soft_prompts
from soft_prompts.errors import SoftPromptsError
from soft_prompts.export import Settings, main
from soft_prompts.interventions.soft_prompt import PromptGenerator, SoftPrompt
from soft_prompts.models.loading import load as load_model
from soft_prompts.results.snapshot import Use, save_prompt
from soft_prompts.tasks.chat import opened, rendered
from soft_prompts.tasks.chess_moves import RATINGS

importlib.import_module("soft_prompts.inspect_provider")  # as Inspect does by the entry point

QUESTIONS = {
    "What is the capital of France?": "France",
    "Write a sentence about the sea.": "sea",
    "How do I cook rice, and for how long does it have to be in the pan?": "rice",
}
PLAIN = {"language_model": "pocket-chat", "dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def chat():
    return load_model("pocket-chat", device="cpu")


def saved(chat, path: Path, behind: str = "separator") -> str:
    """A snapshot of a prompt that changes replies: the embeddings of a few words."""
    ids = chat.tokenizer("All of it is about the old house, and", add_special_tokens=False)["input_ids"]
    use = Use(chat.separator, behind)
    save_prompt(SoftPrompt(chat.vocabulary[ids].float(), 0.1), chat, {"experiment": "e"}, path, use)
    return str(path)


@pytest.fixture(scope="module")
def snapshot(chat, tmp_path_factory) -> str:
    return saved(chat, tmp_path_factory.mktemp("snapshots") / "words.safetensors")


def replies(folder: Path, model: str, arguments: dict, **options) -> list:
    """What Inspect has logged of the task's samples."""
    task = Task([Sample(question, target=target) for question, target in QUESTIONS.items()], scorer=includes())
    options = {"max_tokens": 24, **options}
    (log,) = eval(task, model=model, model_args=arguments, log_dir=str(folder), display="none", **options)
    assert log.status == "success", log.error
    assert set(log.results.scores[0].metrics) == {"accuracy", "stderr"}
    return [sample.output for sample in log.samples]


def text_of(chat, question: str) -> str:
    return rendered(chat.tokenizer, opened("", question))


def test_a_task_runs_with_and_without_a_prompt_and_connections_change_nothing(chat, snapshot, tmp_path) -> None:
    def both(model: str, arguments: dict, **options) -> list:
        """The outputs with one connection and with two, which must be the same."""
        one, two = (replies(tmp_path, model, arguments, max_connections=n, **options) for n in (1, 2))
        assert [output.completion for output in one] == [output.completion for output in two]
        return one

    bare = both("soft_prompts/none", PLAIN)
    prompted = both(f"soft_prompts/{snapshot}", {"dtype": "float32"})
    drawn = both(f"soft_prompts/{snapshot}", {"dtype": "float32"}, temperature=1.0, seed=3)
    alone, behind = soft_prompts.load(None, "pocket-chat", "float32"), soft_prompts.load(snapshot, "", "float32")
    texts = [text_of(chat, question) for question in QUESTIONS]
    for outputs, expected in (
        (bare, [alone.generate(text, 24) for text in texts]),
        (prompted, [behind.generate(text, 24) for text in texts]),
        (drawn, [behind.generate(text, 24, 1.0, 3) for text in texts]),
    ):
        assert [output.completion for output in outputs] == expected
    assert len({tuple(output.completion for output in outputs) for outputs in (bare, prompted, drawn)}) == 3
    assert prompted[0].usage.input_tokens == bare[0].usage.input_tokens + len(behind.rows()) > 20


def test_log_probabilities_are_those_of_the_model_behind_the_prompt(chat, snapshot, tmp_path) -> None:
    behind = soft_prompts.load(snapshot, "", "float32")
    model = f"soft_prompts/{snapshot}"
    for question, output in zip(
        QUESTIONS, replies(tmp_path, model, {"dtype": "float32"}, logprobs=True, top_logprobs=3), strict=True
    ):
        text = text_of(chat, question)
        found = output.choices[0].logprobs.content
        assert "".join(of.token for of in found) == output.completion
        assert output.usage.output_tokens == len(found)
        own = behind.logprobs([text + output.completion])[0][-len(found) :]
        assert [of.logprob for of in found] == pytest.approx(own.tolist(), abs=1e-4)
        for of in found:  # at temperature 0 the most likely one is taken
            assert (of.top_logprobs[0].token, of.top_logprobs[0].logprob) == (of.token, of.logprob)
            assert len(of.top_logprobs) == 3 and of.top_logprobs[1].logprob >= of.top_logprobs[2].logprob
    (plain,) = replies(tmp_path, model, {"dtype": "float32"}, logprobs=True)[:1]
    assert plain.choices[0].logprobs.content[0].top_logprobs is None


def asked(model: str, messages, arguments: dict | None = None, tools=(), **options):
    """The output of one request, without a task."""
    api = get_model(model, **({"dtype": "float32", "device": "cpu"} if arguments is None else arguments))
    return asyncio.run(api.api.generate(messages, list(tools), "none", GenerateConfig(**options)))


def test_replies_end_where_they_should(chat, snapshot) -> None:
    question = [ChatMessageUser(content=list(QUESTIONS)[0])]
    whole = asked("soft_prompts/none", question, PLAIN, max_tokens=40)
    assert whole.stop_reason == "stop"
    words = whole.completion.split(" ")
    short = asked("soft_prompts/none", question, PLAIN, max_tokens=40, stop_seqs=["never", words[3]], logprobs=True)
    assert short.completion == whole.completion[: whole.completion.index(words[3])] != whole.completion
    assert short.stop_reason == "stop" and short.usage.output_tokens < whole.usage.output_tokens
    assert "".join(of.token for of in short.choices[0].logprobs.content).startswith(short.completion + words[3][0])
    cut = asked("soft_prompts/none", question, PLAIN, max_tokens=3)
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 3
    long = [ChatMessageUser(content="the sea and " * 160)]
    full = asked("soft_prompts/none", long, PLAIN, temperature=1.0, seed=1)
    assert full.stop_reason in ("model_length", "stop") and full.usage.total_tokens <= chat.context
    with pytest.raises(SoftPromptsError, match=r"prompt of 0 tokens .* leave no room for a reply in the 512 positions"):
        asked("soft_prompts/none", [ChatMessageUser(content="the sea and " * 500)], PLAIN)


def test_messages_go_through_the_chat_template_or_stand_one_behind_the_other() -> None:
    said = [ChatMessageSystem(content="Be kind."), ChatMessageUser(content=" Who are you?\n")]
    behind = soft_prompts.load(None, "pocket-chat", "float32", "cpu")
    expected = behind.generate(
        "<|system|>\nBe kind.<|endoftext|>\n<|user|>\nWho are you?<|endoftext|>\n<|assistant|>\n", 9
    )
    assert asked("soft_prompts/none", said, PLAIN, max_tokens=9).completion == expected
    expected = behind.generate("Be kind.\n\n Who are you?\n", 9)
    assert asked("soft_prompts/none", said, {**PLAIN, "chat_template": False}, max_tokens=9).completion == expected


def test_the_prompt_stands_where_it_was_trained(chat, snapshot, tmp_path) -> None:
    question = list(QUESTIONS)[0]
    said = [ChatMessageUser(content=question)]
    prompted = soft_prompts.load(snapshot, "", "float32")
    text = text_of(chat, question)

    def tokens(part: str) -> list[int]:
        return chat.tokenizer(part, add_special_tokens=False)["input_ids"]

    def expected(*parts):
        """Log-probabilities of the most likely tokens behind tokens and the prompt (None), by the model alone."""
        embedded = [prompted.rows() if part is None else chat.embed(torch.tensor(part)) for part in parts]
        with torch.no_grad():
            logits = chat.lm(inputs_embeds=torch.cat(embedded)[None]).logits[0, -1]
        return pytest.approx(logits.log_softmax(-1).topk(5).values.tolist(), abs=1e-4)

    def found(model: str, **arguments) -> list[float]:
        arguments = {"dtype": "float32", "device": "cpu", **arguments}
        output = asked(f"soft_prompts/{model}", said, arguments, max_tokens=1, logprobs=True, top_logprobs=5)
        return [other.logprob for other in output.choices[0].logprobs.content[0].top_logprobs]

    opener, middle = [chat.separator], text.index(question) + len(question)
    assert found(snapshot) == expected(opener, None, tokens(text))
    for behind, order in (("text", (opener, tokens(text), None)), ("nothing", (None, opener, tokens(text)))):
        path = saved(chat, tmp_path / behind, behind)
        assert found(path) == expected(*order)
    within = saved(chat, tmp_path / "within", "within")
    order = (opener, tokens(text[:middle]), None, tokens(text[middle:]))
    assert found(within, place="user") == found(snapshot, place="user") == expected(*order)
    with pytest.raises(PrerequisiteError, match="stands within a text, where only its task knows; say where"):
        found(within)
    main(Settings(Path(snapshot), tmp_path / "peft", model="pocket-chat"))
    assert found(str(tmp_path / "peft")) == pytest.approx(found(snapshot), abs=1e-5)


def test_a_condition_is_given_in_people_s_numbers(chat, tmp_path) -> None:
    from dataclasses import asdict

    prompt = PromptGenerator(chat.vocabulary[:2].float(), 0.1, (2, 8), torch.Generator().manual_seed(1), 1.0)
    save_prompt(prompt, chat, {}, tmp_path / "p", Use(chat.separator, "separator", asdict(RATINGS)))
    model = get_model(f"soft_prompts/{tmp_path / 'p'}", memoize=False, condition=["1500", "2000"], dtype="float32")
    with torch.no_grad():
        (expected,) = prompt(torch.tensor([[0.25, 0.5]]))
    example = model.api._start([ChatMessageUser(content="a")])
    assert np.allclose(example.condition, [0.25, 0.5])
    assert torch.equal(model.api.prompted.rows(model.api.condition), expected)
    for condition, sentence in ((1500, r"condition is \(1500.0,\), but this prompt takes 2"), ("x", "must be numbers")):
        with pytest.raises(PrerequisiteError, match=sentence):
            get_model(f"soft_prompts/{tmp_path / 'p'}", memoize=False, condition=condition)


@pytest.mark.parametrize(
    ("model", "arguments", "sentence"),
    [
        ("none", {}, "without a prompt, nothing says which model is meant; name the model"),
        ("none", {"language_model": "pocket-chat", "modell": 1}, "modell is no argument of the model; there are lang"),
        ("none", {"language_model": "pocket-chat", "place": "front"}, "place is 'front'; it can be user"),
        ("there/is/none", {}, "could not read the snapshot there/is/none"),
        ("none", {"language_model": "pocket-chat", "device": "abacus"}, "device 'abacus' cannot be used here"),
    ],
)
def test_what_cannot_be_loaded_is_said_by_inspect_in_a_sentence(model: str, arguments: dict, sentence: str) -> None:
    with pytest.raises(PrerequisiteError, match=sentence):
        get_model(f"soft_prompts/{model}", memoize=False, **arguments)


def test_a_prompt_of_another_model_is_refused(snapshot) -> None:
    with pytest.raises(PrerequisiteError, match="was trained on pocket-chat .* not on pocket"):
        get_model(f"soft_prompts/{snapshot}", memoize=False, language_model="pocket")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"top_p": 0.9}, "top_p is 0.9, but replies here are drawn from the whole distribution"),
        ({"top_k": 5}, "top_k is 5"),
        ({"num_choices": 2}, "num_choices is 2"),
        ({"frequency_penalty": 0.5}, "frequency_penalty is 0.5"),
    ],
)
def test_what_would_change_a_reply_and_is_not_there_is_refused(options: dict, sentence: str) -> None:
    question = [ChatMessageUser(content="a")]
    with pytest.raises(SoftPromptsError, match=sentence):
        asked("soft_prompts/none", question, PLAIN, **options)
    with pytest.raises(PrerequisiteError, match=sentence):  # on the command line, before the first request
        get_model("soft_prompts/none", memoize=False, config=GenerateConfig(**options), **PLAIN)
    neutral = {"top_p": 1.0, "num_choices": 1, "frequency_penalty": 0.0}
    assert asked("soft_prompts/none", question, PLAIN, max_tokens=1, **neutral).usage.output_tokens <= 1


def test_tools_and_pictures_are_refused() -> None:
    question, picture = ChatMessageUser(content="a"), ChatMessageUser(content=[ContentImage(image="data:image/png;,")])
    with pytest.raises(SoftPromptsError, match=r"the task offers tools \(bash\)"):
        asked("soft_prompts/none", [question], PLAIN, [ToolInfo(name="bash", description="")])
    with pytest.raises(SoftPromptsError, match="a message holds image, but only text can be read"):
        asked("soft_prompts/none", [picture], PLAIN)
    with pytest.raises(SoftPromptsError, match="no message is a user's"):
        asked("soft_prompts/none", [ChatMessageSystem(content="a")], {**PLAIN, "place": "user"})
