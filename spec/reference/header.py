"""What a header must be, from spec/cone-1.md alone: everything that is checked before a section is touched."""

from __future__ import annotations

import math
import unicodedata
from itertools import pairwise
from typing import Any

from spec.reference.rules import need
from spec.reference.sections import low_bits

Fields = dict[str, Any]

WHITE_SPACE = {*"\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", *map(chr, range(0x2000, 0x200B))}

UINT, NUMBER, SHA256, HEX = "uint", "number", "sha256", "hex"
"""Kinds of values, besides types, `[kind]` for arrays and `{str: kind}` for maps of one kind, and pairs of kinds."""

BASE: Fields = {
    "id": str,
    "revision?": str,
    "family": str,
    "dtype": str,
    "tensors": [(str, [UINT])],
    "structure": SHA256,
    "digests": {str: SHA256},
}
CONCEPT: Fields = {
    "name": str,
    "class_noun": str,
    "identifier": str,
    "base": UINT,
    "id": SHA256,
    "tensors": [(UINT,) * 5],
    "sections": [dict],
    "origin?": dict,
}
SECTION: Fields = {"type": str, "length": UINT, "sha256": SHA256}
ORIGIN: Fields = {
    **dict.fromkeys(("instance_prompt?", "class_prompt?", "method?", "notes?", "licence?", "author?"), str),
    "parameters?": dict,
    "seed?": int,
    "photos?": [HEX],
    "held_out?": int,
    "losses?": dict,
    "versions?": {str: str},
    "warnings?": [str],
}
LOSSES: Fields = {"held_out_before?": NUMBER, "held_out_after?": NUMBER, "random_after?": NUMBER} | {
    f"{what}_{when}?": NUMBER for what in ("no_identifier", "class") for when in ("before", "after")
}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind; a boolean is no integer."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(item, kind[0]) for item in value)
    if isinstance(kind, tuple):
        return isinstance(value, list) and len(value) == len(kind) and all(map(fits, value, kind))
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(fits(item, kind[str]) for item in value.values())
    if kind == UINT:
        return type(value) is int and value >= 0
    if kind == NUMBER:
        return type(value) in (int, float)
    if kind == SHA256:
        return type(value) is bytes and len(value) == 32
    if kind == HEX:
        return type(value) is str and len(value) == 64 and set(value) <= set("0123456789abcdef")
    return type(value) is kind


def check_fields(value: dict[str, Any], fields: Fields) -> None:
    """Check the kinds of the listed keys, and that none is missing but those with a question mark."""
    for field, kind in fields.items():
        key = field.rstrip("?")
        need(14, fits(value[key], kind) if key in value else key != field, key)


def rising(values: list[Any]) -> bool:
    """Whether each value is above the one before."""
    return all(a < b for a, b in pairwise(values))


def check_header(header: dict[str, Any]) -> None:
    """Check everything that needs no more than the header."""
    critical = header.get("critical", [])
    need(14, fits(critical, [str]), "critical")
    need(13, not critical, "a critical feature")
    check_fields(header, {"bases": [dict], "concepts": [dict]})
    bases, concepts = header["bases"], header["concepts"]
    need(15, 1 <= len(bases) <= 256 and 1 <= len(concepts) <= 256, "number of bases or concepts")
    for base in bases:
        check_base(base)
    for concept in concepts:
        check_concept(concept, bases)
    for key in ("name", "identifier"):
        need(20, len({concept[key].casefold() for concept in concepts}) == len(concepts), f"two of one {key}")
    need(21, rising([concept["name"] for concept in concepts]), "concepts out of order")
    need(22, len({concept["base"] for concept in concepts}) == len(bases), "a base that isn't used")
    rows = [row for concept in concepts for row in concept["tensors"]]
    need(28, sum(row[2] for row in rows) <= 2**26, "too many indices")
    need(28, len(rows) <= 2**14, "too many rows")
    need(28, sum(row[4] for row in rows) <= 2**27, "coded pieces too long")


def check_base(base: dict[str, Any]) -> None:
    """Check a base model."""
    check_fields(base, BASE)
    tensors = base["tensors"]
    need(15, len(tensors) <= 4096, "number of tensors")
    need(15, all(1 <= len(name) <= 512 for name, _ in tensors), "length of a param name")
    need(16, rising([name for name, _ in tensors]), "tensors out of order")
    for name, shape in tensors:
        need(17, len(shape) <= 8 and all(1 <= size < 2**31 for size in shape) and math.prod(shape) < 2**31, name)
    need(18, "f32" in base["digests"], "digest f32")


def check_concept(concept: dict[str, Any], bases: list[dict[str, Any]]) -> None:
    """Check a concept as far as the header tells."""
    check_fields(concept, CONCEPT)
    check_fields(concept.get("origin", {}), ORIGIN)
    check_fields(concept.get("origin", {}).get("losses", {}), LOSSES)
    need(19, is_name(concept["name"]) and is_word(concept["class_noun"]) and is_word(concept["identifier"]), "a name")
    sections = concept["sections"]
    need(15, 1 <= len(sections) <= 16, "number of sections")
    for section in sections:
        check_fields(section, SECTION)
        need(15, 1 <= len(section["type"]) <= 64, "length of a section's type")
    need(23, sections[0]["type"] == "indices", "the first section")
    need(23, len({section["type"] for section in sections}) == len(sections), "two sections of one type")
    need(22, concept["base"] < len(bases), "number of the base")
    tensors, rows = bases[concept["base"]]["tensors"], concept["tensors"]
    need(24, rising([row[0] for row in rows]) and all(row[0] < len(tensors) for row in rows), "number of a tensor")
    for row in rows:
        check_row(row, tensors[row[0]][1])
    length = sections[0]["length"]
    need(29, length > sum(row[3] for row in rows) if rows else length == 0, "length of the section of indices")


def is_name(text: str) -> bool:
    """Whether these are words of letters with their marks and of digits, joined by single signs."""
    before = "joint"
    for char in text:
        kind = "joint" if char in " _.'-" else unicodedata.category(char)[0]
        if kind not in ("L", "M", "N", "joint") or (kind == "M" and before not in "LM") or kind == before == "joint":
            return False
        before = kind
    return before != "joint" and len(text) <= 64


def is_word(text: str) -> bool:
    """Whether this can be a class noun or identifier."""
    controls = any(unicodedata.category(char) in ("Cc", "Cs") for char in text)
    return 1 <= len(text) <= 64 and not controls and not {text[0], text[-1]} & WHITE_SPACE


def check_row(row: list[int], shape: list[int]) -> None:
    """Check a row of a tensor table: the codec, and the lengths that pieces can have."""
    _, codec, k, raw, coded = row
    n = math.prod(shape)
    need(26, codec <= 2, "codec")
    need(25, 1 <= k <= n, "number of indices")
    if codec == 0:
        need(27, n <= 8 * k and raw == 0 and coded == (n + 7) // 8, "bitmap")
    elif codec == 1:
        b = low_bits(n, k)
        need(27, raw == b * ((k + 7) // 8) and k <= coded <= k + ((n - k) >> b) // 255, "gaps")
    else:
        need(27, len(shape) >= 2, "grid of one dimension")
        height, width = shape[0], n // shape[0]
        need(27, height + width <= min(16 * k, 2**20) and coded in (0, height, width, height + width), "grid")
        need(27, raw <= 4099 + 5 * k, "raw piece of a grid")
