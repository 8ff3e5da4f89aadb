"""Canonical msgpack, from spec/cone-1.md alone: the encoding of a header."""

from __future__ import annotations

import math
import struct
from typing import Any

from spec.reference.rules import RuleError, need


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
            need(10, code == 0xCB, "a 32-bit float")
            (number,) = struct.unpack(">d", self.take(8))
            need(11, math.isfinite(number), "NaN or infinite")
            return number
        if 0xCC <= code <= 0xCF:
            return self.uint(1 << code - 0xCC, (2**7, 2**8, 2**16, 2**32)[code - 0xCC])
        if 0xD0 <= code <= 0xD3:
            number = int.from_bytes(self.take(1 << code - 0xD0), "big", signed=True)
            need(10, number < -(2 ** (5, 7, 15, 31)[code - 0xD0]), "a signed number in a long form")
            return number
        if 0xD9 <= code <= 0xDB:
            return self.text(self.uint(1 << code - 0xD9, (2**5, 2**8, 2**16)[code - 0xD9]))
        if 0xDC <= code <= 0xDF:
            size = self.uint(2 << code % 2, (2**4, 2**16)[code % 2])
            return self.array(size, depth + 1) if code <= 0xDD else self.map(size, depth + 1)
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
