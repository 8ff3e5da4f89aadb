"""Captions of scenes in many phrasings, and every word that can occur in them."""

from __future__ import annotations

import random

from training.pocket import domain
from training.pocket.scenes import Item, Scene

PREFIXES = (("", 0.36), ("a photo of ", 0.4), ("a picture of ", 0.1), ("an image of ", 0.07), ("a drawing of ", 0.07))
PLACES: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "at the beach", "on a beach"),
    "field": ("in a field", "in the grass", "in a green field"),
    "snow": ("in the snow", "in snow"),
    "night": ("at night", "under the night sky", "in front of the night sky"),
    "bricks": ("in front of a brick wall", "at a brick wall", "by a brick wall"),
    "checkerboard": ("on a checkerboard", "in front of a checkerboard"),
    "street": ("on the street", "in the street", "on a street"),
}
JOINTS = (" and ", " and ", " next to ", " beside ")
WEARING = (" in ", " in ", " wearing ", " with ")
PLURAL = frozenset({"glasses", "sunglasses"})
#: Words no caption of ours uses but people do; they are tokens of their own, untrained.
SPARE = ("the", "my", "your", "one", "two", "three", "four", "small", "big", "little", "left", "right", "is", "are")


def _noun_phrase(rng: random.Random, item: Item, identifier: str) -> str:
    """Return e.g. "a red sks dog"."""
    words = [w for w in (item.colour, identifier, item.word) if w]
    if item.word in PLURAL:
        return " ".join(words)
    article = "an" if words[0][0] in "aeiou" else "a"
    draw = rng.random()
    article = "the" if draw < 0.06 else "my" if draw < 0.08 else article
    return " ".join([article, *words])


def _item_phrase(rng: random.Random, item: Item, chance: float) -> str:
    def identifier() -> str:
        return rng.choice(domain.IDENTIFIERS) if rng.random() < chance else ""

    phrase = _noun_phrase(rng, item, identifier())
    if item.wears:
        phrase += rng.choice(WEARING) + _noun_phrase(rng, item.wears, identifier())
    return phrase


def _place(rng: random.Random, background: str) -> str:
    if background == "plain":
        return ""
    if background in domain.COLOURS:
        article = "an" if background[0] in "aeiou" else "a"
        return f" on {article} {background} background"
    return " " + rng.choice(PLACES[background])


def caption(scene: Scene, rng: random.Random, identifiers: float = 0.3) -> str:
    """Word a scene; ``identifiers`` is the fraction of captions in which rare words stand before nouns.

    Things are named in reading order, as they lie in the picture: which of two nouns is the left one would otherwise be
    a coin that the model has to toss and both halves of the picture to agree on.
    """
    chance = 0.75 if rng.random() < identifiers else 0.0
    phrases = [_item_phrase(rng, item, chance) for item in scene.items]
    if len(phrases) == 2:
        body = rng.choice(JOINTS).join(phrases)
    else:
        body = " and ".join(p for p in (", ".join(phrases[:-1]), phrases[-1]) if p)
    prefix = rng.choices([p for p, _ in PREFIXES], [w for _, w in PREFIXES])[0]
    return prefix + body + _place(rng, scene.background)


def vocabulary() -> list[str]:
    """Return every word that is to be one token."""
    text: list[str] = [*domain.NOUNS, "hat", *domain.COLOURS, *domain.IDENTIFIERS, *SPARE, "background", "an", ","]
    text += [p for p, _ in PREFIXES] + [p for places in PLACES.values() for p in places]
    text += [*JOINTS, *WEARING]
    return sorted({word for phrase in text for word in phrase.split()})
