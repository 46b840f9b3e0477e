"""How far is repeating one string for ever from a language model?

The prompt stands behind the beginning of any text. From there on the model must repeat a string without end. It reads
its own repetitions, as it does when it generates.

Expected: a word takes a token or two and a sentence a few more, since a repetition that has begun is easily kept up.
But a prompt can force a model to say anything. So each string has a control: as many random tokens. What a natural
string needs less than its control is what the model contributed. What both need is the prompt's own work.

    python -m tests.repetition_test pocket           # pocket, behind its own samples
    python -m tests.repetition_test                  # pythia behind RedPajama-V2, as published
    python -m tests.repetition_test pocket --strings "hello" "the sea"
"""

from dataclasses import replace

from soft_prompts import Sweep, TrainConfig, in_full, main, on_pocket, on_smollm2
from soft_prompts.pocket import SAMPLES
from soft_prompts.tasks.repetition import Repetition

# Models, lengths, strings, text, steps and batch of arXiv 2505.14943; the recipe is TrainConfig's own.
DEFAULT = Sweep(
    experiment="repetition",
    task=Repetition(text=("redpajama",)),
    models=tuple(f"EleutherAI/pythia-{size}-deduped" for size in ("70m", "160m", "410m")),
    n_tokens=(0, 1, 4, 16, 64),
    train=TrainConfig(steps=512, batch_size=256),
)
POCKET = replace(
    on_pocket(
        DEFAULT,
        Repetition(text=(str(SAMPLES),), strings=("pee",), continued=32),
        steps=80,
        batch_size=4,
        n_evaluations=0,
        eval_documents=48,
        validation_documents=24,
    ),
    n_tokens=(0, 1, 4),
)
# Four strings of random tokens instead of ten, for time's sake.
OF_BOOKS = Repetition(text=("books",), strings=("pee",), targets=tuple(range(5)), continued=16)
SMOLLM2 = on_smollm2(DEFAULT, OF_BOOKS)

if __name__ == "__main__":
    main(DEFAULT, __doc__, pocket=POCKET, pocket_full=in_full(POCKET, eval_documents=64), smollm2=SMOLLM2)
