"""Soft prompts for evaluation: how far is a behaviour from a language model?

What scripts use can be imported from here. Each name is imported when it is first used, so --help starts at once.
"""

from soft_prompts.lazily import exports

_USED_BY_SCRIPTS = {
    "IGNORE": "data.example",
    "Encoding": "data.documents",
    "Example": "data.example",
    "PromptedModel": "engine.prompted",
    "SoftPromptsError": "errors",
    "Split": "data.documents",
    "Sweep": "sweep",
    "Task": "tasks.base",
    "TaskScores": "tasks.base",
    "TrainConfig": "training.recipe",
    "Variant": "tasks.base",
    "added_later": "options",
    "load": "serving",
    "main": "cli",
    "in_full": "cli",
    "on_pocket": "cli",
    "on_smollm2": "cli",
    "probed": "cli",
    "rate": "stats",
    "ratio": "stats",
}
_EXPORTED_BEFORE = {
    "Batch": "engine.batch",
    "PromptGenerator": "interventions.soft_prompt",
    "Run": "training.run",
    "Scored": "tasks.base:TaskScores",
    "SoftPrompt": "interventions.soft_prompt",
    "collate": "engine.batch",
    "insert": "engine.batch",
}
"""Names that were exported before the package had rooms. They keep working."""

__all__ = sorted(_USED_BY_SCRIPTS)
__getattr__ = exports(__name__, _USED_BY_SCRIPTS | _EXPORTED_BEFORE)
