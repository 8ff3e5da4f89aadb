"""Procedural backgrounds as tensors, one function per kind, for a whole batch at once on any device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from training.pocket import world


@cache
def _centre(rgb: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return a colour (1, 3, 1, 1) in [0, 1]; kept, since bringing numbers to a GPU waits for it."""
    return torch.tensor(rgb, device=device).view(1, 3, 1, 1) / 255


class Dice:
    """Random numbers of one batch, drawn where the generator lies: by one on the CPU alike for every device."""

    def __init__(self, count: int, generator: torch.Generator, device: torch.device) -> None:
        self.count, self.generator, self.device = count, generator, device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return (count, *shape) numbers in [low, high); shape defaults to (1, 1, 1)."""
        whole = (self.count, *(shape or (1, 1, 1)))
        draw = torch.rand(whole, generator=self.generator, device=self.generator.device)
        return (low + (high - low) * draw).to(self.device)

    def colour(self, rgb: tuple[int, int, int], spread: float) -> Tensor:
        """Return colours (count, 3, 1, 1) near ``rgb`` (0-255), in [0, 1]."""
        return (_centre(rgb, self.device) + self.uniform(-spread, spread, 3, 1, 1)).clamp(0, 1)


def _grid(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return x and y in [0, 1] as (1, 1, 1, size) and (1, 1, size, 1)."""
    line = (torch.arange(size, device=device) + 0.5) / size
    return line.view(1, 1, 1, -1), line.view(1, 1, -1, 1)


