"""What a PNG says of how it was drawn: A1111's `parameters` text for people and programs, and all of it as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conestool._text import clean
from conestool.errors import InputError

__all__ = ["PictureRecord", "UsedConcept", "parameters", "png_bytes", "read_record"]

LIMIT = 1 << 20


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
    """The base model: its id as given, and its digest ladder."""

    id: str
    revision: str | None = None
    family: str
    structure: str
    digests: dict[str, str]
    dtype: str


class PictureRecord(Part):
    """Everything that decides a picture; `prompt` is as typed and `sent` as the text encoder got it."""

    version: int = Field(default=1, ge=1, le=1)
    prompt: str
    sent: str
    negative: str = ""
    seed: int = Field(ge=0, lt=1 << 63)
    steps: int = Field(ge=1, le=10_000)
    guidance: float
    scheduler: str
    width: int = Field(ge=1, le=1 << 16)
    height: int = Field(ge=1, le=1 << 16)
    batch: int = Field(default=1, ge=1)
    concepts: list[UsedConcept] = []
    model: UsedModel
    versions: dict[str, str] = {}


def png_bytes(image: Image.Image, record: dict[str, Any]) -> bytes:
    """The picture as PNG with the text chunks `parameters` and `cones`; the same input gives the same bytes."""
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", parameters(record))
    text.add_text("cones", json.dumps(record, sort_keys=True, separators=(",", ":")))
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=text)
    return out.getvalue()


def parameters(record: dict[str, Any]) -> str:
    """The text that AUTOMATIC1111's web interface writes and that most viewers of such pictures read."""
    picture = PictureRecord.model_validate(record)
    fields = {
        "Steps": picture.steps,
        "Sampler": picture.scheduler.removesuffix("Scheduler"),
        "CFG scale": f"{picture.guidance:g}",
        "Seed": picture.seed,
        "Size": f"{picture.width}x{picture.height}",
        "Model hash": picture.model.digests.get("f32", "")[:10],
        "Model": picture.model.id,
    }
    if picture.concepts:
        fields["Cones"] = ", ".join(f"{used.name}: {used.strength:g} ({used.id[:10]})" for used in picture.concepts)
    fields["Version"] = f"conestool {picture.versions.get('conestool', '')}".strip()
    lines = [picture.sent]
    if picture.negative:
        lines.append(f"Negative prompt: {picture.negative}")
    lines.append(", ".join(f"{key}: {quoted(clean(value))}" for key, value in fields.items()))
    return "\n".join(clean(line, LIMIT) for line in lines)


def quoted(text: str) -> str:
    """`text`, in JSON quotes where a comma or a colon would split it."""
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:"') else text


def read_record(path: str | Path) -> dict[str, Any]:
    """The record in a PNG that `cones render` wrote; InputError, naming the file, if there is none that can be used."""
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
        if len(text) > LIMIT:
            raise ValueError(f"longer than {LIMIT} characters")
        return PictureRecord.model_validate(json.loads(text)).model_dump()
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "record"
        fault = f"{where}: {error.errors()[0]['msg']}"
    except (ValueError, RecursionError) as error:
        fault = str(error)
    raise InputError(f"{name}: cones record: {fault}")
