"""A reader of .cone files, written from spec/cone-1.md alone: it shares no code with conestool.

`read` gives what a file holds, or raises a `RuleError` with the number of the rule that the file breaks.
"""

from __future__ import annotations

import hashlib
import math
import struct
import unicodedata
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Fields = dict[str, Any]

SIGNATURE = bytes.fromhex("89434F4E450D0A1A0A")
WHITE_SPACE = {*"\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", *map(chr, range(0x2000, 0x200B))}


class RuleError(Exception):
    """A file breaks a rule."""

    def __init__(self, rule: int, what: str, stored: bytes = b"", found: bytes = b"") -> None:
        """`stored` is a sha256 or content id in the header, `found` what should be there."""
        super().__init__(f"R{rule}: {what}")
        self.rule, self.stored, self.found = rule, stored, found


@dataclass(frozen=True)
class Concept:
    """One concept: its words, its base model's number and its index sets by param name."""

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


def need(rule: int, holds: bool, what: str) -> None:
    """Raise a fault unless the rule holds."""
    if not holds:
        raise RuleError(rule, what)


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
    need(30, end + sum(lengths) == len(data), "length of the file")
    concepts = []
    for row in header["concepts"]:
        payload = data[end : end + row["sections"][0]["length"]]
        for section in row["sections"]:
            found = hashlib.sha256(data[end : end + section["length"]]).digest()
            if found != section["sha256"]:
                raise RuleError(31, "sha256 of a section", section["sha256"], found)
            end += section["length"]
        concepts.append(decode_concept(row, header["bases"][row["base"]]["tensors"], payload))
    return Cone((1, data[10]), header, concepts)


# --- msgpack ---


def unpack(data: bytes) -> dict[str, Any]:
    """The header map, of canonical msgpack."""
    decoder = Decoder(data)
    value = decoder.value(0)
    need(8, isinstance(value, dict), "the header is no map")
    need(8, decoder.at == len(data), "bytes after the map")
    return dict(value)


class Decoder:
    """Decodes msgpack, and refuses what isn't canonical."""

    def __init__(self, data: bytes) -> None:
        """Start before the first byte."""
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        need(8, size <= len(self.data) - self.at, "the map ends early")
        self.at += size
        return self.data[self.at - size : self.at]

    def uint(self, size: int, least: int) -> int:
        """A number of 0 or more in so many bytes, which a shorter form wouldn't hold."""
        number = int.from_bytes(self.take(size), "big")
        need(10, number >= least, "a number in a long form")
        return number

    def value(self, depth: int) -> Any:
        """The next value, inside so many arrays and maps."""
        need(12, depth <= 16, "too deep")
        code = self.take(1)[0]
        if code <= 0x7F:
            return code
        if code >= 0xE0:
            return code - 256
        if code <= 0x8F:
            return self.map(code & 15, depth + 1)
        if code <= 0x9F:
            return self.array(code & 15, depth + 1)
        if code <= 0xBF:
            return self.text(code & 31)
        if code in (0xC0, 0xC2, 0xC3):
            return None if code == 0xC0 else code == 0xC3
        if 0xC4 <= code <= 0xC6:
            return self.take(self.uint(1 << code - 0xC4, (0, 2**8, 2**16)[code - 0xC4]))
        if code in (0xCA, 0xCB):
            (number,) = struct.unpack(">f" if code == 0xCA else ">d", self.take(4 if code == 0xCA else 8))
            need(11, math.isfinite(number), "NaN or infinite")
            need(10, code == 0xCB, "a 32-bit float")
            return number
        if 0xCC <= code <= 0xCF:
            return self.uint(1 << code - 0xCC, (2**7, 2**8, 2**16, 2**32)[code - 0xCC])
        if 0xD0 <= code <= 0xD3:
            number = int.from_bytes(self.take(1 << code - 0xD0), "big", signed=True)
            need(10, number < -(2 ** (5, 7, 15, 31)[code - 0xD0]), "a signed number in a long form")
            return number
        if 0xD9 <= code <= 0xDB:
            return self.text(self.uint(1 << code - 0xD9, (2**5, 2**8, 2**16)[code - 0xD9]))
        if code in (0xDC, 0xDD):
            return self.array(self.uint(2 << code - 0xDC, (2**4, 2**16)[code - 0xDC]), depth + 1)
        if code in (0xDE, 0xDF):
            return self.map(self.uint(2 << code - 0xDE, (2**4, 2**16)[code - 0xDE]), depth + 1)
        raise RuleError(8, f"msgpack type {code:02x}")

    def text(self, size: int) -> str:
        """A string."""
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise RuleError(8, "not UTF-8") from error

    def array(self, size: int, depth: int) -> list[Any]:
        """An array whose items lie inside so many arrays and maps."""
        need(8, size <= len(self.data) - self.at, "an array longer than the header")
        return [self.value(depth) for _ in range(size)]

    def map(self, size: int, depth: int) -> dict[str, Any]:
        """A map whose values lie inside so many arrays and maps."""
        result: dict[str, Any] = {}
        last = ""
        for number in range(size):
            key = self.value(depth)
            need(8, isinstance(key, str), "a key that is no string")
            need(9, key not in result, "a key twice")
            need(10, number == 0 or key > last, "keys out of order")
            result[key], last = self.value(depth), key
        return result


