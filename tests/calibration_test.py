"""Does the measured distance come out where it is known?

pocket-keys was taught to write tags behind a secret key: every token of the key decides one tag, from its own place.
So a prompt of k tokens brings out the tags of a key of k tokens, and a shorter one has no place for all of them.
pocket-keys-untaught read the same rows and was never taught the tags.

Expected: on pocket-keys the loss falls until P = k and no further, for k = 1, 2, 4 and 8, down to the loss behind the
key itself. On its twin no prompt brings anything that counting does not.

    python -m tests.calibration_test pocket          # the same as without the word: these models are changes to pocket
    python -m tests.calibration_test --key-tokens 4 --n-tokens 0 1 2 3 4 5 6
"""

from dataclasses import replace

from soft_prompts import Sweep, main, on_pocket
from soft_prompts.tasks.calibration import Calibration

PUBLISHED = Sweep(experiment="calibration", task=Calibration(), models=("pocket-keys",), n_tokens=(0, 1, 2, 4, 8, 16))
# A start that gets stuck finds the tag of all places but one; four starts and large steps hardly ever do.
SEARCH = {"steps": 85, "lr": 0.3, "starts": 4, "n_evaluations": 0}
POCKET = replace(
    on_pocket(PUBLISHED, Calibration(), **SEARCH, max_tokens=16, eval_documents=280, validation_documents=24),
    models=("pocket-keys", "pocket-keys-untaught"),
    n_tokens=(0, 1, 2, 4, 8, 16),
    control_seeds=1,  # counting is ahead of the scrambled model everywhere, so its luck changes nothing
)
DEFAULT = POCKET

if __name__ == "__main__":
    main(DEFAULT, __doc__, pocket=POCKET)
