"""How far is a chat model from the base model it was made from?

A prompt is trained on plain text in front of a chat model. How much of the gap between the losses of the chat model and
of the base model does it close?

Expected: fine-tuning mostly changes how the model begins, so a few tokens that say "this is a text" undo much of it.
The replies to a battery of dialogues (friendly, rude, oddly constrained, in a role; ordinary and probing requests) turn
from answers that end into text that goes on. The gap is small compared with the differences between documents, so it
shows only when documents are paired.

    python -m tests.chat_detuning_test pocket        # pocket-chat towards pocket, on samples of pocket
    python -m tests.chat_detuning_test               # TinyLlama-Chat towards its base on RedPajama-V2, as published
"""

from dataclasses import replace

from soft_prompts import Sweep, TrainConfig, in_full, main, on_pocket, on_smollm2
from soft_prompts.pocket import SAMPLES
from soft_prompts.tasks.chat_detuning import ChatDetuning

# Models, lengths, text, steps of 32 documents as in arXiv 2505.14943; the recipe is TrainConfig's own.
DEFAULT = Sweep(
    experiment="chat_detuning",
    task=ChatDetuning(text=("redpajama",)),
    models=("TinyLlama/TinyLlama-1.1B-Chat-v1.0",),
    n_tokens=(0, 1, 4, 16, 64),
    train=TrainConfig(steps=2048),
)
POCKET = replace(
    on_pocket(DEFAULT, ChatDetuning(text=(str(SAMPLES),), base="pocket"), steps=150), models=("pocket-chat",)
)
# The model that it was made from is not at hand: a fine-tune on the same text says what can be reached.
SMOLLM2 = replace(on_smollm2(DEFAULT, ChatDetuning(text=("books",), base="none", reply_tokens=48)), anchor="lora")

if __name__ == "__main__":
    main(DEFAULT, __doc__, pocket=POCKET, pocket_full=in_full(POCKET, steps=100), smollm2=SMOLLM2)
