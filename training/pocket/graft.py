"""Put the light decoder, which takes latents apart, into AutoencoderTiny's decoder, which cannot: the same function.

The light decoder begins with a pixel shuffle: each latent of 32 channels becomes 2x2 of 8. AutoencoderTiny repeats each
latent 2x2 instead, and its convolutions treat all four copies alike, so training it finds this slowly (README). Here
its weights are set so that they can: the zeros beyond the border let its first blocks count columns and rows, the steps
of these counts tell left from right and upper from lower copies, and a ReLU keeps of each copy the channels that belong
to it. From there on the light decoder's own convolutions follow, in half of the channels. The others lead nowhere yet,
so that training can go on from here.
"""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.autoencoders.vae import DecoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import Tensor, nn

#: Latents lie in (-3, 3) behind the decoder's tanh; carried as latent + BOUND, no ReLU changes them.
BOUND = 3.0
#: Channels of a latent once it is taken apart.
NARROW = 8
CENTRE, LEFT, UPPER = (1, 1), (1, 0), (0, 1)
#: Channels of the first stage behind the latents: ones, counts of columns and rows, and a shifted one for each.
ONE, COLUMNS, ROWS, ACROSS, DOWN = 32, 33, 34, 35, 36
#: Channels of the second stage: left copies, upper copies, ones; the latents lie behind the light decoder's.
IS_LEFT, IS_UPPER, ONES, LATENTS = 0, 1, 2, 32


def _clear(conv: nn.Conv2d, rows: slice = slice(None)) -> None:
    """Set what leads to these output channels to zero."""
    conv.weight[rows] = 0
    if conv.bias is not None:
        conv.bias[rows] = 0


def _carry(conv: nn.Conv2d, source: int, target: int, tap: tuple[int, int] = CENTRE, by: float = 1.0) -> None:
    """Let an output channel take an input channel of the same place or of a neighbour."""
    conv.weight[target, source, tap[0], tap[1]] += by


def _convolutions(block: nn.Module) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
    first, second, third = (part for part in block.modules() if isinstance(part, nn.Conv2d))
    return first, second, third


def _count(block: nn.Module) -> None:
    """Let a block add to the counts whether there are one, two and three more columns and rows before a place."""
    first, second, third = _convolutions(block)
    for conv, used in ((first, slice(4)), (second, slice(6)), (third, slice(None))):
        _clear(conv, used)
    for axis, (shifted, count, tap) in enumerate(((ACROSS, COLUMNS, LEFT), (DOWN, ROWS, UPPER))):
        _carry(first, shifted, axis, tap)
        _carry(first, shifted, 2 + axis)
        _carry(second, axis, axis)
        _carry(second, axis, 2 + axis, tap)
        _carry(second, 2 + axis, 4 + axis)
        _carry(third, axis, count)
        _carry(third, 2 + axis, count)
        _carry(third, 2 + axis, count, tap)
        _carry(third, 2 + axis, shifted, tap)
        _carry(third, 4 + axis, shifted, by=-1.0)


def _sort(block: nn.Module, light: nn.Conv2d) -> None:
    """Let a block keep each copy's own channels, apply the light decoder's first convolution, and forget the rest."""
    first, second, third = _convolutions(block)
    wide, narrow = light.weight.shape[:2]
    marks = (IS_LEFT, IS_UPPER, ONES)
    behind = slice(4 * narrow, 4 * narrow + len(marks))
    for conv, used in ((first, slice(behind.stop)), (second, slice(wide + len(marks))), (third, slice(None))):
        _clear(conv, used)
    for channel in range(4 * narrow):
        _carry(first, LATENTS + channel, channel)
        for mark, other in ((IS_LEFT, channel % 2), (IS_UPPER, channel // 2 % 2)):
            _carry(first, mark, channel, by=-2 * BOUND if other else 2 * BOUND)
            _carry(first, ONES, channel, by=0.0 if other else -2 * BOUND)
    second.weight[:wide, : 4 * narrow] = light.weight.repeat_interleave(4, dim=1)
    second.weight[:wide, behind.start + 2] = -BOUND * light.weight.sum(1)
    _bias(second)[:wide] = _bias(light)
    for number, mark in enumerate(marks):
        _carry(first, mark, behind.start + number)
        _carry(second, behind.start + number, wide + number)
        _carry(third, wide + number, mark, by=-1.0)
    for channel in range(wide):
        _carry(third, channel, channel)


def _embed(conv: nn.Conv2d, light: nn.Conv2d, *, last: bool = False) -> None:
    """Put a convolution of the light decoder into the first channels; `last`: nothing else leads out of it."""
    rows, columns = light.weight.shape[:2]
    _clear(conv, slice(None) if last else slice(rows))
    conv.weight[:rows, :columns] = light.weight
    if conv.bias is not None and light.bias is not None:
        conv.bias[:rows] = light.bias


@torch.no_grad()
def graft(decoder: DecoderTiny, light: DecoderTiny) -> None:
    """Set the weights of a decoder of 64 channels to compute what ``light``, of 32, does behind a pixel shuffle.

    Exact for up to 16 latents a side, the number of columns that its five first blocks can count.
    """
    stages, (its_first, *its_others) = _stages(decoder), _stages(light)
    (into, counting), (spread, (sorting, *fine)), *others = stages
    _clear(into, slice(DOWN + 1))
    _clear(spread)
    bias = _bias(into)
    for channel in range(4 * NARROW):
        _carry(into, channel, channel)
        _carry(spread, channel, LATENTS + channel)
        bias[channel] = BOUND
    bias[ONE : DOWN + 1] = 1.0
    for block in counting:
        _count(block)
    for count, mark, tap in ((COLUMNS, IS_LEFT, LEFT), (ROWS, IS_UPPER, UPPER)):
        _carry(spread, count, mark)
        _carry(spread, count, mark, tap, by=-1.0)
    _carry(spread, ONE, ONES)
    _sort(sorting, its_first[0])
    _embed_blocks(fine, its_first[1])
    for (conv, blocks), (its, its_blocks) in zip(others, its_others, strict=True):
        _embed(conv, its, last=not blocks)
        _embed_blocks(blocks, its_blocks)


def _bias(conv: nn.Conv2d) -> Tensor:
    """Return the bias of a convolution that has one."""
    return cast(Tensor, conv.bias)


def _embed_blocks(blocks: list[AutoencoderTinyBlock], light: list[AutoencoderTinyBlock]) -> None:
    for block, one in zip(blocks, light, strict=True):
        for number, (conv, its) in enumerate(zip(_convolutions(block), _convolutions(one), strict=True)):
            _embed(conv, its, last=number == 2)


def _stages(decoder: DecoderTiny) -> list[tuple[nn.Conv2d, list[AutoencoderTinyBlock]]]:
    """Return each convolution outside of blocks with the blocks that follow it."""
    stages: list[tuple[nn.Conv2d, list[AutoencoderTinyBlock]]] = []
    for part in decoder.layers:
        if isinstance(part, nn.Conv2d):
            stages.append((part, []))
        elif isinstance(part, AutoencoderTinyBlock):
            stages[-1][1].append(part)
    return stages
