"""`cones report`, and `cones list`: what people judge concepts by, and find them by."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from conestool import Model
from conestool import format as cones_format
from conestool.concept import Cone, Losses
from conestool.rendering.png import plain_png
from tests.support.browser import Page, look_at
from tests.support.command_line import Cones, concept, save_cone
from tests.support.tiny_models import random_cone

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
FOUND = Losses(
    held_out_before=0.2,
    held_out_after=0.15,
    random_after=0.199,
    no_identifier_before=0.2,
    no_identifier_after=0.19,
    class_before=0.1,
    class_after=0.101,
)


@pytest.fixture(scope="module")
def hasty(epsilon_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base model that draws in two steps."""
    folder = tmp_path_factory.mktemp("models") / "hasty"
    shutil.copytree(epsilon_folder, folder)
    (folder / "pocket.json").write_text(json.dumps({"num_inference_steps": 2}))
    return folder


@pytest.fixture
def both(hasty: Path, work: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> Cone:
    """dog.cone and hat.cone of a small model, with losses, a loss curve and samples, and photos of a dog."""
    monkeypatch.setenv("CONES_MODEL", str(hasty))
    cone = random_cone(Model.from_pretrained(str(hasty), device="cpu"), "dog", "hat", density=0.05)
    told = {
        "losses": FOUND,
        "parameters": {"steps": 60, "loss_curve": [0.9, 0.7, 0.8, 0.6], "lr": 0.5},
        "method": "mask",
    }
    for each in cone.concepts:
        origin = each.origin.model_copy(update=told | {"notes": EVIL, "warnings": ["weak"]})
        cones_format.save(
            Cone((each.__class__(each.name, each.class_noun, each.identifier, each.indices, each.base, origin),)),
            work / f"{each.name}.cone",
        )
    dog = cones_format.load(work / "dog.cone")
    (work / "dog-samples.png").write_bytes(plain_png(Image.new("RGB", (1100, 330), "teal"), cone=dog.id))
    (work / "hat-samples.png").write_bytes(plain_png(Image.new("RGB", (1100, 330), "red"), cone=dog.id))
    (work / "photos").mkdir()
    Image.new("RGB", (300, 300), "navy").save(work / "photos" / "1.png")
    return cone


def test_a_report_shows_and_explains_each_concept(both: Cone, cones: Cones, work: Path) -> None:
    """Pictures with and without, strengths, curve, samples, controls, layers, command; nothing is fetched or run."""
    done = cones("report", "dog.cone", "hat.cone")
    assert (done.code, done.lines) == (0, ["dog+hat-report.html"]), done.err
    assert "hat-samples.png: of another search, left out" in done.err
    text = (work / "dog+hat-report.html").read_text(encoding="utf-8")
    page = Page(text)
    sources = [tag[1]["src"] or "" for tag in page.tags if tag[0] == "img"]
    assert len(sources) == 2 * (2 + 8 + 5 + 1) + 1 + 4 and all(src.startswith("data:image/") for src in sources)
    assert all(tag[1].get("alt") for tag in page.tags if tag[0] == "img")
    assert not re.search(r"https?://|<script|<link|@import|url\(", text)
    assert page.text.count(EVIL) == 2
    told = " ".join(page.text.split())
    for part in ("clear", "falls by 25.0 %", "held-out photos -25.0 %", "-0.5 %", "the words sks dog draw it", "weak"):
        assert part in told, part
    assert "cones find PHOTOS -o dog.cone --name dog --class-noun dog --identifier sks" in told
    assert "--method mask,lr=0.5" in told and "All together" in told and "4 seeds" in told
    assert "polyline" in {tag[0] for tag in page.tags}


def test_photos_are_shown_only_when_they_are_named(both: Cone, cones: Cones, work: Path) -> None:
    """They are private. Without pictures a report needs no base model; what is there needs --overwrite."""
    plain = cones("report", "dog.cone", "--no-pictures", "--model", "no/such", "-o", "-")
    assert plain.code == 0 and b"photo 1 of dog" not in plain.out and b"With and without" not in plain.out
    assert cones("report", "dog.cone", "--no-pictures", "--photos", "photos", "--json").json["concepts"] == ["dog"]
    assert "photo 1 of dog" in (work / "dog-report.html").read_text(encoding="utf-8")
    assert cones("report", "dog.cone", "--no-pictures").code == 2


def test_a_report_refuses_what_it_cannot_show(both: Cone, cones: Cones, work: Path) -> None:
    """A damaged file, photos that are not there, a base model that cannot be found: a sentence, and no page."""
    data = bytearray((work / "dog.cone").read_bytes())
    data[-1] ^= 1
    (work / "bad.cone").write_bytes(data)
    (work / "hat-samples.png").write_bytes(b"no picture")
    bad = cones("report", "bad.cone", "-o", "x.html")
    assert bad.code == 4 and "bad.cone" in bad.err
    gone = cones("report", "dog.cone", "--photos", "nowhere", "-o", "x.html")
    assert gone.code == 3 and "nowhere: no such file or folder" in gone.err
    whose = cones("report", "dog.cone", "--photos", "cat=photos", "-o", "x.html")
    assert whose.code == 3 and "no concept is named 'cat'" in whose.err
    model = cones("report", "dog.cone", "--model", "./nowhere", "-o", "x.html")
    assert model.code == 2 and "--no-pictures" in model.err
    assert not (work / "x.html").exists()
    odd = cones("report", "hat.cone", "--no-pictures", "-o", "y.html")
    assert odd.code == 0 and "hat-samples.png: not a PNG" in odd.err


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_report_looks_right_in_a_browser(both: Cone, cones: Cones, work: Path, width: int, dark: bool) -> None:
    """Nothing sticks out at the side, every picture is there, and the colours are those of the system."""
    assert cones("report", "dog.cone", "--photos", "photos", "-o", "page.html").code == 0
    found, picture = look_at(work / "page.html", width, 900, dark=dark)
    assert found["width"] == width and found["images"] > 10 and found["broken"] == 0
    grey = picture.convert("L")
    paper, pixels = grey.crop((2, 2, 3, 3)).tobytes()[0], grey.histogram()
    assert (paper < 60) is dark and sum(pixels[paper - 2 : paper + 3]) > 0.3 * width * 900
    assert sum(pixels[170:] if dark else pixels[:90]) > 1000


def test_list_is_a_table_of_the_concepts_in_folders(cones: Cones, work: Path) -> None:
    """With base model and size; damaged files are named, and left out."""
    save_cone(work / "dog.cone", concept("dog", "sks"))
    (work / "more").mkdir()
    save_cone(work / "more" / "both.cone", concept("dog", "sks"), concept("hat", "zwx", seed=1))
    (work / "more" / "bad.cone").write_bytes(b"CONE")
    done = cones("list", ".", "more")
    rows = [line.split() for line in done.err.splitlines() if ".cone" in line and "warning" not in line]
    assert [row[0] for row in rows] == ["dog", "dog", "hat"] and "toy" in rows[0] and rows[0][-1] == "dog.cone"
    assert "bad.cone" in done.err and done.code == 0 and done.out == b""
    records = cones("list", "more", "--json").json
    assert [(each["name"], each["phrase"], each["base"]) for each in records] == [
        ("dog", "sks dog", "toy"),
        ("hat", "zwx hat", "toy"),
    ]
    assert records[0]["bytes"] == (work / "more" / "both.cone").stat().st_size
    assert "sks dog" in cones("list").err
    assert cones("list", "nowhere").code == 2 and json.loads(cones("list", "--json", "-q").out)[0]["file"] == "dog.cone"
