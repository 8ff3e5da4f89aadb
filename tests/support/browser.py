"""Pages as they are parsed, and as headless Chromium lays them out."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

__all__ = ["Page", "chromium", "look_at"]

_FRAME = """<!doctype html><body style="margin:0">
<iframe src="{page}" style="border:0;width:{width}px;height:{height}px"
onload="const d = this.contentDocument, e = d.documentElement;
document.body.dataset.found = JSON.stringify({{width: e.scrollWidth, height: e.scrollHeight,
 broken: [...d.images].filter(i => !i.naturalWidth).length, images: d.images.length}})"></iframe>"""
"""A window is at least 500 pixels wide; a frame in it is as narrow as a telephone."""


class Page(HTMLParser):
    """Every tag of a piece of HTML with its attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        """How many tags of a kind there are."""
        return [name for name, _ in self.tags].count(tag)


def chromium() -> str | None:
    """The browser of this machine."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def look_at(page: Path, width: int, height: int, *, dark: bool) -> tuple[dict[str, int], Image.Image]:
    """What a page needs (width, height, images, broken ones) in a window of `width`, and a picture of it.

    The test is skipped where there is no Chromium.
    """
    browser = chromium()
    if browser is None:
        pytest.skip("no Chromium on this machine: the page was not looked at")
    frame, shot = page.with_name("frame.html"), page.with_name("shot.png")
    frame.write_text(_FRAME.format(page=page.name, width=width, height=height), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--allow-file-access-from-files", "--hide-scrollbars", f"--user-data-dir={page.parent / 'profile'}"]
    options += [
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--window-size={max(width, 500)},{height}",
    ]

    def run(*more: str) -> str:
        command = [browser, *options, *more, frame.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    (found,) = re.findall(r'data-found="([^"]*)"', run("--dump-dom"))
    run(f"--screenshot={shot}")
    return json.loads(found.replace("&quot;", '"')), Image.open(io.BytesIO(shot.read_bytes())).crop(
        (0, 0, width, height)
    )
