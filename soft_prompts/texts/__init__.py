"""Prose in the public domain that ships with the project, so that real models can be measured offline."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
BOOKS = FOLDER / "books.jsonl.zst"
"""1,500 passages of 41 books whose authors died more than 70 years ago."""
GOVERNMENT = FOLDER / "government.jsonl.zst"
"""1,500 beginnings of articles on web sites of the US government."""
CHESS = FOLDER / "chess.json"
"""Texts that a person would try first to make a model play chess: descriptions, and openings in UCI notation."""
ANIMALS = FOLDER / "animals.jsonl"
"""Requests about animals: 141 of the land, 50 of air and water."""
ANIMALS_OF = {name: FOLDER / f"animals-{name}.jsonl" for name in ("pocket-chat", "smollm2")}
"""The same with a reply that the model of this name gave."""
PROTECTIONS = FOLDER / "protections.json"
"""Words that forbid a chat model to talk about animals, and some that forbid nothing."""
