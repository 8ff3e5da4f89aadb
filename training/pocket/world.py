"""What pocket's world consists of: things, what words say of them, and which individuals training never sees.

A thing of the world is an individual: a class and a value for each of its attributes. Every attribute has words, so a
caption can ask for it and a judge can read it back. `Thing` is one individual, `Scene` one to four of them before a
background. `kept_out` is the rule that keeps combinations for subjects out of training.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent

#: Colour word -> sRGB.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (216, 40, 44),
    "orange": (246, 134, 32),
    "yellow": (250, 212, 52),
    "green": (52, 158, 70),
    "blue": (48, 100, 220),
    "purple": (136, 66, 190),
    "pink": (246, 146, 190),
    "brown": (134, 84, 46),
    "black": (46, 46, 52),
    "white": (246, 246, 244),
    "grey": (146, 150, 158),
}
#: Pairs that a small picture does not keep apart; they never stand side by side on one thing.
_TOO_CLOSE = frozenset(
    frozenset(pair.split())
    for pair in ("red orange", "orange yellow", "red pink", "red brown", "orange brown", "brown black", "black grey",
                 "white grey", "blue purple", "purple pink", "white yellow", "white pink", "grey blue", "brown purple")
)  # fmt: skip
SECOND: dict[str, tuple[str, ...]] = {
    main: tuple(c for c in COLOURS if c != main and frozenset((main, c)) not in _TOO_CLOSE) for main in COLOURS
}

#: Animal -> what its ears can be; a lion has its mane in their place, a frog has neither.
EARS: dict[str, tuple[str, ...]] = {
    "dog": ("floppy", "pricked", "long"),
    "cat": ("pointed", "folded"),
    "rabbit": ("upright", "floppy"),
    "bear": ("round", "tiny"),
    "pig": ("pointed", "floppy"),
    "elephant": ("big", "small"),
    "frog": ("",),
    "lion": ("round", "spiky"),
}
ANIMALS = tuple(EARS)
#: Markings of animals, in the second colour.
MARKINGS = ("plain", "patch", "spots", "stripes", "blaze", "half", "star")
MUZZLES = ("own", "pale", "second")
EYES = ("small", "big", "sleepy")
#: Thing -> its two variants, the first of them worded by silence in sparse captions as much as the second.
VARIANTS: dict[str, tuple[str, ...]] = {
    "car": ("low", "tall"),
    "house": ("chimney", "flag"),
    "boat": ("one sail", "two sails"),
    "cup": ("steam", "straw"),
    "balloon": ("basket", "ribbon"),
    "robot": ("antenna", "bolts"),
}
THINGS = tuple(VARIANTS)
#: Patterns of things and hats, in the second colour.
PATTERNS = ("plain", "stripe", "two stripes", "spots", "half", "star")
HATS = ("top hat", "cap", "beanie")
HAT_PATTERNS = ("plain", "band", "two bands", "stripes", "spots")
#: What is worn on the head, and elsewhere; any of them may also lie about alone, but glasses and scarf seldom.
HEADWEAR = (*HATS, "crown")
OTHER_WEAR = ("glasses", "scarf", "bow tie")
WEARABLES = (*HEADWEAR, *OTHER_WEAR)
CLASSES = (*ANIMALS, *THINGS, *HEADWEAR)
OUTLINES = ("flat", "outlined")
BACKGROUNDS = ("beach", "field", "snow", "night", "bricks", "checkerboard", "street", "forest")
IDENTIFIERS: tuple[str, ...] = tuple(json.loads((HERE / "identifiers.json").read_text())["identifiers"])


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One individual. Attributes that its class does not have are "".

    `second` is "" where nothing shows it. `ear_colour` and `muzzle_colour` are colour words, "pale" for a pale muzzle.
    """

    kind: str
    main: str
    second: str = ""
    pattern: str = "plain"
    outline: str = "flat"
    ears: str = ""
    ear_colour: str = ""
    muzzle: str = ""
    eyes: str = ""
    variant: str = ""
    headwear: Thing | None = None
    other_wear: Thing | None = None

    @property
    def is_animal(self) -> bool:
        """Tell whether it is an animal, which may wear things."""
        return self.kind in EARS

    def worn(self) -> Iterator[Thing]:
        """Yield what it wears."""
        yield from (wear for wear in (self.headwear, self.other_wear) if wear)

    def without_wear(self) -> Thing:
        """Return the same individual with nothing on."""
        return replace(self, headwear=None, other_wear=None)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One to four things in reading order before a background: one of `BACKGROUNDS`, a colour word, or "plain"."""

    things: tuple[Thing, ...]
    background: str


def kept_out(thing: Thing) -> bool:
    """Tell whether training may never see this combination of class, colours and marking: about one in ten.

    The rule takes the checksum of the four words, so it needs no list and stays the same when classes join. Every
    class, colour and marking, and nearly every pair of them, is left in training.
    """
    if thing.pattern == "plain" and thing.kind not in EARS:
        return False  # one colour only: nothing to combine
    words = " ".join((thing.kind, thing.main, thing.second, thing.pattern))
    return zlib.crc32(words.encode()) % 10 == 0


def shows_second(thing: Thing) -> bool:
    """Tell whether the second colour can be seen anywhere on it."""
    return thing.pattern != "plain" or thing.second in (thing.ear_colour, thing.muzzle)


def sample_animal(rng: random.Random, kind: str = "") -> Thing:
    """Draw an animal with nothing on; `kept_out` combinations may come."""
    kind = kind or rng.choice(ANIMALS)
    main = rng.choice(tuple(COLOURS))
    second = rng.choice(SECOND[main])
    muzzle = {"own": main, "pale": "pale", "second": second}[rng.choice(MUZZLES)]
    ears = rng.choice(EARS[kind])
    ear_colour = rng.choice((main, second)) if ears else ""
    if kind == "lion":
        ear_colour = second  # a mane in the colour of the face has no edge
    thing = Thing(
        kind=kind, main=main, second=second, pattern=rng.choice(MARKINGS), outline=rng.choice(OUTLINES), ears=ears,
        ear_colour=ear_colour, muzzle=muzzle, eyes=rng.choice(EYES),
    )  # fmt: skip
    return thing if shows_second(thing) else replace(thing, second="")


def sample_thing(rng: random.Random, kind: str = "") -> Thing:
    """Draw a thing that is neither an animal nor worn."""
    kind = kind or rng.choice(THINGS)
    main = rng.choice(tuple(COLOURS))
    pattern = rng.choice(PATTERNS)
    second = rng.choice(SECOND[main]) if pattern != "plain" or kind == "house" else ""
    outline, variant = rng.choice(OUTLINES), rng.choice(VARIANTS[kind])
    return Thing(kind=kind, main=main, second=second, pattern=pattern, outline=outline, variant=variant)


def sample_wearable(rng: random.Random, kind: str) -> Thing:
    """Draw a hat or another thing that is worn."""
    main = rng.choice(tuple(COLOURS))
    pattern = rng.choice(HAT_PATTERNS) if kind in HATS else "plain"
    second = rng.choice(SECOND[main]) if pattern != "plain" else ""
    return Thing(kind=kind, main=main, second=second, pattern=pattern, outline=rng.choice(OUTLINES))


def sample_individual(rng: random.Random, *, worn: float = 0.4, alone: float = 0.12, training: bool = True) -> Thing:
    """Draw an individual: a wearable with chance ``alone``, else an animal twice as often as a thing.

    Animals wear something on the head with chance ``worn``, something else with half of it. With ``training`` nothing
    of it is kept out.
    """
    while True:
        draw = rng.random()
        if draw < alone:
            thing = sample_wearable(rng, rng.choice(HEADWEAR))
        elif draw < alone + (1 - alone) * 0.36:
            thing = sample_thing(rng)
        else:
            thing = sample_animal(rng)
            head = sample_wearable(rng, rng.choice(HEADWEAR)) if rng.random() < worn else None
            other = sample_wearable(rng, rng.choice(OTHER_WEAR)) if rng.random() < worn / 2 else None
            thing = replace(thing, headwear=head, other_wear=other)
        if not training or not any(kept_out(part) for part in (thing, *thing.worn())):
            return thing


COUNTS = (0.46, 0.32, 0.12, 0.10)


def sample_scene(
    rng: random.Random, count: int | None = None, *, worn: float | None = None, training: bool = True
) -> Scene:
    """Draw a scene of ``count`` things (1 to 4; None: as often as `COUNTS` says). Two may be of one class."""
    count = count or rng.choices((1, 2, 3, 4), COUNTS)[0]
    chance = (0.4 if count < 3 else 0.2) if worn is None else worn
    things = tuple(sample_individual(rng, worn=chance, training=training) for _ in range(count))
    draw = rng.random()
    if draw < 0.58:
        background = rng.choice(BACKGROUNDS)
    elif draw < 0.70:
        background = rng.choice(tuple(COLOURS))
    else:
        background = "plain"
    return Scene(things=things, background=background)
