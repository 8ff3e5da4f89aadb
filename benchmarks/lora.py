"""Energy that a LoRA keeps of zeroing scattered weights: `python -m benchmarks.lora`.

One 1280x1280 weight of normal numbers, of which 1 % at random positions are zeroed; the energy is the sum of squares.
"""

from __future__ import annotations

import argparse

import torch

from conestool.apply.export_lora import energy_of, factorise

RANKS = (16, 64, 256, 512)


def main() -> None:
    """Print the share for each rank."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1280)
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = torch.Generator().manual_seed(args.seed)
    shape = (args.side, args.side)
    change = -torch.randn(shape, generator=draw) * (torch.rand(shape, generator=draw) < args.density)
    for rank in RANKS:
        up, down = factorise(change, rank, torch.float16)
        kept = 1 - energy_of(change - up.float() @ down.float()) / energy_of(change)
        print(f"rank {rank:4}: {kept:.1%}")


if __name__ == "__main__":
    main()
