"""Names of concepts as words of a prompt, and the words that stand in their place when it is sent.

Prompt and name are folded alike (`fold`), so neither case nor Unicode form matters; `-`, `_` and a space match each
other. A name matches as whole words: a possessive names its owner ("the dog's hat" names dog), and so does a plural
("two dogs"), but a part of a hyphened word does not ("hot-dog"). Where names overlap the longest wins, so "red dog" is
never read as dog.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from typing import Protocol

from conestool._text import NAME_LENGTH, check_length, clusters, fold

JOINT = r"[-_\s]+"
OWNERS = frozenset(("a", "an", "the", "my", "our", "your", "his", "her", "its", "their", "this", "that"))
"""Words that may begin a name, as in my-dog, and that stood for an article in the prompt."""
PREPOSITIONS = (
    "of in on at by with without and or as from to into over under above below near beside behind between against like "
    "for is wearing holding riding"
)
BEFORE_A_NAME = frozenset(PREPOSITIONS.split())
"""Words after which a proper name stands without an article, and a class noun does not."""
IRREGULAR = {
    "calf": "calves",
    "child": "children",
    "foot": "feet",
    "goose": "geese",
    "knife": "knives",
    "leaf": "leaves",
    "loaf": "loaves",
    "man": "men",
    "mouse": "mice",
    "person": "people",
    "scarf": "scarves",
    "shelf": "shelves",
    "snowman": "snowmen",
    "thief": "thieves",
    "tooth": "teeth",
    "wolf": "wolves",
    "woman": "women",
}
SHORTEST_PLURAL = 3
"""Letters of a word that has a plural: "as" is not two of a concept called a."""
CLOSE = 0.75
"""How alike two words are that may be meant for each other: three of four letters, so that a cat is no slip for a hat.
Swapped letters always are one."""


class Named(Protocol):
    """What a prompt calls by its name: a concept, or what a file's header says of one."""

    @property
    def name(self) -> str:
        """What prompts call it."""

    @property
    def identifier(self) -> str:
        """The rare word that the model knows it by."""

    @property
    def class_noun(self) -> str:
        """What kind of thing it is."""


@dataclass(frozen=True)
class Span:
    """One place in a prompt, `start` to `end`, at which the name with this key stands, or its plural."""

    start: int
    end: int
    key: str
    plural: bool = False


def key_of(name: str) -> str:
    """What two names share when prompts cannot tell them apart."""
    return re.sub(JOINT, " ", fold(name)).strip()


def find_names(prompt: str, names: Iterable[str]) -> list[Span]:
    """Where `names` stand in `prompt` (of Unicode form NFC), in reading order; spans do not overlap."""
    text, places = folded(prompt)
    letter = letters(text)
    found = [
        Span(places[match.start()], places[match.end()], key, plural)
        for key in sorted({key_of(name) for name in names})
        for plural, form in [(False, key), *((True, form) for form in plurals(key))]
        for match in pattern(form, letter).finditer(text)
    ]
    taken: list[Span] = []
    for span in sorted(found, key=lambda span: (span.start - span.end, span.plural, span.start)):
        if all(span.end <= other.start or span.start >= other.end for other in taken):
            taken.append(span)
    return sorted(taken, key=lambda span: span.start)


def has_word(prompt: str, word: str) -> bool:
    """Whether `word` stands in `prompt`, between whatever is neither letter nor digit; case and Unicode form aside."""
    text, _ = folded(unicodedata.normalize("NFC", prompt))
    letter = letters(text)
    return re.search(rf"(?<!{letter}){re.escape(fold(word))}(?!{letter})", text) is not None


def folded(prompt: str) -> tuple[str, list[int]]:
    """A prompt (NFC) as `fold` makes it, and for each character of that, and its end, where it comes from."""
    text: list[str] = []
    places: list[int] = []
    start = 0
    for cluster in clusters(prompt):
        part = fold(cluster)
        text.append(part)
        places += [start] * len(part)
        start += len(cluster)
    return "".join(text), [*places, start]


def letters(text: str) -> str:
    """A pattern for what a word of `text` is made of: `\\w`, and the marks in it, which `re` takes for signs."""
    marks = {character for character in text if unicodedata.category(character)[0] == "M"}
    return rf"[\w{''.join(sorted(marks))}]"


def pattern(key: str, letter: str) -> re.Pattern[str]:
    """The name as whole words of a folded prompt; `letter` matches what words are made of."""
    words = JOINT.join(map(re.escape, key.split(" ")))
    return re.compile(rf"(?<!{letter})(?<!{letter}-){words}(?!{letter})(?!-{letter})")


def plurals(words: str) -> list[str]:
    """The plurals of a folded name or noun, the usual one first; none where English has no rule for it."""
    rest, _, last = words.rpartition(" ")
    if len(last) < SHORTEST_PLURAL or not (last.isascii() and last.isalpha()):
        return []
    if last.endswith(("s", "x", "z", "ch", "sh")):
        forms = [f"{last}es"]
    elif last.endswith("y") and last[-2] not in "aeiou":
        forms = [f"{last[:-1]}ies"]
    else:
        forms = [f"{last}s", *([f"{last}es"] if last.endswith("o") else [])]
    if last in IRREGULAR:
        forms.insert(0, IRREGULAR[last])
    return [f"{rest} {form}".lstrip() for form in forms]


