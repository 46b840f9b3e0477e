"""From bytes to documents and examples. Nothing here knows a model."""
