"""Measure a prompt that was trained elsewhere, with PEFT say: `python -m soft_prompts.measure FOLDER ...`."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

from soft_prompts.console import ends_in_a_sentence, interrupts_end_in_a_sentence, warn
from soft_prompts.errors import SoftPromptsError

HELP = """Measure a trained prompt as an experiment measures its own: loss, scores, bits, contribution.

    python -m soft_prompts.measure FOLDER tests.autoregressive_test [preset] [options]
    python -m soft_prompts.measure my-adapter --models pocket tests.chess_test pocket

FOLDER: a folder of PEFT's prompt tuning, or a snapshot of a prompt without conditions. The options are those of the
experiment; --models is needed unless the adapter names its model. Nothing is trained. PEFT puts a prompt before
everything, so it is measured before the token that opens every text, unless its first row is the embedding of such a
token, as `python -m soft_prompts.export` writes it.
"""


def main(arguments: list[str]) -> None:
    """Run an experiment on a prompt that is there already.

    Raises:
        SoftPromptsError: The prompt, the model or the experiment cannot be read.
    """
    if not arguments or set(arguments[:1]) & {"-h", "--help"}:
        print(HELP)
        return
    path, *others = arguments
    script = next((word for word in others if re.fullmatch(r"[\w.]+_test", word)), None)
    if not script:
        raise SoftPromptsError("no experiment is named, such as tests.autoregressive_test; --help has examples.")
    at = others.index(script)
    before, behind = others[:at], others[at + 1 :]
    preset = behind[:1] if behind and not behind[0].startswith("-") else []
    options = [*before, *behind[len(preset) :]]
    sys.argv = [script, *preset, *_options(Path(path), options), *options]
    try:
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    except ImportError as error:
        raise SoftPromptsError(f"there is no experiment {script!r} here ({error}); run this beside tests/.") from error


def _options(path: Path, options: list[str]) -> list[str]:
    """What makes an experiment measure the prompt as it is."""
    from soft_prompts.interventions.given import base_model, given_prompt
    from soft_prompts.models.loading import load
    from soft_prompts.models.names import split_revision

    named = options[options.index("--models") + 1 :][:1] if "--models" in options else [base_model(path)]
    if not named or not named[0]:
        raise SoftPromptsError(f"{path} does not say to which model it belongs; name it with --models.")
    model = load(*split_revision(named[0]))
    given = given_prompt(path, model.vocabulary, model.tokenizer.all_special_ids)
    opener = model.tokenizer.convert_ids_to_tokens(model.separator if given.opener is None else given.opener)
    if given.before and model.tokenizer("a")["input_ids"][:1] != [model.separator]:
        warn(
            f"the tokenizer of {model.name!r} opens no text by itself, so PEFT would have put this prompt before the "
            f"text alone; here {opener} stands between them."
        )
    found = ["--n-tokens", "0", str(len(given.rows)), "--seeds", "0", "--controls", "--train.steps", "0"]
    found += ["--train.init-from", str(path), "--separator", opener, *["--train.before"] * given.before]
    return found if "--models" in options else [*found, "--models", *named]


def command() -> None:
    """The command line."""
    interrupts_end_in_a_sentence()
    with ends_in_a_sentence():
        main(sys.argv[1:])
