"""What experiments on dictionaries of features share: the texts that both models read, the seeds, and the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_prompts.console import say
from soft_prompts.data.documents import document_id
from soft_prompts.data.requests import read_requests
from soft_prompts.errors import SoftPromptsError
from soft_prompts.options import recorded
from soft_prompts.pocket import SAMPLES
from soft_prompts.probes.recipe import DictionaryRecipe
from soft_prompts.records import ModelOptions, load_records, place, save_record
from soft_prompts.stats import estimated, two_level_draws
from soft_prompts.stopwatch import CLOCK, in_words
from soft_prompts.texts import ANIMALS_OF, BOOKS

if TYPE_CHECKING:
    from soft_prompts.models.language_model import LanguageModel
    from soft_prompts.probes.moved import Pair, Texts

EXPERIMENT = "attribution"
"""As the results of all of them are called; what was asked is in the names of their files."""
UP_TO = {"held_out": 0.1, "validation": 0.2, "train": 1.0}
"""A split holds the texts whose hash lies between the share before it and its own."""
UP_TO_OF_FEW = {"held_out": 0.45, "validation": 0.6, "train": 1.0}
"""Of dialogues, of which there are few."""


@dataclass(frozen=True)
class PairOptions(ModelOptions):
    """Options of what is read and how often; subclasses add what is measured."""

    tuned: str = "pocket-chat"
    """The fine-tune of the model, with the same tokenizer."""
    text: tuple[str, ...] = (str(SAMPLES), str(BOOKS))
    """Files of texts that both models read."""
    dialogues: str = str(ANIMALS_OF["pocket-chat"])
    """A file of requests with replies, which they read as well, in the fine-tune's chat template."""
    max_documents: int = 800
    """Of each file, from the start."""
    max_tokens: int = 64
    """Tokens of a text that are read, separator included."""
    held_out: int = 24
    """Held-out documents of each file, the first by hash, and as many for validation."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of dictionaries, and of what else is trained."""
    device: str = "cpu"
    """Dictionaries are trained and used on the processor."""

    def check(self) -> None:
        """Raises SoftPromptsError if an option cannot work."""
        for option, n in {"--held-out": self.held_out, "--seeds": len(self.seeds)}.items():
            if n < 1:
                raise SoftPromptsError(f"{option} is {n}; give at least one.")
        if self.device != "cpu":
            raise SoftPromptsError(
                f"--device is {self.device!r}, but features are looked at on the processor; give cpu."
            )
        if self.max_tokens < 8:
            raise SoftPromptsError(f"--max-tokens is {self.max_tokens}; give at least 8.")

    def asked(self, model: str, ask: str, recipe: DictionaryRecipe) -> dict[str, Any]:
        """What every result depends on but for the seed, as plain JSON.

        Args:
            model: As it was given.
            ask: What is asked of the dictionary.
            recipe: Of the dictionary.
        """
        from soft_prompts.data.texts import source_identity

        files = (*self.text, self.dialogues)
        return {
            **self.config(EXPERIMENT, model),
            "ask": ask,
            "texts": [Path(file).name for file in files],
            "files": [source_identity(file) for file in files],
            "max_documents": self.max_documents,
            "max_tokens": self.max_tokens,
            "held_out": self.held_out,
            "dictionary": recorded(recipe),
        }


def result_file(ask: str, seed: int | str) -> str:
    """Name of the file of a seed's result."""
    return f"{ask}-seed-{seed}.json"


def run_seeds(
    settings: PairOptions,
    config_of: Callable[[str], dict[str, Any]],
    measure: Callable[[Pair, dict[str, Any], int], dict[str, Any]],
    table: Callable[[Path], str],
) -> None:
    """Measure what has no result yet, seed by seed, and show what was found.

    Args:
        settings: What is read, and how often.
        config_of: What the results on a model depend on.
        measure: Measures a model and its fine-tune, given that and a seed.
        table: Shows the results in a folder.

    Raises:
        SoftPromptsError: An option cannot work, or a model cannot be loaded.
    """
    settings.check()
    settings.begin()
    from soft_prompts.results.provenance import provenance

    for model in settings.models:
        config = config_of(model)
        folder = settings.out / "results" / place(config)
        pair: Pair | None = None  # it is loaded once, when it is first needed
        for seed in settings.seeds:
            path = folder / result_file(config["ask"], seed)
            if settings.force or not path.exists():
                pair = pair or _loaded(settings, model, config["dtype"])
                found = measure(pair, config, seed)
                documents = {split: len(getattr(pair.texts, split)) for split in UP_TO}
                origin = provenance(pair.model, {"documents": documents, "sparsify": version("eai-sparsify")}, 1)
                save_record(path, {"config": config, "seed": seed, **found, "provenance": origin})
        print(table(folder))
        say(f"results: {folder}")
    say(f"time: {in_words(CLOCK.read())}")


