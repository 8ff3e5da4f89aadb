"""Draw the example subjects of pocket's world: `python -m examples.cast [--out FOLDER]`.

Every subject is an individual whose combination of class, colours and marking training never saw
(`training.pocket.world.kept_out`), in five scenes of its own. The pictures are committed; this is how they were made.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import resvg_py
from PIL import Image

from examples.photos import take_photos, write_photos
from training.pocket import world
from training.pocket.drawings import Colours, Drawing
from training.pocket.world import Thing

POSES = (
    ((0.50, 0.52), 0.74, 0),
    ((0.46, 0.54), 0.66, -5),
    ((0.55, 0.53), 0.70, 4),
    ((0.49, 0.50), 0.80, 2),
    ((0.52, 0.56), 0.64, -3),
)


@dataclass(frozen=True)
class Subject:
    """One subject: its folder, what it is, and the backgrounds of its photos."""

    folder: str
    thing: Thing
    places: tuple[str, str, str, str, str]


SUBJECTS = (
    Subject(
        "rex",
        Thing(kind="dog", main="white", second="brown", pattern="patch", outline="outlined", ears="floppy",
              ear_colour="brown", muzzle="pale", eyes="big"),
        ("field", "plain", "bricks", "blue", "street"),
    ),
    Subject(
        "luna",
        Thing(kind="dog", main="blue", second="white", pattern="spots", outline="flat", ears="pricked",
              ear_colour="white", muzzle="white", eyes="small"),
        ("snow", "yellow", "plain", "forest", "red"),
    ),
    Subject(
        "hat",
        Thing(kind="top hat", main="green", second="orange", pattern="two bands", outline="outlined"),
        ("plain", "purple", "bricks", "white", "beach"),
    ),
    Subject(
        "cat",
        Thing(kind="cat", main="yellow", second="purple", pattern="stripes", outline="outlined", ears="folded",
              ear_colour="purple", muzzle="pale", eyes="sleepy"),
        ("street", "green", "plain", "snow", "pink"),
    ),
    Subject(
        "rabbit",
        Thing(kind="rabbit", main="grey", second="orange", pattern="spots", outline="flat", ears="upright",
              ear_colour="orange", muzzle="grey", eyes="big"),
        ("forest", "blue", "checkerboard", "plain", "brown"),
    ),
    Subject(
        "bear",
        Thing(kind="bear", main="purple", second="white", pattern="star", outline="outlined", ears="round",
              ear_colour="purple", muzzle="white", eyes="small"),
        ("beach", "orange", "field", "plain", "grey"),
    ),
    Subject(
        "car",
        Thing(kind="car", main="red", second="white", pattern="two stripes", outline="flat", variant="tall"),
        ("street", "plain", "night", "yellow", "forest"),
    ),
    Subject(
        "robot",
        Thing(kind="robot", main="pink", second="blue", pattern="spots", outline="outlined", variant="antenna"),
        ("plain", "white", "street", "green", "night"),
    ),
)  # fmt: skip


def draw(thing: Thing, side: int) -> Image.Image:
    """Return the thing on a transparent square of `side` pixels."""
    colours = Colours(world.COLOURS[thing.main], world.COLOURS.get(thing.second, (0, 0, 0)))
    data = resvg_py.svg_to_bytes(svg_string=Drawing.of(thing).svg(colours), width=side, height=side)
    return Image.open(io.BytesIO(bytes(data))).convert("RGBA")


def photos(subject: Subject) -> list[Image.Image]:
    """Return five scenes of the subject, each (256, 256) RGB."""
    return take_photos(subject.folder, subject.places, POSES, lambda side: draw(subject.thing, side))


def main() -> None:
    """Write `<out>/<subject>/1.jpg` to `5.jpg`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    for subject in SUBJECTS:
        write_photos(out / subject.folder, photos(subject))


if __name__ == "__main__":
    main()
