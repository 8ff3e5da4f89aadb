"""Names of concepts as words of a prompt, and the words that stand in their place when it is sent.

A name matches as whole words, case aside; `-`, `_` and a space match each other. A possessive names its owner ("the
dog's hat" names dog), a plural does not (a concept is one subject), nor does a part of a hyphened word ("hot-dog").
Where names overlap the longest wins, so "red dog" is never read as dog.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from conestool._text import check_length
from conestool.concept import Concept

__all__ = ["Span", "find_names", "key_of", "rewrite"]

JOINT = r"[-_\s]+"


@dataclass(frozen=True)
class Span:
    """One place in a prompt, `start` to `end`, at which the name with this key stands."""

    start: int
    end: int
    key: str


def key_of(name: str) -> str:
    """What two names share when prompts cannot tell them apart."""
    return re.sub(JOINT, " ", unicodedata.normalize("NFC", name)).strip().casefold()


def find_names(prompt: str, names: Iterable[str]) -> list[Span]:
    """Where `names` stand in `prompt` (of Unicode form NFC), in reading order; spans do not overlap."""
    letter = letters(prompt)
    found = [
        Span(match.start(), match.end(), key)
        for key in sorted({key_of(name) for name in names})
        for match in pattern(key, letter).finditer(prompt)
    ]
    taken: list[Span] = []
    for span in sorted(found, key=lambda span: (span.start - span.end, span.start)):
        if all(span.end <= other.start or span.start >= other.end for other in taken):
            taken.append(span)
    return sorted(taken, key=lambda span: span.start)


def letters(text: str) -> str:
    """A pattern for what a word of `text` is made of: `\\w`, and the marks in it, which `re` takes for signs."""
    marks = {character for character in text if unicodedata.category(character)[0] == "M"}
    return rf"[\w{''.join(sorted(marks))}]"


def pattern(key: str, letter: str) -> re.Pattern[str]:
    """The name as whole words; `letter` matches what words are made of."""
    words = JOINT.join(re.escape(word).replace("'", "['’]") for word in key.split(" "))
    return re.compile(rf"(?<!{letter})(?<!{letter}-){words}(?!{letter})(?!-{letter})", re.IGNORECASE)


def rewrite(prompt: str, concepts: Iterable[Concept], literal: bool = False) -> str:
    """The prompt as it is sent: each concept's name gives way to its identifier and class noun.

    "a dog in a hat" becomes "a sks dog in a zwx hat". An identifier that stands before the name already is not put
    there twice. `literal` leaves the prompt as typed. PromptError if it gets longer than a prompt may be.
    """
    if literal:
        return prompt
    prompt = unicodedata.normalize("NFC", prompt)
    by_key = {key_of(concept.name): concept for concept in concepts}
    for span in reversed(find_names(prompt, by_key)):
        concept = by_key[span.key]
        before = strip_identifier(prompt[: span.start], concept.identifier)
        prompt = before + concept.phrase + prompt[span.end :]
    check_length("prompt as sent", prompt)
    return prompt


def strip_identifier(before: str, identifier: str) -> str:
    """`before` without the identifier at its end, if that is its last word."""
    if not before[-1:].isspace() or not before.rstrip().casefold().endswith(identifier.casefold()):
        return before
    return re.sub(rf"(?<!{letters(before)}){re.escape(identifier)}\s+$", "", before, flags=re.IGNORECASE)
