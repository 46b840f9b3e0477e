"""How far is finding a way through a board from a language model?

The model reads a board of letters (start A, goal B, free O, walls X). It must write moves (N E S W) that lead from A to
B, then D; or U if there is no way. The prompt is made from how good the path must be: moves beyond the shortest path,
and bumps into walls.

Expected: the notation takes a token or two, and moving in the right direction a few more. Looking ahead around walls is
more than small models can do, so the loss levels off above what paths of known quality need, and the share of optimal
paths falls with their length. If worse paths are asked for, the model walks worse ones.

    python -m tests.pathfinding_test pocket          # pocket, which knows mazes in another notation
    python -m tests.pathfinding_test                 # pythia, as published; needs a GPU and a hub
    python -m tests.pathfinding_test pocket --width 4 --height 4 --no-spaces
"""

from soft_prompts import Sweep, TrainConfig, in_full, main, on_pocket, on_smollm2
from soft_prompts.tasks.pathfinding import Pathfinding

# Models, lengths, boards, steps and batch of arXiv 2505.14943; the recipe is TrainConfig's own.
DEFAULT = Sweep(
    experiment="pathfinding",
    task=Pathfinding(),
    models=tuple(f"EleutherAI/pythia-{size}-deduped" for size in ("70m", "160m", "410m")),
    n_tokens=(0, 1, 4, 16, 64),
    train=TrainConfig(steps=2048, batch_size=256),
)
POCKET = on_pocket(
    DEFAULT,
    Pathfinding(width=5, height=5, walked=96, walked_asked=16),
    steps=500,
    n_evaluations=2,
    eval_documents=128,
    validation_documents=64,
)
SMOLLM2 = on_smollm2(DEFAULT, Pathfinding(width=5, height=5, walked=24, walked_asked=4), batch_size=8)

if __name__ == "__main__":
    main(DEFAULT, __doc__, pocket=POCKET, pocket_full=in_full(POCKET), smollm2=SMOLLM2)
