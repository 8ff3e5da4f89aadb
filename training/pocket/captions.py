"""Captions of scenes in many phrasings, and every word that can occur in them."""

from __future__ import annotations

import random
from collections.abc import Iterable

from training.pocket import world
from training.pocket.world import Scene, Thing

PREFIXES = (("", 0.36), ("a photo of ", 0.4), ("a picture of ", 0.1), ("an image of ", 0.07), ("a drawing of ", 0.07))
PLACES: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "at the beach", "on a beach"),
    "field": ("in a field", "in the grass", "in a meadow"),
    "snow": ("in the snow", "in snow"),
    "night": ("at night", "under the night sky", "in front of the night sky"),
    "bricks": ("in front of a brick wall", "at a brick wall", "by a brick wall"),
    "checkerboard": ("on a checkerboard", "in front of a checkerboard"),
    "street": ("on the street", "in the street", "on a street"),
    "forest": ("in the forest", "in a forest", "in the woods"),
}
JOINTS = (" and ", " and ", " next to ", " beside ")
WEARING = (" in ", " in ", " wearing ", " with ")
#: Share of captions that name all that can be named, as far as the text is long enough: attributes are learned much
#: sooner from them. In the others each attribute is named with the chance `SPARSE`.
RICH, SPARSE = 0.72, 0.3
#: Words of a caption at most; beginning and end are two more tokens of the 64.
MAX_WORDS = 62
ATTRIBUTES = ("main", "pattern", "ears", "headwear", "other wear", "outline", "muzzle", "eyes", "variant")
#: Words that no caption uses yet but people do, and nouns that may join later; tokens of their own, untrained.
SPARE = tuple((world.HERE / "spare_words.txt").read_text(encoding="utf-8").split())


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _pattern_phrase(pattern: str, colour: str) -> str:
    """Return e.g. "a tan patch", "two white stripes", "spots"."""
    word = f"{colour} {pattern.removeprefix('two ')}".strip()
    if pattern.startswith("two "):
        return f"two {word}"
    return word if pattern in ("spots", "stripes") else _article(word)


def _wearable_phrase(rng: random.Random, thing: Thing, named: Iterable[str], identifier: str = "") -> str:
    """Return e.g. "a red hat with two white bands"."""
    noun = "hat" if thing.kind == "top hat" and rng.random() < 0.5 else thing.kind
    words = [w for w in (thing.main if "main" in named else "", identifier, noun) if w]
    if "outline" in named:
        words.insert(0, thing.outline)
    if "pattern" in named and thing.pattern == "plain" and thing.kind in world.HATS:
        words.insert(0, "plain")
    phrase = " ".join(words) if thing.kind == "glasses" else _article(" ".join(words))
    if "pattern" in named and thing.pattern != "plain":
        phrase += " with " + _pattern_phrase(thing.pattern, thing.second)
    return phrase


def _parts(rng: random.Random, thing: Thing, named: Iterable[str]) -> list[str]:
    """Return what follows "with", e.g. ["floppy brown ears", "a brown patch", "big eyes"]."""
    parts = []
    if "ears" in named and thing.ears:
        colour = f"{thing.ear_colour} " if "pattern" in named or "main" in named else ""
        parts.append(f"a {thing.ears} {colour}mane" if thing.kind == "lion" else f"{thing.ears} {colour}ears")
    if "pattern" in named and thing.pattern != "plain":
        parts.append(_pattern_phrase(thing.pattern, thing.second))
    if "muzzle" in named and thing.muzzle:
        parts.append(_article(f"{thing.muzzle} {'trunk' if thing.kind == 'elephant' else 'muzzle'}"))
    if "eyes" in named and thing.eyes:
        parts.append(f"{thing.eyes} eyes")
    if thing.kind == "house" and ("pattern" in named or ("variant" in named and "main" in named)):
        parts.append(_article(f"{thing.second} roof"))
    if "variant" in named and thing.variant and thing.kind != "car":
        parts.append(
            thing.variant if thing.variant.endswith(("sail", "sails", "steam", "bolts")) else _article(thing.variant)
        )
    if rng.random() < 0.3:
        rng.shuffle(parts)
    return parts


