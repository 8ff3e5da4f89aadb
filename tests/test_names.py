"""Names as words of a prompt, and what stands in their place when it is sent."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from conestool._names import find_names, has_word, key_of, nearest, plain, rewrite
from conestool._text import check_name, fold
from conestool.concept import BaseModelInfo, Concept
from conestool.errors import UsageError

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
        ("two dogs", "dog", True),
        ("the dogs' hats", "dog", True),
        ("two top hats", "top-hat", True),
        ("three foxes", "fox", True),
        ("two puppies", "puppy", True),
        ("two toys", "toy", True),
        ("some mice", "mouse", True),
        ("as is", "a", False),
        ("a glass", "glas", False),
        ("two fuessen", "fuß", False),
        ("a Fußball", "Fußball", True),
        ("a FUSSBALL", "Fußball", True),
        ("a Fußball", "FUSSBALL", True),
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
    """Whole words and their plurals, case aside, separators alike; a part of a word is another word."""
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


def test_the_longest_name_wins() -> None:
    """Where names overlap, only the longest is read; elsewhere the short one still is."""
    names = ["dog", "red dog", "red"]
    assert named("a red dog", names) == ["red dog"]
    assert named("a red dog, a dog and a red hat", names) == ["red dog", "dog", "red"]
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
        ("two dogs", "two sks dogs"),
        ("two sks dogs", "two sks dogs"),
        ("dogs in hats", "sks dogs in zwx hats"),
    ],
)
def test_names_give_way_to_identifier_and_noun(prompt: str, sent: str) -> None:
    """An identifier that stands there already is not put twice, however often; literal is as typed, to its form."""
    concepts = [concept("dog"), concept("hat", identifier="zwx")]
    assert rewrite(prompt, concepts) == rewrite(sent, concepts) == sent
    assert rewrite(prompt, []) == prompt
    assert rewrite(f"{prompt}  cafe\u0301", concepts, literal=True) == f"{prompt}  cafe\u0301"


@pytest.mark.parametrize(
    ("name", "noun", "prompt", "sent", "bare"),
    [
        ("my-dog", "dog", "my dog in the snow", "a sks dog in the snow", "a dog in the snow"),
        ("my-dog", "dog", "a photo of my dog", "a photo of a sks dog", "a photo of a dog"),
        ("my-dog", "dog", "a happy my dog", "a happy a sks dog", "a happy a dog"),
        ("my-dog", "dog", "the my-dog", "the sks dog", "the dog"),
        ("rex", "owl", "a photo of rex", "a photo of a sks owl", "a photo of an owl"),
        ("rex", "owl", "a big rex, wearing a hat", "a big sks owl, wearing a hat", "a big owl, wearing a hat"),
        ("rex", "owl", "in the snow, rex", "in the snow, a sks owl", "in the snow, an owl"),
        ("rex", "owl", "two rexes", "two sks owls", "two owls"),
        ("Rex", "dog", "rex on the beach", "a sks dog on the beach", "a dog on the beach"),
        ("Rex", "dog", "sks rex", "a sks dog", "a dog"),
        ("हिन्दी", "dog", "a हिन्दी, a sks हिन्दी", "a sks dog, a sks dog", "a dog, a dog"),
    ],
)
def test_the_class_noun_stands_for_a_proper_name(name: str, noun: str, prompt: str, sent: str, bare: str) -> None:
    """With one article, as prompts of the search have it; the base model is asked the same without identifier."""
    assert (rewrite(prompt, [concept(name, noun)]), plain(prompt, [concept(name, noun)])) == (sent, bare)


def usable(text: str) -> bool:
    """Whether a concept may have this name, and a prompt may put signs before it."""
    try:
        check_name(text)
    except UsageError:
        return False
    return unicodedata.category(text[0])[0] != "M" and find_names(unicodedata.normalize("NFC", text), [text]) != []


SIGNS = st.sampled_from(["", *"[](){}<>\"'.,;:!?/|*&%$#@+=~`’“”«»…—"])
FORMS = st.sampled_from(["NFC", "NFD"])
CASES = st.sampled_from([str, str.upper, str.lower])
LETTERS = st.characters(categories=["L", "N", "Mn"], max_codepoint=0x2FFF)
NAMES = st.text(LETTERS, min_size=1, max_size=6)


@given(NAMES.filter(usable), SIGNS, SIGNS, FORMS, CASES)
@example("Fußball", "[", "]", "NFD", str.upper)
@example("\u0390", "", "", "NFC", str.upper)
def test_a_name_is_found_however_it_is_typed(
    name: str, before: str, after: str, form: Literal["NFC", "NFD"], case: Callable[[str], str]
) -> None:
    """In any case that folds alike and either Unicode form, next to any sign; the identifier is then in the prompt."""
    typed = unicodedata.normalize(form, case(name))
    assume(fold(typed) == fold(name))
    prompt = f"a {before}{typed}{after} b"
    assert named(prompt, [name]) == [key_of(name)]
    sent = rewrite(prompt, [concept(name, "dog")])
    assert has_word(sent, "sks") and has_word(sent, "SKS") and not has_word(sent, "sk")
    assert has_word(prompt, name)


@given(st.text(LETTERS, max_size=8))
def test_folding_twice_changes_nothing(text: str) -> None:
    """So names that were folded can be compared with others; case and Unicode form do not survive the first time."""
    assert fold(fold(text)) == fold(text) == fold(unicodedata.normalize("NFD", text))


@pytest.mark.parametrize(
    ("prompt", "meant"),
    [
        ("a dgo", "rex"),
        ("a dog", "rex"),
        ("a sks toy", "rex"),
        ("a rabit", "rabbit"),
        ("a dig", None),
        ("a pony", None),
        ("", None),
    ],
)
def test_the_nearest_name_is_one_that_may_be_meant(prompt: str, meant: str | None) -> None:
    """By its identifier, its class, or a slip of the keys."""
    assert nearest(prompt, [concept("rabbit", identifier="zwx"), concept("rex", "dog")]) == meant
