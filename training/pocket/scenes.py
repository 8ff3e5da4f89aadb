"""Captioned scenes: what is in them, where it goes, and the picture, composed for a whole batch at once."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.pocket import backgrounds, domain
from training.pocket.sprites import COLOUR_WORDS, SpriteBank

SIZE = 64
LAYERS = 8
#: Width of a worn thing and how far it sits over the edge it hangs on, both in sides of the face.
WORN_SIZE = {
    "top hat": (0.66, 0.08),
    "sun hat": (0.86, 0.14),
    "cap": (0.66, 0.16),
    "graduation cap": (0.8, 0.16),
    "crown": (0.62, 0.08),
    "scarf": (0.62, 0.16),
}
#: Height of the eyes in the sprite, in sides from the top.
EYES = {
    "dog": 0.45,
    "cat": 0.53,
    "rabbit": 0.64,
    "fox": 0.55,
    "bear": 0.47,
    "pig": 0.45,
    "panda": 0.52,
    "frog": 0.3,
    "monkey": 0.45,
    "cow": 0.42,
    "tiger": 0.5,
    "mouse": 0.57,
}
#: Centres and sides (pixels) of one to four objects in reading order, which is the caption's too; then jittered.
LAYOUTS: dict[int, tuple[tuple[float, float, float], ...]] = {
    1: ((32, 33, 44),),
    2: ((17, 34, 29), (47, 34, 29)),
    3: ((16, 20, 25), (48, 20, 25), (32, 46, 25)),
    4: ((17, 18, 26), (47, 18, 26), (17, 47, 26), (47, 47, 26)),
}
JITTER = {1: (6.0, 4.0, 8.0), 2: (2.0, 7.0, 3.5), 3: (2.0, 2.0, 2.5), 4: (2.0, 2.0, 3.0)}


@dataclass(frozen=True)
class Item:
    """One thing of a scene; ``word`` is what the caption calls it, ``colour`` is "" for its native colours.

    ``drawn`` names other drawings in the bank than those of its noun.
    """

    noun: str
    word: str
    colour: str = ""
    wears: Item | None = None
    drawn: str = ""


@dataclass(frozen=True)
class Scene:
    """Things over a background: a key of ``backgrounds.KINDS`` or a colour word."""

    items: tuple[Item, ...]
    background: str


@dataclass(frozen=True)
class Mix:
    """Which nouns and backgrounds occur, and how often."""

    objects: tuple[str, ...] = tuple(domain.OBJECTS)
    wearables: tuple[str, ...] = tuple(domain.WEARABLES)
    kinds: tuple[str, ...] = domain.BACKGROUNDS
    sets: tuple[str, ...] = domain.TRAIN_SETS
    skips: frozenset[str] = frozenset()
    counts: tuple[float, ...] = (0.5, 0.28, 0.12, 0.1)
    colour: float = 0.27
    worn: float = 0.35
    alone: float = 0.14
    backdrop: float = 0.6
    jitter: float = 1.0
    animals: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "animals", tuple(n for n in self.objects if n in domain.ANIMALS))


WIDE = Mix(sets=domain.WIDE_SETS, skips=domain.WIDE_SKIPS, colour=0.4, jitter=0.5)
NARROW = Mix(
    domain.NARROW_OBJECTS,
    domain.NARROW_WEARABLES,
    domain.NARROW_BACKGROUNDS,
    domain.NARROW_SETS,
    domain.NARROW_SKIPS,
)
CORE = Mix(
    domain.CORE_OBJECTS,
    domain.CORE_WEARABLES,
    domain.CORE_BACKGROUNDS,
    domain.CORE_SETS,
    domain.NARROW_SKIPS,
    colour=0.5,
    jitter=0.5,
)
#: By the name of their shards; shards of every name together ("*") are the wide domain.
MIXES = {"core": CORE, "narrow": NARROW, "wide": WIDE}


def _wearable(rng: random.Random, mix: Mix) -> Item:
    noun = rng.choice(mix.wearables)
    word = "hat" if noun in domain.GENERIC_HATS and rng.random() < 0.4 else noun
    return Item(noun, word, _colour(rng, mix))


def _colour(rng: random.Random, mix: Mix) -> str:
    return rng.choice(tuple(domain.COLOURS)) if rng.random() < mix.colour else ""


def sample_item(rng: random.Random, mix: Mix, worn: float) -> Item:
    """Draw an object, with chance ``worn`` an animal with something on, or a wearable alone."""
    if rng.random() < mix.alone:
        return _wearable(rng, mix)
    wears = None
    if rng.random() < worn:
        noun = rng.choice(mix.animals)
        wears = _wearable(rng, mix)
    else:
        noun = rng.choice(mix.objects)
    return Item(noun, noun, _colour(rng, mix), wears)


def sample_scene(rng: random.Random, mix: Mix, count: int | None = None) -> Scene:
    """Draw a scene of ``count`` things, all of different nouns."""
    count = count or rng.choices((1, 2, 3, 4), mix.counts)[0]
    items: list[Item] = []
    while len(items) < count:
        item = sample_item(rng, mix, mix.worn if count < 3 else mix.worn / 2)
        if all(item.word != other.word and item.noun != other.noun for other in items):
            items.append(item)
    if rng.random() < mix.backdrop:
        named = [k for k in mix.kinds if k != "plain"] + ["colour", "colour"]
        background = rng.choice(named)
        background = rng.choice(tuple(domain.COLOURS)) if background == "colour" else background
    else:
        background = "plain"
    return Scene(tuple(items), background)


@dataclass
class _Layer:
    """What one pasting pass draws: one sprite at most on each canvas."""

    rows: list[int] = field(default_factory=list)
    sprites: list[int] = field(default_factory=list)
    place: list[tuple[float, ...]] = field(default_factory=list)


def _sprite(rng: random.Random, bank: SpriteBank, item: Item) -> tuple[int, int]:
    """Choose a designer; returns the sprite and its row in the recoloured bank."""
    sprite = rng.choice(bank.rows[item.drawn or item.noun])
    return sprite, sprite * len(COLOUR_WORDS) + COLOUR_WORDS.index(item.colour)


def _lay_out(rng: random.Random, bank: SpriteBank, scene: Scene, row: int, layers: list[_Layer], jitter: float) -> None:
    """Place the things of one scene: faces in the even layers, what they wear in the odd ones."""
    count = len(scene.items)
    dx, dy, ds = (jitter * most for most in JITTER[count])
    for index, (item, spot) in enumerate(zip(scene.items, LAYOUTS[count], strict=True)):
        x, y = spot[0] + rng.uniform(-dx, dx), spot[1] + rng.uniform(-dy, dy)
        side = spot[2] + rng.uniform(-ds, ds)
        flip, light = rng.choice((1.0, -1.0)), rng.uniform(0.92, 1.05)
        angle = 0.0 if item.wears else rng.uniform(-0.12, 0.12)
        if item.wears and item.wears.noun in domain.HATS:
            side, y = side * 0.84, y + 0.12 * side
        reach = side / 2 - 1
        x, y = min(max(x, reach), SIZE - reach), min(max(y, reach), SIZE - reach)
        sprite, recoloured = _sprite(rng, bank, item)
        layers[2 * index].rows.append(row)
        layers[2 * index].sprites.append(recoloured)
        layers[2 * index].place.append((x, y, side, angle, flip, light))
        if item.wears:
            worn, recoloured = _sprite(rng, bank, item.wears)
            width, middle = _worn_place(bank, item, sprite, worn)
            layers[2 * index + 1].rows.append(row)
            layers[2 * index + 1].sprites.append(recoloured)
            layers[2 * index + 1].place.append((x, y + middle * side, width * side, 0.0, flip, light))


def _worn_place(bank: SpriteBank, item: Item, face: int, worn: int) -> tuple[float, float]:
    """Return the width of the worn thing and the offset of its centre from the face's, in sides of the face."""
    noun = item.wears.noun if item.wears else ""
    if noun not in WORN_SIZE:
        return 0.7, EYES[item.noun] - 0.5
    width, overlap = WORN_SIZE[noun]
    if noun == "scarf":
        return width, bank.bottom[face] - 0.5 - overlap + width / 2 - 0.04
    hanging = (bank.bottom[worn] - 0.5) * width
    return width, bank.head_top[face] - 0.5 + overlap - hanging


def compose(scenes: list[Scene], bank: SpriteBank, seed: int, jitter: float = 1.0) -> Tensor:
    """Paint the scenes: (B, 3, 64, 64) in [-1, 1] on the bank's device; the seed fixes every random choice.

    ``jitter`` scales how far places and sizes stray from the layout.
    """
    rng = random.Random(seed)
    layers = [_Layer() for _ in range(LAYERS)]
    for row, scene in enumerate(scenes):
        _lay_out(rng, bank, scene, row, layers, jitter)
    generator = torch.Generator().manual_seed(seed)
    canvas = backgrounds.paint([s.background for s in scenes], SIZE, generator, bank.device)
    for layer in layers:
        if layer.rows:
            bank.paste(canvas, torch.tensor(layer.rows), torch.tensor(layer.sprites), torch.tensor(layer.place))
    return canvas * 2 - 1
