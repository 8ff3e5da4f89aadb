"""Where the things of a scene go, and its picture: composed for a whole batch at once, on any device."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.pocket import backgrounds, drawings, world
from training.pocket.sprites import SpriteBank, SpriteIndex
from training.pocket.world import Scene, Thing

SIZE = 64
#: Centres and sides of one to four things in reading order, as shares of the picture.
LAYOUTS: dict[int, tuple[tuple[float, float, float], ...]] = {
    1: ((0.5, 0.52, 0.74),),
    2: ((0.26, 0.53, 0.49), (0.74, 0.53, 0.49)),
    3: ((0.25, 0.29, 0.43), (0.75, 0.29, 0.43), (0.5, 0.74, 0.43)),
    4: ((0.26, 0.27, 0.43), (0.74, 0.27, 0.43), (0.26, 0.75, 0.43), (0.74, 0.75, 0.43)),
}
#: How far x, y and side stray from the layout.
JITTER = {1: (0.07, 0.05, 0.09), 2: (0.015, 0.07, 0.035), 3: (0.015, 0.02, 0.02), 4: (0.015, 0.02, 0.02)}
ANGLE = 0.08
#: Width of headwear in widths of the head, and where in its sprite (share of its height) it rests on the head.
HEADWEAR = {"top hat": (1.02, 0.80), "cap": (0.98, 0.74), "beanie": (0.98, 0.80), "crown": (0.82, 0.86)}
#: What is worn comes over the face in this order, each in a pass of its own.
PASSES = 3


@dataclass
class _Pass:
    """What one pasting pass draws: one sprite at most on each canvas."""

    rows: list[int] = field(default_factory=list)
    sprites: list[tuple[int, int, int]] = field(default_factory=list)
    place: list[tuple[float, ...]] = field(default_factory=list)

    def add(self, row: int, sprite: tuple[int, int, int], place: tuple[float, ...]) -> None:
        """Add one sprite."""
        self.rows.append(row)
        self.sprites.append(sprite)
        self.place.append(place)


def _rest(face: Thing, wear: Thing) -> tuple[float, float]:
    """Return the width of a worn thing and the height of its centre, in units of the face's canvas (106 wide)."""
    head = drawings.HEADS[face.kind]
    if wear.kind in HEADWEAR:
        share, rests = HEADWEAR[wear.kind]
        width = share * (head.width if face.kind != "frog" else 52)
        top = {"frog": 27.0, "lion": 30.0}.get(face.kind, head.top + 4)
        return width, top - (rests - 0.5) * width
    if wear.kind == "glasses":
        return 2 * head.eye_x / 0.44, head.eye_y
    if wear.kind == "scarf":
        return head.width * 0.92, head.chin + 2
    return head.width * 0.46, head.chin + 4


def _place_thing(passes: Sequence[_Pass], row: int, thing: Thing, box: tuple[float, float, float], angle: float,
                 bank: SpriteIndex) -> None:  # fmt: skip
    """Add a thing and what it wears; all of it turns about the middle of the face."""
    x, y, side = box
    if thing.headwear:
        side, y = side * 0.84, y + 0.13 * side
    if thing.other_wear and thing.other_wear.kind != "glasses":
        side, y = side * 0.94, y - 0.04 * side
    passes[0].add(row, bank.row(thing), (x, y, side, side, angle))
    cos, sin = math.cos(angle), math.sin(angle)
    for layer, wear in ((passes[1], thing.other_wear), (passes[2], thing.headwear)):
        if wear:
            width, middle = _rest(thing, wear)
            down = (middle - 50) / 106 * side
            width = width / 100 * side
            layer.add(row, bank.row(wear), (x - sin * down, y + cos * down, width, width, angle))


def lay_out(scenes: Sequence[Scene], bank: SpriteIndex, rng: random.Random, jitter: float = 1.0) -> list[_Pass]:
    """Return the pasting passes of scenes."""
    passes = [_Pass() for _ in range(PASSES * max(LAYOUTS))]
    for row, scene in enumerate(scenes):
        count = len(scene.things)
        dx, dy, ds = (jitter * most for most in JITTER[count])
        for index, (thing, (x, y, side)) in enumerate(zip(scene.things, LAYOUTS[count], strict=True)):
            box = (x + rng.uniform(-dx, dx), y + rng.uniform(-dy, dy), side + rng.uniform(-ds, ds))
            angle = rng.uniform(-ANGLE, ANGLE) * jitter
            _place_thing(passes[PASSES * index : PASSES * (index + 1)], row, thing, box, angle, bank)
    return passes


def compose(scenes: Sequence[Scene], bank: SpriteBank, seed: int, *, size: int = SIZE, jitter: float = 1.0) -> Tensor:
    """Paint scenes: (B, 3, size, size) in [-1, 1] on the bank's device; the seed fixes every random choice."""
    passes = lay_out(scenes, bank, random.Random(seed), jitter)
    generator = torch.Generator().manual_seed(seed)
    canvas = backgrounds.paint([s.background for s in scenes], size, generator, bank.device)
    for each in passes:
        if each.rows:
            rows, sprites, place = (torch.tensor(v, device=bank.device) for v in (each.rows, each.sprites, each.place))
            bank.paste(canvas, rows, sprites, place)
    return canvas * 2 - 1


def sample_scenes(count: int, seed: int, *, training: bool = True) -> list[Scene]:
    """Draw ``count`` scenes of the world."""
    rng = random.Random(seed)
    return [world.sample_scene(rng, training=training) for _ in range(count)]
