"""What a header must be, from spec/cone-1.md alone: everything that is checked before a section is touched."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

from spec.reference.rules import need
from spec.reference.sections import low_bits, raw_length

Fields = dict[str, Any]

SPACES = "\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
CONTROLS = "\u0000-\u001f\u007f-\u009f"
UNSEEN = "\u00a0\u00ad\u061c\u1680\u180e\u2000-\u206f\u3000\ufeff\ufff0-\uffff\U000e0000-\U000e0fff"
WORD = f"(?:[0-9A-Za-z]|[^\u0000-\u009f{UNSEEN}])+"
NAME = re.compile(f"{WORD}(?:[ _.'-]{WORD})*")

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
    "tensors": [(UINT,) * 3],
    "sections": [dict],
    "origin?": dict,
}
SECTION: Fields = {"type": str, "length": UINT, "sha256": SHA256}
ORIGIN: Fields = {
    **dict.fromkeys(("instance_prompt?", "class_prompt?", "method?", "notes?", "license?", "author?"), str),
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
        need(20, len({folded(concept[key]) for concept in concepts}) == len(concepts), f"two of one {key}")
    need(21, rising([concept["name"] for concept in concepts]), "concepts out of order")
    need(22, len({concept["base"] for concept in concepts}) == len(bases), "a base that isn't used")
    rows = [row for concept in concepts for row in concept["tensors"]]
    need(27, sum(row[1] for row in rows) <= 2**26, "too many indices")
    need(27, len(rows) <= 2**14, "too many rows")


def check_base(base: dict[str, Any]) -> None:
    """Check a base model."""
    check_fields(base, BASE)
    tensors = base["tensors"]
    need(15, len(tensors) <= 4096, "number of tensors")
    need(15, all(1 <= len(name) <= 512 for name, _ in tensors), "length of a param name")
    need(16, rising([name for name, _ in tensors]), "tensors out of order")
    for name, shape in tensors:
        need(17, len(shape) <= 8 and all(size >= 1 for size in shape) and math.prod(shape) < 2**31, name)
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
    raw = 0
    for number, k, coded in rows:
        n = math.prod(tensors[number][1])
        need(25, 1 <= k <= n, "number of indices")
        need(26, k <= coded <= k + ((n - k) >> low_bits(n, k)) // 255, "length of a coded piece")
        raw += raw_length(n, k)
    length = sections[0]["length"]
    need(28, length > raw if rows else length == 0, "length of the section of indices")


def is_name(text: str) -> bool:
    """Whether these are words joined by single signs."""
    return len(text) <= 64 and NAME.fullmatch(text) is not None


def is_word(text: str) -> bool:
    """Whether this can be a class noun or identifier."""
    return 1 <= len(text) <= 64 and not re.search(f"[{CONTROLS}]|^[{SPACES}]|[{SPACES}]$", text)


def folded(text: str) -> str:
    """A text with A to Z as a to z."""
    return re.sub("[A-Z]", lambda letter: letter[0].lower(), text)
