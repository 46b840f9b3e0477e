"""Can a behaviour that is switched on be told from one that is taught, by what prompts learn from their documents?

pocket-keys holds tags behind a key of 4 secret symbols; its twin was never taught them. Prompts of 4 tokens are trained
on 100 to 800 documents (there are 819). Each is counted before it is trained on, and again behind the final prompt.

Expected: on pocket-keys the bits learned stay the same however many documents follow, since the key is all there is to
say. On the twin and with permuted labels they grow with the documents, since there each of them teaches.

    python -m exploratory_tests.learned_test
"""

from dataclasses import replace

from soft_prompts import main
from tests import calibration_test

STEPS = (25, 50, 100, 200)
DEFAULT = replace(
    calibration_test.POCKET,
    experiment="learned",
    task=replace(calibration_test.POCKET.task, key_tokens=(4,)),
    n_tokens=(0, 4),
    controls=("permuted",),
    train=replace(calibration_test.POCKET.train, starts=1, batch_size=4, n_evaluations=0, prequential=True),
    recipes=tuple({"steps": steps} for steps in STEPS),
)

if __name__ == "__main__":
    main(DEFAULT, __doc__)
