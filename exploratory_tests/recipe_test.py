"""Which learning rate, initialiser and schedule train a soft prompt best, and does the answer depend on its length?

The prompts are conditional chess prompts on a small trained model. Each variant changes one thing from the default
recipe. The verdict is in exploratory_tests/README.md, and the defaults of TrainConfig follow it.

    python -m exploratory_tests.recipe_test --models path/to/stories260K --games games.pgn.zst
"""

from soft_prompts import Sweep, TrainConfig, main
from soft_prompts.tasks.chess_moves import ChessMoves

DEFAULT = Sweep(
    experiment="recipe",
    task=ChessMoves(continued_from=()),
    models=("path/to/stories260K",),
    n_tokens=(1, 4, 16, 64),
    seeds=(0,),
    controls=(),
    train=TrainConfig(lr=0.1, steps=300, batch_size=8, max_tokens=128, n_evaluations=3, eval_documents=256),
    recipes=(
        {},
        *({"lr": lr} for lr in (0.01, 0.03, 0.3, 1.0)),
        *({"init": init} for init in ("normal", "zeros")),
        {"init": "text", "init_text": "A game of chess: e2e4 e7e5 g1f3 b8c6"},
        {"schedule": "constant"},
        # As good as no clipping.
        {"clip_norm": 1e9},
        # As published: 1e-3 in this model's own units.
        {"init": "zeros", "schedule": "constant", "lr": 0.0032},
    ),
)

if __name__ == "__main__":
    main(DEFAULT, __doc__)
