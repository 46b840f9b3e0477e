"""Frozen language models: loading them, checking them, taking them apart into embed, body and head."""

from soft_prompts.lazily import exports

__getattr__ = exports(__name__, {"LanguageModel": "language_model", "load": "loading"})
