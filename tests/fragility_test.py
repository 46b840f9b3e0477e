"""How exactly must a prompt be said?

Noise is added to a trained prompt, some of its tokens are left out, or all are shuffled. How much of its gain is left?
The noise that takes half of it, in units of each row's norm, is the prompt's fragility in one number. Beside it stand
the slope and the curvature of the loss, along random directions and along the gradient.

Every behaviour is a preset on pocket. Any experiment measures the same on prompts that it has trained before:
--probes fragility.

Expected: what is near is a wide valley, since many prompts bring it out; so fragility rises with distance.

    python -m tests.fragility_test pocket                # chess
    python -m tests.fragility_test repetition            # or text, skip, detuning, pathfinding
    python -m tests.fragility_test                       # chess on pythia, as published; needs a GPU
    python -m tests.chess_test pocket --probes fragility # of finished prompts
    python -m soft_prompts.report results/fragility_*    # is it correlated with distance?
"""

from dataclasses import replace
from functools import partial

from soft_prompts import main, probed

from . import (
    autoregressive_test,
    chat_detuning_test,
    chess_test,
    pathfinding_test,
    repetition_test,
    skip_tokens_test,
)

fragile = partial(probed, probe="fragility")
DEFAULT = fragile(chess_test.DEFAULT)
POCKET = fragile(chess_test.POCKET)
OTHERS = {
    "text": replace(fragile(autoregressive_test.POCKET), models=("pocket-chat",)),
    "skip": fragile(skip_tokens_test.POCKET, skip=(1,)),
    "repetition": fragile(repetition_test.POCKET, targets=(0,)),
    "detuning": fragile(chat_detuning_test.POCKET),
    "pathfinding": fragile(pathfinding_test.POCKET),
    "smollm2": fragile(chess_test.SMOLLM2),
}

if __name__ == "__main__":
    main(DEFAULT, __doc__, pocket=POCKET, **OTHERS)
