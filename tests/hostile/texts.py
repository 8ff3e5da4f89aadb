"""Texts that want to do harm, files that carry them, and what of them may never come out again."""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conestool import format as cones
from conestool.concept import Cone
from tests.support.command_line import concept
from tests.support.forging import Header, join, mend, parts

POISON = (
    "a\x1b[2J\x1b[31mred\x1b]8;;http://x.invalid\x07link\x1b]8;;\x07\x1b]0;title\x07\x1b[6n\x1bP+q\x1b\\"
    "\r\nerror: forged line\nwarning: another\x08\x08\x7f\x9b2J\x85\u2028\u2029"
    "\u202egnp.exe\u2066\u200b\u200f\u061c\ufeff\u00ad\U000e0041\ufff9"
    "[red]markup[/red][link=http://x.invalid]y[/link][/nothing] :skull: {task.description} %s \\x1b"
    "$(touch pwned)`touch pwned`; touch pwned #'\"|&<script>alert(1)</script>"
)
"""One of everything that terminals, rich, shells, HTML and format strings act on."""
WORDS = "\u202e\u200b[red]x[/red][/no] $(touch pwned)`touch pwned`|<b>\u061c\U000e0041 'q'"
"""As much of it as a class noun may hold by the format's rules: 64 characters and no controls."""
MILLION = "\x1b[31mx\u202e" * (1_000_000 // 7)
"""As much of it as a header takes."""
ALLOWED = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|2K|1A)|\r")
"""What rich itself sends to a terminal: colours, the cursor hidden and shown, a line taken back."""


def leaks(data: bytes, keep: str = "\n") -> set[str]:
    """The characters of an output that a terminal would act on or hide, undecodable bytes among them."""
    text = data.decode("utf-8", "surrogateescape")
    return {c for c in set(text) if c not in keep and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


def on_screen(data: bytes) -> set[str]:
    """`leaks` of what a terminal got, without what rich sends."""
    return leaks(ALLOWED.sub("", data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape"))


def plain() -> bytes:
    """A file of two concepts as our own writer makes it."""
    return cones.dumps(Cone((concept("dog", "sks"), concept("hat", "zwx", seed=1))))


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every string of a header, and to every map, which takes an unknown key."""
    if isinstance(value, str):
        yield way
    elif isinstance(value, dict | list):
        if isinstance(value, dict):
            yield way
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*way, key))


def poisoned(header: Header, way: tuple[Any, ...], poison: str) -> Header:
    """The header with `poison` at one place: instead of a string, or as an unknown key with itself as value."""
    out = copy.deepcopy(header)
    spot: Any = out
    for key in way[:-1]:
        spot = spot[key]
    target = spot[way[-1]] if way else out
    if isinstance(target, dict):
        target[poison] = [poison, {poison: poison.encode() + b"\xff"}]
    else:
        spot[way[-1]] = poison
    return out


def forge(poison: str = POISON, words: str = WORDS) -> bytes:
    """A valid file with `poison` wherever the format takes text, which our own writer would refuse in part."""
    header, sections = parts(plain())
    deep = {poison: [poison, poison.encode() + b"\xff", {poison: poison}]}
    for base in header["bases"]:
        base |= {"id": poison, "family": poison, "dtype": poison, "revision": poison, **deep}
        base["tensors"] = sorted([poison[:100] + name, shape] for name, shape in base["tensors"])
        base["digests"][poison] = bytes(32)
    for number, one in enumerate(header["concepts"]):
        texts = dict.fromkeys(("instance_prompt", "class_prompt", "method", "notes", "author", "license"), poison)
        known = {"warnings": [poison] * 3, "versions": {poison: poison}, "parameters": {"steps": poison, **deep}}
        one["origin"] |= texts | known | deep
        one |= {"class_noun": words[:63] + str(number), "identifier": words[:63] + str(number), **deep}
    header |= deep
    return mend(join(header, sections, plain()))


def forge_at(folder: Path, way: tuple[Any, ...], poison: str) -> Path:
    """A file with `poison` at one place of its header."""
    header, sections = parts(plain())
    path = folder / "forged.cone"
    path.write_bytes(join(poisoned(header, way, poison), sections, plain()))
    return path
