"""`python -m benchmarks.speed.report --out build/speed` writes docs/experiments/speed.md from the rounds of a run."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.fidelity.store import Store
from benchmarks.fidelity.tables import table
from benchmarks.speed.shapes import SHAPES
from conestool._atomic import write_atomic

ROOT = Path(__file__).parents[2]
LEAD = """# Speed and memory

Written by `python -m benchmarks.speed.report --out F` from the rounds that `python -m benchmarks.speed --out F` left
there; do not edit.

Models have real configurations and random weights. On the CPU all times are CPU seconds of one thread (what other
programs do at the same time still slows it down); a ratio is the median over rounds of each round's ratio. A number
without its range is of one round. `loop` is a search's step without the denoiser's passes: all that the step adds to
the bare one, measured without the noise of a whole pass. Latents smaller than the model's own make every fixed cost
weigh more than it does in use. On the CPU the optimiser of full fine-tuning holds a quarter of the weight tensors and
steps four times.
"""
NEVER_ON_CUDA = """
Nothing on this page ran on a GPU, and torch.compile and CUDA graphs were not measured. In float32 the weights of XL,
what a search holds (12 bytes for each of 0.5 billion weights) and its activations do not fit a small machine, so its
steps are measured in bfloat16, and in float32 on a part of it (`sdxl-part`). Steps here are of one sample; a step of
`find` has 24, and spends no more outside the denoiser than one of these.
"""
Group = dict[str, dict[str, Any]]


def write_page(store: Store, page: Path) -> Path:
    """All tables for which there are rounds."""
    groups: dict[str, Group] = {}
    for record in store.records():
        folder, _, last = record["key"].rpartition("/")
        groups.setdefault(folder, {})[last] = record
    sections = [section for name, group in sorted(groups.items()) for section in section_of(name, group)]
    note = "" if any("cuda" in name for name in groups) else NEVER_ON_CUDA
    write_atomic(page, "\n".join([LEAD + note, *sections]).encode(), overwrite=True)
    return page


def section_of(name: str, group: Group) -> Iterator[str]:
    """The table of one group of records."""
    part, *rest = name.split("/")
    makers: dict[str, Callable[[Group], str]] = {
        "steps": steps,
        "profile": profile,
        "memory": memory,
        "kept": kept,
        "render": render,
        "functions": plain,
        "commands": plain,
        "start": plain,
        "find": plain,
    }
    yield f"## {heading(part, rest)}\n\n{makers[part](group)}"


def heading(part: str, rest: Sequence[str]) -> str:
    """What a table shows."""
    titles = {
        "steps": "One step",
        "profile": "Where a step goes: the operations that take most time themselves",
        "memory": "Peak memory of a step beyond the weights",
        "kept": "Activations kept for the backward pass at the model's own size, one sample",
        "render": "A picture",
        "functions": "Encode and decode one concept of Stable Diffusion 1.5 (1 % of its K/V weights), CPU s",
        "commands": "Commands on concepts of Stable Diffusion 1.5 (1 % of its K/V weights), CPU s",
        "start": "Start of each command, CPU s",
        "find": "A whole search",
    }
    if not rest:
        return titles[part]
    size = f", {rest[1].replace('-', ' ').replace(' ', ', ', 2)}" if len(rest) > 1 else ""
    return f"{titles[part]}: {SHAPES[rest[0]].note}{size}".replace(", cpu", " (latents' side, batch), cpu")


def rounds(group: Group) -> list[dict[str, Any]]:
    """The numbered records."""
    return [record for name, record in sorted(group.items()) if name.isdigit()]


def median(records: Sequence[dict[str, Any]], get: Callable[[dict[str, Any]], float]) -> str:
    """The median of what the records have, and how far it goes; one number if there was one round only."""
    values = sorted(get(record) for record in records)
    if len(values) < 2:
        return "".join(f"{value:.3g}" for value in values)
    return f"{statistics.median(values):.3g} ({values[0]:.3g} to {values[-1]:.3g})"


def steps(group: Group) -> str:
    """Seconds and ratios to the bare step; the share of the device's ceiling."""
    found = rounds(group)
    if not found:
        return "No round is done yet.\n"
    kinds = [kind for kind in found[0] if kind not in ("key", "matmul")]
    rows = []
    for kind in kinds:
        times = [record for record in found if kind in record]
        ratio = ratio_of(kind)
        rows.append([kind, median(times, lambda r: r[kind]), median(times, ratio)])  # noqa: B023
    text = table(["step", "seconds", "over bare"], rows)
    total = group["flops"]["bare"] if "flops" in group else 0
    rate, best = median(found, lambda r: total / r["bare"] / 1e9), median(found, lambda r: r["matmul"] / 1e9)
    return text + f"\nThe bare step: {total / 1e12:.3g} TFLOP, {rate} GFLOP/s; a matrix product: {best} GFLOP/s.\n"


def ratio_of(kind: str) -> Callable[[dict[str, Any]], float]:
    """A kind's time over the bare step's; of a loop, what the bare step with it would take."""
    loop = kind.startswith("loop")
    return lambda record: (record[kind] + loop * record["bare"]) / record["bare"]


def profile(group: Group) -> str:
    """Operations of each kind of step, with their part of it."""
    tables = []
    for kind, record in sorted(group.items()):
        lines = [
            [f"`{name}`", f"{count:,}", f"{own:.3g}", f"{own / record['whole']:.1%}"]
            for name, count, own in record["rows"]
        ]
        tables.append(f"{kind}, {record['seconds']:.3g} s\n\n" + table(["operation", "calls", "seconds", ""], lines))
    return "\n".join(tables)


def memory(group: Group) -> str:
    """Megabytes of each kind, and the ratio to LoRA's."""
    found = rounds(group)
    rows = []
    for kind in (name for name in found[0] if name != "key"):
        peaks = sorted(record[kind] / 1e6 for record in found)
        over = median(found, lambda r: r[kind] / r["lora"]) if "lora" in found[0] else ""  # noqa: B023
        rows.append([kind, f"{statistics.median(peaks):,.0f} ({peaks[0]:,.0f} to {peaks[-1]:,.0f})", over])
    return table(["step", "MB", "over LoRA"], rows)


def kept(group: Group) -> str:
    """Megabytes of each kind and dtype."""
    return table(["step", "MB"], [[name, f"{record['bytes'] / 1e6:,.0f}"] for name, record in sorted(group.items())])


def render(group: Group) -> str:
    """Seconds with concepts and without, and the ratio."""
    found = rounds(group)
    rows = [[name, median(found, lambda r: r[name])] for name in ("concepts", "bare")]  # noqa: B023
    rows.append(["concepts over bare", median(found, lambda r: r["concepts"] / r["bare"])])
    rows.append(["concepts less bare", median(found, lambda r: r["concepts"] - r["bare"])])
    return table(["", "seconds"], rows)


def plain(group: Group) -> str:
    """The median of everything in the records."""
    found = list(group.values())
    names = [name for name in found[0] if name != "key"]
    return table(["", "seconds"], [[f"`{name}`", median(found, lambda r: r[name])] for name in names])  # noqa: B023


def main() -> None:
    """Write docs/experiments/speed.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder of python -m benchmarks.speed")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "experiments" / "speed.md")
    args = parser.parse_args()
    print(write_page(Store(args.out / "rounds"), args.page))


if __name__ == "__main__":
    main()
