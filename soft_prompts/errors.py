"""The one exception a person is meant to read."""


class SoftPromptsError(Exception):
    """Bad input or an impossible request: one sentence with the value that is wrong and what to do about it.

    Command lines print the sentence and exit with code 2; anything else that escapes is a defect of this project.
    """