# --- header ---


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
    "zeros?": [UINT],
    "samples?": [bytes],
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
    need(28, sum(row[2] for concept in concepts for row in concept["tensors"]) <= 2**26, "too many indices")


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
    for key in ("zeros", "samples"):
        need(18, len(base.get(key, tensors)) == len(tensors), key)
    sizes = [math.prod(shape) for _, shape in tensors]
    need(18, all(count <= n for count, n in zip(base.get("zeros", sizes), sizes, strict=True)), "zeros")
    for sample, n in zip(base.get("samples", []), sizes, strict=False):
        need(18, len(sample) == 4 * min(4, n), "length of samples")
        need(18, bool(np.isfinite(np.frombuffer(sample, "<f4")).all()), "samples")


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
    need(28, sum(row[4] for row in rows) <= 2**27, "coded pieces too long")
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
        need(27, height + width <= 16 * k and coded in (0, height, width, height + width), "grid")
        need(27, raw <= 4099 + 5 * k, "raw piece of a grid")


# --- sections ---


def decode_concept(concept: dict[str, Any], tensors: list[tuple[str, list[int]]], payload: bytes) -> Concept:
    """Decode a section of indices, and compare the content id."""
    rows = concept["tensors"]
    at = sum(row[3] for row in rows)
    content = unframe(payload[at:], sum(row[4] for row in rows)) if rows else b""
    indices = {}
    stream, start, second = hashlib.sha256(b"cone-concept-1\0"), 0, 0
    for number, codec, k, raw, coded in rows:
        name, shape = tensors[number]
        decode = (decode_bitmap, decode_gaps, decode_grid)[codec]
        pieces = payload[start : start + raw], content[second : second + coded]
        found = indices[name] = decode(shape, k, *(np.frombuffer(piece, np.uint8) for piece in pieces))
        start, second = start + raw, second + coded
        encoded = name.encode()
        stream.update(struct.pack("<Q", len(encoded)) + encoded)
        stream.update(struct.pack(f"<{len(shape) + 2}Q", len(shape), *shape, k) + found.astype("<u4").tobytes())
    if stream.digest() != concept["id"]:
        raise RuleError(42, "content id", concept["id"], stream.digest())
    words = concept["name"], concept["class_noun"], concept["identifier"]
    return Concept(*words, concept["base"], concept["id"], indices)


