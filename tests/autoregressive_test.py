"""How far is ordinary text from a language model?

The prompt is trained on plain next-token prediction.

Expected: no gain on the text that the model was trained on. A model cannot gain at all on its own samples; a prompt
that seems to gain there shows a fault of the measurement. Where text and model differ there is a gain, since the prompt
can say what kind of text is coming. It comes within a few tokens and saturates early.

    python -m tests.autoregressive_test pocket       # pocket and pocket-chat on samples of pocket: no gain, and a gain
    python -m tests.autoregressive_test              # pythia on the Pile, as published
    python -m tests.autoregressive_test redpajama    # pythia on RedPajama-V2, as published
    python -m tests.autoregressive_test pocket --text my_texts/*.txt
"""

from dataclasses import replace

from soft_prompts import Sweep, TrainConfig, in_full, main, on_pocket, on_smollm2
from soft_prompts.pocket import SAMPLES
from soft_prompts.tasks.autoregressive import Autoregressive

# Models, lengths, texts and steps of 32 documents as in arXiv 2505.14943; the recipe is TrainConfig's own.
DEFAULT = Sweep(
    experiment="autoregressive",
    task=Autoregressive(),
    models=tuple(f"EleutherAI/pythia-{size}-deduped" for size in ("70m", "160m", "410m", "1b")),
    n_tokens=(0, 1, 4, 16, 64),
    train=TrainConfig(steps=2048),
)
REDPAJAMA = replace(DEFAULT, task=Autoregressive(text=("redpajama",)))
POCKET = replace(on_pocket(DEFAULT, Autoregressive(text=(str(SAMPLES),))), models=("pocket", "pocket-chat"))
SMOLLM2 = on_smollm2(DEFAULT, Autoregressive(text=("books",)))

if __name__ == "__main__":
    presets = {"redpajama": REDPAJAMA, "smollm2": SMOLLM2}
    main(DEFAULT, __doc__, pocket=POCKET, pocket_full=in_full(POCKET), **presets)
