"""How far is saying one thing for ever from a language model?

Behind any text, and behind a prompt placed there, the model is to repeat a string without end, reading its own
repetitions as it will when it generates. Expected: a word takes a token or two and a sentence a few more, for a
repetition once begun is easily kept up. A prompt can force a model to say anything, so the strings have a control each:
as many random tokens. What a natural string takes less than its control is what the model contributed; what both take
is the prompt's own doing.

    python -m tests.repetition_test pocket              # pocket, behind its own samples
    python -m tests.repetition_test                     # pythia behind RedPajama-V2, as published
    python -m tests.repetition_test pocket --strings "hello" "the sea"
"""

from soft_prompts import Sweep, TrainConfig, main, on_pocket
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
POCKET = on_pocket(
    DEFAULT,
    Repetition(text=(str(SAMPLES),)),
    steps=80,
    batch_size=4,
    max_tokens=128,
    eval_documents=64,
    n_evaluations=0,
)

if __name__ == "__main__":
    main(DEFAULT, __doc__, pocket=POCKET)
