"""Do soft prompts reach what activation steering reaches?

pocket is steered by a vector that is added to what its second layer passes on, at every position: the mean difference
between games and prose. The steered model wrote texts. A prompt is trained to predict them; what its loss lacks to the
steered model's own is the divergence of the two models' predictions. Beside it: how near the activations come.

Expected: a prompt says "games" in a few tokens, and so takes most of the divergence away. But a vector at every
position is no input, so some is left at any length; and the activations hardly come nearer, since there are other ways
to the same predictions.

    python -m tests.imitation_test pocket
    python -m tests.imitation_test --steering my-vector.safetensors --text my-texts.jsonl
"""

from dataclasses import replace

from soft_prompts import Sweep, TrainConfig, main, on_pocket
from soft_prompts.tasks.imitation import Imitation

DEFAULT = Sweep(
    experiment="imitation",
    task=Imitation(),
    models=("pocket",),
    n_tokens=(0, 1, 4, 16, 64),
    train=TrainConfig(steps=1024, max_tokens=48),
)
POCKET = replace(on_pocket(DEFAULT, Imitation(), max_tokens=48), n_tokens=(0, 1, 4, 16, 64), control_seeds=1)

if __name__ == "__main__":
    main(DEFAULT, __doc__, pocket=POCKET)
