"""Are the pinned packages safe, and what they should be? `python -m tests.audit`, a part of `make check`.

Where the database of known vulnerabilities can be reached, pip-audit looks the pinned versions up in it. Elsewhere
every installed file of theirs is compared with the hash that its package gives it, and that is said.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from soft_prompts.console import ends_in_a_sentence, say, warn
from soft_prompts.errors import SoftPromptsError

ROOT = Path(__file__).parents[1]
FILES = ("requirements.txt", "requirements-dev.txt")
PATIENCE = 20
"""Seconds that the database has to answer."""


def pins(text: str) -> dict[str, str]:
    """Package -> version of a requirements file.

    Raises:
        SoftPromptsError: A line pins nothing.
    """
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    wanted = [line for line in lines if line and not line.startswith("-r ")]
    if loose := [line for line in wanted if not re.fullmatch(r"[\w.-]+==[\w.+-]+", line)]:
        raise SoftPromptsError(f"{loose[0]!r} is not pinned; write NAME==VERSION.")
    return dict(line.split("==") for line in wanted)


def looked_up(pinned: dict[str, str]) -> tuple[list[str], list[str]]:
    """What the database of known vulnerabilities says.

    Returns:
        Of each vulnerability a line; and the names of the packages that could not be looked up.
    """
    words = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", str(PATIENCE)]
    listed = "\n".join(f"{name}=={version}" for name, version in pinned.items())
    command = [sys.executable, "-m", "pip_audit", *words, "--requirement", "/dev/stdin"]
    try:
        done = subprocess.run(command, input=listed, capture_output=True, text=True, timeout=10 * PATIENCE)
        packages = json.loads(done.stdout)["dependencies"]  # without an answer there is no JSON
    except (ValueError, KeyError, subprocess.TimeoutExpired):
        return [], list(pinned)
    found = [
        f"{p['name']} {p['version']} has {v['id']}; fixed in {', '.join(v['fix_versions']) or 'no version yet'}"
        for p in packages
        for v in p.get("vulns", [])
    ]
    known = {p["name"] for p in packages if "vulns" in p}
    return found, [name for name in pinned if name not in known]


def differences(name: str, version: str) -> list[str]:
    """What an installed package has that is not as its pin and its own hashes say."""
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return [f"{name} is not installed"]
    # A build for one kind of device has its name behind the version: 2.13.0+cpu.
    if installed.version.partition("+")[0] != version.partition("+")[0]:
        return [f"{name} is {installed.version} and not {version}"]
    return changed_files(installed)


def changed_files(installed: Distribution) -> list[str]:
    """The files of a package whose content has another hash than its record, or that are gone."""
    found = []
    for file in installed.files or []:
        if file.hash is None:  # the record itself, and what was compiled here
            continue
        path = Path(str(file.locate()))
        digest = hashlib.new(file.hash.mode, path.read_bytes()).digest() if path.is_file() else b""
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != file.hash.value:
            found.append(f"{path} {'was changed' if digest else 'is missing'}")
    return found


def audit() -> None:
    """Look the packages up, or compare them with their hashes.

    Raises:
        SoftPromptsError: Something is wrong with one.
    """
    pinned = {name: v for file in FILES for name, v in pins((ROOT / file).read_text()).items()}
    found, unknown = looked_up(pinned)
    if unknown:
        warn(
            f"the database of known vulnerabilities does not answer for {len(unknown)} of {len(pinned)} packages; "
            "their installed files are compared with their hashes."
        )
        found += [line for name in unknown for line in differences(name, pinned[name])]
    if found:
        raise SoftPromptsError("; ".join(found) + ". Install anew, or pin another version.")
    say(f"{len(pinned)} pinned packages: nothing found.")


if __name__ == "__main__":
    with ends_in_a_sentence():
        audit()
