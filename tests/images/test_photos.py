"""Photos as people have them: every kind of file comes in upright and in RGB, or is refused by name."""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conestool.errors import PhotoError
from conestool.images.photos import as_photo, read_photo, read_photos, square, to_latents
from conestool.models.model import Model
from tests.support.tiny_models import save_pipeline

RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_halves(width: int = 40, height: int = 32) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize("ending", ["png", "bmp", "gif", "webp", "tiff"])
def test_reads_lossless_formats(tmp_path: Path, ending: str) -> None:
    """Pixels arrive as they were."""
    options = {"lossless": True} if ending == "webp" else {}
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
    """Neither EXIF nor colour profile nor text stays with the picture."""
    exif = Image.Exif()
    exif[0x010E] = "my house"
    two_halves().save(tmp_path / "a.jpg", exif=exif, comment=b"my name")
    photo = read_photo(tmp_path / "a.jpg")
    assert not photo.image.info and not photo.image.getexif()


def test_puts_transparency_on_white(tmp_path: Path) -> None:
    """Half-transparent red becomes pink, in RGBA, in grey with alpha and in palettes."""
    Image.new("RGBA", (20, 20), (255, 0, 0, 128)).save(tmp_path / "rgba.png")
    Image.new("LA", (20, 20), (0, 0)).save(tmp_path / "la.png")
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([0, 255, 0] * 2)
    palette.save(tmp_path / "p.png", transparency=0)
    red, green, blue = read_photo(tmp_path / "rgba.png").image.getpixel((0, 0))
    assert red == 255 and abs(green - 127) <= 1 and abs(blue - 127) <= 1
    assert read_photo(tmp_path / "la.png").image.getpixel((0, 0)) == (255, 255, 255)
    assert read_photo(tmp_path / "p.png").image.getpixel((0, 0)) == (255, 255, 255)


def test_reads_16_bit_grey(tmp_path: Path) -> None:
    """65535 is white and the middle is the middle, not clipped."""
    values = np.full((20, 20), 65535, dtype=np.uint16)
    values[:, 10:] = 32768
    Image.fromarray(values).save(tmp_path / "a.png")
    image = read_photo(tmp_path / "a.png").image
    assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((15, 0)) == (127, 127, 127)


def test_reads_cmyk(tmp_path: Path) -> None:
    """Cyan ink is not red."""
    Image.new("CMYK", (32, 32), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = read_photo(tmp_path / "a.jpg").image.getpixel((16, 16))
    assert red < 30 < 200 < min(green, blue)


def test_takes_the_first_frame(tmp_path: Path) -> None:
    """Of an animation the first picture counts."""
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_photo(tmp_path / "a.gif").image.getpixel((5, 5)) == RED


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
    (tmp_path / "a.txt").write_text("on the\nbeach \n")
    (tmp_path / "b.txt").write_text(" \n")
    (tmp_path / "c.txt").write_text("beside nothing")
    photos, notes = read_photos([tmp_path], captions=True)
    assert [photo.caption for photo in photos] == ["on the beach", ""]
    assert notes == ["c.txt: not an image, skipped"]
    assert [photo.caption for photo in read_photos([tmp_path])[0]] == ["", ""]


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"long " * 1000])
def test_refuses_a_caption_that_is_none(tmp_path: Path, data: bytes) -> None:
    """Bytes that are no text, and too much of it."""
    Image.new("RGB", (20, 20), RED).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(PhotoError, match=r"a\.txt: no caption for a\.png"):
        read_photos([tmp_path], captions=True)
    assert len(read_photos([tmp_path])[0]) == 1


def truncated_jpeg(path: Path) -> Path:
    """A JPEG that ends in the middle."""
    out = BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "JPEG")
    path.write_bytes(out.getvalue()[: len(out.getvalue()) // 2])
    return path


def test_names_every_broken_photo(tmp_path: Path) -> None:
    """All broken files are named at once; with skip_broken they become notes."""
    two_halves().save(tmp_path / "good.png")
    truncated_jpeg(tmp_path / "half.jpg")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(PhotoError, match=r"half\.jpg: broken image: .*text\.png: not an image") as caught:
        read_photos([tmp_path])
    assert caught.value.exit_code == 3 and str(tmp_path) not in str(caught.value)
    photos, notes = read_photos([tmp_path], skip_broken=True)
    assert [photo.name for photo in photos] == ["good.png"]
    assert len(notes) == 2 and all(note.endswith("skipped") for note in notes)


def test_refuses_a_text_named_outright(tmp_path: Path) -> None:
    """A file on the command line must be a photo."""
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(PhotoError, match=r"a\.txt: not an image"):
        read_photos([tmp_path / "a.txt"])


def test_refuses_a_missing_path_and_an_empty_folder(tmp_path: Path) -> None:
    """No photo at all is an error."""
    with pytest.raises(PhotoError, match="no such file or folder"):
        read_photos([tmp_path / "nowhere"])
    with pytest.raises(PhotoError, match="no photo that can be used"):
        read_photos([tmp_path])


@pytest.mark.parametrize("size", [(1, 1), (400, 3)])
def test_refuses_tiny_pictures(tmp_path: Path, size: tuple[int, int]) -> None:
    """A pixel is no photo; the message gives the size and the least."""
    Image.new("RGB", size).save(tmp_path / "dot.png")
    with pytest.raises(PhotoError, match=rf"dot\.png: {size[0]}x{size[1]} pixels are too few, expected at least 16x16"):
        read_photos([tmp_path])


def test_refuses_a_decompression_bomb(tmp_path: Path) -> None:
    """A small file that claims 900 million pixels is refused before they are made."""
    small = BytesIO()
    Image.new("1", (16, 16)).save(small, "PNG")
    data = bytearray(small.getvalue())
    data[16:24] = (30_000).to_bytes(4, "big") * 2  # width and height in IHDR, then its checksum
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(PhotoError, match=r"bomb\.png: too large, the most is 178 million pixels"):
        read_photo(tmp_path / "bomb.png")


def test_hash_depends_on_the_size() -> None:
    """The same bytes in another shape are another picture."""
    wide, tall = Image.new("RGB", (40, 20), RED), Image.new("RGB", (20, 40), RED)
    assert wide.tobytes() == tall.tobytes() and as_photo(wide).sha256 != as_photo(tall).sha256


def test_squares_the_centre() -> None:
    """The middle of a wide picture, at the asked size."""
    image = Image.new("RGB", (90, 30), RED)
    image.paste(BLUE, (30, 0, 60, 30))
    cut = square(image, 16)
    assert cut.size == (16, 16) and cut.getpixel((8, 8)) == BLUE and cut.getpixel((1, 8))[2] > 200


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
