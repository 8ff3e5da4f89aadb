"""Names and class nouns that nobody typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from conestool.cli._search import guess_noun, name_from_path, resolve_names
from conestool.concept import check_name
from conestool.errors import UsageError


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        ("dog", "dog"),
        ("my-dog", "dog"),
        ("dog2", "dog"),
        ("Dog_v3", "dog"),
        ("teddy-bear", "teddy bear"),
        ("köder", "köder"),
    ],
)
def test_class_noun_is_what_a_name_describes(text: str, noun: str) -> None:
    """Owners, numbers and capitals say nothing of the class."""
    assert guess_noun(text) == noun


@pytest.mark.parametrize(
    ("text", "name"), [("my dog (2)", "my-dog-2"), ("dog", "dog"), ("a_b", "a-b"), ("L'été", "L'été")]
)
def test_name_keeps_every_word_of_the_path(text: str, name: str) -> None:
    """The name is usable as a concept's name."""
    assert name_from_path(Path(text)) == name
    check_name(name)


def test_output_names_the_concept_before_the_folder_does() -> None:
    """`find ./photos -o dog.cone` is a dog."""
    assert resolve_names([Path("photos")], Path("dog.cone"), None, None) == ("dog", "dog")


def test_folder_names_the_concept_without_an_output(tmp_path: Path) -> None:
    """`find ./hat` is a hat, also with a trailing slash or from inside."""
    (tmp_path / "hat").mkdir()
    assert resolve_names([tmp_path / "hat"], None, None, None) == ("hat", "hat")
    assert resolve_names([tmp_path / "hat" / "."], Path("-"), None, None) == ("hat", "hat")


def test_folder_names_the_concept_if_the_output_says_nothing(tmp_path: Path) -> None:
    """`find ./hat -o out.cone` is a hat too."""
    (tmp_path / "hat").mkdir()
    assert resolve_names([tmp_path / "hat"], Path("out.cone"), None, None) == ("hat", "hat")


def test_photos_in_a_folder_called_photos_need_a_noun(tmp_path: Path) -> None:
    """Nobody wants a concept of the class "photos"; the hint shows the way."""
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="cannot tell") as caught:
        resolve_names([tmp_path / "photos"], None, None, None)
    assert "-o dog.cone" in str(caught.value.hint)


def test_what_is_given_is_taken(tmp_path: Path) -> None:
    """A name alone leaves the noun to the output, a noun alone the name; a noun can also be the name."""
    assert resolve_names([Path("x")], Path("dog.cone"), "rex", None) == ("rex", "dog")
    assert resolve_names([Path("x")], Path("rex.cone"), None, "dog") == ("rex", "dog")
    (tmp_path / "photos").mkdir()
    assert resolve_names([tmp_path / "photos"], None, None, "top hat") == ("top-hat", "top hat")
