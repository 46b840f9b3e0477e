"""Soft prompts for evaluation: how far is a behaviour from a language model?"""

from soft_prompts.batch import IGNORE, Batch, Example, collate
from soft_prompts.errors import SoftPromptsError
from soft_prompts.prompts import PromptGenerator, SoftPrompt, insert
from soft_prompts.run import Run, TrainConfig
from soft_prompts.sweep import Sweep, main
from soft_prompts.task import Encoding, Scored, Task

__all__ = [
    "IGNORE", "Batch", "Encoding", "Example", "PromptGenerator", "Run", "Scored", "SoftPrompt", "SoftPromptsError", "Sweep", "Task",
    "TrainConfig", "collate", "insert", "main",
]  # fmt: skip
