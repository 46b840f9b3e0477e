"""What does a soft prompt say? Texts are ranked by how nearly the model, behind them, predicts what it predicts behind
the prompt; and the prompt is put into sentences, which the model goes on with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.forward import forward_pass, pack
from soft_prompts.engine.prompted import Bench, PromptedModel, unprompted
from soft_prompts.errors import SoftPromptsError
from soft_prompts.hard.behaviour import Effort, searched
from soft_prompts.hard.legal import Legal
from soft_prompts.hard.search import narrow
from soft_prompts.interventions.base import Intervention
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load_beside
from soft_prompts.pocket import BACKWARDS
from soft_prompts.tasks.base import Task

LENGTH = 12
"""Tokens of a candidate text at most."""
READ = 24
"""Tokens that a model reads of what the prompt brings forth, to say what came before it."""
EACH = 32
"""Candidates of a kind."""
CHECKED = 16
"""Documents on which they are compared, at most: validation documents to choose, as many held-out ones to measure."""
SEARCHED, SEARCHED_ON = 1200, 4
"""Forward passes of a search for a text with a low loss, and training documents in each of its steps."""
FRAMES = (("", ""), ("Please ", "."), ("Repeat this: ", "\nAgain: "), ("The words ", " mean"))
"""What stands before and behind the prompt, when the model goes on with a sentence."""
CONTINUED = 24
"""New tokens behind a frame."""
LOGITS = 2**26
"""Held at once, at most."""
NOTHING, RANDOM = "no text", "random tokens"
TOLD, TOLD_WITHOUT = "told by pocket-backwards", "told by it without the prompt"
"""What a model says that was taught to tell what came before a passage: before what the prompt brings forth, and before
what the model says without a prompt."""


def retrodiction(bench: Bench, prompt: Intervention, task: Task) -> dict[str, Any] | None:
    """Find texts that do what a finished prompt does.

    Args:
        bench: Model and documents.
        prompt: Soft prompt or generator.
        task: What it was trained for.

    Returns:
        What a result records under "retrodiction"; None for a prompt of no tokens. "documents": those that texts are
        measured on. "texts": for every kind of candidate the one of the lowest divergence on validation documents:
        "kind", "tried" (how many), "text", "validation_divergence" and "median_divergence" (of all that were tried;
        nats per token), "document_divergences" (Kullback-Leibler divergence of the predictions behind the text from
        those behind the prompt, nats by document), "document_losses" (nats by document behind the text). "frames":
        "frame" and "continuation".

    Raises:
        SoftPromptsError: There are no validation documents to choose by.
    """
    if not prompt.n_tokens:
        return None
    chosen_on, measured_on = ([e for e in of if e.n_scored][:CHECKED] for of in (bench.validation, bench.held_out))
    if not chosen_on:
        raise SoftPromptsError("texts are chosen on validation documents; give some with --train.validation-documents.")
    model, texts = bench.model, []
    for kind, candidates in candidates_for(bench, prompt, task).items():
        if not candidates:
            continue
        sums = divergences(model, prompt, candidates, chosen_on, bench.token_budget)
        by_text = sums.sum(1) / sum(e.n_scored for e in chosen_on)
        best = int(np.argmin(by_text))
        (apart,) = divergences(model, prompt, [candidates[best]], measured_on, bench.token_budget)
        (scores,) = evaluate(model, [_said(model, candidates[best])], measured_on, bench.token_budget)
        text = model.tokenizer.decode(candidates[best], clean_up_tokenization_spaces=False)
        texts.append(
            {
                "kind": kind,
                "tried": len(candidates),
                "text": text,
                "validation_divergence": float(by_text[best]),
                "median_divergence": float(np.median(by_text)),
                "document_divergences": apart.round(4).tolist(),
                "document_losses": scores.sums.round(4).tolist(),
            }
        )
    return {"documents": [e.document for e in measured_on], "texts": texts, "frames": framed(bench, prompt)}


def candidates_for(bench: Bench, prompt: Intervention, task: Task) -> dict[str, list[list[int]]]:
    """Kind of text -> candidates, tokens each. All are read back as the same tokens, so they can be typed."""
    random = torch.Generator().manual_seed(0)
    legal = Legal.of(bench.model)
    documents = list(islice(task.examples("train", bench.encoding, 0), EACH))
    starts = [e.prefix(e.insert_at) for e in documents]
    said = PromptedModel(bench, prompt).generate(starts, READ, temperature=1.0)
    with torch.no_grad():
        rows = prompt(torch.from_numpy(documents[0].condition[None]).to(bench.model.device))[0]
    short = len(rows) <= LENGTH

    def by_the_loss() -> list[list[int]]:
        (attempt,) = searched(bench, task, legal, narrow, len(rows), Effort((1,), SEARCHED, SEARCHED_ON))
        return [attempt.prompt.tolist()]

    teller = _teller(bench.model)
    found = {
        NOTHING: [[]],
        RANDOM: [legal.random(min(LENGTH, 2 * len(rows)), random).tolist() for _ in range(EACH)],
        "the prompt's nearest tokens": [legal.nearest(rows).tolist()] if short else [],
        "what the model says behind the prompt": [tokens[:LENGTH].tolist() for tokens in said if len(tokens)],
        TOLD: told(teller, bench, said),
        TOLD_WITHOUT: told(teller, bench, unprompted(bench).generate(starts, READ, temperature=1.0)),
        "openings of training documents": [e.tokens[e.insert_at :][:LENGTH].tolist() for e in documents],
        "searched by the loss": by_the_loss() if short else [],
    }
    return {kind: [tokens for tokens in of if _typed(legal, tokens)] for kind, of in found.items()}


def question(separator: int, passage: Sequence[int]) -> list[int]:
    """What a model that was taught so (pocket/backwards.py) goes on with the text that came before a passage."""
    return [separator, *passage, separator]


def told(teller: LanguageModel | None, bench: Bench, passages: Sequence[np.ndarray]) -> list[list[int]]:
    """What a model that was taught so says came before each passage of tokens; nothing if there is no such model."""
    if teller is None:
        return []
    asked = [np.array(question(teller.separator, tokens.tolist())) for tokens in passages if len(tokens)]
    starts = [Example(tokens, np.full(len(tokens), IGNORE), "") for tokens in asked]
    drawn = unprompted(replace(bench, model=teller)).generate(starts, LENGTH, temperature=1.0)
    return [tokens.tolist() for tokens in drawn if len(tokens)]


def _teller(model: LanguageModel) -> LanguageModel | None:
    """The model that ships and tells what came before, if it reads the tokens of this one."""
    (name,) = BACKWARDS
    teller = load_beside(name, model)
    return teller if teller.tokenizer_hash == model.tokenizer_hash else None


def _typed(legal: Legal, tokens: list[int]) -> bool:
    """Whether tokens are a text; a model can also write those that its tokenizer does not know."""
    known = all(token < len(legal.mask) for token in tokens)
    return known and (not tokens or bool(legal.mask[tokens].all() and legal.survives(torch.tensor([tokens]))[0]))


def _said(model: LanguageModel, tokens: Sequence[int]) -> SoftPrompt:
    """A text in the place of a prompt."""
    ids = torch.tensor(tokens, dtype=torch.long, device=model.device)
    return SoftPrompt(model.vocabulary[ids].float()).to(model.device)


@torch.no_grad()
def divergences(
    model: LanguageModel,
    prompt: Intervention,
    texts: Sequence[Sequence[int]],
    examples: Sequence[Example],
    token_budget: int,
) -> np.ndarray:
    """Kullback-Leibler divergence of the predictions behind texts from those behind a prompt, at scored tokens.

    Args:
        model: The frozen model.
        prompt: What the texts are compared with.
        texts: Tokens of each, where the prompt would stand.
        examples: The documents.
        token_budget: Positions in one pass at most.

    Returns:
        Nats [texts, documents], summed over each document's scored tokens.
    """
    budget = max(1, min(token_budget, LOGITS // model.head.out_features))

    def predictions(behind: Sequence[Intervention]) -> Iterator[tuple[tuple[int, int], torch.Tensor]]:
        """(which, document) and log-probabilities [n scored, V], one after another."""
        of_each = [examples] * len(behind)
        for rows in pack(behind, of_each, budget):
            states = forward_pass(model, behind, of_each, rows)
            yield from zip(rows, model.head(states.hidden).float().log_softmax(-1).split(states.counts), strict=True)

    wanted = {document: found for (_, document), found in predictions([prompt])}
    sums = np.zeros((len(texts), len(examples)))
    for (which, document), found in predictions([_said(model, tokens) for tokens in texts]):
        sums[which, document] = (wanted[document].exp() * (wanted[document] - found)).sum().item()
    return sums


def framed(bench: Bench, prompt: Intervention) -> list[dict[str, str]]:
    """What the model says, most likely token by token, where the prompt stands in a sentence."""
    tokenizer, condition = bench.model.tokenizer, bench.held_out[0].condition
    starts, found = [], []
    for before, behind in FRAMES:
        first, last = (
            tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in (before, behind)
        )
        tokens = np.array([bench.model.separator, *first, *last])
        labels = np.full(len(tokens), IGNORE)
        starts.append(Example(tokens, labels, "", condition=condition, insert_at=1 + len(first)))
    prompted = PromptedModel(bench, prompt)
    for (before, behind), new in zip(FRAMES, prompted.generate(starts, CONTINUED), strict=True):
        found.append({"frame": f"{before}[prompt]{behind}", "continuation": prompted.decode(new)})
    return found
