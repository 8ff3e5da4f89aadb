"""Hostile photos: every file is read, noted or refused by name, in bounded memory and time, and nothing hangs."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conestool.errors import PhotoError
from conestool.images import photos as reading
from conestool.images.photos import KEPT_PIXELS, as_photo, read_photo, read_photos
from tests.hostile.bad_photos import BOMBS, claim_jpeg, corrupt_exif, jpeg, mutate, odd_folder, png, zeros
from tests.hostile.reading import measured

SECONDS = 60
BASE = 100
"""MiB that Python with numpy and Pillow takes before any photo, and the strips; the largest decoder comes on top."""


@contextmanager
def not_root() -> Iterator[None]:
    """Permissions hold for root too."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What came of every bomb, by its name."""
    home = tmp_path_factory.mktemp("bombs")
    for name, (make, _) in BOMBS.items():
        (home / name).mkdir()
        make(home / name)
    return {str(each["folder"]): each for each in measured([home / name for name in BOMBS], SECONDS)}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_name_before_they_unfold(records: dict[str, dict[str, object]], name: str) -> None:
    """The error names the file and the reason, the hint what to do; memory stays that of the bare program."""
    record = records[name]
    words = BOMBS[name][1]
    assert words in str(record["error"]) and str(record["error"]).startswith("a."), record
    assert "--skip-broken" in str(record["hint"])
    assert int(str(record["peak"])) < BASE


def test_what_is_large_in_truth_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """20 million pixels from 20 kB take 4 bytes each, a JPEG of as many less; so does one that only claims them."""
    cases = {"bomb": png(4000, 5000), "photo": jpeg((4000, 5000)), "claim": claim_jpeg(13_000, 13_000)}
    for name, data in cases.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.img").write_bytes(data)
    found = measured([tmp_path / name for name in cases], SECONDS)
    for record, most in zip(found, (BASE + 80, BASE + 60, BASE + 60), strict=True):
        ((_, width, height),) = record["photos"]
        assert KEPT_PIXELS * 0.99 < width * height <= KEPT_PIXELS
        assert record["peak"] < most, record


def test_what_is_no_file_gets_a_note_and_never_hangs(tmp_path: Path) -> None:
    """Pipes, sockets, devices, folders and bad links in the folder are named; the photo among them is read."""
    expected = odd_folder(tmp_path)
    (tmp_path / "good.jpg").write_bytes(jpeg())
    (record,) = measured([tmp_path], SECONDS)
    assert [name for name, *_ in record["photos"]] == ["good.jpg"]
    assert sorted(record["notes"]) == sorted(f"{name}: {what}, skipped" for name, what in expected.items())


def test_what_is_no_file_is_refused_when_named_outright(tmp_path: Path) -> None:
    """The same things on the command line are errors that say what lies there."""
    for name, what in odd_folder(tmp_path).items():
        for ask in (lambda path: read_photos([path]), read_photo):
            if what != "a folder" or ask is read_photo:
                with pytest.raises(PhotoError, match=what):
                    ask(tmp_path / name)


def test_paths_that_cannot_be_are_named() -> None:
    """A name too long for the system, and one with a NUL."""
    for path, words in (
        ("x" * 300, "File name too long"),
        ("x" * 5000, "File name too long"),
        ("a\0b", "no such file"),
    ):
        with pytest.raises(PhotoError, match=words):
            read_photos([path])


def test_unreadable_files_and_folders_are_named(tmp_path: Path) -> None:
    """Without permission: the file's or the folder's name and the reason."""
    closed = tmp_path / "closed"
    closed.mkdir()
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    for path in (closed, tmp_path / "secret.jpg"):
        path.chmod(0)
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    with not_root():
        with pytest.raises(PhotoError, match=r"secret\.jpg: cannot be read: Permission denied"):
            read_photos([tmp_path])
        with pytest.raises(PhotoError, match="closed: cannot be listed: Permission denied") as caught:
            read_photos([closed])
    assert caught.value.exit_code == 3


