"""Photos as people have them: every kind of file comes in upright and in RGB, or is refused by name."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from conestool.errors import PhotoError
from conestool.images import photos
from conestool.images.photos import as_photo, read_photo, read_photos, square, to_latents
from conestool.models.model import Model
from tests.images.profiles import GREY_LINEAR, INK, P3, P3_TO_XYZ, SRGB_TO_XYZ
from tests.support.tiny_models import save_pipeline

RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_halves(width: int = 40, height: int = 32) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def pixel(path: Path, at: tuple[int, int] = (5, 5)) -> tuple[int, int, int]:
    """A pixel of a photo that is read."""
    return rgb(read_photo(path).image, at)


def rgb(image: Image.Image, at: tuple[int, int]) -> tuple[int, int, int]:
    """A pixel of a picture in RGB."""
    red, green, blue = image.getpixel(at)  # type: ignore[misc]
    return int(red), int(green), int(blue)


@pytest.mark.parametrize("ending", ["png", "bmp", "gif", "webp", "tiff"])
def test_reads_lossless_formats(tmp_path: Path, ending: str) -> None:
    """Pixels arrive as they were."""
    options: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    two_halves().save(tmp_path / f"a.{ending}", **options)
    photo = read_photo(tmp_path / f"a.{ending}")
    assert photo.image.mode == "RGB" and photo.image.tobytes() == two_halves().tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_by_exif(tmp_path: Path, orientation: int) -> None:
    """Whatever the camera held, the upright picture is the same, and its hash with it."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    held = two_halves().transpose(undo[orientation]) if orientation in undo else two_halves()
    exif = Image.Exif()
    exif[0x0112] = orientation
    held.save(tmp_path / "a.png", exif=exif)
    photo = read_photo(tmp_path / "a.png")
    assert photo.image.tobytes() == two_halves().tobytes()
    assert photo.sha256 == as_photo(two_halves()).sha256


def test_keeps_no_metadata(tmp_path: Path) -> None:
    """Neither EXIF nor colour profile nor text stays with the picture; its hash depends on its shape."""
    exif = Image.Exif()
    exif[0x010E] = "my house"
    two_halves().save(tmp_path / "a.jpg", exif=exif, comment=b"my name")
    photo = read_photo(tmp_path / "a.jpg")
    assert not photo.image.info and not photo.image.getexif()
    wide, tall = Image.new("RGB", (40, 20), RED), Image.new("RGB", (20, 40), RED)
    assert wide.tobytes() == tall.tobytes() and as_photo(wide).sha256 != as_photo(tall).sha256


def test_puts_transparency_on_white(tmp_path: Path) -> None:
    """Half-transparent red becomes pink, in RGBA, in grey with alpha and in palettes."""
    Image.new("RGBA", (20, 20), (255, 0, 0, 128)).save(tmp_path / "rgba.png")
    Image.new("LA", (20, 20), (0, 0)).save(tmp_path / "la.png")
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([0, 255, 0] * 2)
    palette.save(tmp_path / "p.png", transparency=0)
    assert np.abs(pixel(tmp_path / "rgba.png") - np.array((255, 127, 127))).max() <= 1
    assert pixel(tmp_path / "la.png") == pixel(tmp_path / "p.png") == (255, 255, 255)