def _mix(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    return a + (b - a) * weight


def _edge(distance: Tensor, size: int) -> Tensor:
    """Return a step that is one pixel wide: 1 where ``distance`` (in picture sides) is positive."""
    return (distance * size + 0.5).clamp(0, 1)


def _sky(dice: Dice, top: tuple[int, int, int], low: tuple[int, int, int], y: Tensor) -> Tensor:
    return _mix(dice.colour(top, 0.04), dice.colour(low, 0.04), y)


def _disc(dice: Dice, size: int, radius: float) -> Tensor:
    x, y = _grid(size, dice.device)
    dx, dy = x - dice.uniform(0.1, 0.9), y - dice.uniform(0.08, 0.3)
    return _edge(dice.uniform(0.7 * radius, radius) - (dx * dx + dy * dy).sqrt(), size)


def plain(dice: Dice, size: int) -> Tensor:
    """Pale or grey, one colour, shaded a little from top to bottom."""
    base = dice.uniform(0.62, 0.97) + dice.uniform(-0.12, 0.12, 3, 1, 1)
    _, y = _grid(size, dice.device)
    return (base + dice.uniform(-0.06, 0.06) * (y - 0.5)).clamp(0, 1).expand(-1, -1, size, size)


def coloured(dice: Dice, size: int, rgb: tuple[int, int, int]) -> Tensor:
    """One named colour."""
    return dice.colour(rgb, 0.03).expand(-1, -1, size, size)


def beach(dice: Dice, size: int) -> Tensor:
    """Sky, a band of sea and sand."""
    x, y = _grid(size, dice.device)
    wave = 0.012 * torch.sin(x * dice.uniform(8, 20) + dice.uniform(0, 6))
    shore, horizon = dice.uniform(0.55, 0.7), dice.uniform(0.35, 0.48)
    picture = _sky(dice, (110, 190, 245), (190, 230, 250), y)
    picture = _mix(picture, dice.colour((255, 225, 90), 0.03), _disc(dice, size, 0.1))
    picture = _mix(picture, dice.colour((30, 125, 200), 0.05), _edge(y - horizon, size))
    picture = _mix(picture, dice.colour((235, 248, 250), 0.02), _edge(y - shore - wave, size))
    return _mix(picture, dice.colour((238, 212, 150), 0.04), _edge(y - shore - wave - 0.03, size))


def field(dice: Dice, size: int) -> Tensor:
    """Sky over rolling green grass."""
    x, y = _grid(size, dice.device)
    hill = 0.05 * torch.sin(x * dice.uniform(2, 6) + dice.uniform(0, 6))
    ground = dice.uniform(0.45, 0.65)
    stripes = 0.5 + 0.5 * torch.sin((y - hill) * dice.uniform(40, 60))
    grass = _mix(dice.colour((95, 175, 60), 0.05), dice.colour((120, 200, 80), 0.04), stripes)
    picture = _sky(dice, (135, 205, 250), (215, 238, 250), y)
    return _mix(picture, grass, _edge(y - ground - hill, size))


def snow(dice: Dice, size: int) -> Tensor:
    """Grey sky, white ground and flakes."""
    x, y = _grid(size, dice.device)
    hill = 0.04 * torch.sin(x * dice.uniform(3, 7) + dice.uniform(0, 6))
    picture = _sky(dice, (150, 170, 195), (190, 205, 222), y)
    picture = _mix(picture, dice.colour((240, 245, 250), 0.015), _edge(y - dice.uniform(0.55, 0.72) - hill, size))
    return _dots(picture, dice, 14, 0.018, (255, 255, 255))


def night(dice: Dice, size: int) -> Tensor:
    """Dark sky with stars and a moon."""
    _, y = _grid(size, dice.device)
    picture = _sky(dice, (12, 16, 52), (38, 42, 100), y).expand(-1, -1, size, size)
    picture = _dots(picture, dice, 14, 0.014, (255, 250, 200))
    return _mix(picture, dice.colour((245, 240, 200), 0.03), _disc(dice, size, 0.1))


def bricks(dice: Dice, size: int) -> Tensor:
    """A wall of red-brown bricks with light joints."""
    x, y = _grid(size, dice.device)
    rows, joint = dice.uniform(6, 8), 0.035
    v = y * rows + dice.uniform(0, 1)
    u = x * rows / 2 + 0.5 * (v.floor() % 2) + dice.uniform(0, 1)
    distance_v, distance_u = 0.5 - (v % 1 - 0.5).abs(), 0.5 - (u % 1 - 0.5).abs()
    inside = _edge(distance_v / rows - joint / 4, size) * _edge(2 * distance_u / rows - joint / 4, size)
    return _mix(dice.colour((215, 195, 180), 0.03), dice.colour((172, 78, 55), 0.05), inside)


def checkerboard(dice: Dice, size: int) -> Tensor:
    """Squares of two greys, one dark and one light."""
    x, y = _grid(size, dice.device)
    count = dice.uniform(5, 7)
    parity = (torch.sin(x * count * 3.14159 + dice.uniform(0, 6)) * torch.sin(y * count * 3.14159)) * 6
    light, dark = dice.uniform(0.86, 0.97, 3, 1, 1), dice.uniform(0.18, 0.34, 3, 1, 1)
    return _mix(dark, light, (parity + 0.5).clamp(0, 1))


def street(dice: Dice, size: int) -> Tensor:
    """Houses at the horizon, a pavement and a grey road with a dashed line."""
    x, y = _grid(size, dice.device)
    kerb = dice.uniform(0.55, 0.65)
    block = ((x + dice.uniform(0, 1)) * dice.uniform(4, 6)).floor()
    roof = kerb - 0.22 - 0.13 * torch.sin(block * 12.9 + dice.uniform(0, 6))
    wall = 0.58 + 0.14 * torch.sin(block * 5.3 + torch.arange(3, device=dice.device).view(1, 3, 1, 1))
    picture = _mix(_sky(dice, (160, 205, 240), (215, 230, 240), y), wall, _edge(y - roof, size))
    picture = _mix(picture, dice.colour((195, 190, 185), 0.03), _edge(y - kerb, size))
    picture = _mix(picture, dice.colour((88, 90, 96), 0.03), _edge(y - kerb - 0.08, size))
    dash = _edge(0.012 - (y - kerb - 0.24).abs(), size) * ((x * 4 + dice.uniform(0, 1)) % 1 < 0.6)
    return _mix(picture, dice.colour((245, 240, 225), 0.02), dash)


def forest(dice: Dice, size: int) -> Tensor:
    """Two rows of dark firs over moss, under a pale sky."""
    x, y = _grid(size, dice.device)
    ground = dice.uniform(0.68, 0.76)
    picture = _sky(dice, (196, 226, 214), (226, 238, 214), y)
    for count, top, rgb in ((6.0, 0.12, (104, 160, 118)), (4.0, 0.26, (44, 104, 74))):
        u = (x * count + dice.uniform(0, 1)) % 1
        height = (y - top) / (ground - top)
        jag = 0.72 + 0.28 * ((height * 3) % 1)
        firs = _edge((0.47 * height * jag - (u - 0.5).abs()) / count, size) * _edge(y - top, size)
        picture = _mix(picture, dice.colour(rgb, 0.02), firs)
    return _mix(picture, dice.colour((84, 122, 62), 0.03), _edge(y - ground, size))


def _dots(picture: Tensor, dice: Dice, count: int, radius: float, rgb: tuple[int, int, int]) -> Tensor:
    """Scatter round dots."""
    size = picture.shape[-1]
    x, y = _grid(size, dice.device)
    place = dice.uniform(0, 1, count, 2, 1, 1)
    weight = dice.uniform(0.6, 1.2, count, 1, 1) * radius
    distance = ((x - place[:, :, 0]) ** 2 + (y - place[:, :, 1]) ** 2).sqrt()
    cover = _edge(weight - distance, size).amax(1, keepdim=True)
    return _mix(picture, dice.colour(rgb, 0.01), cover)


KINDS: dict[str, Callable[[Dice, int], Tensor]] = {
    "plain": plain,
    "beach": beach,
    "field": field,
    "snow": snow,
    "night": night,
    "bricks": bricks,
    "checkerboard": checkerboard,
    "street": street,
    "forest": forest,
}


def paint(kinds: list[str], size: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Paint one background per entry: a key of ``KINDS`` or a colour word; (B, 3, size, size) in [0, 1]."""
    rows = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in sorted(set(kinds))}
    where = {kind: torch.tensor(each, device=device) for kind, each in rows.items()}
    return paint_rows(where, len(kinds), size, generator, device)


def paint_rows(
    rows: Mapping[str, Tensor], count: int, size: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Paint ``count`` backgrounds, given which rows are of each kind."""
    out = torch.empty(count, 3, size, size, device=device)
    for kind, chosen in rows.items():
        dice = Dice(len(chosen), generator, device)
        painted = coloured(dice, size, world.COLOURS[kind]) if kind in world.COLOURS else KINDS[kind](dice, size)
        out[chosen] = painted.expand(-1, 3, size, size)
    return out
