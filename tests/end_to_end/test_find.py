"""`cones find` and `cones tune`: what they write, say, refuse, and leave when they are stopped."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from conestool import format as cones_format
from conestool.models.model import Model
from tests.end_to_end.conftest import FIND, SHORT
from tests.support.command_line import COMMAND, ROOT, Cones, environment
from tests.support.photos import draw_photos, save_noisy_photos
from tests.support.tiny_models import random_cone

WAIT = 200.0
ENDLESS = "find dog -o dog.cone --num-class-images 4 --steps 1000000 --captions none --other-class-weight 0"
TUNE = ("--num-class-images", "4", "--steps", "3", "--lr", "0.2", "--device", "cpu", "--captions", "none")
PHOTOS = ("--photos", "dog=dog", "--photos", "hat=hat")


@pytest.fixture(autouse=True)
def photos(model: Path, work: Path, cones: Cones, few_probes: None) -> None:
    """dog/ and hat/ in the folder of the run."""
    draw_photos(work / "dog", "teal")
    draw_photos(work / "hat", "red")


def test_find_reports_on_stderr_and_leaves_no_state(cones: Cones, work: Path) -> None:
    """stdout has the path; stderr has photos, class images, neurons, losses and sizes; no .checkpoint file stays."""
    (work / "dog").rename(work / "photos")
    (work / "photos" / "list.txt").write_text("not an image")
    done = cones("find", "./photos", "-o", "dog.cone", *SHORT)
    assert (done.code, done.lines) == (0, ["dog.cone"])
    for text in ("3 photos of 'dog'", "list.txt", "class images: 4", "neurons", "random indices", "class: dog", "LoRA"):
        assert text in done.err
    assert re.search(r"verdict +(clear|weak|none)[:,] ", done.err)
    last = ["sheet: dog-sheet.png", "next: cones render 'a dog on the beach' --compare"]
    assert done.err.splitlines()[-2:] == last
    with Image.open("dog-sheet.png") as sheet:
        assert sheet.width > 3 * 256 and sheet.height > 4 * 256
    assert [path.name for path in work.glob("*.checkpoint")] == []


def test_find_says_how_to_use_a_file_elsewhere(cones: Cones, work: Path) -> None:
    """By a command that can be copied; without it there is no sheet, and an old one is not in the way."""
    (work / "my files").mkdir()
    (work / "my files" / "rex-sheet.png").write_bytes(b"precious")
    taken = cones("find", "dog", "-o", "my files/rex.cone", "--class-noun", "dog", *SHORT)
    assert taken.code == 2 and "rex-sheet.png: exists already" in taken.err
    done = cones("find", "dog", "-o", "my files/rex.cone", "--class-noun", "dog", *FIND, "--json", "-v")
    assert done.err.splitlines()[-1] == "next: cones render 'a rex on the beach' -c 'my files/rex.cone' --compare"
    assert done.json["sheet"] is None
    assert (work / "my files" / "rex-sheet.png").read_bytes() == b"precious"


def test_find_can_be_watched(cones: Cones) -> None:
    """A strip of samples that grows, a log, and a report with both; an old strip is not in the way unseen."""
    watched = ("find", "dog", *FIND, "--samples", "2", "--track", "jsonl", "--report")
    done = cones(*watched)
    assert done.code == 0 and "report: dog-report.html" in done.err, done.err
    with Image.open("dog-samples.png") as strip:
        assert 3 * 256 < strip.width < 4 * 256
    lines = [json.loads(line) for line in Path("dog-log/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4] and "dog/held_out_after" in lines[-1]
    page = Path("dog-report.html").read_text(encoding="utf-8")
    assert "What the model drew meanwhile" in page and "photo 1" not in page and "polyline" in page
    Path("dog.cone").unlink()
    assert "exists already" in cones(*watched).err
    assert cones("find", "dog", *FIND, "--samples", "2", "-o", "-").code == 2


def test_a_preview_comes_before_the_search(cones: Cones, work: Path) -> None:
    """Captions from text files, advice, one picture, and nothing else."""
    (work / "dog" / "1.txt").write_text("at night")
    done = cones("find", "dog", "--preview", "--captions", "given", "--device", "cpu", "--json", "-v")
    assert done.code == 0, done.err
    assert [each["caption"] for each in done.json["photos"]] == ["", "at night", ""]
    assert "0.txt beside 0.png" in done.err and "nearly the same as 0.png" in done.err
    assert sorted(path.name for path in work.iterdir()) == ["dog", "dog-preview.png", "hat"]


def test_find_takes_a_list_on_stdin_and_class_images_of_a_folder(cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ls photos/*.png | cones find - -o -`; the bytes go to stdout, and no class image is drawn."""
    files = sorted(Path("dog").iterdir())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(map(str, files)).encode())))
    words = ("--class-noun", "dog", "--notes", "by lamp", "--class-images", "hat")
    done = cones("find", "-", *words, "-o", "-", *FIND)
    assert done.code == 0 and "class images" not in done.err
    assert "warning: --num-class-images has no effect with --class-images\n" in done.err
    (dog,) = cones_format.loads(done.out).concepts
    assert (len(dog.origin.photos), dog.origin.notes) == (3, "by lamp")


