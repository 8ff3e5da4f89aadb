"""Which files a prompt asks for: by name, with least besides, and never a guess between two."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from conestool.concept import Concept, Cone
from conestool.errors import NameClashError, UsageError
from conestool.format import save
from conestool.rendering import find_ids, search_folders
from conestool.rendering.library import scan
from tests.test_names import BASE, PARAM

WORDS = {"dog": "sks", "hat": "zwx", "cat": "qyx", "top-hat": "vlk", "bear": "brz"}


def cone(*names: str, at: int = 0) -> Cone:
    """A Cone of concepts with one neuron each, the same for the same name and `at`."""
    numbers = {name: sorted(WORDS).index(name) + 5 * at for name in names}
    made = (
        Concept(name, name, WORDS[name], {PARAM: np.array([numbers[name]], dtype=np.int64)}, BASE) for name in names
    )
    return Cone(tuple(made))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def names(prompt: str) -> tuple[tuple[str, ...], list[str]]:
    """The concepts found for a prompt, and the names of their files."""
    found = scan().find(prompt)
    return found.cone.names if found.cone else (), [file.name for file in found.files]


def test_takes_the_file_that_the_prompt_names(here: Path) -> None:
    """And no other; a prompt that names nothing takes none; a top-hat is not the hat."""
    save(cone("dog"), here / "dog.cone")
    save(cone("cat"), here / "cat.cone")
    assert names("a dog on the beach") == (("dog",), ["dog.cone"])
    assert names("two dogs") == (("dog",), ["dog.cone"])
    assert names("a bear") == ((), [])
    save(cone("hat"), here / "hat.cone")
    save(cone("top-hat"), here / "top-hat.cone")
    assert names("a top hat") == (("top-hat",), ["top-hat.cone"])


def test_takes_the_file_with_least_besides(here: Path) -> None:
    """A file of four concepts is not what a prompt about one of them means, whatever comes first by name."""
    save(cone("dog", "cat", "bear", "top-hat"), here / "all.cone")
    assert names("a dog in a hat") == (("dog",), ["all.cone"])
    save(cone("dog"), here / "dog.cone")
    assert names("a dog in a hat") == (("dog",), ["dog.cone"])
    assert names("a dog and a cat") == (("cat", "dog"), ["dog.cone", "all.cone"])


def test_takes_a_merged_file_whose_concepts_are_all_named(here: Path) -> None:
    """One file in place of two, unless it holds others too."""
    save(cone("dog"), here / "dog.cone")
    save(cone("hat"), here / "hat.cone")
    assert names("a dog in a hat") == (("dog", "hat"), ["dog.cone", "hat.cone"])
    save(cone("dog", "hat", "cat"), here / "a.cone")
    assert names("a dog in a hat") == (("dog", "hat"), ["dog.cone", "hat.cone"])
    save(cone("dog", "hat"), here / "z.cone")
    assert names("a dog in a hat") == (("dog", "hat"), ["z.cone"])
    assert names("a dog") == (("dog",), ["dog.cone"])


def test_refuses_to_choose_between_different_concepts_of_one_name(here: Path) -> None:
    """The error lists both files; copies of one concept are no clash; a name that is not asked for does not matter."""
    save(cone("dog"), here / "a.cone")
    save(cone("dog"), here / "b.cone")
    assert names("a dog") == (("dog",), ["a.cone"])
    save(cone("dog", at=1), here / "c.cone")
    save(cone("hat"), here / "hat.cone")
    with pytest.raises(NameClashError, match=r"a\.cone and c\.cone offer different concepts named dog"):
        scan().find("a dog")
    assert names("a hat") == (("hat",), ["hat.cone"])


def test_a_collection_does_not_compete_with_a_file_of_its_own(here: Path) -> None:
    """Another dog among four concepts is not what "a dog" means beside dog.cone; alone it is."""
    save(cone("dog", "cat", "bear", "top-hat", at=1), here / "all.cone")
    assert names("a dog") == (("dog",), ["all.cone"])
    save(cone("dog"), here / "dog.cone")
    assert names("a dog in a hat") == (("dog",), ["dog.cone"])
    assert [offer.name for offer in scan().offers] == ["bear", "cat", "dog", "top-hat"]


def test_looks_here_before_cones_path(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is here hides the same name there; other names are still found there."""
    library = tmp_path / "library"
    library.mkdir()
    save(cone("dog"), here / "dog.cone")
    save(cone("dog", at=1), library / "dog.cone")
    save(cone("hat"), library / "hat.cone")
    monkeypatch.setenv("CONES_PATH", os.pathsep.join([str(library), "", str(here)]))
    assert search_folders() == [Path(), library]
    found = scan().find("a dog in a hat")
    assert found.files == (Path("dog.cone"), library / "hat.cone")
    assert found.cone is not None and found.cone["dog"].id == cone("dog")["dog"].id


def test_a_damaged_file_is_noted_and_passed_over(here: Path) -> None:
    """One broken file does not stop pictures that do not need it; hidden ones are not offered, as in a shell."""
    save(cone("dog"), here / "dog.cone")
    (here / "bad.cone").write_bytes(b"not a cone")
    (here / "folder.cone").mkdir()
    save(cone("dog", at=1), here / ".dog.cone")
    (here / "._dog.cone").write_bytes(b"")
    shelf = scan()
    assert shelf.find("a dog").files == (Path("dog.cone"),)
    assert len(shelf.notes) == 2 and all("passed over" in note for note in shelf.notes)
    assert "bad.cone" in shelf.notes[0] and "folder.cone" in shelf.notes[1]


def test_finds_concepts_by_content(here: Path) -> None:
    """A picture's record names ids, wherever they are now; a missing one is an error."""
    save(cone("dog", "hat"), here / "renamed.cone")
    save(cone("cat"), here / "cat.cone")
    ids = [cone("dog")["dog"].id, cone("cat")["cat"].id]
    found = find_ids(ids)
    assert found.cone is not None and found.cone.names == ("cat", "dog")
    assert find_ids([]).cone is None
    with pytest.raises(UsageError, match=r"no \.cone file here holds the concept 000"):
        find_ids(["0" * 64])
