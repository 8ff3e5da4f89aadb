"""A reader of .cone files, written from spec/cone-1.md alone: it shares no code with conestool.

`read` gives what a file holds, or raises a `RuleError` with the number of the rule that the file breaks.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from spec.reference.decoder import unpack
from spec.reference.header import check_header
from spec.reference.rules import RuleError, need
from spec.reference.sections import Ints, decode, raw_length, unframe

SIGNATURE = bytes.fromhex("89434F4E450D0A1A0A")


@dataclass(frozen=True)
class Concept:
    """One concept: its words, its base model's number, and its index sets by param name."""

    name: str
    class_noun: str
    identifier: str
    base: int
    id: bytes
    indices: dict[str, Ints]


@dataclass(frozen=True)
class Cone:
    """What a file holds."""

    version: tuple[int, int]
    header: dict[str, Any]
    concepts: list[Concept]

    @property
    def id(self) -> bytes:
        """The content id of the file."""
        return hashlib.sha256(b"cone-file-1\0" + b"".join(sorted(c.id for c in self.concepts))).digest()


@functools.lru_cache(maxsize=1)
def outcome(data: bytes) -> Cone | RuleError:
    """What a file holds, or the rule that it breaks; kept for who asks again."""
    try:
        return read(data)
    except RuleError as error:
        return error


def read(data: bytes) -> Cone:
    """Read a whole file."""
    need(1, data[:9] == SIGNATURE, "signature")
    need(3, len(data) < 10 or data[9] == 1, "major version")
    need(2, len(data) >= 20, "shorter than a preamble")
    need(4, data[11] == 0, "reserved byte")
    size, crc = struct.unpack_from("<II", data, 12)
    need(5, size <= 2**20 and len(data) <= 2**28, "header or file too long")
    end = 20 + size
    need(6, len(data) >= end, "header cut off")
    need(7, zlib.crc32(data[20:end], zlib.crc32(data[:16])) == crc, "crc")
    header = unpack(data[20:end])
    check_header(header)
    lengths = [section["length"] for concept in header["concepts"] for section in concept["sections"]]
    need(29, end + sum(lengths) == len(data), "length of the file")
    concepts = []
    for row in header["concepts"]:
        payloads = {}
        for section in row["sections"]:
            payload = payloads[section["type"]] = data[end : end + section["length"]]
            found = hashlib.sha256(payload).digest()
            if found != section["sha256"]:
                raise RuleError(30, "sha256 of a section", section["sha256"], found)
            end += section["length"]
        concepts.append(decode_concept(row, header["bases"][row["base"]]["tensors"], payloads["indices"]))
    return Cone((1, data[10]), header, concepts)


def decode_concept(concept: dict[str, Any], tensors: list[tuple[str, list[int]]], payload: bytes) -> Concept:
    """Decode a section of indices, and compare the content id."""
    rows = [(*tensors[number], k, coded) for number, k, coded in concept["tensors"]]
    at = sum(raw_length(math.prod(shape), k) for _, shape, k, _ in rows)
    content = unframe(payload[at:], sum(coded for *_, coded in rows)) if rows else b""
    indices = {}
    stream, start, second = hashlib.sha256(b"cone-concept-1\0"), 0, 0
    for name, shape, k, coded in rows:
        n = math.prod(shape)
        raw = raw_length(n, k)
        pieces = payload[start : start + raw], content[second : second + coded]
        found = indices[name] = decode(n, k, *(np.frombuffer(piece, np.uint8) for piece in pieces))
        start, second = start + raw, second + coded
        encoded = name.encode()
        stream.update(struct.pack("<Q", len(encoded)) + encoded)
        stream.update(struct.pack(f"<{len(shape) + 2}Q", len(shape), *shape, k))
        stream.update(found.astype("<u4", copy=False).data)
    if stream.digest() != concept["id"]:
        raise RuleError(35, "content id", concept["id"], stream.digest())
    words = concept["name"], concept["class_noun"], concept["identifier"]
    return Concept(*words, concept["base"], concept["id"], indices)