def test_reads_16_bit_grey_cmyk_and_the_first_frame(tmp_path: Path) -> None:
    """65535 is white and the middle is the middle; cyan ink is not red; of an animation the first counts."""
    values = np.full((20, 20), 65535, dtype=np.uint16)
    values[:, 10:] = 32768
    Image.fromarray(values).save(tmp_path / "a.png")
    assert [pixel(tmp_path / "a.png", at) for at in ((0, 0), (15, 0))] == [(255, 255, 255), (127, 127, 127)]
    Image.new("CMYK", (32, 32), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = pixel(tmp_path / "a.jpg", (16, 16))
    assert red < 30 < 200 < min(green, blue)
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(tmp_path / "a.gif") == RED


def test_reads_folders_in_name_order_and_notes_the_rest(tmp_path: Path) -> None:
    """Other files are noted, hidden ones ignored, an image without an ending found, a copy counted once."""
    for name, colour in (("b.png", BLUE), ("a.png", RED), ("copy.png", RED)):
        Image.new("RGB", (20, 20), colour).save(tmp_path / name)
    Image.new("RGB", (20, 20), "green").save(tmp_path / "unnamed", "PNG")
    (tmp_path / "notes.md").write_text("a text")
    (tmp_path / ".hidden").write_text("")
    photos, notes = read_photos([tmp_path])
    assert [photo.name for photo in photos] == ["a.png", "b.png", "unnamed"]
    assert notes == ["notes.md: not an image, skipped", "copy.png: same picture as a.png, counted once"]


def test_a_text_beside_a_photo_is_its_caption(tmp_path: Path) -> None:
    """One line of it, only where captions are wanted; it is not noted as a file that was skipped."""
    for name, colour in (("a.png", RED), ("b.png", BLUE)):
        Image.new("RGB", (20, 20), colour).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("\non the  beach \n")
    (tmp_path / "b.txt").write_text(" \n")
    (tmp_path / "c.txt").write_text("beside nothing")
    photos, notes = read_photos([tmp_path], captions=True)
    assert [photo.caption for photo in photos] == ["on the beach", ""]
    assert notes == ["c.txt: not an image, skipped"]
    assert [photo.caption for photo in read_photos([tmp_path])[0]] == ["", ""]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_caption_may_be_in_what_windows_writes(tmp_path: Path, encoding: str) -> None:
    """UTF-8, with its mark or without, and UTF-16 with its mark, either way round."""
    Image.new("RGB", (20, 20), RED).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("am Fuß des Hügels\r\n".encode(encoding))
    assert read_photos([tmp_path], captions=True)[0][0].caption == "am Fuß des Hügels"
    if encoding == "utf-16":
        (tmp_path / "a.txt").write_bytes(b"\xfe\xff" + "am Fuß".encode("utf-16-be"))
        assert read_photos([tmp_path], captions=True)[0][0].caption == "am Fuß"


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\x00", b"long " * 1000, "am Fu\xdf".encode("latin-1"), b"on the beach\nin the snow\n"]
)
def test_refuses_a_caption_that_is_none(tmp_path: Path, data: bytes) -> None:
    """No text, an encoding that cannot be known, too much of it, and two lines; with what helps a text."""
    Image.new("RGB", (20, 20), RED).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(PhotoError, match=r"a\.txt: no caption for a\.png: expected one line of UTF-8") as caught:
        read_photos([tmp_path], captions=True)
    assert "one line of UTF-8" in str(caught.value.hint) and "image program" not in str(caught.value.hint)
    assert len(read_photos([tmp_path])[0]) == 1
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(PhotoError) as caught:
        read_photos([tmp_path], captions=True)
    assert "one line of UTF-8" in str(caught.value.hint) and "image program" in str(caught.value.hint)


def test_names_every_broken_photo(tmp_path: Path) -> None:
    """All broken files are named at once with their reasons; with skip_broken they become notes."""
    two_halves().save(tmp_path / "good.png")
    out = BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(out, "JPEG")
    (tmp_path / "half.jpg").write_bytes(out.getvalue()[: len(out.getvalue()) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("not a picture")
    words = r"^empty\.jpg: an empty file; half\.jpg: broken image: .*text\.png: not an image$"
    with pytest.raises(PhotoError, match=words) as caught:
        read_photos([tmp_path])
    assert caught.value.exit_code == 3 and str(tmp_path) not in str(caught.value)
    photos, notes = read_photos([tmp_path], skip_broken=True)
    assert [photo.name for photo in photos] == ["good.png"]
    assert len(notes) == 3 and all(note.endswith("skipped") for note in notes)


def test_refuses_what_is_no_photo(tmp_path: Path) -> None:
    """A text named outright, a missing path, a folder without any; a pixel, with its size and the least."""
    with pytest.raises(PhotoError, match="no such file or folder"):
        read_photos([tmp_path / "nowhere"])
    with pytest.raises(PhotoError, match="no photo that can be used"):
        read_photos([tmp_path])
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(PhotoError, match=r"a\.txt: not an image"):
        read_photos([tmp_path / "a.txt"])
    for width, height in ((1, 1), (400, 3)):
        Image.new("RGB", (width, height)).save(tmp_path / "dot.png")
        with pytest.raises(PhotoError, match=rf"dot\.png: {width}x{height} pixels are too few, .* at least 16x16"):
            read_photos([tmp_path])


def test_squares_the_centre() -> None:
    """The middle of a wide picture, at the asked size."""
    image = Image.new("RGB", (90, 30), RED)
    image.paste(BLUE, (30, 0, 60, 30))
    cut = square(image, 16)
    assert cut.size == (16, 16) and cut.getpixel((8, 8)) == BLUE and rgb(cut, (1, 8))[2] > 200


@pytest.mark.parametrize("tiny", [True, False])
def test_latents_are_scaled_as_the_denoiser_expects(tmp_path: Path, tiny: bool) -> None:
    """Equal to the autoencoder called by hand (the posterior's mean for AutoencoderKL), and repeatable."""
    model = Model.from_pretrained(str(save_pipeline(tmp_path / "m", tiny=tiny)))
    images = [two_halves(32, 32), Image.new("RGB", (32, 32), "white")]
    latents = to_latents(model, images, batch=1)
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 * 2 - 1 for image in images])
    vae = model.pipe.vae
    with torch.no_grad():
        expected = vae.encode(pixels).latents if tiny else vae.encode(pixels).latent_dist.mean
    torch.testing.assert_close(latents, expected * vae.config.scaling_factor, rtol=1e-4, atol=1e-5)
    assert latents.shape == (2, 4, 8, 8) and latents.dtype == torch.float32
    assert torch.equal(latents, to_latents(model, images, batch=1))


