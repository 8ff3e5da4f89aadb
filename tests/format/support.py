"""Concepts without a model behind them, and .cone files altered with their checksums made right again."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from math import prod
from typing import Any

import msgpack
import numpy as np

from conestool.concept import Concept, Indices
from conestool.identity import fingerprint
from conestool.records import BaseInfo

__all__ = ["SHAPES", "base", "concept", "forge", "split"]

SHAPES = {"up.attn1.to_k.weight": (24, 24), "up.attn1.to_v.weight": (24, 24), "up.attn2.to_k.weight": (24, 40)}


def base(seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES, **fields: Any) -> BaseInfo:
    """The identity of random weights."""
    rng = np.random.default_rng(seed)
    weights = {param: rng.standard_normal(shape).astype(np.float32) for param, shape in shapes.items()}
    return BaseInfo(
        **{"id": "tiny", "family": "stable-diffusion", "dtype": "float32", **fields, **fingerprint(weights)}
    )


def concept(name: str = "dog", identifier: str = "", *, seed: int = 0, share: float = 0.05, **fields: Any) -> Concept:
    """A concept with random indices in every tensor."""
    rng = np.random.default_rng([seed, *name.encode()])
    info = fields.pop("info", None) or base()
    indices: dict[str, Indices] = {}
    for param, shape in info.tensors.items():
        n = prod(shape)
        indices[param] = np.sort(rng.choice(n, round(share * n), replace=False)).astype(np.int64)
    return Concept(name, fields.pop("class_noun", name), identifier or f"sks{name}", indices, info, **fields)


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a file."""
    length = struct.unpack_from("<I", data, 12)[0]
    return msgpack.unpackb(data[20 : 20 + length]), data[20 + length :]


def forge(header: bytes | dict[str, Any], payload: bytes, preamble: bytes = b"\x89CONE\r\n\x1a\n\1\0\0") -> bytes:
    """A file whose crc is right; a header given as a map also gets right section hashes where lengths fit."""
    if isinstance(header, dict):
        rehash(header, payload)
        header = msgpack.packb(header)
    start = preamble + struct.pack("<I", len(header))
    return start + struct.pack("<I", zlib.crc32(start + header)) + header + payload


def rehash(header: dict[str, Any], payload: bytes) -> None:
    """Put the sha256 of each section into the header."""
    at = 0
    for entry in header["concepts"]:
        for section in entry["sections"]:
            if not isinstance(section["length"], int):
                return
            section["sha256"] = hashlib.sha256(payload[at : at + section["length"]]).digest()
            at += section["length"]
