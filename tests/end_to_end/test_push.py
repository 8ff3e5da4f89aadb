"""`cones push` with the Hub's own client, against a stand-in of the Hub on this machine."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from conestool import Model, save
from conestool.concept import BaseModelInfo, Concept
from conestool.errors import HubError
from conestool.hub import open_target, push
from tests.support.command_line import Cones, base, concept, save_cone
from tests.support.hub_server import TOKEN, WRITER, Hub, serving
from tests.support.tiny_models import random_cone

NAME = "owner/dog"
EVIL = "\x1b]0;x\x07 <script> | [a](javascript:b) `c`\n# d\u202e"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub without repositories, whose owner is logged in."""
    hub = Hub({}, place=tmp_path / "served")
    with serving(hub, tmp_path / "hub", monkeypatch):
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield hub


@pytest.fixture
def dog(work: Path, cones: Cones) -> Path:
    """dog.cone in the folder of the run."""
    return save_cone(work / "dog.cone", concept(warnings=["weak"], held_out=1))


def test_the_card_shows_pictures(hub: Hub, epsilon_folder: Path, work: Path, cones: Cones) -> None:
    """Those of the report, without photos; a later push without them keeps what is there."""
    model = Model.from_pretrained(str(epsilon_folder), device="cpu")
    save(random_cone(model, "dog"), work / "dog.cone")
    for options in (("--pictures", "--model", epsilon_folder), ("--overwrite",)):
        done = cones("push", "dog.cone", NAME, *options)
        assert done.code == 0, done.err
    (picture,) = hub.repositories[NAME]["main"].glob("pictures/*.png")
    assert f"](pictures/{picture.name})" in there(hub)["README.md"].decode()
    with Image.open(picture) as image:
        assert image.width > 5 * 256


def there(hub: Hub, name: str = NAME, branch: str = "main") -> dict[str, bytes]:
    """The files of a branch."""
    return {file.name: file.read_bytes() for file in hub.repositories[name][branch].glob("*.*")}


