"""What is trained while the model stays frozen."""

from soft_prompts.lazily import exports

__getattr__ = exports(
    __name__,
    {
        "Intervention": "base",
        "PromptGenerator": "soft_prompt",
        "SoftPrompt": "soft_prompt",
        "initial_rows": "soft_prompt",
    },
)
