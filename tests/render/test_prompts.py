"""Names as words of a prompt, and what stands in their place when it is sent."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from conestool.concept import BaseModelInfo, Concept, check_name
from conestool.render.prompts import find_names, rewrite

PARAM = "unet.attn1.to_k.weight"
BASE = BaseModelInfo(
    id="m", family="f", dtype="float32", structure="0" * 64, tensors={PARAM: [4, 4]}, digests={"f32": "0" * 64}
)


def concept(name: str, noun: str | None = None, identifier: str = "sks") -> Concept:
    """A concept of one neuron."""
    return Concept(name, noun or name, identifier, {PARAM: np.array([1], dtype=np.int64)}, BASE)


def named(prompt: str, names: list[str]) -> list[str]:
    """The keys of the names that stand in a prompt."""
    return [span.key for span in find_names(unicodedata.normalize("NFC", prompt), names)]


@pytest.mark.parametrize(
    ("prompt", "name", "found"),
    [
        ("a dog in a hat", "dog", True),
        ("A DOG!", "dog", True),
        ("a Dog", "dOG", True),
        ("the dog's hat", "dog", True),
        ("the dog’s hat", "dog", True),
        ("(dog)", "dog", True),
        ("dog—asleep", "dog", True),
        ("two dogs", "dog", False),
        ("a hotdog", "dog", False),
        ("a hot-dog", "dog", False),
        ("a dog-shaped cake", "dog", False),
        ("a dog_house", "dog", False),
        ("a top hat", "top-hat", True),
        ("a top-hat", "top hat", True),
        ("a Top_Hat", "top-hat", True),
        ("a top   hat", "top_hat", True),
        ("a tophat", "top-hat", False),
        ("a hat on top", "top-hat", False),
        ("o'neil asleep", "O'Neil", True),
        ("o’neil asleep", "O'Neil", True),
        ("mr. dog!", "mr. dog", True),
        ("ein schöner KÄSE", "käse", True),
        ("cafe\u0301 noir", "café", True),
        ("x.y here", "x.y", True),
        ("xzy here", "x.y", False),
        ("", "dog", False),
    ],
)
def test_names_match_as_words(prompt: str, name: str, found: bool) -> None:
    """Whole words, case aside, separators alike; a plural or a part of a word is another word."""
    assert bool(named(prompt, [name])) is found


@pytest.mark.parametrize(
    ("prompt", "name", "found"),
    [
        ("एक हिन्दी में", "हिन्दी", True),
        ("हिन्दी-हिन्द", "हिन्द", False),
        ("हिन्दी", "हिन्द", False),
        ("कि-क", "क", False),
        ("कि_क", "क", False),
        ("कि क", "क", True),
        ("a தமிழ் ௨!", "தமிழ்-௨", True),
        ("the x\u0301\u0323's hat", "x\u0301\u0323", True),
        ("an x\u0301", "x", False),
        ("a cafe\u0301", "cafe\u0301", True),
        ("a café", "cafe\u0301", True),
    ],
)
def test_marks_belong_to_words(prompt: str, name: str, found: bool) -> None:
    """A vowel sign or an accent goes on a word; one more of them makes another word."""
    check_name(name)
    assert bool(named(prompt, [name])) is found


def test_names_with_marks_give_way() -> None:
    """As all others, and the identifier is not put twice."""
    assert rewrite("a हिन्दी, a sks हिन्दी", [concept("हिन्दी", "dog")]) == "a sks dog, a sks dog"


def test_the_longest_name_wins() -> None:
    """Where names overlap, only the longest is read; elsewhere the short one still is."""
    names = ["dog", "red dog", "red"]
    assert named("a red dog", names) == ["red dog"]
    assert named("a red dog, a dog and a red hat", names) == ["red dog", "dog", "red"]


def test_names_come_in_reading_order() -> None:
    """As the prompt has them."""
    assert named("a hat, a dog and a hat", ["dog", "hat"]) == ["hat", "dog", "hat"]


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [
        ("a dog in a hat", "a sks dog in a zwx hat"),
        ("A Dog, the dog's hat", "A sks dog, the sks dog's zwx hat"),
        ("a sks dog", "a sks dog"),
        ("a SKS  dog and a dog", "a sks dog and a sks dog"),
        ("a task dog", "a task sks dog"),
        ("a cat", "a cat"),
        ("two dogs", "two dogs"),
    ],
)
def test_names_give_way_to_identifier_and_noun(prompt: str, sent: str) -> None:
    """An identifier that stands there already is not put twice."""
    assert rewrite(prompt, [concept("dog"), concept("hat", identifier="zwx")]) == sent


def test_the_class_noun_stands_for_a_proper_name() -> None:
    """What the model knows is the class noun."""
    rex = concept("Rex", "dog")
    assert rewrite("rex on the beach", [rex]) == "sks dog on the beach"
    assert rewrite("sks rex", [rex]) == "sks dog"


def test_rewriting_twice_changes_nothing_more() -> None:
    """A prompt as sent may be sent again."""
    concepts = [concept("dog"), concept("red hat", "hat", "zwx")]
    once = rewrite("a dog in a red hat", concepts)
    assert once == "a sks dog in a zwx hat" and rewrite(once, concepts) == once


def test_literal_sends_the_prompt_as_typed() -> None:
    """Not even its Unicode form changes."""
    assert rewrite("a  dog cafe\u0301", [concept("dog")], literal=True) == "a  dog cafe\u0301"


def test_without_concepts_nothing_changes() -> None:
    """The base model gets what was typed."""
    assert rewrite("a dog", []) == "a dog"
