"""Where a search's step goes: `python -m benchmarks.speed.profile --base sd15 --side 16 --method mask`.

Prints torch.profiler's table of the step, and the seconds that it spends outside the denoiser's passes.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.clock import seconds
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.steps import Setup, opened
from conestool.search import METHODS

ROWS = 20


def main(arguments: list[str] | None = None) -> None:
    """Profile one step of the search, then the loop alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", choices=SHAPES, default="sd15")
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--method", choices=sorted(METHODS), default="mask")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    setup = Setup(SHAPES[args.base], args.side, args.batch, args.device)
    activities = [ProfilerActivity.CUDA] if args.device.startswith("cuda") else []
    unet = setup.weights()
    for kind in ("find", "loop"):
        with opened(setup, f"{kind} {args.method}", unet) as step:
            step()
            with profile(activities=[ProfilerActivity.CPU, *activities]) as told:
                taken = seconds(step, args.device)
        order = "self_cuda_time_total" if activities else "self_cpu_time_total"
        print(f"{kind}: {taken:.3f} s\n{told.key_averages().table(sort_by=order, row_limit=ROWS)}")


if __name__ == "__main__":
    main()
