"""Inspect's provider `soft_prompts`: evaluations of UK AISI's Inspect, answered behind a prompt.

    inspect eval TASK --model soft_prompts/SNAPSHOT
    inspect eval TASK --model soft_prompts/none -M language_model=pocket-chat

Inspect finds it by the entry point in pyproject.toml. Nothing else imports this module, since it needs inspect-ai.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from soft_prompts.errors import SoftPromptsError

if TYPE_CHECKING:
    import numpy as np

    from soft_prompts.data.example import Example

NO_PROMPT = "none"
"""The model as it is: soft_prompts/none."""
MAX_TOKENS = 2048
"""Tokens of a reply at most where Inspect does not say: as in Inspect's own local models."""
REFUSED = {
    "top_p": 1,
    "top_k": None,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": None,
    "num_choices": 1,
    "best_of": 1,
    "prompt_logprobs": None,
    "response_schema": None,
}
"""Options that change a reply and that are not there: each with the value that changes nothing."""


@modelapi("soft_prompts")
class SoftPrompts(ModelAPI):
    """A frozen model behind a prompt. It answers one request at a time, so no answer depends on the others."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's own signature
        language_model: str = "",
        dtype: str = "auto",
        device: str = "auto",
        condition: Any = (),
        place: str = "",
        chat_template: bool = True,
        **unknown: Any,
    ):
        """Load the model and the prompt.

        Args:
            model_name: A snapshot, a folder of PEFT's prompt tuning, or "none" for the model as it is.
            base_url: Not used.
            api_key: Not used.
            config: Inspect's; what counts comes with each request.
            language_model: The ``model`` of ``soft_prompts.load``, a word that Inspect keeps for itself.
            dtype: Of the model.
            device: Where it is computed.
            condition: A number or several: what a conditional prompt depends on.
            place: "user": the prompt stands behind what the user said last, within the user's message. "": where the
                prompt itself says.
            chat_template: Whether messages go through the model's chat template, if it has one.
            unknown: Other arguments, which are refused.
        """
        super().__init__(model_name, base_url, api_key, [], config)
        with _said_by_inspect():
            if unknown:
                raise SoftPromptsError(
                    f"{', '.join(unknown)} is no argument of the model; there are language_model, dtype, "
                    f"device, condition, place and chat_template."
                )
            if place not in ("", "user"):
                raise SoftPromptsError(f"place is {place!r}; it can be user, or be left out.")
            from soft_prompts.serving import load  # brings torch, which Inspect does not need to list its providers

            self.place, self.chat_template = place, chat_template
            self.condition = _numbers(condition)
            self.prompted = load(None if model_name == NO_PROMPT else model_name, language_model, dtype, device)
            # What would stop every request stops before the first.
            self.prompted.rows(self.condition)
            if not place:
                self.prompted.start("", self.condition)
            _check([], config)
        self._one_at_a_time = threading.Lock()

    def max_tokens(self) -> int:
        return MAX_TOKENS

    def max_connections(self) -> int:
        return 1

    def collapse_user_messages(self) -> bool:
        return True

    def collapse_system_messages(self) -> bool:
        return True

    def collapse_assistant_messages(self) -> bool:
        return True

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        _check(tools, config)

        def alone() -> ModelOutput:
            with self._one_at_a_time:  # the tokenizer, too, bears no two threads
                return self._answer(self._start(input), config)

        return await anyio.to_thread.run_sync(alone)

    def _answer(self, start: Example, config: GenerateConfig) -> ModelOutput:
        """The reply to what the model reads."""
        wanted = MAX_TOKENS if config.max_tokens is None else config.max_tokens
        room = self.prompted.model.context - len(start) - self.prompted.prompt.n_tokens
        if room < 1:
            raise SoftPromptsError(
                f"the prompt of {self.prompted.prompt.n_tokens} tokens and the messages of {len(start)} leave no room "
                f"for a reply in the {self.prompted.model.context} positions of {self.prompted.model.name}; shorten "
                f"the messages."
            )
        n_tokens = min(wanted, room)
        stops = [stop for stop in config.stop_seqs or [] if stop]

        def enough(tokens: np.ndarray) -> bool:
            return any(stop in self.prompted.decode(tokens) for stop in stops)

        seed = SystemRandom().getrandbits(63) if config.seed is None else config.seed
        drawn = (n_tokens, config.temperature or 0.0, seed, enough if stops else None)
        tokens = self.prompted.continued(start, *drawn)
        logprobs = self._logprobs(start, tokens, config.top_logprobs or 0) if config.logprobs else None
        text = self.prompted.decode(tokens)
        ends = [text.index(stop) for stop in stops if stop in text]
        full = "max_tokens" if n_tokens == wanted else "model_length"
        choice = ChatCompletionChoice(
            message=ChatMessageAssistant(
                content=text[: min(ends, default=None)], model=self.model_name, source="generate"
            ),
            stop_reason=full if len(tokens) == n_tokens and not ends else "stop",
            logprobs=logprobs,
        )
        read = len(start) + self.prompted.prompt.n_tokens
        usage = ModelUsage(input_tokens=read, output_tokens=len(tokens), total_tokens=read + len(tokens))
        return ModelOutput(model=self.model_name, choices=[choice], usage=usage)

    def _logprobs(self, start: Example, tokens: np.ndarray, n: int) -> Logprobs:
        """Of the tokens of a reply, each with the n most likely ones at its place."""
        if not len(tokens):
            return Logprobs(content=[])
        of_tokens = zip(tokens, *self.prompted.likely(start, tokens, n), strict=True)
        return Logprobs(
            content=[
                Logprob(
                    token=self.prompted.decode([token]),
                    logprob=float(own),
                    top_logprobs=[
                        TopLogprob(token=self.prompted.decode([other]), logprob=float(of_other))
                        for other, of_other in zip(ids, others, strict=True)
                    ]
                    or None,
                )
                for token, own, ids, others in of_tokens
            ]
        )

    def _start(self, messages: Sequence[ChatMessage]) -> Example:
        """What the model reads up to its reply: the messages in its chat template, or, without one, one behind the
        other with an empty line between them."""
        from soft_prompts.tasks.chat import rendered

        said = [_plain(message) for message in messages]
        tokenizer = self.prompted.model.tokenizer
        if self.chat_template and tokenizer.chat_template:
            said = [{**message, "content": message["content"].strip()} for message in said]
            text = rendered(tokenizer, said)
        else:
            text = "\n\n".join(message["content"] for message in said)
        if not self.place:
            return self.prompted.start(text, self.condition)
        of_user = [message["content"] for message in said if message["role"] == "user"]
        if not of_user:
            raise SoftPromptsError("place is user, but no message is a user's; leave place out.")
        return self.prompted.start(text, self.condition, text.rindex(of_user[-1]) + len(of_user[-1]))


@contextmanager
def _said_by_inspect() -> Iterator[None]:
    """Before the first request, Inspect prints the sentences of its own errors alone, and a traceback of others."""
    try:
        yield
    except SoftPromptsError as error:
        raise PrerequisiteError(str(error)) from error


def _check(tools: Sequence[ToolInfo], config: GenerateConfig) -> None:
    """Raises SoftPromptsError for what would change the answer and is not there."""
    if tools:
        raise SoftPromptsError(f"the task offers tools ({tools[0].name}), but models here answer with text alone.")
    for option, neutral in REFUSED.items():
        value = getattr(config, option)
        if value is not None and value != neutral:
            raise SoftPromptsError(
                f"{option} is {value!r}, but replies here are drawn from the whole distribution, one each, or are its "
                f"most likely tokens; leave {option} out."
            )


def _plain(message: ChatMessage) -> dict[str, str]:
    """Role and text of a message."""
    odd = [] if isinstance(message.content, str) else [c.type for c in message.content if c.type != "text"]
    if odd or message.role == "tool":
        raise SoftPromptsError(
            f"a message holds {', '.join(odd) or 'the answer of a tool'}, but only text can be read."
        )
    return {"role": message.role, "content": message.text}


def _numbers(condition: Any) -> tuple[float, ...]:
    """What a person wrote behind condition=, which Inspect gives as a number, a text or a list of them."""
    values = condition if isinstance(condition, list | tuple) else [condition]
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise SoftPromptsError(f"condition is {condition!r}, but must be numbers, such as 1500,1500.") from error
