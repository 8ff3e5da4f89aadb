"""What two other codecs would save of real files, beside the gaps that every tensor has.

    python -m benchmarks.codecs FILE.cone ...

`bitmap`: one bit a weight, packed by zstd. `grid`: rows and columns in classes of like density, every block of classes
with its own Rice code; the classes are counted by their entropy, which flatters it. Each tensor takes the smaller of
both ways. The format had both codecs before its version 1.0; one would earn its place if it saved 3 % of some file that
`cones find` made.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from conestool import format as cones
from conestool.concept import Indices
from conestool.format import gaps


def entropy(counts: Any) -> float:
    """Bytes that symbols of these counts take together."""
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


def gaps_bytes(values: Indices, n: int) -> float:
    """Bytes of gaps: planes, and quotient bytes by their entropy."""
    raw, coded = gaps.encode(values, n)
    return len(raw) + entropy(np.bincount(coded))


def bitmap_bytes(values: Indices, n: int) -> float:
    """Bytes of a bitmap."""
    bits = np.zeros(n, np.uint8)
    bits[values] = 1
    return len(zstandard.ZstdCompressor(level=9).compress(np.packbits(bits).tobytes()))


def grid_bytes(values: Indices, shape: list[int]) -> float:
    """The least bytes of a grid with classes of rows and columns, of rows, or of columns, by the length of counts."""
    height, width = shape[0], math.prod(shape[1:])
    row, column = np.divmod(values.astype(np.int64), width)
    rows, columns = classes(np.bincount(row, minlength=height)), classes(np.bincount(column, minlength=width))
    options = [(rows, columns), (rows, 0 * columns), (0 * rows, columns)]
    return min(block_bytes(row, column, *option) for option in options)


def classes(counts: Any) -> Any:
    """The class of each row or column: the bit length of its count, numbered without holes."""
    return np.unique(np.frexp(counts.astype(float))[1], return_inverse=True)[1]


def block_bytes(row: Any, column: Any, rows: Any, columns: Any) -> float:
    """Bytes of all blocks: a table of counts, low bits and quotients of the gaps in each; and of the classes."""
    height, width = np.bincount(rows), np.bincount(columns)
    bits = 0
    for a, b in np.ndindex(len(height), len(width)):
        inside = (rows[row] == a) & (columns[column] == b)
        count, cells = int(inside.sum()), int(height[a] * width[b])
        if count:
            place = ranks(rows, a)[row[inside]] * width[b] + ranks(columns, b)[column[inside]]
            steps = np.diff(np.sort(place), prepend=-1) - 1
            m = (77 * (cells - count // 2) // (160 * count)).bit_length()  # Kiely's choice of a Rice parameter
            bits += int((m + 1 + (steps >> m)).sum())
    table = len(height) * len(width) * ((len(row).bit_length() + 7) // 8)
    return 2 + table + bits / 8 + entropy(height) + entropy(width)


def ranks(side: Any, number: int) -> Any:
    """The rank of each row (or column) of one class among those of that class."""
    return np.cumsum(side == number) - 1


def main() -> None:
    """Print a line for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    print("| file | neurons | density | bytes | with bitmap | with grid |\n|---|---|---|---|---|---|")
    for path in parser.parse_args().files:
        cone = cones.load(path)
        size = len(cones.dumps(cone))
        saved = {"bitmap": 0.0, "grid": 0.0}
        for concept in cone.concepts:
            for param, values in concept.indices.items():
                shape = concept.base.tensors[param]
                now = gaps_bytes(values, math.prod(shape))
                saved["bitmap"] += max(0.0, now - bitmap_bytes(values, math.prod(shape)))
                if len(shape) > 1:
                    saved["grid"] += max(0.0, now - grid_bytes(values, shape))
        neurons = sum(concept.neurons for concept in cone.concepts)
        density = cone.concepts[0].density
        others = " | ".join(f"{size - bytes_of:,.0f} ({-bytes_of / size:+.1%})" for bytes_of in saved.values())
        print(f"| {path.name} | {neurons:,} | {density:.2%} | {size:,} | {others} |", flush=True)


if __name__ == "__main__":
    main()
