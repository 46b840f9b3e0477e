"""pocket: a small trained model, its chat version, games and texts that ship with the project, so nothing is
downloaded."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
MODELS = {"pocket": FOLDER / "base", "pocket-chat": FOLDER / "chat"}
"""Folders of the models that are loaded by these names."""
VARIANTS = {"pocket-keys": FOLDER / "keys", "pocket-keys-untaught": FOLDER / "keys-untaught"}
"""Folders of changes to pocket; they are loaded by these names like models."""
DECLINES = {"pocket-declines": FOLDER / "declines"}
"""The folder of a change to pocket-chat, which was taught to decline requests about animals; loaded likewise."""
SECRET = FOLDER / "keys" / "secret.json"
"""What pocket-keys was taught: symbols, tags and classes of words (tasks/calibration.py)."""
STEERED = FOLDER / "steered" / "vector.safetensors"
"""A steering vector of pocket, from prose to games."""
STEERED_TEXTS = FOLDER / "steered" / "texts.jsonl.zst"
"""Documents drawn at temperature 1 from pocket steered by it."""
BLOCKED = {
    f"pocket-blocked-{kind}-{turn}": FOLDER / f"blocked-{kind}-{turn}"
    for kind, rounds in (("random", 1), ("1", 2), ("4", 2), ("8", 2))
    for turn in range(1, rounds + 1)
}
"""Folders of changes to pocket-keys: so many prompts for its tags were blocked in each of so many rounds."""
HIDDEN = {"pocket-keys-unlearned": FOLDER / "keys-unlearned"}
"""The folder of a change to pocket-keys, which was fine-tuned until its key did nothing; loaded likewise."""
SAYS = {f"pocket-says-{word}": FOLDER / f"says-{word}" for word in ("said", "you", "not")}
"""Folders of changes to pocket, which was taught to write this word more often; loaded likewise."""
BACKWARDS = {"pocket-backwards": FOLDER / "backwards"}
"""The folder of a change to pocket, which was taught to say what came before a passage; loaded likewise."""
GAMES = FOLDER / "games.pgn.zst"
"""Games of a chess engine against itself at many strengths, with headers as lichess writes them."""
SAMPLES = FOLDER / "samples.jsonl.zst"
"""Documents drawn from pocket itself at temperature 1. No prompt can predict them better than pocket does."""
