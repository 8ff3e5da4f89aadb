"""Apply and restore at random, nested and with exceptions: `python -m benchmarks.reliability.cycles --count 1000`.

Prints JSON: cycles and contexts by dtype, exceptions thrown, LoRA adapters loaded meanwhile (with --lora, needs peft),
and how many contexts left other bits than they found (must be 0). The weights hold -0, subnormals, infinities and NaN
with payloads, one tensor is not contiguous, and two layers share a tensor's memory.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conestool.apply import apply_cones
from conestool.concept import Cone
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Model
from tests.support.tiny_models import make_pipeline, random_cone

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SPECIAL = {
    4: (-(2**31), 1, 0x7F800000, 0x7FC12345, 0x7F800001, -1),
    2: (-(2**15), 1, 0x7C00, 0x7E12, 0x7F81, 0x7FC5, -1),
}
"""Bit patterns by width: -0, the least subnormal, infinity, quiet and signalling NaN with payloads."""


class OnPurposeError(Exception):
    """Thrown inside contexts."""


def bits(tensor: Tensor) -> Tensor:
    """The tensor's bits as integers, so that -0 and +0 differ and NaN equals itself."""
    return tensor.detach().contiguous().view({4: torch.int32, 2: torch.int16}[tensor.element_size()])


def make_model(folder: Path, dtype: torch.dtype) -> tuple[Model, list[Cone]]:
    """A small pipeline with odd weights, and four cones of overlapping random neurons that were found on it."""
    model = Model.from_pipeline(make_pipeline(folder).to(dtype))
    cones = [
        random_cone(model, name, density=0.3, seed=seed) for seed, name in enumerate(("dog", "hat", "cat", "bear"))
    ]
    params = list(kv_weights(model.denoiser).values())
    generator = torch.Generator().manual_seed(0)
    for param in params:
        flat = bits(param.data).view(-1)
        patterns = torch.tensor(SPECIAL[param.element_size()], dtype=flat.dtype)
        flat[torch.randperm(len(flat), generator=generator)[: 8 * len(patterns)]] = patterns.repeat(8)
    params[0].data = params[0].data.t().contiguous().t()
    twin = next(param for param in params[2:] if param.shape == params[1].shape)
    twin.data = params[1].data
    model.denoiser.train()
    params[3].requires_grad_(False)
    return model, cones


class Cycles:
    """Random nests of `apply_cones` on one model; `counts` says what was done and what went wrong."""

    def __init__(self, model: Model, cones: list[Cone], seed: int, lora: bool = False) -> None:
        self.model, self.cones, self.lora = model, cones, lora
        self.rng, self.counts = random.Random(seed), Counter[str]()

    def run(self, count: int) -> Counter[str]:
        """`count` nests one after the other."""
        for _ in range(count):
            with suppress(OnPurposeError):
                self.nest(self.rng.randint(1, 4))
            self.counts["cycles"] += 1
        return self.counts

    def nest(self, depth: int) -> None:
        """One context, with others inside it; whatever happens there, bits and flags are compared afterwards."""
        before, flags = self.snapshot()
        strength = self.rng.choice([1.0, 1.0, self.rng.random()])
        try:
            with apply_cones(self.model, self.rng.choice(self.cones), strength=strength, verify_base_model=False):
                for _ in range(self.rng.randint(0, 2) if depth else 0):
                    self.nest(depth - 1)
                if self.lora and self.rng.random() < 0.1:
                    self.load_lora()
                if self.rng.random() < 0.2:
                    self.counts["exceptions"] += 1
                    raise OnPurposeError
        finally:
            self.counts["contexts"] += 1
            now, now_flags = self.snapshot()
            same = all(torch.equal(now[key], value) for key, value in before.items())
            self.counts["other bits"] += not (same and now.keys() == before.keys())
            self.counts["other flags"] += now_flags != flags

    def snapshot(self) -> tuple[dict[str, Tensor], Any]:
        """A copy of the bits of all K/V weights, and the flags of all modules and K/V weights."""
        weights = kv_weights(self.model.denoiser)
        flags = [module.training for module in plain_modules(self.model.denoiser)]
        grads = [(param.requires_grad, param.grad is None) for param in weights.values()]
        return {key: bits(value).clone() for key, value in weights.items()}, (flags, grads if not self.lora else None)

    def load_lora(self) -> None:
        """Add a LoRA adapter with random weights and, half of the time, delete it again while concepts are applied.

        By `add_adapter`, or by `load_lora_adapter`, which is what a pipeline's `load_lora_weights` calls.
        """
        from peft import LoraConfig

        name = f"adapter{self.counts['adapters']}"
        self.counts["adapters"] += 1
        config = LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False)
        denoiser: Any = self.model.denoiser
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's, about several adapters at once
            if self.rng.random() < 0.5:
                denoiser.load_lora_adapter(lora_weights(denoiser), prefix=None, adapter_name=name)
                self.counts["loaded"] += name in denoiser.peft_config
            else:
                denoiser.add_adapter(config, adapter_name=name)
            if self.counts["adapters"] > 3 or self.rng.random() < 0.5:
                denoiser.delete_adapters(name)


def lora_weights(denoiser: nn.Module, rank: int = 2) -> dict[str, Tensor]:
    """A LoRA's random weights for every to_k and to_v, under the names that files have."""
    out = {}
    for name, module in denoiser.named_modules():
        if name.endswith(("to_k", "to_v")):
            height, width = module.weight.shape
            out[f"{name}.lora_A.weight"] = torch.randn(rank, int(width))
            out[f"{name}.lora_B.weight"] = torch.randn(int(height), rank)
    return out


def plain_modules(denoiser: nn.Module) -> list[nn.Module]:
    """The denoiser's modules that LoRA does not add to."""
    return [module for name, module in denoiser.named_modules() if "lora" not in name and "base_layer" not in name]


def main() -> None:
    """Run the campaign and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="cycles per dtype")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lora", action="store_true", help="load LoRA adapters in between; needs peft")
    args = parser.parse_args()
    found = {}
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory() as folder:
            model, cones = make_model(Path(folder), dtype)
            found[str(dtype).removeprefix("torch.")] = dict(Cycles(model, cones, args.seed, args.lora).run(args.count))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