def rewrite(prompt: str, concepts: Iterable[Named], literal: bool = False) -> str:
    """The prompt as it is sent: each concept's name gives way to its identifier and class noun.

    "a dog in a hat" becomes "a sks dog in a zwx hat", "two dogs" "two sks dogs", and "rex in the snow" "a sks dog in
    the snow". An identifier that stands before the name already is not put there twice. `literal` leaves the prompt as
    typed. PromptError if it gets longer than a prompt may be.
    """
    return prompt if literal else replaced(prompt, concepts, identified=True)


def plain(prompt: str, concepts: Iterable[Named]) -> str:
    """The prompt for a model without the concepts: each name gives way to the class noun alone."""
    return replaced(prompt, concepts, identified=False)


def replaced(prompt: str, concepts: Iterable[Named], identified: bool) -> str:
    """`prompt` with what stands for each concept in the place of its name."""
    prompt = unicodedata.normalize("NFC", prompt)
    by_key = {key_of(concept.name): concept for concept in concepts}
    for span in reversed(find_names(prompt, by_key)):
        concept = by_key[span.key]
        before = strip_identifier(prompt[: span.start], concept.identifier)
        words = [concept.identifier] if identified else []
        words.append(noun_for(prompt[span.start : span.end], concept, span.plural))
        if not span.plural and lacks_article(before, span.key, concept):
            words.insert(0, "a" if identified or words[0][0].casefold() not in "aeiou" else "an")
        prompt = before + " ".join(words) + prompt[span.end :]
    check_length("prompt as sent", prompt)
    return prompt


def noun_for(typed: str, concept: Named, plural: bool) -> str:
    """The class noun in the number of what was typed."""
    noun = concept.class_noun
    if not plural:
        return noun
    forms = plurals(fold(noun))
    return fold(typed) if fold(typed) in forms else next(iter(forms), noun)


def lacks_article(before: str, key: str, concept: Named) -> bool:
    """Whether a class noun needs an article where the name stood without, or had one of its own (my-dog)."""
    if key == key_of(concept.class_noun):
        return False
    last = next(iter(fold(before).split()[-1:]), "")
    if key.split(" ")[0] in OWNERS:
        return last not in OWNERS
    return not last or last in BEFORE_A_NAME or not last[-1].isalnum()


def strip_identifier(before: str, identifier: str) -> str:
    """`before` without the identifier at its end, if that is its last word."""
    if not before[-1:].isspace():
        return before
    text, places = folded(before)
    found = re.search(rf"(?<!{letters(text)}){re.escape(fold(identifier))}\s+$", text)
    return before[: places[found.start()]] if found else before


def nearest(prompt: str, concepts: Sequence[Named]) -> str | None:
    """The name of the concept that a prompt may mean which names none: by its identifier, its class, or a slip."""
    prompt = unicodedata.normalize("NFC", prompt)
    for concept in concepts:
        if has_word(prompt, concept.identifier) or find_names(prompt, [concept.class_noun]):
            return concept.name
    known = [(key_of(text), concept.name) for concept in concepts for text in (concept.class_noun, concept.name)]
    words = [word for word in re.findall(r"\w+", fold(prompt)) if len(word) >= SHORTEST_PLURAL]
    for word in words:
        swapped = [name for key, name in known if sorted(key) == sorted(word)]
        close = [dict(known)[key] for key in get_close_matches(word, dict(known), 1, CLOSE)]
        if swapped or close:
            return (swapped or close)[0]
    return None


def pick_identifier(words: Sequence[str], name: str, taken: Container[str] = ()) -> str | None:
    """Of `words` the one for a concept of that name; None if all are `taken` (case folded) or in the name."""
    own = name.casefold().split()
    free = [word for word in words if word.casefold() not in taken and word.casefold() not in own]
    digest = sha256(name.casefold().encode()).digest()
    return free[int.from_bytes(digest[:8], "little") % len(free)] if free else None


_NOTHING = (
    "photo photos picture pictures pic pics image images img imgs foto fotos bild bilder data dataset datasets input "
    "inputs train training instance instances sample samples subject subjects examples file files new folder untitled "
    "tmp temp dcim camera roll album downloads desktop documents concept concepts out output test copy final "
    "dsc pxl screenshot v ver version take set no nr"
)
_VAGUE = OWNERS.union(_NOTHING.split())
"""Words that say nothing about a subject; v3 is v and 3 by the time they are looked up."""
NAME_PARTS = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words_in(text: str) -> list[str]:
    """The words of a name that describe a subject: no owners, no numbers, nothing vague; dog2 is dog and 2."""
    apart = re.sub(r"(?<=[^\W\d_])(?=\d+\b)", " ", text.replace("_", " "))
    return [word for word in NAME_PARTS.findall(apart) if word.lower() not in _VAGUE and not word.isdigit()]


def guess_noun(text: str) -> str:
    """The class noun in a name: `dog`, `my-dog`, `dog2` and `Dog_v3` are all dog; `teddy-bear` is teddy bear."""
    return " ".join(word.lower() for word in words_in(text))[:NAME_LENGTH].rstrip()
