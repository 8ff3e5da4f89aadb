"""Models of a few weights with their structure hash and digests, and pairs of descriptions with their verdicts.

Unlike the files they are made with spec/reference/identity.py, which works on bits; conestool works with numpy.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from spec.reference import identity

SPECIAL = [
    "00000000",
    "80000000",
    "3f800000",
    "bf800000",
    "7f800000",
    "ff800000",
    "7fc00000",
    "ffc00001",
    "7f800001",
    "7fffffff",
    "00000001",
    "807fffff",
    "00800000",
    "7f7fffff",
    "477fe000",
    "477fefff",
    "477ff000",
    "477fffff",
    "c77ff000",
    "38800000",
    "387fffff",
    "387fe000",
    "387fc000",
    "33800000",
    "33000000",
    "33000001",
    "32ffffff",
    "b3000000",
    "b3000001",
    "33c00000",
    "3f801000",
    "3f803000",
    "3f800fff",
    "3f801001",
    "3f808000",
    "3f818000",
    "3f807fff",
    "3f808001",
    "3f817fff",
    "7f7f7fff",
    "7f7f8000",
    "7f7f8001",
    "00007fff",
    "00008000",
    "00008001",
    "00018000",
    "80008000",
    "42f6e979",
    "3dcccccd",
]
"""Zeros, infinities, NaNs, ties and their neighbours, subnormals of all three formats, what overflows."""


def models() -> dict[str, identity.Tensors]:
    """Models by name."""
    special = [int(bits, 16) for bits in SPECIAL]
    rng = random.Random(0)
    drawn = [int.from_bytes(struct.pack("<f", rng.gauss(0, 0.02)), "little") for _ in range(24)]
    other = {"b.to_v.weight": ([3, 4], drawn[12:])}
    one: identity.Tensors = {"a.to_k.weight": ([2, 6], drawn[:12]), **other}
    found = {
        "special": {"a.to_k.weight": ([len(special)], special)},
        "none": {},
        "names": {"Ａ.to_k.weight": ([1], drawn[:1]), "🐕.to_k.weight": ([], drawn[1:2])},
        "one": one,
        "one-reshaped": {"a.to_k.weight": ([12], drawn[:12]), **other},
        "one-renamed": {"c.to_k.weight": one["a.to_k.weight"], **other},
        "one-swapped": {"a.to_k.weight": ([2, 6], drawn[12:]), "b.to_v.weight": ([3, 4], drawn[:12])},
        "one-tuned": {"a.to_k.weight": ([2, 6], [drawn[0] ^ 1, *drawn[1:12]]), **other},
    }
    for rounding, rounded in list(identity.ROUNDINGS.items())[1:]:
        found[f"one-{rounding}"] = {name: (shape, list(map(rounded, bits))) for name, (shape, bits) in one.items()}
    return found


PAIRS: list[tuple[str, str, list[str], str]] = [
    ("one", "one", [], "equal"),
    ("one", "one-f16", [], "equal at f16"),
    ("one", "one-bf16", [], "equal at bf16"),
    ("one", "one-bf16(f16)", [], "equal at bf16(f16)"),
    ("one", "one-f16(bf16)", [], "equal at bf16"),
    ("one-f16", "one-bf16(f16)", [], "equal at bf16"),
    ("one-f16", "one-bf16", [], "different"),
    ("one", "one-tuned", [], "different"),
    ("one", "one-swapped", [], "different"),
    ("one", "one-reshaped", [], "different"),
    ("one", "one-renamed", [], "different"),
    ("one", "none", [], "different"),
    ("one", "one-f16", ["f16"], "different"),
    ("one", "one-bf16", ["f16", "bf16(f16)"], "equal at bf16"),
    ("one", "one", ["f16", "bf16", "bf16(f16)", "f16(bf16)"], "equal"),
]
"""Two models, roundings that both descriptions lack, and the verdict in both directions, decided by hand."""
ALTERED = [("one", key, "one-renamed", "different") for key in ("structure", "tensors")]
"""A model, and the same with one field of another model's description."""


def write(folder: Path) -> None:
    """Write identity.json."""
    described = {name: identity.describe(tensors) for name, tensors in models().items()}
    record: dict[str, Any] = {"models": {}, "pairs": []}
    for name, tensors in models().items():
        digests = {rounding: digest.hex() for rounding, digest in described[name]["digests"].items()}
        record["models"][name] = {
            "tensors": {
                param: {"shape": shape, "bits": [f"{one:08x}" for one in bits]}
                for param, (shape, bits) in tensors.items()
            },
            "structure": described[name]["structure"].hex(),
            "digests": digests,
        }
    for x, y, lacking, verdict in PAIRS:
        record["pairs"].append({"x": x, "y": y, "lacking": lacking, "altered": {}, "verdict": verdict})
    for name, key, other, verdict in ALTERED:
        pair = {"x": name, "y": name, "lacking": [], "altered": {key: other}, "verdict": verdict}
        record["pairs"].append(pair)
    (folder / "identity.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