def test_a_new_repository_holds_the_same_bytes_and_a_card(hub: Hub, dog: Path, cones: Cones) -> None:
    """Binary by LFS, text in the commit; stdout is the address."""
    done = cones("push", "dog.cone", NAME)
    assert done.code == 0, done.err
    assert done.lines == [f"{hub_address(done.lines[0])}/{NAME}"]
    assert there(hub)["dog.cone"] == dog.read_bytes()
    assert "lfs" in hub.asked and NAME not in hub.private
    card = there(hub)["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {"library_name": "conestool", "tags": ["conestool", "concept-neurons", "text-to-image"]}
    for text in (
        "a photo of a sks dog",
        "held-out photos",
        "random indices",
        "class: dog",
        "-25.0 %",
        "weak",
        "0000" * 16,
    ):
        assert text in card, text
    assert "cones pull owner/dog dog.cone" in card


def hub_address(url: str) -> str:
    """Scheme and host of a URL."""
    return url.removesuffix(f"/{NAME}")


def test_license_and_base_model_go_where_the_hub_looks(hub: Hub, work: Path, cones: Cones) -> None:
    """The base model only if it came from the Hub."""
    found = base("org/model").model_copy(update={"revision": "ab" * 20})
    save_cone(work / "dog.cone", concept_on(found))
    assert cones("push", "dog.cone", NAME, "--license", "mit").code == 0
    front = yaml.safe_load(there(hub)["README.md"].decode().split("---\n")[1])
    assert (front["license"], front["base_model"]) == ("mit", ["org/model"])


def concept_on(found: BaseModelInfo, **origin: object) -> Concept:
    """A concept of another base model."""
    return replace(concept(**origin), base=found)


def test_a_folder_of_the_author_is_not_in_the_card(hub: Hub, work: Path, cones: Cones) -> None:
    """Of a base model that may be a folder the last part alone; the file itself holds it, which is said."""
    save_cone(work / "dog.cone", concept_on(base("clients/acme/sd15")))
    done = cones("push", work / "dog.cone", NAME)
    assert done.code == 0
    card = there(hub)["README.md"].decode()
    assert "acme" not in card and "sd15" in card and str(work) not in card
    assert "'clients/acme/sd15'" in done.err


def test_text_of_a_file_is_escaped_in_the_card(hub: Hub, work: Path, cones: Cones) -> None:
    """Markup, HTML, links, table borders, control characters."""
    save_cone(work / "dog.cone", concept_on(base(EVIL), notes=EVIL, warnings=[EVIL], instance_prompt=EVIL, author=EVIL))
    done = cones("push", "dog.cone", NAME)
    assert done.code == 0, done.err
    card = there(hub)["README.md"].decode()
    assert not set(card) & set("\x1b\x07\u202e") and "<script" not in card and "\n# d" not in card
    assert "](javascript" not in card.replace(r"\]", "")


def test_what_is_there_stays_without_force(hub: Hub, dog: Path, cones: Cones) -> None:
    """Exit code 2 and no commit; with --overwrite there is one."""
    assert cones("push", "dog.cone", NAME).code == 0
    before, head = there(hub), hub.head(NAME, "main")
    dog.unlink()
    save_cone(dog, concept(seed=5))
    done = cones("push", "dog.cone", NAME)
    assert done.code == 2 and "--overwrite" in done.err
    assert (there(hub), hub.head(NAME, "main")) == (before, head)
    assert cones("push", "dog.cone", NAME, "--overwrite").code == 0
    assert there(hub)["dog.cone"] == dog.read_bytes()


def test_the_card_describes_all_files(hub: Hub, dog: Path, work: Path, cones: Cones) -> None:
    """A second push adds to the first one's and keeps its license; a damaged file is left out with a warning."""
    save_cone(work / "hat.cone", concept("hat", "zwx", seed=1))
    assert cones("push", "dog.cone", NAME, "--license", "mit").code == 0
    (hub.repositories[NAME]["main"] / "bad.cone").write_bytes(b"junk")
    done = cones("push", "hat.cone", NAME)
    assert done.code == 0 and "bad.cone" in done.err
    card = there(hub)["README.md"].decode()
    assert "sks dog" in card and "zwx hat" in card and "license: mit" in card


def test_a_card_that_people_wrote_is_kept(hub: Hub, dog: Path, cones: Cones) -> None:
    """Also with --overwrite; a license that could not be put into it is refused."""
    cones("push", "dog.cone", NAME)
    mine = hub.repositories[NAME]["main"] / "README.md"
    mine.write_text("mine")
    assert cones("push", "dog.cone", NAME, "--overwrite", "--license", "mit").code == 2
    done = cones("push", "dog.cone", NAME, "--overwrite")
    assert done.code == 0 and "stays as it is" in done.err
    assert mine.read_text() == "mine"


def test_private_makes_private_and_never_pretends(hub: Hub, dog: Path, cones: Cones) -> None:
    """A public repository does not become private by the option, so it is refused."""
    assert cones("push", "dog.cone", NAME, "--private").code == 0
    assert NAME in hub.private
    assert cones("push", "dog.cone", NAME, "--private", "--overwrite").code == 0
    hub.private.clear()
    done = cones("push", "dog.cone", NAME, "--private", "--overwrite")
    assert done.code == 2 and "public" in done.err


def test_a_branch_is_made(hub: Hub, dog: Path, cones: Cones) -> None:
    """main stays without the file; JSON tells the commit."""
    done = cones("push", "dog.cone", NAME, "--revision", "v2", "--message", "second", "--json")
    assert done.code == 0, done.err
    assert "dog.cone" in there(hub, branch="v2") and "dog.cone" not in there(hub)
    assert done.json["commit"] == hub.head(NAME, "v2") and done.json["files"] == ["dog.cone", "README.md"]
    assert cones("push", "dog.cone", NAME, "--revision", "v2", "--overwrite").code == 0


def test_a_merge_can_be_pushed_from_stdin(hub: Hub, dog: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named after its concepts."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(dog.read_bytes())))
    assert cones("push", "-", NAME).code == 0
    assert there(hub)["dog.cone"] == dog.read_bytes()


@pytest.mark.parametrize(
    ("token", "message", "hint"),
    [
        (None, "owner/dog: not logged in to the Hub", "hf auth login"),
        ("hf_wrong", "owner/dog: refused by the Hub: the token is missing or not valid", "HF_TOKEN"),
        (TOKEN, "owner/dog: refused by the Hub: the token may not do that", "HF_TOKEN"),
    ],
    ids=["no token", "bad token", "may not write"],
)
def test_says_why_it_may_not_write(
    hub: Hub, dog: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch, token: str | None, message: str, hint: str
) -> None:
    """Exit code 7, what to do, and never the token, not even in a traceback."""
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    done = cones("push", "dog.cone", NAME, "--traceback", "-v")
    text = " ".join(done.err.split())
    assert done.code == 7 and message in text and hint in text
    assert token is None or token not in done.err
    assert NAME not in hub.repositories


def test_a_repository_that_moved_on_is_not_overwritten(hub: Hub, dog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's commit between looking and uploading: nothing is lost, and trying again helps."""
    target = open_target(NAME)
    hub.commits[NAME, "main"] = 7
    with pytest.raises(HubError, match="changed on the Hub meanwhile"):
        push(target, {"dog.cone": dog.read_bytes()}, "late")
    assert "dog.cone" not in there(hub)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dog.cone", "dog"), "not a repository"),
        (("dog.cone", "a/b/c"), "not a repository"),
        (("dog.txt", NAME), "end it in .cone"),
        (("dog.cone", "sub/dog.cone", NAME), "named twice"),
    ],
)
def test_refuses_before_anything_is_asked(
    hub: Hub, dog: Path, work: Path, cones: Cones, arguments: tuple[str, ...], message: str
) -> None:
    """Names that no repository or file may have."""
    (work / "sub").mkdir()
    for other in ("dog.txt", "sub/dog.cone"):
        (work / other).write_bytes(dog.read_bytes())
    done = cones("push", *arguments)
    assert done.code == 2 and message in done.err and hub.asked == []
