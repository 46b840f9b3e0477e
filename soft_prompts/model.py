"""The import that was documented before the package had rooms: use soft_prompts.models."""

from soft_prompts.models import load

__all__ = ["load"]
