"""Dialogues in a model's own chat template, and the models that a chat model was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.names import model_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from soft_prompts.models.language_model import LanguageModel


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> str:
    """A dialogue up to the model's next reply, in its chat template, without the token that opens every text.

    If the template knows no system role, which it says or passes over in silence, a system message at the beginning
    opens the user's first one.

    Args:
        tokenizer: The model's.
        messages: "role" and "content" of each.

    Raises:
        SoftPromptsError: The tokenizer has no chat template, or one that cannot be used.
    """
    from jinja2 import TemplateError

    name = model_name(tokenizer.name_or_path)
    if not tokenizer.chat_template:
        raise SoftPromptsError(f"the tokenizer of {name!r} has no chat template; give a chat model with --models.")
    ways = [list(messages)]
    if [m["role"] for m in messages[:2]] == ["system", "user"]:
        system, user = (m["content"] for m in messages[:2])
        ways.append([{"role": "user", "content": f"{system}\n\n{user}"}, *messages[2:]])
    cause = "it leaves the messages out"
    for way in ways:
        try:
            text = tokenizer.apply_chat_template(way, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            cause = str(error)
        else:
            if all(m["content"] in text for m in messages):
                return text.removeprefix(tokenizer.bos_token or "")
    raise SoftPromptsError(
        f"the chat template of {name!r} cannot be used ({cause}); correct chat_template in its tokenizer."
    )


def opened(system: str, user: str) -> list[dict[str, str]]:
    """The messages of a dialogue that a user opens. A system message of "" is none."""
    of_user = {"role": "user", "content": user}
    return [{"role": "system", "content": system}, of_user] if system else [of_user]


def related(name: str, option: str, model: LanguageModel) -> LanguageModel:
    """The model that another one was made from, on the same device and in the same precision.

    Args:
        name: Its name.
        option: Where the name was given, for the error.
        model: The one that was made from it.

    Raises:
        SoftPromptsError: It cannot be loaded, or has another tokenizer.
    """
    from soft_prompts.models.loading import load_beside  # brings torch and transformers, which take long to import

    found = load_beside(name, model)
    if found.tokenizer_hash != model.tokenizer_hash:
        raise SoftPromptsError(
            f"the model {name!r} has another tokenizer than {model.name!r}; give with {option} the model that "
            f"{model.name!r} was made from."
        )
    return found
