"""What a PNG says of how it was drawn: A1111's `parameters` text for people and programs, and all of it as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated, Any

from PIL import Image, PngImagePlugin
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conestool._text import clean
from conestool.errors import InputError

LIMIT = 1 << 20
"""Characters of a picture's record, and of each line for other programs."""
SHEET_LIMIT = 1 << 24
"""Characters of a sheet's record, which holds those of its pictures."""


class Part(BaseModel):
    """A frozen piece of a record; keys of later versions are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class UsedConcept(Part):
    """One concept as it was applied."""

    name: str
    id: str = Field(pattern=r"^[0-9a-f]{64}$")
    identifier: str
    strength: float = Field(ge=0, le=1)


class UsedModel(Part):
    """The base model: its id as given, its digests, and the SHA-256 of its file where it is a single one."""

    id: str
    revision: str | None = None
    family: str
    structure: str
    digests: dict[str, str]
    dtype: str
    file_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class PictureRecord(Part):
    """Everything that decides a picture; `prompt` is as typed and `sent` as the text encoder got it.

    `scheduler` is what `render` takes, `sampler` what A1111 calls it, where it has a name for it.
    """

    version: int = Field(default=1, ge=1, le=1)
    prompt: str
    sent: str
    negative: str = ""
    seed: int = Field(ge=0, lt=1 << 63)
    steps: int = Field(ge=1, le=10_000)
    guidance: float
    scheduler: str
    sampler: str | None = None
    width: int = Field(ge=1, le=1 << 16)
    height: int = Field(ge=1, le=1 << 16)
    batch: int = Field(default=1, ge=1)
    regions: bool = False
    concepts: list[UsedConcept] = []
    model: UsedModel
    versions: dict[str, str] = {}


class SheetRecord(Part):
    """The pictures of a contact sheet, row by row, and the labels of its rows and columns."""

    version: int = Field(default=1, ge=1, le=1)
    rows: list[str] = []
    columns: list[str] = []
    pictures: list[Annotated[list[PictureRecord], Field(min_length=1)]] = Field(min_length=1)


def png_bytes(image: Image.Image, record: dict[str, Any]) -> bytes:
    """The picture as PNG with the text chunks `parameters` and `cones`; the same input gives the same bytes.

    `record` is that of a picture or of a sheet, whose `parameters` are those of its first picture, as other programs do
    it.
    """
    first = record["pictures"][0][0] if "pictures" in record else record
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", parameters(first))
    text.add_text("cones", json.dumps(record, sort_keys=True, separators=(",", ":")))
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=text)
    return out.getvalue()


def plain_png(image: Image.Image, **texts: str) -> bytes:
    """The picture as PNG without a record; `texts` are text chunks, those that are empty left out."""
    out, info = io.BytesIO(), PngImagePlugin.PngInfo()
    for key, text in texts.items():
        if text:
            info.add_text(key, text)
    image.save(out, "PNG", pnginfo=info)
    return out.getvalue()


def parameters(record: dict[str, Any]) -> str:
    """The text that AUTOMATIC1111's web interface writes and that most viewers of such pictures read.

    It reads it as well, and refuses a sampler that it does not know; its hash of a model is that of a file. A key for
    which there is no such value is left out.
    """
    picture = PictureRecord.model_validate(record)
    fields = {
        "Steps": picture.steps,
        "Sampler": picture.sampler,
        "CFG scale": f"{picture.guidance:g}",
        "Seed": picture.seed,
        "Size": f"{picture.width}x{picture.height}",
        "Model hash": (picture.model.file_sha256 or "")[:10],
        "Model": picture.model.id,
    }
    if picture.concepts:
        fields["Cones"] = ", ".join(f"{used.name}: {used.strength:g} ({used.id[:10]})" for used in picture.concepts)
    fields["Version"] = f"conestool {picture.versions.get('conestool', '')}".strip()
    lines = [picture.sent]
    if picture.negative:
        lines.append(f"Negative prompt: {picture.negative}")
    lines.append(
        ", ".join(f"{key}: {quoted(clean(value))}" for key, value in fields.items() if value not in (None, ""))
    )
    return "\n".join(clean(line, LIMIT) for line in lines)


def quoted(text: str) -> str:
    """`text`, in JSON quotes where a comma or a colon would split it."""
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:"') else text


def read_record(path: str | Path) -> dict[str, Any]:
    """The record in a PNG of one picture that `cones render` wrote; InputError, naming the file, if there is none."""
    sheet = read_sheet(path)
    (first, *others), *rows = sheet["pictures"]
    if others or rows or "rows" in sheet:
        count = sum(map(len, sheet["pictures"]))
        raise InputError(f"{Path(path).name}: a sheet of {count} pictures, expected one", "read_sheet reads it")
    return dict(first)


def read_sheet(path: str | Path) -> dict[str, Any]:
    """The record in a PNG that `cones render` wrote: `pictures`, row by row, with `rows` and `columns` for a sheet.

    InputError, naming the file, if there is none that can be used.
    """
    name = Path(path).name
    hint = "give a PNG that cones render wrote and no other program has saved since"
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            text = getattr(image, "text", {}).get("cones")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: not a PNG that can be read", hint) from error
    if text is None:
        raise InputError(f"{name}: no cones record in it", hint)
    return parse(str(text), name)


def parse(text: str, name: str) -> dict[str, Any]:
    """The record in the JSON `text`, checked."""
    try:
        if len(text) > SHEET_LIMIT:
            raise ValueError(f"longer than {SHEET_LIMIT} characters")
        record = json.loads(text)
        if isinstance(record, dict) and "pictures" in record:
            return SheetRecord.model_validate(record).model_dump()
        return {"pictures": [[PictureRecord.model_validate(record).model_dump()]]}
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "record"
        fault = f"{where}: {error.errors()[0]['msg']}"
    except (ValueError, RecursionError) as error:
        fault = str(error)
    raise InputError(f"{name}: cones record: {fault}")
