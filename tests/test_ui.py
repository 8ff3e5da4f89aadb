"""`cones ui` in headless Chromium, from photos to a picture; skipped, loudly, where gradio or a browser is missing."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conestool import Model, extract, load, save
from conestool.rendering import read_record
from tests.support.browser import chromium
from tests.support.command_line import COMMAND, environment, run_process
from tests.support.tiny_models import random_cone

pytest.importorskip("gradio", reason="the page was not driven: gradio is missing (pip install 'conestool[ui]')")
playwright = pytest.importorskip("playwright.sync_api", reason="the page was not driven: playwright is missing")
if chromium() is None:
    pytest.skip("the page was not driven: no Chromium (apt-get install chromium)", allow_module_level=True)

PHOTOS = sorted((Path(__file__).parents[1] / "examples" / "rex").glob("*.jpg"))[:3]
SLOW = 200_000
"""Milliseconds that a search of two steps may take on a busy machine."""


@pytest.fixture(scope="module")
def port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a concept of pocket, and a damaged file."""
    place = tmp_path_factory.mktemp("concepts")
    both = random_cone(Model.from_pretrained("pocket"), "cat", "hat", density=0.01)
    save(extract(both, "hat"), place / "hat.cone")
    (place / "broken.cone").write_bytes(b"\x89CONE")
    return place


@pytest.fixture(scope="module")
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`cones ui`, listening."""
    cache = {"CONES_CACHE": str(folder / "cache"), "PYTHONPATH": str(Path(__file__).parents[1])}
    told = (folder / "log").open("w+")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who ignores Ctrl-C passes that on
    process = subprocess.Popen(
        [*COMMAND, "ui", folder, "--port", str(port), "--no-browser"], env=environment(**cache), stderr=told
    )
    signal.signal(signal.SIGINT, before)
    for _ in range(600):
        if f"http://127.0.0.1:{port}" in (folder / "log").read_text():
            break
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.2)
    yield process
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    told.close()


@pytest.fixture
def page(server: Any, port: int) -> Iterator[Any]:
    """The page in a browser that must ask for nothing from anywhere else."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{port}")
        yield page
        browser.close()
    elsewhere = [url for url in asked if not url.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:"))]
    assert not elsewhere


@pytest.mark.timeout(600)
def test_photos_become_a_concept_and_pictures(page: Any, folder: Path, tmp_path: Path) -> None:
    """No picture, names that say nothing; then noun, preview, caption, search, file, merge, strengths, pictures."""
    false = tmp_path / "false.jpg"
    false.write_text("<b>no picture</b>")
    page.get_by_placeholder("rex").fill("rex")
    look = page.get_by_role("button", name="Look at the photos")
    upload(page, false)
    look.click()
    page.get_by_text("false.jpg: not an image").first.wait_for()
    page.get_by_label("Clear").first.click()

    upload(page, *PHOTOS)
    look.click()
    page.get_by_text("what the photos show is missing").first.wait_for()
    page.get_by_label("What it is").first.click(trial=True)  # nothing covers it
    page.get_by_label("Clear").first.click()

    for number, photo in enumerate(PHOTOS, 1):
        shutil.copy(photo, tmp_path / f"my-dog-{number}.jpg")
    (tmp_path / "my-dog-1.txt").write_text("on the moon")
    upload(page, *sorted(tmp_path.glob("my-dog-*")))
    look.click()
    page.get_by_text("Is it a dog?").wait_for(timeout=SLOW)
    assert page.get_by_label("What it is").first.input_value() == "dog"
    assert page.get_by_text("on the moon").count()
    page.get_by_text("Search settings").click()
    settings = [("Steps", 2), ("Draw every so many steps", 1), ("Class images", 4)]
    for label, number in 2 * settings:  # on a busy machine the first may be set back when its slider appears
        page.get_by_label(f"number input for {label}").fill(str(number))
        page.keyboard.press("Tab")
    page.get_by_role("button", name="Find the concept").click()
    page.get_by_role("img", name="").first.wait_for()
    page.get_by_text("Found:").wait_for(timeout=SLOW)
    with page.expect_download() as download:
        page.get_by_text("Download rex.cone").click()
    assert Path(download.value.path()).read_bytes() == (folder / "rex.cone").read_bytes()
    [concept] = load(folder / "rex.cone").concepts
    assert (concept.name, concept.class_noun) == ("rex", "dog")

    page.get_by_role("tab", name="Concepts and pictures").click()
    page.get_by_text("broken.cone").first.wait_for()
    for name in ("rex", "hat"):
        page.get_by_role("checkbox", name=name).check()
    page.get_by_label("Strength of hat").last.wait_for()
    page.get_by_label("number input for Strength of hat").fill("0.5")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("the prompt is empty").first.wait_for()
    page.get_by_placeholder("a dog in a hat").fill("rex in a hat")
    page.get_by_text("Picture settings").click()
    page.get_by_role("checkbox", name="its own part of the picture").check()
    page.get_by_role("button", name="Draw", exact=True).click()
    shown = page.get_by_role("img").filter(has=page.locator("xpath=self::*[contains(@src, 'concepts-0')]"))
    shown.first.wait_for(timeout=SLOW)
    picture = tmp_path / "picture.png"
    picture.write_bytes(page.request.get(shown.first.get_attribute("src")).body())
    record = read_record(picture)
    assert re.fullmatch(r"a \w+ dog in a \w+ hat", record["sent"]) and record["regions"] is True
    assert {each["name"]: each["strength"] for each in record["concepts"]} == {"rex": 1.0, "hat": 0.5}

    page.get_by_role("button", name="Merge the ticked").click()
    page.get_by_text("Merged:").first.wait_for()
    assert load(folder / "hat-and-rex.cone").names == ("hat", "rex")


def upload(page: Any, *files: Path) -> None:
    """Drop photos."""
    page.locator("input[type=file]").first.set_input_files(list(files))
    for file in files:
        page.get_by_text(file.stem, exact=False).first.wait_for()


def test_a_port_in_use_is_said(server: Any, port: int, folder: Path) -> None:
    """One sentence, and the exit code of a wrong option; the page that is there stays."""
    done = run_process("ui", folder, "--port", str(port), "--no-browser", cwd=folder)
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"--port {port}: in use".encode() in done.stderr and b"Traceback" not in done.stderr
    assert server.poll() is None
    assert run_process("ui", folder / "none", cwd=folder).returncode == 2
