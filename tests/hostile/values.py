"""Values at the edges of the rules, to be put anywhere in a header."""

from __future__ import annotations

import math
from typing import Any


def nested(depth: int) -> list[Any]:
    """So many arrays inside each other."""
    result: list[Any] = []
    for _ in range(depth - 1):
        result = [result]
    return result


NUMBERS = [0, 1, 2, 3, 7, 8, 31, 32, 33, 127, 128, 255, 256, 2**16, 2**26, 2**26 + 1, 2**31 - 1, 2**31, 2**32]
WORDS = ["", "a", "a b", "a  b", " a", "a ", "a-", "a'b", "DOG", "dog", "ß", "ss", "ſ", "a\u0301", "é", "²", "Ⅷ", "дом"]
WORDS += ["\u0301", "1\u20e3", "हिन्दी"]
SPACES = ["\u00a0a", "a\u2028", "\u200ba", "a\u200b", "\u3000a", "a\x1c", "a\x85", "a\x00b", "\u180ea", "\ufeffa"]
SPACES += ["\U0001f415", "a\nb", "a\x1b[31m"]
OTHERS = [None, True, False, -1, -33, -(2**63), 2**63, 2**64 - 1, b"", b"\0", bytes(31), bytes(32), bytes(33)]
FLOATS = [0.0, -0.0, 1.5, 2.0**64, 5e-324, math.inf, -math.inf, math.nan]
SHAPES: list[Any] = [[], {}, [[]], [1] * 8, [1] * 9, [2**31 - 1], {"": 0}, {"x-a": None}, *map(nested, range(10, 18))]
LONG = ["n" * 64, "n" * 65, "n" * 512, "n" * 513, "0" * 64, "indices"]
VALUES = [*NUMBERS, *WORDS, *SPACES, *OTHERS, *FLOATS, *SHAPES, *LONG]
KEYS = ["", "x-a", "critical", "origin", "losses", "seed", "photos", "f16", "revision", "parameters"]