def test_the_ending_does_not_decide(tmp_path: Path) -> None:
    """A PNG called .jpg, a JPEG called .png, and one without an image's name."""
    (tmp_path / "a.jpg").write_bytes(png(20, 20))
    (tmp_path / "b.png").write_bytes(jpeg())
    (tmp_path / "c.dat").write_bytes(jpeg((32, 32)))
    assert [photo.name for photo in read_photos([tmp_path])[0]] == ["a.jpg", "b.png", "c.dat"]


def test_too_much_is_said_briefly_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 texts are one note; more images than anyone means, or more pixels than may be held at once, are refused."""
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg())
    for number in range(3000):
        (tmp_path / f"{number:04}.txt").touch()
    photos, notes = read_photos([tmp_path])
    assert len(photos) == 3
    assert notes[0] == "0000.txt, 0001.txt, 0002.txt and 2,997 others: not an image, skipped"
    with monkeypatch.context() as patch:
        patch.setattr(reading, "MAX_TOTAL_PIXELS", 64 * 48 * 2)
        with pytest.raises(PhotoError, match=r"c\.jpg: photo 3, and more than 6,144 pixels in all"):
            read_photos([tmp_path])
    for number in range(reading.MAX_FILES):
        (tmp_path / f"{number:04}.jpg").touch()
    monkeypatch.setattr(reading, "read_photo", lambda path: pytest.fail("opened a photo"))
    with pytest.raises(PhotoError, match="1,003 images are too many, the most is 1,000"):
        read_photos([tmp_path])


def test_large_photos_are_reduced_and_turned(tmp_path: Path) -> None:
    """Red above, blue below after turning, in the kept size, and equal by hash to itself in memory."""
    image = Image.new("RGB", (4000, 2000), "red")
    image.paste("blue", (0, 0, 2000, 2000))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif, compress_level=1)
    photo = read_photo(tmp_path / "a.png").image
    assert photo.size == (1448, 2896)
    assert photo.getpixel((700, 100)) == (0, 0, 255) and photo.getpixel((700, 2800)) == (255, 0, 0)


def test_damaged_exif_costs_no_photo(tmp_path: Path) -> None:
    """200 JPEGs with damaged EXIF are all read, upright or as they lie."""
    for seed in range(200):
        (tmp_path / "a.jpg").write_bytes(corrupt_exif(seed))
        assert sorted(read_photo(tmp_path / "a.jpg").image.size) == [48, 64]


def test_what_pillow_gives_up_on_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unreadable EXIF is a remark and costs no photo; a decoder without memory is an error about its file."""

    def fail(error: Exception) -> None:
        raise error

    with monkeypatch.context() as patch:
        error = struct.error("unpack requires a buffer of 12 bytes")
        patch.setattr("conestool.images.photos.ImageOps.exif_transpose", lambda image: fail(error))
        assert "EXIF is damaged" in as_photo(Image.new("RGB", (20, 20))).remarks[0]
    (tmp_path / "a.png").write_bytes(png(20, 20, data=zeros(61 * 20)))
    monkeypatch.setattr("conestool.images.photos._to_upright", lambda image: fail(MemoryError()))
    with pytest.raises(PhotoError, match=r"a\.png: needs more memory than there is"):
        read_photo(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_mutants_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    """60 damaged files a format: a photo or a PhotoError with the name, never another exception."""
    out = BytesIO()
    Image.open(BytesIO(jpeg())).save(out, kind)
    for seed in range(60):
        (tmp_path / "a.img").write_bytes(mutate(out.getvalue(), seed))
        try:
            assert read_photo(tmp_path / "a.img").image.mode == "RGB"
        except PhotoError as error:
            assert str(error).startswith("a.img: "), seed


def test_a_floating_point_picture_with_nan_and_infinities_is_read(tmp_path: Path) -> None:
    """What is no number is black, what is infinite is white."""
    values = np.full((20, 20), 0.5, dtype=np.float32)
    values[0], values[1] = np.nan, np.inf
    Image.fromarray(values).save(tmp_path / "a.tiff")
    image = read_photo(tmp_path / "a.tiff").image
    assert image.getpixel((5, 0)) == (0, 0, 0) and image.getpixel((5, 1)) == (255, 255, 255)