def unframe(frame: bytes, size: int) -> bytes:
    """The content of a zstd frame, which must have this size; RFC 8878 down to the headers of blocks."""
    need(32, frame[:4] == bytes.fromhex("28B52FFD") and len(frame) > 4, "no zstd frame")
    descriptor, at = frame[4], 5
    flag, single, checksum = descriptor >> 6, descriptor >> 5 & 1, descriptor >> 2 & 1
    need(32, not descriptor >> 3 & 1 and (flag > 0 or single == 1), "descriptor")
    if not single:
        need(32, len(frame) > at, "frame cut off")
        exponent, mantissa = frame[at] >> 3, frame[at] & 7
        need(32, 2 ** (10 + exponent) // 8 * (8 + mantissa) <= 2**27, "window")
    at += 1 - single
    for width, least, expected in ((0, 1, 2, 4)[descriptor & 3], 0, 0), (1 << flag, 256 * (flag == 1), size):
        need(32, int.from_bytes(frame[at : at + width], "little") + least == expected, "dictionary or content size")
        at += width
    last = False
    while not last:
        need(32, at + 3 <= len(frame), "frame cut off")
        block = int.from_bytes(frame[at : at + 3], "little")
        last, kind = bool(block & 1), block >> 1 & 3
        need(32, kind != 3, "type of a block")
        at += 3 + (1 if kind == 1 else block >> 3)
    need(32, at + 4 * checksum == len(frame), "length of the frame")
    decompressor = zstandard.ZstdDecompressor()
    try:
        # At a size of 0 the library's one-shot call wouldn't look at the blocks.
        content = decompressor.decompress(frame) if size else decompressor.decompressobj().decompress(frame)
    except zstandard.ZstdError as error:
        raise RuleError(32, str(error)) from error
    need(32, len(content) == size, "size of the content")
    return content


def low_bits(n: int, k: int) -> int:
    """How many bits of each gap are in the raw piece."""
    return max(0, (n // k).bit_length() - 5)


def decode_bitmap(shape: list[int], k: int, raw: Bytes, coded: Bytes) -> Ints:
    """Codec 0."""
    found = np.flatnonzero(np.unpackbits(coded))
    need(33, len(found) == 0 or int(found[-1]) < math.prod(shape), "padding of a bitmap")
    need(36, len(found) == k, "bits of a bitmap")
    return found


def decode_gaps(shape: list[int], k: int, raw: Bytes, coded: Bytes) -> Ints:
    """Codec 1."""
    n = math.prod(shape)
    b = low_bits(n, k)
    low = np.zeros(k, np.int64)
    for p, plane in enumerate(np.unpackbits(raw.reshape(b, (k + 7) // 8), axis=1)):
        need(33, not plane[k:].any(), "padding of a plane")
        low |= plane[:k].astype(np.int64) << p
    ends = np.flatnonzero(coded != 255)
    need(34, len(ends) == k and int(ends[-1]) == len(coded) - 1, "quotients")
    quotients = 255 * (np.diff(ends, prepend=-1) - 1) + coded[ends]
    need(35, int(quotients.max()) <= n >> b, "a quotient above n")
    found = np.cumsum((quotients << b | low) + 1) - 1
    need(35, int(found[-1]) < n, "the last index")
    return found


def decode_grid(shape: list[int], k: int, raw: Bytes, coded: Bytes) -> Ints:
    """Codec 2."""
    height, width = shape[0], math.prod(shape[1:])
    need(37, len(raw) >= 2, "number of classes")
    sides = int(raw[0]), int(raw[1])
    a, b = sides
    s = (k.bit_length() + 7) // 8
    rest = 2 + a * b * s
    need(37, 1 <= a <= 32 and 1 <= b <= 32 and len(raw) >= rest, "classes or counts")
    need(37, len(coded) == height * (a > 1) + width * (b > 1), "length of the coded piece")
    split = height * (a > 1)
    rows, columns = (
        [np.flatnonzero(part == number) for number in range(side)] if side > 1 else [np.arange(size)]
        for part, side, size in ((coded[:split], a, height), (coded[split:], b, width))
    )
    need(38, sum(map(len, rows)) == height and sum(map(len, columns)) == width, "a class")
    counts = [int.from_bytes(raw[at : at + s].tobytes(), "little") for at in range(2, rest, s)]
    cells = [len(r) * len(c) for r in rows for c in columns]
    need(39, sum(counts) == k and all(c <= n for c, n in zip(counts, cells, strict=True)), "counts")
    rice = [(77 * (n - c // 2) // (160 * c)).bit_length() if c else 0 for c, n in zip(counts, cells, strict=True)]
    order = sorted(range(a * b), key=lambda block: (-rice[block], block))
    m, room = (np.repeat(np.array(of)[order], np.array(counts)[order]) for of in (rice, cells))
    planes = int(m.sum())
    most = planes + k + sum(n - c >> p for n, c, p in zip(cells, counts, rice, strict=True))
    need(40, planes <= 8 * (len(raw) - rest) < most + 8, "bits too few for the planes, or too many for all positions")
    bits = np.unpackbits(raw[rest:])
    gaps, at = np.zeros(k, np.int64), 0
    for p in range(max(rice)):
        among = int(np.count_nonzero(m > p))
        gaps[:among] |= bits[at : at + among].astype(np.int64) << p
        at += among
    ones = np.flatnonzero(bits[at:])
    need(40, len(ones) == k and len(bits) - at - int(ones[-1]) <= 8, "quotients or padding")
    quotients = np.diff(ones, prepend=-1) - 1
    need(41, not (quotients > room >> m).any(), "a quotient above its block")
    gaps |= quotients << m
    found, start = [], 0
    for block in order:
        if count := counts[block]:
            positions = np.cumsum(gaps[start : start + count] + 1) - 1
            need(41, int(positions[-1]) < cells[block], "a position outside its block")
            inner = columns[block % b]
            found.append(rows[block // b][positions // len(inner)] * width + inner[positions % len(inner)])
            start += count
    return np.sort(np.concatenate(found))
