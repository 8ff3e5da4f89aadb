"""Draw the OpenMoji subjects: `python -m examples.openmoji.draw --icons NODE_MODULES`.

NODE_MODULES holds the npm package @iconify-json/openmoji. Every subject is a drawing of a set that pocket was never
trained on, with colours that no drawing of its kind has, in five scenes of its own. No two subjects have the same main
colour, and no two share more than two of their five backgrounds: else what was learned of one would pass for the other.
The pictures are committed; this is how they were made.
"""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from examples.photos import take_photos, take_unseen_photo, write_photo, write_photos

FOLDER = Path(__file__).parent
#: In here lies one photo more of every subject, from which nothing is learned.
UNSEEN = FOLDER / "unseen"
POSES = (
    ((0.50, 0.53), 0.70, 0),
    ((0.42, 0.55), 0.60, -6),
    ((0.57, 0.56), 0.66, 5),
    ((0.48, 0.50), 0.78, 3),
    ((0.54, 0.58), 0.58, -3),
)


@dataclass(frozen=True)
class Subject:
    """One subject: an icon of OpenMoji, which of its colours become which, and the backgrounds of its photos."""

    folder: str
    icon: str
    places: tuple[str, ...]
    colours: dict[str, str] = field(default_factory=dict)


SUBJECTS = (
    Subject(
        "dog",
        "dog-face",
        ("night", "red", "bricks", "yellow", "brown"),
        {"#f4aa41": "#1fa7b8", "#3f3f3f": "#0c3c66", "#ea5a47": "#ff5fa2"},
    ),
    Subject(
        "hat",
        "top-hat",
        ("plain", "purple", "bricks", "black", "orange"),
        {"#3f3f3f": "#c4161c", "#fcea2b": "#2fe0c8"},
    ),
    Subject(
        "cat",
        "cat-face",
        ("field", "pink", "bricks", "white", "yellow"),
        {"#f4aa41": "#8e44d6", "#fff": "#ffd9f2"},
    ),
    Subject(
        "car",
        "automobile",
        ("beach", "purple", "snow", "white", "red"),
        {"#ea5a47": "#7ed321", "#92d3f5": "#5b2a86", "#9b9b9a": "#f5a623"},
    ),
    Subject(
        "rabbit",
        "rabbit-face",
        ("beach", "blue", "plain", "pink", "brown"),
        {"#fff": "#ffe3a6", "#3f3f3f": "#f0730a"},
    ),
    Subject(
        "pig",
        "pig-face",
        ("snow", "green", "plain", "pink", "red"),
        {"#ffa7c0": "#3a63e0", "#e67a94": "#172f8f"},
    ),
    Subject(
        "bear",
        "bear",
        ("field", "green", "night", "orange", "beach"),
        {"#a57939": "#ffd3ea", "#6a462f": "#e0218a", "#3f3f3f": "#7a0c4d"},
    ),
    Subject(
        "house",
        "house",
        ("snow", "black", "field", "blue", "brown"),
        {"#fff": "#ffe14d", "#ea5a47": "#1d7a3a", "#a57939": "#7a3fb0"},
    ),
)


def draw(icons: dict[str, object], subject: Subject, side: int) -> Image.Image:
    """The subject on a transparent square of `side` pixels, cropped to what is drawn."""
    import resvg_py

    entry = icons["icons"][resolve(icons, subject.icon)]  # type: ignore[index]
    body = entry["body"]
    for old, new in subject.colours.items():
        if f'"{old}"' not in body:
            raise ValueError(f"{subject.icon} has no colour {old}")
        body = body.replace(f'"{old}"', f'"{new}"')
    width, height = (entry.get(key, icons.get(key, 72)) for key in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{4 * side}" height="{4 * side}">{body}</svg>'
    )
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    scale = side / max(picture.size)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def resolve(icons: dict[str, object], name: str) -> str:
    """The icon that a name or alias stands for."""
    aliases: dict[str, dict[str, str]] = icons.get("aliases", {})  # type: ignore[assignment]
    while name in aliases:
        name = aliases[name]["parent"]
    return name


def photos(icons: dict[str, object], subject: Subject) -> list[Image.Image]:
    """Return five scenes of the subject, each (256, 256) RGB."""
    return take_photos(subject.folder, subject.places, POSES, lambda side: draw(icons, subject, side))


def main() -> None:
    """Write `examples/openmoji/<subject>/1.jpg` to `5.jpg`, and `unseen/<subject>.jpg`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--icons", type=Path, required=True, help="a node_modules folder with @iconify-json/openmoji")
    icons = json.loads((parser.parse_args().icons / "@iconify-json/openmoji/icons.json").read_text(encoding="utf-8"))
    for subject in SUBJECTS:
        write_photos(FOLDER / subject.folder, photos(icons, subject))
        unseen = take_unseen_photo(subject.folder, lambda side, shown=subject: draw(icons, shown, side))
        write_photo(unseen, UNSEEN / f"{subject.folder}.jpg")


if __name__ == "__main__":
    main()
