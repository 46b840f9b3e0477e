"""What is suspect about a curve, in a sentence each, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Sequence

REMEDIES = {
    r"search not exhausted": "More steps or another start would lower the loss, so the behaviour may be nearer than it "
    "looks. Train for longer (--train.steps, --doublings) or with another rate (--train.lr).",
    r"one seed": "The luck of training is not in the intervals. Run three seeds or more (--seeds 0 1 2).",
    r"seeds disagree": "The luck of training moves the loss more than the choice of documents does. Run more seeds, or "
    "train until the seeds agree (--train.steps).",
    r"random targets have as low a loss": "At this length the prompt alone brings out any target, so the loss says "
    "nothing of the model. Trust shorter prompts only, or ask for a longer target.",
    r"worse than P=": "A longer prompt can do all that a shorter one does, so its training fell short. Train it for "
    "longer (--train.steps) or at a lower rate (--train.lr).",
    r"seeds on other documents left out": "They do not pair with the others. Run them again with the same data and "
    "options (--force).",
    r"other documents": "This length was scored on other documents than the first, so the two do not pair. Run it "
    "again with the same data and options (--force).",
    r"worse than ": "Counting the training documents predicts better than the model behind this prompt, so nothing is "
    "seen of the model. Take longer prompts, more steps, or a model that can do more.",
}
"""What a flag holds -> what it means and the remedy. The first that fits counts."""


def remedies(flags: Sequence[str]) -> list[tuple[str, str]]:
    """Flags that have one remedy, joined, each with its sentence.

    Args:
        flags: As ``Summary.flags`` has them.
    """
    by_sentence: dict[str, list[str]] = {}
    for flag in flags:
        sentence = next((said for held, said in REMEDIES.items() if re.search(held, flag)), "")
        by_sentence.setdefault(sentence, []).append(flag)
    return [("; ".join(joined), sentence) for sentence, joined in by_sentence.items()]
