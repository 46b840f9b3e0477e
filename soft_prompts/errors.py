"""The one exception a person is meant to read."""


class SoftPromptsError(Exception):
    """Bad input or an impossible request: one sentence with the value that is wrong and what to do about it.

    Command lines print the sentence and exit with code 2; anything else that escapes is a defect of this project.
    """


ODD_CONTENT = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What libraries raise about a file whose content is not what it should be; a RecursionError is a RuntimeError."""
