"""Memory of a step beyond the weights: `python -m benchmarks.speed.memory --kind lora --base sd15 --side 32`.

Prints JSON. Measured: the peak of this process over two steps, less what it held with nothing but the weights loaded.
Counted, at any size and without computing anything: the bytes of activations that the backward pass needs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from benchmarks.speed.clock import peak_bytes, resident_bytes
from benchmarks.speed.shapes import SHAPES, blank
from benchmarks.speed.steps import FULL_SHARE, KINDS, Setup, losing, opened, ready

ROOT = Path(__file__).parents[2]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def measure_apart(kind: str, setup: Setup, base: str) -> dict[str, int]:
    """What `main` prints, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed.memory", "--kind", kind, "--base", base]
    command += ["--side", str(setup.side), "--batch", str(setup.batch), "--device", setup.device]
    done = subprocess.run([*command, "--dtype", str(setup.dtype)[6:]], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.decode()[-2000:])
    found: dict[str, int] = json.loads(done.stdout)
    return found


def measure(kind: str, setup: Setup) -> dict[str, int]:
    """Bytes of the weights, and of the peak of two steps beyond them.

    On the CPU the optimiser of full fine-tuning holds a share of the weights only; the moments of the others are added.
    """
    unet = setup.weights()
    before = resident_bytes(setup.device)
    with opened(setup, kind, unet) as step:
        step()
        step()
    sizes = sorted(parameter.numel() * parameter.element_size() for parameter in unet.parameters())
    left_out = 2 * (sum(sizes) - sum(sizes[::FULL_SHARE])) if kind == "full" and setup.device == "cpu" else 0
    return {"weights": sum(sizes), "peak": peak_bytes(setup.device) - before + left_out}


def kept_bytes(kind: str, setup: Setup) -> int:
    """Bytes that a forward pass keeps for the backward one, beside the weights, counted on tensors without content."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    unet = ready(kind, blank(setup.shape).to(setup.dtype))
    with FakeTensorMode():
        weights = {name: empty_like(parameter) for name, parameter in unet.named_parameters()}
        own = {weight.untyped_storage()._cdata for weight in weights.values()}
        loss = losing(setup, lambda *args, **more: functional_call(unet, weights, args, more))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss()
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


def empty_like(parameter: Tensor) -> Tensor:
    """A tensor of the CPU, of the same shape, type and wish for a gradient."""
    return torch.empty(parameter.shape, dtype=parameter.dtype, requires_grad=parameter.requires_grad)


def main(arguments: list[str] | None = None) -> None:
    """Measure in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--base", choices=SHAPES, required=True)
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    setup = Setup(SHAPES[args.base], args.side, args.batch, args.device, DTYPES[args.dtype])
    print(json.dumps(measure(args.kind, setup)))


if __name__ == "__main__":
    main()