def test_find_skips_broken_photos_if_told(cones: Cones, work: Path) -> None:
    """Without --skip-broken an error that names the file, with it a note."""
    (work / "dog" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    refused = cones("find", "dog", *FIND)
    assert refused.code == 3 and "bad.jpg" in refused.err
    done = cones("find", "dog", "--skip-broken", *FIND)
    assert done.code == 0 and "bad.jpg" in done.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nothing",), 3, "no photo"),
        (("text",), 3, "a.jpg"),
        (("dog", "-o", "mine.cone"), 2, "exists already"),
        (("dog", "--device", "quantum"), 6, "quantum"),
        (("dog", "--model", "./no-such-model"), 2, "error: ./no-such-model: no such model\n"),
    ],
    ids=lambda words: str(words),
)
def test_find_refuses_before_the_work(
    cones: Cones, work: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    """Without a stage of the search having begun; a path is never taken for a Hub id."""
    (work / "mine.cone").write_bytes(b"precious")
    for folder in ("nothing", "text"):
        (work / folder).mkdir()
    (work / "text" / "a.jpg").write_bytes(b"just text")
    done = cones("find", *words)
    assert done.code == code and message in done.err and "class images" not in done.err
    assert (work / "mine.cone").read_bytes() == b"precious"


def test_a_dry_run_estimates_and_writes_nothing(cones: Cones, work: Path) -> None:
    """A table for people, JSON for programs, and no file."""
    save_noisy_photos(work / "photos")
    before = sorted(work.iterdir())
    words = ("find", "photos", "-o", "dog.cone", "--steps", "3", "--dry-run", "-v", "--json")
    done = cones(*words)
    assert done.code == 0, done.err
    told = done.json
    assert told["memory"] > 1e8 and told["seconds"] == sum(told["phases"].values())
    assert told["phases"].keys() == {"class images", "photos", "search"}
    assert "an estimate" in done.err and "class images" in done.err and "at most" in done.err
    given = cones(*words, "--class-images", "photos", "--other-class-weight", "0").json["phases"]
    assert given["class images"] == 0 < given["search"]
    assert sorted(work.iterdir()) == before


def test_ctrl_c_leaves_a_search_that_can_be_resumed(work: Path, model: Path) -> None:
    """Exit code 130, no half-written .cone, and the command line that goes on from there."""
    with finding(work, model) as first:
        read_until(first, "search: about")
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=WAIT)
    assert (first.returncode, out) == (130, "")
    assert f"cones {ENDLESS} --resume" in err and "Traceback" not in err
    assert (work / "dog.cone.checkpoint").is_file() and not (work / "dog.cone").exists()
    with finding(work, model, "--resume") as second:
        read_until(second, "resumed after step")
        second.send_signal(signal.SIGINT)
        second.communicate(timeout=WAIT)
    assert second.returncode == 130


@contextmanager
def finding(folder: Path, model: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A `find` that takes far longer than any test; it is gone afterwards, whatever happened."""
    env = environment(PYTHONPATH=str(ROOT), CONES_MODEL=str(model), CONES_CACHE=str(folder / "cache"))
    command = [*COMMAND, *ENDLESS.split(), *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read stderr up to the line that holds `words`."""
    assert process.stderr is not None
    seen, end = "", time.monotonic() + WAIT
    while words not in seen:
        line = process.stderr.readline()
        assert line and time.monotonic() < end, seen
        seen += line


@pytest.fixture
def both(work: Path, model: Path) -> None:
    """both.cone with two concepts."""
    cones_format.save(random_cone(Model.from_pretrained(str(model), device="cpu"), "dog", "hat"), work / "both.cone")


@pytest.mark.usefixtures("both")
def test_tune_writes_beside_and_reports_every_subject(cones: Cones, work: Path) -> None:
    """stderr has the losses beside their controls, stdout the JSON that agrees with the file; no checkpoint stays."""
    done = cones("tune", "both.cone", *PHOTOS, *TUNE, "--reopen-only", "--samples", "3", "--json", "-v")
    assert (done.code, done.json["output"]) == (0, "dog+hat-tuned.cone")
    for text in ("dog: 3 photos", "hat: 3 photos", "merged", "tuned", "random", "reopened"):
        assert text in done.err
    assert list(work.glob("*.checkpoint")) == []
    with Image.open(work / "dog+hat-tuned-samples.png") as strip:  # a row for each subject
        assert strip.width > 2 * 256 and strip.height > 2 * 256
    cone, record = cones_format.load(work / "dog+hat-tuned.cone"), done.json["tune"]["dog"]
    assert cone.names == ("dog", "hat")
    assert record["kept"] + record["zeroed"] == cone["dog"].neurons
    assert record["zeroed"] == 0 < record["reopened"]


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--photos", "dog=dog"), "no photos of hat"),
        (("--photos", "dog"), "expected NAME=PATH"),
        ((*PHOTOS, "--photos", "cat=hat"), "no concept named 'cat'"),
        ((*PHOTOS, "-o", "both.cone"), "--overwrite"),
        ((*PHOTOS, "--lr", "0"), "above 0"),
        ((*PHOTOS, "--mask", "l1=0,rho=1"), "--mask has no parameter 'rho'"),
        ((*PHOTOS, "--mask", "init_margin_on=0.7"), "init_margin_on is 0.7, but must be"),
    ],
    ids=["a subject without photos", "no name", "an unknown name", "an existing output", "no rate", "none", "range"],
)
def test_tune_refuses_before_it_loads_a_model(
    cones: Cones, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a base model that is not there, every one of these comes first."""
    monkeypatch.setenv("CONES_MODEL", "nowhere")
    done = cones("tune", "both.cone", *words)
    assert done.code == 2 and message in done.err
