"""Hostile photo folders, and what each costs: `python -m benchmarks.reliability.photos [--large]`.

Prints a table: what came of the folder, seconds of CPU, and the peak of resident memory in MiB. Each reader may take
1 GiB of address space more than at its start, and no more. `--large` adds bombs of 169 million pixels, pictures of 100
million, and a folder of 100,000 files (1.2 GB on the disk, minutes to make). The exit code is 1 if a bomb was not
refused for what it is, or something else not read.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from tests.hostile.bad_photos import BOMBS, Maker, jpeg, odd_folder, png
from tests.hostile.reading import measured

HUNDRED = (10_000, 10_000)
SIDE = 13_000


def bomb(depth: int, colour: int) -> Maker:
    """A folder with one black PNG of 169 million pixels."""
    return lambda folder: (folder / "a.png").write_bytes(png(SIDE, SIDE, depth=depth, colour=colour))


def picture(name: str, mode: str = "RGB", **options: Any) -> Maker:
    """A folder with one picture of noise, 100 million pixels."""
    return lambda folder: Image.effect_noise(HUNDRED, 60).convert(mode).save(folder / name, **options)


def turned(folder: Path) -> None:
    """A JPEG of 100 million pixels that EXIF turns."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "a.jpg").write_bytes(jpeg(HUNDRED, exif=exif))


def crowd(folder: Path) -> None:
    """100,000 texts."""
    for number in range(100_000):
        (folder / f"{number}.txt").touch()


CASES: dict[str, Maker] = {name: make for name, (make, _) in BOMBS.items()} | {
    "what is no file": odd_folder,
}
EMPTY = ("what is no file", "100,000 texts")
HEAVY = ("bomb, 16-bit grey", "bomb, 8-bit RGBA", "bomb, 16-bit RGBA")
"""What takes more than 1 GiB; the reader says so."""
LARGE: dict[str, Maker] = {
    "bomb, 8-bit grey": bomb(8, 0),
    "bomb, 16-bit grey": bomb(16, 0),
    "bomb, 8-bit RGBA": bomb(8, 6),
    "bomb, 16-bit RGBA": bomb(16, 6),
    "100 MP JPEG, turned": turned,
    "100 MP JPEG, progressive": picture("a.jpg", progressive=True),
    "100 MP JPEG, CMYK": picture("a.jpg", "CMYK"),
    "100 MP PNG": picture("a.png", compress_level=1),
    "100 MP TIFF": picture("a.tif"),
    "100,000 texts": crowd,
}


def expected(name: str, result: str) -> bool:
    """Whether the right thing came of a folder."""
    if name in BOMBS:
        return BOMBS[name][1] in result
    if name in HEAVY:
        return result == "a.png: needs more memory than there is"
    return result.startswith("no photo that can be used" if name in EMPTY else "1 photo")


def main() -> int:
    """Make, read and delete one folder after the other; exit code 1 if anything else than expected came of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--seconds", type=int, default=300, help="wall clock after which a reader is killed")
    args = parser.parse_args()
    wrong = 0
    print(f"{'folder':26} {'CPU s':>6} {'MiB':>6}  result")
    for name, make in (CASES | (LARGE if args.large else {})).items():
        with tempfile.TemporaryDirectory() as home:
            make(Path(home))
            (record,) = measured([Path(home)], args.seconds)
        result = record["error"] or f"{len(record['photos'])} photo, {len(record['notes'])} notes"
        wrong += not expected(name, result)
        print(f"{name:26} {record['cpu']!s:>6} {record['peak']!s:>6}  {result[:90]}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