def expected_from_p3(colour: tuple[int, int, int]) -> np.ndarray:
    """The colour in sRGB, by hand: to light, through XYZ, and back by sRGB's own curve."""
    light = np.linalg.solve(SRGB_TO_XYZ, P3_TO_XYZ @ (np.array(colour) / 255) ** 2.2).clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff", "avif"])
@pytest.mark.parametrize("colour", [(200, 100, 50), (0, 255, 0), (90, 90, 90)])
def test_display_p3_becomes_srgb(tmp_path: Path, ending: str, colour: tuple[int, int, int]) -> None:
    """As every iPhone takes pictures; the profile itself is gone."""
    options: dict[str, Any] = {"lossless": True} if ending == "webp" else {"quality": 100}
    Image.new("RGB", (32, 32), colour).save(tmp_path / f"a.{ending}", icc_profile=P3, **options)
    photo = read_photo(tmp_path / f"a.{ending}")
    got = np.array(photo.image.getpixel((16, 16)))
    assert abs(got - expected_from_p3(colour)).max() <= 4, got
    assert colour == (90, 90, 90) or abs(got - np.array(colour)).max() > (9 if colour[1] < 255 else -1)
    assert not photo.image.info and not photo.remarks


def test_a_profile_of_the_other_modes_is_followed(tmp_path: Path) -> None:
    """Palettes, transparency, grey in an RGB space, and pictures in memory."""
    expected = expected_from_p3((200, 100, 50))
    Image.new("RGB", (32, 32), (200, 100, 50)).quantize(4).save(tmp_path / "p.png", icc_profile=P3)
    Image.new("RGBA", (32, 32), (200, 100, 50, 255)).save(tmp_path / "rgba.png", icc_profile=P3)
    in_memory = Image.new("RGB", (32, 32), (200, 100, 50))
    in_memory.info["icc_profile"] = P3
    for photo in (read_photo(tmp_path / "p.png"), read_photo(tmp_path / "rgba.png"), as_photo(in_memory)):
        assert abs(np.array(photo.image.getpixel((5, 5))) - expected).max() <= 2
    Image.new("RGBA", (32, 32), (200, 100, 50, 0)).save(tmp_path / "clear.png", icc_profile=P3)
    assert pixel(tmp_path / "clear.png") == (255, 255, 255)
    Image.new("LA", (32, 32), (100, 255)).save(tmp_path / "la.png", icc_profile=GREY_LINEAR)
    assert abs(pixel(tmp_path / "la.png")[0] - 168) <= 1


def test_grey_press_and_lab_profiles_are_followed(tmp_path: Path) -> None:
    """128 of linear light is 188 in sRGB, in 8 and in 16 bits; what full C looks like is the profile's affair."""
    Image.new("L", (32, 32), 128).save(tmp_path / "a.jpg", icc_profile=GREY_LINEAR, quality=100)
    Image.fromarray(np.full((32, 32), 128 * 257, dtype=np.uint16)).save(tmp_path / "b.png", icc_profile=GREY_LINEAR)
    for name in ("a.jpg", "b.png"):
        red, green, blue = pixel(tmp_path / name)
        assert red == green == blue and abs(red - 188) <= 1
    for name, inks in (("c", (255, 0, 0, 0)), ("paper", (0, 0, 0, 0))):
        Image.new("CMYK", (32, 32), inks).save(tmp_path / f"{name}.jpg", icc_profile=INK, quality=100)
    red, green, blue = pixel(tmp_path / "c.jpg", (16, 16))
    assert green < 60 < red < blue and blue > 140
    assert min(pixel(tmp_path / "paper.jpg", (16, 16))) >= 253
    Image.new("LAB", (32, 32), (255, 128, 128)).save(tmp_path / "a.tiff")
    assert min(pixel(tmp_path / "a.tiff")) >= 252


