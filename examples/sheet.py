"""A contact sheet of the demo, in the folder where it ran: `python sheet.py` writes `sheet.png`.

Rows: the photos, the base model, each concept alone, both together, both in regions; columns: seeds 0, 1, 2, ... as
they come.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

import conestool
from conestool._atomic import write_atomic
from conestool.concept import Cone
from conestool.models.model import Model
from conestool.rendering import grid, render

COLUMNS = 5
PROMPT = "a dog in a hat"


def photos(folder: str) -> list[Image.Image]:
    """The photos of a folder as squares of 192 pixels."""
    return [ImageOps.fit(Image.open(path).convert("RGB"), (192, 192)) for path in sorted(Path(folder).glob("*.jpg"))]


def pictures(model: Model, prompt: str, cone: Cone | None, regions: bool = False) -> Sequence[Image.Image]:
    """One picture per seed, enlarged to 192 pixels as they are."""
    drawn = render(model, [prompt], cone, seeds=range(COLUMNS), batch=COLUMNS, regions=regions)
    return [made.image.resize((192, 192), Image.Resampling.LANCZOS) for made in drawn]


def main() -> None:
    """Draw all rows with the pocket model and write the sheet."""
    model = conestool.Model.from_pretrained("pocket")
    both = conestool.load("dog+hat.cone")
    dog, hat = conestool.extract(both, "dog"), conestool.extract(both, "hat")
    rows = {
        "photos of the dog": photos("photos")[:COLUMNS],
        "photos of the hat": photos("hats")[:COLUMNS],
        "base model: a photo of a dog": pictures(model, "a photo of a dog", None),
        "dog.cone: a photo of a dog": pictures(model, "a photo of a dog", dog),
        "dog.cone: a dog on the beach": pictures(model, "a dog on the beach", dog),
        "base model: a photo of a hat": pictures(model, "a photo of a hat", None),
        "hat.cone: a photo of a hat": pictures(model, "a photo of a hat", hat),
        f"base model: {PROMPT}": pictures(model, PROMPT, None),
        f"dog+hat.cone: {PROMPT}": pictures(model, PROMPT, both),
        f"dog+hat.cone, --regions: {PROMPT}": pictures(model, PROMPT, both, regions=True),
    }
    sheet = grid(list(rows.values()), list(rows))
    data = io.BytesIO()
    sheet.save(data, "PNG")
    write_atomic(Path("sheet.png"), data.getvalue(), overwrite=True)
    print("sheet.png")


if __name__ == "__main__":
    main()
