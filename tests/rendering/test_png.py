"""Records in PNGs: written for people and programs, read back exactly, and refused when they are not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from conestool.errors import InputError
from conestool.rendering import png_bytes, read_record
from conestool.rendering.png import parameters

RECORD: dict[str, Any] = {
    "version": 1,
    "prompt": "a dog in a hat, «café»",
    "sent": "a sks dog in a zwx hat, «café»",
    "negative": "blurry",
    "seed": 7,
    "steps": 25,
    "guidance": 3.0,
    "scheduler": "DDIMScheduler",
    "sampler": "DDIM",
    "width": 64,
    "height": 48,
    "batch": 1,
    "regions": False,
    "concepts": [
        {"name": "dog", "id": "a" * 64, "identifier": "sks", "strength": 1.0},
        {"name": "hat", "id": "b" * 64, "identifier": "zwx", "strength": 0.5},
    ],
    "model": {
        "id": "pocket",
        "revision": None,
        "family": "stable-diffusion",
        "structure": "c" * 64,
        "digests": {"f32": "d" * 64},
        "dtype": "float32",
        "file_sha256": "e" * 64,
    },
    "versions": {"conestool": "0.1.0"},
}


def write(path: Path, record: dict[str, Any] = RECORD) -> Path:
    """A PNG with a record."""
    path.write_bytes(png_bytes(Image.new("RGB", (64, 48), "red"), record))
    return path


def test_record_survives_the_file(tmp_path: Path) -> None:
    """Every field comes back, of later versions too, the pixels are untouched, and the order of keys is no matter."""
    path = write(tmp_path / "a.png")
    assert read_record(path) == RECORD
    assert path.read_bytes() == png_bytes(Image.new("RGB", (64, 48), "red"), dict(reversed(RECORD.items())))
    assert read_record(write(tmp_path / "b.png", RECORD | {"mood": "calm"}))["mood"] == "calm"
    with Image.open(path) as image:
        assert image.convert("RGB").tobytes() == Image.new("RGB", (64, 48), "red").tobytes()


def test_parameters_read_as_a1111_writes_them(tmp_path: Path) -> None:
    """Prompt, negative prompt and one line of settings, values with commas in quotes."""
    with Image.open(write(tmp_path / "a.png")) as image:
        image.load()
        text = image.info["parameters"]
    assert text.splitlines() == [
        "a sks dog in a zwx hat, «café»",
        "Negative prompt: blurry",
        "Steps: 25, Sampler: DDIM, CFG scale: 3, Seed: 7, Size: 64x48, Model hash: eeeeeeeeee, Model: pocket, "
        f'Cones: "dog: 1 ({"a" * 10}), hat: 0.5 ({"b" * 10})", Version: conestool 0.1.0',
    ]


def test_what_a1111_would_not_know_is_left_out() -> None:
    """It refuses an unknown sampler on paste; the hash of a folder is not one that it has."""
    model = RECORD["model"] | {"file_sha256": None}
    text = parameters(RECORD | {"sampler": None, "scheduler": "SASolverScheduler", "model": model, "seed": 0})
    settings = text.splitlines()[-1]
    assert "Sampler" not in settings and "hash" not in settings and "None" not in settings
    assert "Seed: 0, " in settings
    short = parameters(RECORD | {"negative": "", "concepts": []})
    assert len(short.splitlines()) == 2 and "Cones" not in short


def with_text(path: Path, text: str | None) -> Path:
    """A PNG whose cones chunk holds `text`."""
    info = PngImagePlugin.PngInfo()
    if text is not None:
        info.add_text("cones", text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no cones record"),
        ("", "cones record"),
        ("{", "cones record"),
        ("[]", "cones record"),
        ("[" * 100_000, "cones record"),
        (json.dumps(RECORD | {"seed": -1}), "cones record: seed"),
        (json.dumps(RECORD | {"seed": "7; rm"}), "cones record: seed"),
        (json.dumps(RECORD | {"guidance": float("nan")}), "cones record: guidance"),
        (json.dumps(RECORD | {"width": 1 << 40}), "cones record: width"),
        (json.dumps(RECORD | {"version": 2}), "cones record: version"),
        (json.dumps({key: value for key, value in RECORD.items() if key != "sent"}), "cones record: sent"),
        (json.dumps(RECORD | {"concepts": [{"name": "dog"}]}), r"cones record: concepts\.0\.id"),
    ],
)
def test_refuses_records_that_are_not_ours(tmp_path: Path, text: str | None, message: str) -> None:
    """A picture from a stranger raises an InputError with the file's name, whatever stands in it."""
    with pytest.raises(InputError, match=rf"^a\.png: {message}") as caught:
        read_record(with_text(tmp_path / "a.png", text))
    assert caught.value.exit_code == 3


def test_refuses_files_that_are_no_png(tmp_path: Path) -> None:
    """Missing, a text, another format, cut off."""
    (tmp_path / "text.png").write_text("text")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    (tmp_path / "half.png").write_bytes(write(tmp_path / "whole.png").read_bytes()[:60])
    for name in ("text.png", "photo.jpg", "half.png", "nowhere.png"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_record(tmp_path / name)
