"""One step of everything that learns, on one set of weights: each search method, bare, LoRA, full fine-tuning."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.shapes import Shape, latents, make_model, make_unet, twin
from conestool.models.conditioning import Conditioning
from conestool.models.kv_weights import KV_SUFFIXES, kv_weights
from conestool.models.unet import StableDiffusion
from conestool.search.batches import LatentImages, LossTerm
from conestool.search.methods import METHODS, make_method
from conestool.search.objective import Objective
from conestool.search.parameters import FlatParameters, trainable_kv_weights

Step = Callable[[], object]
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]
RANK = 4
FULL_SHARE = 4
"""On the CPU the optimiser of full fine-tuning holds one weight tensor in this many, and steps as many times."""
FIND = [f"find {name}" for name in METHODS]
LOOP = [f"loop {name}" for name in METHODS]
KINDS = (*FIND, *LOOP, "bare", "forward", "lora", "full")


@dataclass(frozen=True)
class Setup:
    """What a step is measured on: `batch` latents of `side`, in `dtype` on `device`, compiled in that mode or not."""

    shape: Shape
    side: int
    batch: int = 1
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    mode: str = ""

    def weights(self) -> Any:
        """The U-Net on which all kinds work."""
        return make_unet(self.shape, self.device, self.dtype)

    def compiled(self, unet: Any) -> Any:
        """The U-Net, through torch.compile if that is asked for ("reduce-overhead" uses CUDA graphs)."""
        return torch.compile(unet, mode=self.mode) if self.mode else unet

    def asked(self) -> tuple[Tensor, Tensor, Any]:
        """Noisy latents, timesteps and conditioning of one batch."""
        noisy = latents(self.batch, self.side, self.device).to(self.dtype)
        times = torch.full((self.batch,), 800, device=self.device)
        return noisy, times, self.shape.conditioning(self.batch, self.device, self.dtype)


@contextmanager
def opened(setup: Setup, kind: str, unet: Any) -> Iterator[Step]:
    """The step of `kind` on the weights of `unet`; what it holds besides is gone afterwards."""
    own = twin(unet, setup.shape)
    make: Any = {"bare": bare, "forward": forward, "lora": lora, "full": full}.get(kind)
    if make:
        yield make(setup, own)
    else:
        with trainable_kv_weights(own) as params:
            yield search(setup, own, params, *kind.split())
    del own
    gc.collect()


class Idle(StableDiffusion):
    """A denoiser's adapter that computes nothing, and yet gives every K/V weight a gradient."""

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The latents, moved by the mean of every weight: no scalar has a gradient of 0, which is slower to work on."""
        return latents + torch.stack([weight.mean() for weight in kv_weights(denoiser).values()]).sum()


def search(setup: Setup, unet: Any, params: FlatParameters, kind: str, name: str) -> Step:
    """The step of a search method, as `find` runs it: draw the batch, set the weights, learn from the gradient.

    The `loop` is the same without the denoiser's passes: what the step costs beyond the bare one.
    """
    model = make_model(setup.compiled(unet), setup.shape)
    model.family = Idle() if kind == "loop" else setup.shape.family
    pictures = LatentImages(latents(4, setup.side, setup.device))
    told = setup.shape.conditioning(3, setup.device, setup.dtype)
    objective = Objective(
        model, params, [LossTerm(name="instance", images=pictures, conditioning=told, size=setup.batch)]
    )
    running = make_method(name, objective)
    count = iter(range(60))
    return lambda: running.step(next(count))


def forward(setup: Setup, unet: nn.Module) -> Step:
    """The denoiser alone."""
    predict, asked = answering(setup, unet), setup.asked()

    @torch.no_grad()
    def step() -> None:
        predict(*asked)

    return step


def bare(setup: Setup, unet: nn.Module) -> Step:
    """Forward and backward to the K/V weights: what any search by gradients must pay."""
    loss = losing(setup, ready("bare", unet))
    weights = list(kv_weights(unet).values())

    def step() -> None:
        loss().backward()
        for weight in weights:
            weight.grad = None

    return step


def lora(setup: Setup, unet: Any) -> Step:
    """peft's LoRA of rank 4 on all attention projections, with AdamW."""
    loss = losing(setup, ready("lora", unet))
    return trained(loss, [parameter for parameter in unet.parameters() if parameter.requires_grad])


def full(setup: Setup, unet: nn.Module) -> Step:
    """Gradients of every weight, and AdamW on all (CUDA) or a share of them (CPU, where its moments would not fit)."""
    loss = losing(setup, ready("full", unet))
    parameters = list(unet.parameters())
    share = 1 if setup.device.startswith("cuda") else FULL_SHARE
    spread = sorted(parameters, key=lambda parameter: parameter.numel())[::share]
    return trained(loss, spread, parameters, share)


def trained(loss: Callable[[], Tensor], moved: list[Any], cleared: list[Any] | None = None, times: int = 1) -> Step:
    """Backward pass and AdamW; the optimiser takes its step `times` times."""
    optimizer = torch.optim.AdamW(moved, lr=1e-6, weight_decay=0.0)

    def step() -> None:
        loss().backward()
        for _ in range(times):
            optimizer.step()
        for parameter in cleared or moved:
            parameter.grad = None

    return step


def ready(kind: str, unet: Any) -> Any:
    """The U-Net itself, with gradients wanted where `kind` learns: the K/V weights, adapters, or everywhere."""
    unet.requires_grad_(kind == "full")
    if kind == "bare":
        for name, weight in unet.named_parameters():
            weight.requires_grad_(name.endswith(KV_SUFFIXES))
    if kind == "lora":
        from peft import LoraConfig

        unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=PROJECTIONS))
    return unet


def losing(setup: Setup, unet: Any) -> Callable[[], Tensor]:
    """The mean squared error on one batch, fp32."""
    predict, asked = answering(setup, unet), setup.asked()
    target = torch.randn(asked[0].shape, generator=torch.Generator().manual_seed(3)).to(setup.device)
    return lambda: (predict(*asked).float() - target).square().mean()


def answering(setup: Setup, unet: Any) -> Callable[..., Tensor]:
    """The denoiser's answer to latents, timesteps and conditioning, by the family's own call."""
    called = setup.compiled(unet)
    return lambda *asked: setup.shape.family.predict(called, *asked)


def flops(setup: Setup, unet: Any) -> int:
    """Floating-point operations of the bare step."""
    with opened(Setup(setup.shape, setup.side, setup.batch, setup.device, setup.dtype), "bare", unet) as step:
        with FlopCounterMode(display=False) as counter:
            step()
        return int(counter.get_total_flops())


def ceiling(setup: Setup, side: int) -> tuple[Step, int]:
    """A square matrix product, and its floating-point operations: what the device reaches at best."""
    a = torch.randn(side, side, device=setup.device).to(setup.dtype)
    return lambda: a @ a, 2 * side**3