def _loaded(settings: PairOptions, name: str, dtype: str) -> Pair:
    """The model, its fine-tune and the texts.

    Raises:
        SoftPromptsError: One of them cannot be loaded, or they do not belong together.
    """
    from soft_prompts.models.loading import load
    from soft_prompts.models.names import split_revision
    from soft_prompts.probes import dictionary
    from soft_prompts.probes.moved import Pair

    dictionary.sparsify()  # says what to install before anything is loaded
    with CLOCK.stage("loading"):
        model, tuned = (load(*split_revision(one), dtype=dtype, device="cpu") for one in (name, settings.tuned))
    if model.tokenizer_hash != tuned.tokenizer_hash:
        raise SoftPromptsError(f"{tuned.name} has another tokenizer than {model.name}; give a fine-tune of it.")
    return Pair(model, tuned, texts_of(settings, tuned))


def texts_of(settings: PairOptions, tuned: LanguageModel) -> Texts:
    """The texts and dialogues of all splits, tokenised.

    Raises:
        SoftPromptsError: A file cannot be read, or too few texts are left for a split.
    """
    from soft_prompts.data.documents import Encoding
    from soft_prompts.data.texts import read_documents
    from soft_prompts.probes.moved import Texts

    encoding = Encoding(tuned.tokenizer, tuned.separator, settings.max_tokens)
    splits: dict[str, list[np.ndarray]] = {split: [] for split in UP_TO}
    kinds: list[str] = []
    for source in (*settings.text, settings.dialogues):
        if source == settings.dialogues:
            few, shares = list(_dialogues(source, tuned)), UP_TO_OF_FEW
        else:
            few, shares = read_documents((source,), None, settings.max_documents, 2**14, None).documents, UP_TO
        few = sorted(few, key=document_id)
        tokens = [row[: settings.max_tokens] for row in encoding.tokens(few)[0]]
        low = 0.0
        for split, high in shares.items():
            own = [
                row
                for text, row in zip(few, tokens, strict=True)
                if low * 2**64 <= int(document_id(text), 16) < high * 2**64 and len(row) > 2
            ]
            own = own if split == "train" else own[: settings.held_out]
            if len(own) < 2:
                raise SoftPromptsError(f"{source} has {len(own)} documents for the split {split}; give one with more.")
            splits[split] += own
            kinds += [Path(source).name.partition(".")[0]] * len(own) if split == "held_out" else []
            low = high
    return Texts(**splits, kinds=kinds)


def _dialogues(source: str, tuned: LanguageModel) -> Iterator[str]:
    from soft_prompts.tasks.chat import opened, rendered

    for request in read_requests(source)[:]:
        yield rendered(tuned.tokenizer, opened("", request.request)) + request.reply


def found_in(folder: Path, ask: str) -> list[dict[str, Any]]:
    """The results of one question below a folder, by seed.

    Raises:
        SoftPromptsError: There are none, or a file is none, or they do not belong together.
    """
    found = load_records(folder, result_file(ask, "*"), EXPERIMENT, ["tokens"])
    if any(one["config"] != found[0]["config"] for one in found):
        raise SoftPromptsError(f"{folder} holds results of several settings; give the folder of one of them.")
    return sorted(found, key=lambda one: one["seed"])


def share(parts: Sequence[Any], wholes: Sequence[Any], tokens: Sequence[int]) -> dict[str, Any]:
    """1 - part / whole with its interval over documents and seeds, such as the share of a gap that is closed.

    Args:
        parts: Sums by document for each seed, [seeds, documents].
        wholes: Likewise.
        tokens: Of each document.
    """
    both = [np.asarray(x, float) for x in (parts, wholes)]
    draws = two_level_draws(both, np.asarray(tokens, float))
    return estimated(1 - both[0].sum() / both[1].sum(), 1 - draws[:, 0] / draws[:, 1])
