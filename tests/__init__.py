"""The experiments, run as `python -m tests.chess_test`; unit/ has the tests of the code."""

from soft_prompts.console import interrupts_end_in_a_sentence

interrupts_end_in_a_sentence()
