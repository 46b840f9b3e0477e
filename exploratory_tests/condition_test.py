"""Is a condition used where it says something?

The published chess prompts are told both players' ratings, and pocket's hardly use them. Either ratings say nothing of
the moves, or the prompt generator cannot make use of a condition. Here prompts are told where the first move of each
side goes to, which says something of every game; all else is as in the chess experiment.

Expected: other games' openings cost nats (a positive opening_effect), and more with more tokens. Other games' ratings
cost none.

    python -m exploratory_tests.condition_test
    python -m exploratory_tests.condition_test --condition ratings
    python -m exploratory_tests.condition_test smollm2
"""

from dataclasses import replace

from soft_prompts import Sweep, main
from tests import chess_test


def told_openings(chess: Sweep) -> Sweep:
    """A chess experiment whose prompts are told openings. What is asked is told by other games' openings, so no control
    has a part in it."""
    task, train = replace(chess.task, condition="opening"), replace(chess.train, eval_documents=200)
    return replace(chess, experiment="condition", controls=(), task=task, train=train)


DEFAULT = told_openings(chess_test.POCKET)

if __name__ == "__main__":
    main(DEFAULT, __doc__, smollm2=told_openings(chess_test.SMOLLM2))
