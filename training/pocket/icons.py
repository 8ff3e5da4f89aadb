"""Icons of npm packages -> RGBA sprites in one ``.npz``: ``python -m training.pocket.icons --icons F --work F``."""

from __future__ import annotations

import argparse
import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.pocket import domain

SPRITE_SIZE = 96
TEXTURE_SIZE = 64


class HeldOutError(ValueError):
    """A held-out icon was asked for in training."""


@dataclass(frozen=True)
class IconSet:
    """One designer's set as iconify ships it."""

    name: str
    data: dict[str, Any]
    allow_held_out: bool = False

    @classmethod
    def read(cls, folder: Path, name: str, *, allow_held_out: bool = False) -> IconSet:
        """Read ``FOLDER/@iconify-json/NAME/icons.json``; a held-out set needs ``allow_held_out``."""
        if name in domain.held_out()[0] and not allow_held_out:
            raise HeldOutError(f"icon set {name} is held out")
        path = folder / "@iconify-json" / name / "icons.json"
        return cls(name, json.loads(path.read_text(encoding="utf-8")), allow_held_out)

    def resolve(self, icon: str) -> str | None:
        """Return the name of the icon that ``icon`` or its alias stands for, None if the set lacks it."""
        while icon in self.data.get("aliases", {}):
            icon = self.data["aliases"][icon]["parent"]
        return icon if icon in self.data["icons"] else None

    def is_held_out(self, icon: str) -> bool:
        """Tell whether ``icon`` is on the held-out list, aliases resolved."""
        pairs = (row.split(":", 1) for row in domain.held_out()[1])
        return any(owner == self.name and self.resolve(name) == icon for owner, name in pairs)

    def render(self, icon: str, size: int) -> NDArray[np.uint8]:
        """Draw one icon as RGBA, shape (size, size, 4), fitted to its own bounding box and centred."""
        if self.is_held_out(icon) and not self.allow_held_out:
            raise HeldOutError(f"icon {self.name}:{icon} is held out")
        import resvg_py

        entry = self.data["icons"][icon]
        side = [entry.get(k, self.data.get(k, 16)) for k in ("width", "height")]
        box = f"{entry.get('left', 0)} {entry.get('top', 0)} {side[0]} {side[1]}"
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box}" width="{2 * size}" height="{2 * size}">{entry["body"]}</svg>'
        )
        picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
        return _fit(picture, size)


def _fit(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """Crop to the opaque box, centre on a square and resize; keeps a margin of 1/24."""
    box = picture.getchannel("A").point(lambda a: 255 * (a > 24)).getbbox()
    if box is None:
        return np.zeros((size, size, 4), np.uint8)
    picture = picture.crop(box)
    side = round(max(picture.size) * 12 / 11)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS).convert("RGBA"))


def find_icons(icons: IconSet, names: str) -> list[str]:
    """Resolve a manifest entry: for each ``|`` group the first of its ``,`` names that the set has."""
    found = [next((n for n in map(icons.resolve, group.split(",")) if n), None) for group in names.split("|")]
    return [n for n in dict.fromkeys(found) if n and (icons.allow_held_out or not icons.is_held_out(n))]


def read_sprites(folder: Path, sets: tuple[str, ...], *, allow_held_out: bool = False) -> dict[str, Any]:
    """Draw every noun of the domain by every designer: arrays ``rgba``, ``noun`` and ``icon``."""
    rows: list[tuple[NDArray[np.uint8], str, str]] = []
    for name in sets:
        icons = IconSet.read(folder, name, allow_held_out=allow_held_out)
        for noun, names in domain.NOUNS.items():
            for icon in find_icons(icons, names):
                if f"{name}:{icon}" not in domain.UNUSABLE:
                    rows.append((icons.render(icon, SPRITE_SIZE), noun, f"{name}:{icon}"))
    rgba, noun_of, icon_of = zip(*rows, strict=True)
    return {"rgba": np.stack(rgba), "noun": np.array(noun_of), "icon": np.array(icon_of)}


def read_textures(folder: Path, per_set: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draw ``per_set`` random icons of each training set, for the autoencoder: (N, 64, 64, 4)."""
    drawn = []
    for name in domain.TRAIN_SETS:
        icons = IconSet.read(folder, name)
        names = [n for n in icons.data["icons"] if "skin-tone" not in n and not icons.is_held_out(n)]
        random.Random(seed).shuffle(names)
        drawn += [icons.render(n, TEXTURE_SIZE) for n in names[:per_set]]
    return np.stack(drawn)


def main() -> None:
    """Write ``sprites.npz``, ``textures.npz`` and the held-out ``heldout.npz`` into the work folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--icons", type=Path, required=True, help="a node_modules folder")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--textures", type=int, default=450, help="icons of each set for the autoencoder")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    sprites = read_sprites(args.icons, domain.TRAIN_SETS)
    np.savez_compressed(args.work / "sprites.npz", **sprites)
    held = read_sprites(args.icons, tuple(domain.held_out()[0]), allow_held_out=True)
    np.savez_compressed(args.work / "heldout.npz", **held)
    np.savez_compressed(args.work / "textures.npz", rgba=read_textures(args.icons, args.textures))
    print(f"{len(sprites['rgba'])} training sprites, {len(held['rgba'])} held out")


if __name__ == "__main__":
    main()
