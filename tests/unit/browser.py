"""A page in a real browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
OPTIONS = ("--headless", "--no-sandbox", "--no-first-run", "--window-size=500,900", *(f"--disable-{x}" for x in OFF))
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")


def in_browser(html: str, folder: Path) -> Any:
    """Open a page whose scripts leave JSON in the title, and read it.

    Args:
        html: The page.
        folder: Where it is written, and where the browser keeps its files.

    Returns:
        What the title holds after all scripts.
    """
    (folder / "probe.html").write_text(html)
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]
    shown = subprocess.run([*command, f"file://{folder / 'probe.html'}"], capture_output=True, text=True, timeout=60)
    return json.loads(re.search(r"<title>(.*?)</title>", shown.stdout, re.DOTALL).group(1))
