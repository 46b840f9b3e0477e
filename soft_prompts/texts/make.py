"""Make books.jsonl.zst and government.jsonl.zst from whole books and articles.

    python -m soft_prompts.texts.make --books books.tar.zst --articles 18f.jsonl.zst digitalgov.jsonl.zst

A passage opens with a paragraph and is cut between words. No two passages overlap.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
import zstandard

from soft_prompts.console import say
from soft_prompts.files import write_atomically
from soft_prompts.texts import BOOKS, GOVERNMENT

LENGTH = 1000
"""Characters of a passage: over 200 tokens of most tokenizers."""
ENDS = 2
"""Passages left out at either end of a book: titles, prefaces, notes."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    books: Path
    """A .tar.zst of books, plain text each."""
    articles: tuple[Path, ...]
    """.jsonl.zst of articles: "text", and "src", where it was published."""
    n_passages: int = 1500
    """Passages in each file."""
    seed: int = 0
    """Of the choice."""


def main(settings: Settings) -> None:
    """Choose passages and write both files."""
    for path, of_each in ((BOOKS, books(settings.books)), (GOVERNMENT, articles(settings.articles))):
        passages = chosen(of_each, settings.n_passages, settings.seed)
        lines = "".join(json.dumps(passage, ensure_ascii=False) + "\n" for passage in passages)
        write_atomically(path, zstandard.ZstdCompressor(level=19).compress(lines.encode()))
        say(f"{len(passages):,} passages of {len(of_each):,} in {path}")


def books(tar: Path) -> dict[str, list[str]]:
    """File name -> all passages of a book, its ends apart."""
    with open(tar, "rb") as raw, tarfile.open(fileobj=io.BytesIO(_unpacked(raw.read()))) as files:
        texts = {Path(f.name).stem: files.extractfile(f).read().decode() for f in files if f.isfile()}
    return {name: list(passages(text))[ENDS:-ENDS] for name, text in sorted(texts.items())}


def articles(paths: tuple[Path, ...]) -> dict[str, list[str]]:
    """Where it was published -> the first passage of an article, if it is long enough and opens with prose."""
    found: dict[str, str] = {}
    for path in paths:
        for line in _unpacked(path.read_bytes()).decode().splitlines():
            article = json.loads(line)
            opening = next(passages(article["text"]), "")
            if opening[:1].isupper() and len(opening) > LENGTH / 2:
                found.setdefault(opening, f"{path.name.split('.')[0]}/{article['src']}")  # some are published twice
    return {source: [opening] for opening, source in found.items()}


def passages(text: str) -> Iterator[str]:
    """A text in passages: from the beginning of a paragraph on, as long as wanted, cut between words; then from the
    next paragraph on. What is left at the end is a shorter one."""
    text = text.replace("\r\n", "\n").strip()
    while len(text) > LENGTH:
        passage = text[: text.rindex(" ", 0, LENGTH)] if " " in text[:LENGTH] else text[:LENGTH]
        yield passage.rstrip()
        _, _, text = text[len(passage) :].partition("\n")
        text = text.lstrip()
    if text:
        yield text


def chosen(of_each: dict[str, list[str]], n: int, seed: int) -> list[dict[str, str]]:
    """``n`` passages, as evenly from all sources as these have them, in an order of chance."""
    random = np.random.default_rng(seed)
    shuffled = {name: [found[i] for i in random.permutation(len(found))] for name, found in of_each.items()}
    names = [list(of_each)[i] for i in random.permutation(len(of_each))]
    rounds = (
        {"text": shuffled[name][k], "source": name}
        for k in range(max(map(len, shuffled.values())))
        for name in names
        if k < len(shuffled[name])
    )
    first = [passage for passage, _ in zip(rounds, range(n), strict=False)]
    return [first[i] for i in random.permutation(len(first))]


def _unpacked(raw: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(raw)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