def thing_phrase(
    rng: random.Random, thing: Thing, named: Iterable[str], identifiers: tuple[str, str, str] = ("", "", "")
) -> str:
    """Return a noun phrase for a thing that names the given `ATTRIBUTES`.

    ``identifiers`` are rare words before the noun, and before what it wears on the head and elsewhere.
    """
    if thing.kind in world.WEARABLES:
        return _wearable_phrase(rng, thing, named, identifiers[0])
    words = [w for w in (thing.main if "main" in named else "", identifiers[0], thing.kind) if w]
    if "variant" in named and thing.kind == "car":
        words.insert(0, thing.variant)
    if "outline" in named:
        words.insert(0, thing.outline)
    if "pattern" in named and thing.pattern == "plain":
        words.insert(0, "plain")
    phrase, parts = " ".join(words), _parts(rng, thing, named)
    draw = rng.random()
    phrase = f"the {phrase}" if draw < 0.05 else f"my {phrase}" if draw < 0.07 else _article(phrase)
    if parts:
        phrase += " with " + ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    worn = [
        _wearable_phrase(rng, wear, named, identifier)
        for wear, identifier, name in zip(
            (thing.headwear, thing.other_wear), identifiers[1:], ("headwear", "other wear"), strict=True
        )
        if wear and name in named
    ]
    if worn:
        phrase += rng.choice(WEARING[:3] if parts else WEARING) + " and ".join(worn)
    return phrase


def _count(text: str) -> int:
    return len(text.replace(",", " ,").split())


def place_phrase(rng: random.Random, background: str) -> str:
    """Return e.g. " on the beach", with its space, or "" for most plain backgrounds."""
    if background == "plain":
        return " on a plain background" if rng.random() < 0.15 else ""
    if background in world.COLOURS:
        return f" on {_article(background)} background"
    return " " + rng.choice(PLACES[background])


def join_phrases(rng: random.Random, phrases: list[str], place: str, prefix: str) -> str:
    """Return the caption of phrases in reading order and a place, which begins with a space or is ""."""
    if len(phrases) == 2:
        joint = rng.choice(JOINTS)
        long = " with " in phrases[0] or " in " in phrases[0]
        comma = "," if joint != " and " and long and rng.random() < 0.5 else ""
        body = f"{comma}{joint}".join(phrases)
    else:
        body = " and ".join(p for p in (", ".join(phrases[:-1]), phrases[-1]) if p)
    return prefix + body + place


def _names(thing: Thing) -> list[str]:
    """Return the attributes that a thing has."""
    has = {"ears": thing.ears, "headwear": thing.headwear, "other wear": thing.other_wear, "muzzle": thing.muzzle,
           "eyes": thing.eyes, "variant": thing.variant}  # fmt: skip
    return [name for name in ATTRIBUTES if has.get(name, True)]


def _draw_identifiers(rng: random.Random, chance: float) -> tuple[str, str, str]:
    first, second, third = (rng.choice(world.IDENTIFIERS) if rng.random() < chance else "" for _ in range(3))
    return first, second, third


def caption(scene: Scene, rng: random.Random, *, identifiers: float = 0.3, rich: float = RICH) -> str:
    """Word a scene; ``identifiers`` is the share of captions in which rare words stand before nouns.

    Things are named in reading order, as they lie in the picture. A rich caption that is too long drops attributes,
    those at the end of `ATTRIBUTES` first.
    """
    chance = 0.75 if rng.random() < identifiers else 0.0
    everything = rng.random() < rich
    named = [
        [n for n in _names(t) if everything or rng.random() < (0.6 if n.endswith("wear") else SPARSE)]
        for t in scene.things
    ]
    rare = [_draw_identifiers(rng, chance) for _ in scene.things]
    place = place_phrase(rng, scene.background)
    prefix = rng.choices([p for p, _ in PREFIXES], [w for _, w in PREFIXES])[0]
    while True:
        phrases = [thing_phrase(rng, *each) for each in zip(scene.things, named, rare, strict=True)]
        text = join_phrases(rng, phrases, place, prefix)
        if _count(text) <= MAX_WORDS:
            return text
        longest = max(range(len(phrases)), key=lambda i: _count(phrases[i]))
        if named[longest]:
            named[longest].pop()
        else:
            prefix, rare = "", [("", "", "")] * len(phrases)


def vocabulary() -> list[str]:
    """Return every word that is to be one token."""
    text: list[str] = [
        *world.CLASSES,
        *world.OTHER_WEAR,
        "hat",
        *world.COLOURS,
        *world.IDENTIFIERS,
        *SPARE,
        "an",
        ",",
        "with",
    ]
    text += [p for p, _ in PREFIXES] + [p for places in PLACES.values() for p in places] + ["on a plain background"]
    text += [
        *world.MARKINGS,
        *world.PATTERNS,
        *world.HAT_PATTERNS,
        *world.EYES,
        *world.OUTLINES,
        "bands",
        "ears",
        "mane",
        "pale",
    ]
    text += ["muzzle", "trunk", "eyes", "roof", *(e for ears in world.EARS.values() for e in ears), *JOINTS, *WEARING]
    text += [v for variants in world.VARIANTS.values() for v in variants]
    return sorted({word for phrase in text for word in phrase.split()})
