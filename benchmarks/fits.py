"""How many samples a search takes at once on cards of some sizes, without a card: `python -m benchmarks.fits`.

Stable Diffusion 1.5 and XL in bfloat16, by what `find` itself measures and chooses, on a pretended card that adds up
the bytes of all tensors and computes nothing (tests/support/pretend_card.py). Half a gigabyte is taken off for what
CUDA itself keeps. Printed is the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch

from benchmarks.gpu import Bench
from benchmarks.speed.shapes import SHAPES, blank
from tests.support.pretend_card import pretend_card

__all__ = ["HEAD", "row"]

HEAD = "| base model | card, GB | at once | activations recomputed | scores off the card | peak of a step, GB |"
CAPS = {"sd15": (6, 8, 12, 16, 24), "sdxl": (12,)}
_GB = 1 << 30
_CONTEXT = _GB // 2


def row(name: str, gigabytes: int) -> str:
    """The row of the table for a card of that size: what is chosen, and what a step takes then.

    OutOfMemoryError where nothing fits.
    """
    with pretend_card("cuda", gigabytes * _GB - _CONTEXT, hollow=True) as card:
        unet: Any = blank(SHAPES[name]).to(torch.bfloat16).to_empty(device="cuda").eval()
        with Bench("cuda").searching(name, unet) as (method, chosen):
            card.forget()
            method.step(0)
            held = f"{card.peak / _GB:.1f}"
        flags = ("yes" if chosen[key] else "no" for key in ("gradient_checkpointing", "offload_scores"))
        return f"| {SHAPES[name].note} | {gigabytes} | {chosen['samples']} | {' | '.join(flags)} | {held} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", choices=CAPS, action="append")
    parser.add_argument("--card", type=int, action="append", help="gigabytes")
    args = parser.parse_args()
    print(HEAD, "|---" * 6 + "|", sep="\n", flush=True)
    warnings.simplefilter("ignore")
    for name in args.base or CAPS:
        for gigabytes in args.card or CAPS[name]:
            print(row(name, gigabytes), flush=True)


if __name__ == "__main__":
    main()
