"""What pocket knows: its nouns, which icons draw them, wearables, colours, backgrounds and identifiers."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent

#: Designers' sets used for training, as named on npm below ``@iconify-json/``.
TRAIN_SETS = ("noto", "noto-v1", "fluent-emoji-flat", "twemoji", "fxemoji", "emojione")

#: Noun -> icon names, the first that a set has is used; names after "|" are further drawings of the same noun.
ANIMALS: dict[str, str] = {
    "dog": "dog-face,dog",
    "cat": "cat-face,cat",
    "rabbit": "rabbit-face,bunny",
    "fox": "fox-face,fox",
    "bear": "bear-face,bear",
    "pig": "pig-face,pig",
    "panda": "panda-face,panda",
    "frog": "frog-face,frog",
    "monkey": "monkey-face,monkey",
    "cow": "cow-face,cow",
    "tiger": "tiger-face,tiger",
    "mouse": "mouse-face,mouse",
}
THINGS: dict[str, str] = {
    "car": "automobile|oncoming-automobile",
    "house": "house,house-with-garden",
    "apple": "red-apple|green-apple",
    "flower": "tulip|sunflower|blossom",
    "tree": "deciduous-tree|evergreen-tree",
    "star": "star",
    "balloon": "balloon",
    "umbrella": "umbrella",
    "boat": "sailboat",
    "cake": "shortcake|birthday-cake",
    "mushroom": "mushroom",
    "fish": "tropical-fish|fish",
    "cup": "hot-beverage,teacupwithouthandle",
    "robot": "robot,robot-face",
}
#: Wearable -> icon names. ``HATS`` are also called "hat".
HATS: dict[str, str] = {
    "top hat": "top-hat,tophat",
    "sun hat": "womans-hat,womanshat",
    "cap": "billed-cap",
    "graduation cap": "graduation-cap,graduationcap",
    "crown": "crown",
}
OTHER_WEARABLES: dict[str, str] = {
    "glasses": "glasses",
    "sunglasses": "darksunglasses,sunglasses",
    "scarf": "scarf",
}
WEARABLES = HATS | OTHER_WEARABLES
OBJECTS = ANIMALS | THINGS
NOUNS = OBJECTS | WEARABLES
#: Kinds that the generic word "hat" may mean ("crown" and "graduation cap" have their own words only).
GENERIC_HATS = ("top hat", "sun hat", "cap")

#: Colour word -> sRGB of an object's dominant area.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 30, 36),
    "orange": (250, 128, 10),
    "yellow": (250, 215, 20),
    "green": (40, 160, 50),
    "blue": (40, 90, 225),
    "purple": (135, 50, 190),
    "pink": (250, 130, 185),
    "brown": (125, 72, 32),
    "black": (42, 42, 46),
    "white": (244, 244, 244),
}
BACKGROUNDS = ("plain", "beach", "field", "snow", "night", "bricks", "checkerboard", "street")

#: The narrow start of the training; the wide domain has every noun and background above.
NARROW_OBJECTS = ("dog", "cat", "rabbit", "fox", "bear", "pig", "car", "house", "apple", "flower", "tree", "star")
NARROW_WEARABLES = ("top hat", "sun hat", "cap", "crown", "glasses")
#: The narrow domain takes four sets, and one drawing of each noun, so that few images suffice to learn the shapes.
NARROW_SETS = ("noto", "noto-v1", "fluent-emoji-flat", "twemoji")
NARROW_SKIPS = frozenset({"oncoming-automobile", "green-apple", "tulip", "blossom", "evergreen-tree"})
#: The core: the fewest things that make a picture of a subject in a scene, by two designers, for the shortest training.
CORE_OBJECTS = ("dog", "cat", "rabbit", "bear", "pig", "car", "house")
CORE_WEARABLES = ("top hat", "cap", "crown")
CORE_SETS = ("noto", "twemoji")
CORE_BACKGROUNDS = ("plain", "beach", "field", "snow", "night")
NARROW_BACKGROUNDS = ("plain", "beach", "field", "snow", "night", "bricks")
#: The wide domain takes every noun by four designers, and one drawing of each noun by each.
WIDE_SETS = ("noto", "fluent-emoji-flat", "twemoji", "emojione")
WIDE_SKIPS = NARROW_SKIPS | {"tropical-fish", "shortcake"}

IDENTIFIERS: tuple[str, ...] = tuple(json.loads((HERE / "identifiers.json").read_text())["identifiers"])


def held_out() -> tuple[frozenset[str], frozenset[str]]:
    """Return the icon sets and the single icons (``set:name``) that training may never read."""
    table = json.loads((HERE / "heldout.json").read_text())
    return frozenset(table["sets"]), frozenset(row["icon"] for row in table["altered"])


#: Icons that do not show what their noun says (seen on the sheets).
UNUSABLE: frozenset[str] = frozenset(
    {"fxemoji:cow", "fxemoji:monkey", "fxemoji:sailboat", "fxemoji:umbrella", "noto-v1:glasses", "noto-v1:mushroom"}
)
