"""Open questions in the form of experiments; README.md is the log of their verdicts."""

from soft_prompts.console import interrupts_end_in_a_sentence

interrupts_end_in_a_sentence()
