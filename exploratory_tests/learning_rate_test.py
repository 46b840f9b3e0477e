"""Does a larger learning rate stay ahead at few tokens when training is longer?

In recipe_test.py, after 300 steps and with one seed, 0.3 was ahead of 0.1 at 4 and 16 tokens, and behind at 64.

Expected: a larger rate is mostly faster. So the gap at few tokens closes with longer training, and at 64 tokens the
smaller rate stays ahead.

    python -m exploratory_tests.learning_rate_test --models path/to/stories260K --games games.pgn.zst
"""

from dataclasses import replace

from exploratory_tests import recipe_test
from soft_prompts import main

DEFAULT = replace(
    recipe_test.DEFAULT,
    experiment="learning_rate",
    n_tokens=(4, 16, 64),
    seeds=(0, 1),
    train=replace(recipe_test.DEFAULT.train, steps=800),
    recipes=({}, {"lr": 0.3}),
)

if __name__ == "__main__":
    main(DEFAULT, __doc__)
