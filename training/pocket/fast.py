"""Faster training steps on a CPU with bfloat16 matrix units: convolutions and attention as plain matrix products.

The backward passes of the CPU's own bfloat16 convolution and fused attention are several times slower than its matrix
products (measured by ``python -m training.pocket.fast``). The modules stay the standard ones: only how they compute
while they are trained changes, and what is saved knows nothing of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer


def _columns(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Return the patches of x (B, H, W, C), padded by half a kernel: (B * H' * W', kernel^2 * C)."""
    if kernel == 1:
        return x.reshape(-1, x.shape[3])
    margin = kernel // 2
    padded = F.pad(x, (0, 0, margin, margin, margin, margin))
    batch, height, width, channels = padded.shape
    rows, columns = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    b, h, w, c = padded.stride()
    shape = (batch, rows, columns, kernel, kernel, channels)
    patches = padded.as_strided(shape, (b, h * stride, w * stride, h, w, c))
    return patches.reshape(-1, kernel * kernel * channels)


class _Convolve(torch.autograd.Function):
    """A convolution of odd kernel, padded by half of it: forward and backward are one matrix product each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        out_channels, _, kernel, _ = weight.shape
        pixels = x.permute(0, 2, 3, 1).to(torch.bfloat16)
        columns = _columns(pixels, kernel, stride)
        half = weight.permute(0, 2, 3, 1).to(torch.bfloat16)
        out = F.linear(columns, half.reshape(out_channels, -1), None if bias is None else bias.to(torch.bfloat16))
        ctx.save_for_backward(columns, half)
        ctx.shape, ctx.stride, ctx.has_bias, ctx.dtype = pixels.shape, stride, bias is not None, x.dtype
        rows, wide = -(-pixels.shape[1] // stride), -(-pixels.shape[2] // stride)
        return out.view(pixels.shape[0], rows, wide, out_channels).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        columns, half = ctx.saved_tensors
        out_channels, kernel, _, channels = half.shape
        batch, height, width, _ = ctx.shape
        gradient = gradients[0].permute(0, 2, 3, 1).to(torch.bfloat16)
        flat = gradient.reshape(-1, out_channels)
        by_weight = (flat.T @ columns).float().view(half.shape).permute(0, 3, 1, 2)
        by_bias = flat.sum(0).float() if ctx.has_bias else None
        by_input = None
        if ctx.needs_input_grad[0]:
            if ctx.stride > 1:
                spread = gradient.new_zeros(batch, height, width, out_channels)
                spread[:, :: ctx.stride, :: ctx.stride] = gradient
                gradient = spread
            flipped = half.flip(1, 2).permute(1, 2, 0, 3).reshape(-1, channels)
            by_input = (_columns(gradient, kernel, 1) @ flipped).view(batch, height, width, channels)
            by_input = by_input.permute(0, 3, 1, 2).to(ctx.dtype)
        return by_input, by_weight, by_bias, None


def _conv_forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    out: Tensor = _Convolve.apply(x, self.weight, self.bias, self.stride[0])  # type: ignore[no-untyped-call]
    return out


class MatmulProcessor:
    """Attention as two batched matrix products and a softmax."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: object
    ) -> Tensor:
        """Return the attention's output for (B, T, C); masks are not supported."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        heads = attn.heads

        def split(x: Tensor) -> Tensor:
            parted: Tensor = x.unflatten(2, (heads, -1)).transpose(1, 2)
            return parted

        query, key, value = split(attn.to_q(hidden_states)), split(attn.to_k(context)), split(attn.to_v(context))
        weights = torch.softmax(query @ key.transpose(2, 3) * attn.scale, dim=3, dtype=query.dtype)
        out = (weights @ value).transpose(1, 2).flatten(2)
        projected: Tensor = attn.to_out[0](out)
        return projected


def speed_up(module: nn.Module) -> nn.Module:
    """Let all convolutions and attentions of a module compute as matrix products; returns it."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
            part.forward = MethodType(_conv_forward, part)  # type: ignore[method-assign]
        if isinstance(part, Attention):
            part.set_processor(MatmulProcessor())
    return module


def compile_blocks(module: nn.Module) -> nn.Module:
    """Compile residual and transformer blocks and a text encoder's layers; returns the module.

    This fuses all but their matrix products.

    Each kind of block is compiled once for each of its shapes, in about a minute, and kept in torch's cache on disk.
    Nothing changes where there is no C++ compiler.
    """
    for part in module.modules():
        if isinstance(part, BasicTransformerBlock | ResnetBlock2D | CLIPEncoderLayer):
            compile_module(part)
    return module


def compile_module(module: nn.Module) -> None:
    """Let a module compile itself when it is first called, for fixed shapes; not where there is no C++ compiler."""
    if shutil.which(os.environ.get("CXX", "g++")):
        module.compile(dynamic=False)


def has_matrix_units() -> bool:
    """Tell whether this CPU multiplies bfloat16 matrices in hardware."""
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")


def _time(step: Callable[[], object], repeats: int) -> float:
    step()
    begun = time.process_time()
    for _ in range(repeats):
        step()
    return (time.process_time() - begun) / repeats


def main() -> None:
    """Print images a second of a training step: as the modules compute by themselves, sped up, and compiled."""
    from training.pocket import models

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    unet = models.build_unet().to(torch.bfloat16)
    side = unet.config.sample_size
    latents = torch.randn(args.batch, unet.config.in_channels, side, side, dtype=torch.bfloat16)
    states = torch.randn(args.batch, 64, unet.config.cross_attention_dim, dtype=torch.bfloat16)
    times = torch.randint(1000, (args.batch,))

    def step() -> None:
        out = unet(latents, times, encoder_hidden_states=states).sample
        torch.autograd.backward(out.float().square().mean())

    print(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.1f} M parameters, batches of {args.batch}, one thread")
    print(f"as they are: {args.batch / _time(step, args.repeats):.1f} images/s", flush=True)
    speed_up(unet)
    print(f"sped up: {args.batch / _time(step, args.repeats):.1f} images/s", flush=True)
    compile_blocks(unet)
    step()
    print(f"compiled: {args.batch / _time(step, args.repeats):.1f} images/s")


if __name__ == "__main__":
    main()