@pytest.mark.parametrize("profile", [b"no profile", P3[:200], P3[:128] + bytes(300), INK, GREY_LINEAR, b""])
def test_a_profile_that_does_not_fit_is_remarked_on(tmp_path: Path, profile: bytes) -> None:
    """Damaged, or of another kind of picture: the colours as they are, and a note that says so."""
    two_halves().save(tmp_path / "a.png", icc_profile=profile)
    [photo], notes = read_photos([tmp_path])
    assert photo.image.tobytes() == two_halves().tobytes()
    assert (notes == []) == (profile == b"") and all(
        "a.png: its colour profile cannot be used" in note for note in notes
    )


def test_srgb_stays_bit_for_bit(tmp_path: Path) -> None:
    """With a profile that says sRGB as without one."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise.save(tmp_path / "a.png", icc_profile=profile)
    assert read_photo(tmp_path / "a.png").sha256 == as_photo(noise).sha256


HEIC = Path(__file__).parent / "turned.heic"
"""64 x 48 before it is turned by a quarter: red on the left, blue on the right; Display P3. By pillow-heif 1.8.1."""


def test_reads_heic_upright(tmp_path: Path) -> None:
    """As phones write it, with its turn and its profile; also without its ending."""
    copyfile(HEIC, tmp_path / "IMG_1.HEIC")
    copyfile(HEIC, tmp_path / "unnamed")
    [photo], notes = read_photos([tmp_path])
    assert photo.image.size == (48, 64) and notes == ["unnamed: same picture as IMG_1.HEIC, counted once"]
    top, bottom = (np.array(photo.image.getpixel((24, row))) for row in (8, 56))
    assert abs(top - expected_from_p3((200, 40, 40))).max() < 12, top
    assert abs(bottom - expected_from_p3((40, 40, 200))).max() < 12, bottom


def test_reads_avif_upright(tmp_path: Path) -> None:
    """With the turn that EXIF has."""
    exif = Image.Exif()
    exif[0x0112] = 6
    two_halves(64, 48).save(tmp_path / "a.avif", quality=95, exif=exif)
    assert read_photo(tmp_path / "a.avif").image.size == (48, 64)
    assert pixel(tmp_path / "a.avif", (24, 8))[0] > 200 and pixel(tmp_path / "a.avif", (24, 56))[2] > 200


def test_says_which_package_reads_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is missing, or Pillow was built without."""
    copyfile(HEIC, tmp_path / "a.heic")
    two_halves().save(tmp_path / "b.avif")
    monkeypatch.setattr("conestool.images.photos._formats", lambda: photos.FORMATS)
    with pytest.raises(PhotoError, match=r"a\.heic: HEIC, .*pip install pi-heif.*b\.avif: AVIF, .*Pillow"):
        read_photos([tmp_path])


def test_says_what_was_passed_over_when_nothing_is_left(tmp_path: Path) -> None:
    """A folder as kohya has it, raw photos and films; what they are, and what to give."""
    inside = tmp_path / "10_sks dog"
    inside.mkdir()
    for number in range(3):
        two_halves().save(inside / f"{number}.png")
    (tmp_path / "a.cr2").write_bytes(b"II*\0" + bytes(100))
    (tmp_path / "b.MOV").write_bytes(b"film")
    with pytest.raises(PhotoError) as caught:
        read_photos([tmp_path])
    for words in ("10_sks dog: a folder with 3 images", "a.cr2: a raw photo", "b.MOV: a film"):
        assert words in str(caught.value)
    assert f"'{inside}'" in str(caught.value.hint)
    two_halves().save(tmp_path / "c.png")
    _, notes = read_photos([tmp_path])
    assert "10_sks dog: a folder with 3 images, skipped" in notes
    with pytest.raises(PhotoError, match=r"a\.cr2: a raw photo") as caught:
        read_photos([tmp_path / "a.cr2"])
    assert "JPEG" in str(caught.value.hint)
