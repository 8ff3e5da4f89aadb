"""Size of .cone files against the bound log2 C(n, k), and times to write and read them, at Stable Diffusion 1.5 shapes.

    python benchmarks/format.py [--repeats 9] [FILE.cone ...]

Uniform masks draw the same share of every tensor at random; clustered ones draw every weight with a probability that
is a product of log-normal factors of its row and its column (sigma 1, at most 0.95), as gradients of linear layers give
them. For clustered and found sets the bound of the uniform case is not the least size: less than 0 % is possible, and
is what a search may find. Times are medians of CPU time of this process; `.cone` files given as arguments are
measured as they are. Prints a Markdown table, and what other methods would store at the same shapes.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from conestool import format as cones
from conestool.cli._format import alternatives
from conestool.concept import BaseModelInfo, Concept, Cone, Indices

DENSITIES = (0.001, 0.01, 0.05, 0.1)
STAGES = {
    "down_blocks.0": (320, 2),
    "down_blocks.1": (640, 2),
    "down_blocks.2": (1280, 2),
    "mid_block": (1280, 1),
    "up_blocks.1": (1280, 3),
    "up_blocks.2": (640, 3),
    "up_blocks.3": (320, 3),
}
TEXT = 768


def shapes() -> dict[str, list[int]]:
    """The 64 K/V weights of Stable Diffusion 1.5: 16 transformer blocks, 43,950,080 weights."""
    out = {}
    for stage, (width, blocks) in STAGES.items():
        for block in range(blocks):
            for attention, inputs in (("attn1", width), ("attn2", TEXT)):
                for kind in ("to_k", "to_v"):
                    place = f"{stage}.attentions.{block}.transformer_blocks.0"
                    out[f"{place}.{attention}.{kind}.weight"] = [width, inputs]
    return out


def uniform(shape: list[int], density: float, rng: np.random.Generator) -> Indices:
    """A fixed number of positions, all equally likely."""
    n = math.prod(shape)
    return np.sort(rng.choice(n, max(1, round(density * n)), replace=False))


def clustered(shape: list[int], density: float, rng: np.random.Generator) -> Indices:
    """Positions with probabilities min(0.95, c row column), c chosen for `density`."""
    product = np.outer(rng.lognormal(size=shape[0]), rng.lognormal(size=shape[1]))
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if np.minimum(product * middle, 0.95).mean() > density else (middle, high)
    return np.flatnonzero(rng.random(shape) < np.minimum(product * high, 0.95)).astype(np.int32)


def bound(concept: Concept) -> float:
    """Sum of log2 C(n, k) over the tensors, in bytes."""
    total = 0.0
    for param, values in concept.indices.items():
        n, k = math.prod(concept.base.tensors[param]), len(values)
        total += math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return total / math.log(2) / 8


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Median CPU time of `work` in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def base_model() -> BaseModelInfo:
    """A base model of these shapes."""
    return BaseModelInfo(
        id="stable-diffusion-1.5",
        family="stable-diffusion",
        dtype="float32",
        structure="00" * 32,
        tensors=shapes(),
        digests={"f32": "00" * 32},
    )


def sets() -> Iterator[tuple[str, Cone]]:
    """The synthetic concepts, named."""
    base = base_model()
    for draw in (uniform, clustered):
        for density in DENSITIES:
            rng = np.random.default_rng(0)
            indices = {param: draw(shape, density, rng) for param, shape in base.tensors.items()}
            yield f"{draw.__name__} {density:.1%}", Cone((Concept("dog", "dog", "sks", indices, base),))


def row(name: str, cone: Cone, repeats: int) -> str:
    """One line of the table."""
    data = cones.dumps(cone)
    payload = len(data) - 20 - int.from_bytes(data[12:16], "little")
    least = sum(bound(concept) for concept in cone.concepts)
    write = median_ms(lambda: cones.dumps(Cone(cone.concepts)), repeats)
    read = median_ms(lambda: cones.loads(data), repeats)
    count = sum(concept.neurons for concept in cone.concepts)
    return (
        f"| {name} | {count:,} | {least:,.0f} | {payload:,} | {100 * (payload / max(1, least) - 1):+.1f} % | "
        f"{len(data) - payload:,} | {write:.0f} | {read:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Size and speed of the .cone format")
    parser.add_argument("files", nargs="*", type=Path, help=".cone files to measure beside the synthetic sets")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    print(f"{len(shapes())} tensors, {sum(map(math.prod, shapes().values())):,} weights\n")
    print("| index sets | neurons | bound, bytes | payload, bytes | over | header | write ms | read ms |")
    print("|---|---|---|---|---|---|---|---|")
    for name, cone in sets():
        print(row(name, cone, options.repeats), flush=True)
    for path in options.files:
        print(row(path.name, cones.load(path), options.repeats), flush=True)
    other = alternatives(base_model())
    print(f"\nLoRA of rank 4, fp16: {other['lora']:,} bytes; Custom Diffusion, fp16: {other['custom_diffusion']:,}")


if __name__ == "__main__":
    main()
