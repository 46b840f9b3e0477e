"""How far is looking ahead from a language model?

At every position the model must say, not the next token, but the one k positions behind it (k = 0 would be ordinary
prediction). A model is trained to say the next token only, but much of what it computes is about later ones. Can a
prompt turn its output to them?

Expected: this is hard. A prompt shifts a whole distribution far more easily than it moves a position, so it learns the
unigram distribution first. Only a loss below the unigram baseline, and an accuracy above it, show that the model looked
ahead.

    python -m tests.skip_tokens_test pocket          # pocket on its own samples
    python -m tests.skip_tokens_test                 # pythia on RedPajama-V2, as published
"""

from soft_prompts import Sweep, TrainConfig, in_full, main, on_pocket, on_smollm2
from soft_prompts.pocket import SAMPLES
from soft_prompts.tasks.skip_tokens import SkipTokens

# Models, lengths, text, steps of 32 documents as in arXiv 2505.14943; the recipe is TrainConfig's own.
DEFAULT = Sweep(
    experiment="skip_tokens",
    task=SkipTokens(text=("redpajama",)),
    models=tuple(f"EleutherAI/pythia-{size}-deduped" for size in ("70m", "160m", "410m")),
    n_tokens=(0, 1, 4, 16, 64),
    train=TrainConfig(steps=1536),
)
POCKET = on_pocket(DEFAULT, SkipTokens(text=(str(SAMPLES),), skip=(1, 2)), steps=150)
SMOLLM2 = on_smollm2(DEFAULT, SkipTokens(text=("books",), skip=(1, 4)))

if __name__ == "__main__":
    main(DEFAULT, __doc__, pocket=POCKET, pocket_full=in_full(POCKET), smollm2=SMOLLM2)
