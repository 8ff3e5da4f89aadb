"""Models by Hub id, `cones pull` and `cones push`, with the Hub's own client, against a stand-in of the Hub here."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from PIL import Image

from conestool import format as cones_format
from conestool.concept import BaseModelInfo, Concept
from conestool.errors import HubError
from conestool.format import limits
from conestool.hub import open_target, push
from conestool.models.model import Model
from tests.support.command_line import Cones, base, concept, save_cone
from tests.support.hub_server import TOKEN, WRITER, Hub, serving
from tests.support.tiny_models import random_cone

MODEL, CLOSED = "owner/model", "owner/closed"
ONE, MANY, GATED, EMPTY, NEW = "owner/one", "owner/many", "owner/gated", "owner/empty", "owner/dog"
EVIL = "\x1b]0;x\x07 <script> | [a](javascript:b) `c`\n# d\u202e"


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """Folders of four repositories: one file, several (a damaged one among them) and another on branch v2, none."""
    place = tmp_path / "served"
    for name in ("one", "many", "v2", "empty"):
        (place / name).mkdir(parents=True)
        (place / name / "README.md").write_text("x")
    save_cone(place / "one" / "dog.cone", concept())
    save_cone(place / "many" / "dog.cone", concept())
    save_cone(place / "v2" / "hat.cone", concept("hat", "zwx", seed=1))
    data = bytearray((place / "many" / "dog.cone").read_bytes())
    data[-1] ^= 1
    (place / "many" / "bad.cone").write_bytes(data)
    return place


@pytest.fixture
def hub(
    served: Path, epsilon_folder: Path, v_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    """A Hub with these repositories and two models, the latter with another one on branch v2; two are gated."""
    folders = {ONE: "one", MANY: "many", GATED: "one", EMPTY: "empty"}
    hub = Hub({name: {"main": served / folder} for name, folder in folders.items()}, {GATED, CLOSED}, place=served)
    hub.repositories[ONE]["v2"] = served / "v2"
    hub.repositories |= {MODEL: {"main": epsilon_folder, "v2": v_folder}, CLOSED: {"main": epsilon_folder}}
    with serving(hub, tmp_path / "hub", monkeypatch):
        yield hub


@pytest.fixture
def fitting(epsilon_folder: Path, cones: Cones, work: Path) -> None:
    """mine.cone of the model on branch main, in the folder where `cones` runs."""
    cones_format.save(random_cone(Model.from_pretrained(str(epsilon_folder))), work / "mine.cone")


@pytest.mark.usefixtures("fitting")
def test_a_model_is_fetched_once_and_then_found(hub: Hub, cones: Cones) -> None:
    """The concept of the folder fits; with --offline nothing is asked; one that was taken down is still there."""
    command = ("inspect", "mine.cone", "--model", MODEL, "--json")
    done = cones(*command)
    assert done.code == 0, done.err
    assert done.json[0]["model_check"]["text"] == "equal" and any("unet" in path for path in hub.asked)
    hub.asked.clear()
    again = cones(*command, "--offline")
    assert (again.code, again.json, hub.asked) == (0, done.json, [])
    hub.repositories.clear()
    assert cones(*command).code == 0


@pytest.mark.usefixtures("fitting")
def test_revision_picks_the_commit(hub: Hub, cones: Cones) -> None:
    """Branch v2 is another model, by name and by commit; the commit is what a concept records."""
    commit = Hub.commit(MODEL, "v2")
    for revision in ("v2", commit):
        assert Model.from_pretrained(MODEL, revision=revision).info.revision == commit
    assert cones("inspect", "mine.cone", "--model", MODEL, "--revision", "v2").code == 5
    assert Model.from_pretrained(MODEL).revision == Hub.commit(MODEL, "main")


INSPECT = "inspect mine.cone --model"


@pytest.mark.usefixtures("fitting")
@pytest.mark.parametrize(
    ("line", "code", "message", "hint"),
    [
        (f"{INSPECT} {CLOSED}", 7, f"{CLOSED}: gated on the Hub", "hf auth login"),
        (f"{INSPECT} owner/nmae", 7, "owner/nmae: no such model here or on the Hub", "check the spelling"),
        (f"{INSPECT} {MODEL} --revision v9", 7, f"{MODEL}: the Hub has no revision 'v9' of it", "branches"),
        (f"{INSPECT} {MODEL} --offline", 7, f"{MODEL}: not on this machine", "without --offline"),
        (f"pull {GATED}", 7, f"{GATED}/dog.cone: gated on the Hub", "hf auth login"),
        ("pull owner/noe", 7, "owner/noe: no such repository on the Hub", "spelling"),
        (f"pull {ONE} --revision v9", 7, f"{ONE}: the Hub has no revision 'v9'", "branches"),
        (f"pull {ONE} cat.cone", 7, f"{ONE}/cat.cone: the Hub has no such file", "files on its page"),
        (f"pull {ONE} --offline", 7, f"{ONE}: not on this machine", "without --offline"),
        (f"pull {EMPTY}", 2, f"{EMPTY}: no .cone file in it", "its page"),
        ("pull ../one", 2, "not a repository of the Hub", "owner/name"),
        (f"pull {MANY}", 2, "bad.cone, dog.cone", ""),
        (f"pull {MANY} bad.cone", 4, f"{MANY}/bad.cone", ""),
        (f"pull {ONE} -o mine.cone", 2, "exists already", "--overwrite"),
        (f"pull {ONE} -o - --json", 2, "stdout", ""),
    ],
)
def test_says_why_not(hub: Hub, cones: Cones, work: Path, line: str, code: int, message: str, hint: str) -> None:
    """The reason and what to do; offline nothing is asked, and nothing is left behind."""
    before = (work / "mine.cone").read_bytes()
    done = cones(*line.split())
    text = " ".join(done.err.split())
    assert done.code == code and message in text and hint in text
    assert not hub.asked or "--offline" not in line
    assert [path.name for path in work.iterdir()] == ["mine.cone"] and (work / "mine.cone").read_bytes() == before


def test_a_token_opens_and_is_not_told(hub: Hub, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """From HF_TOKEN, models and files; a wrong one is told apart from none."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert cones("pull", GATED).code == 0
    assert Model.from_pretrained(CLOSED).id == CLOSED
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    done = cones("pull", ONE, "-o", "x.cone", "--traceback")
    assert done.code == 7 and "not valid" in done.err and "hf_wrong" not in done.err


def test_the_only_file_comes_under_its_name(hub: Hub, served: Path, cones: Cones, work: Path) -> None:
    """Byte for byte; its path alone is on stdout, and stderr says what draws it. With -o - the bytes go to a pipe."""
    done = cones("pull", ONE)
    assert (done.code, done.lines) == (0, ["dog.cone"]), done.err
    there = (served / "one" / "dog.cone").read_bytes()
    assert (work / "dog.cone").read_bytes() == there == cones("pull", ONE, "-o", "-").out
    assert "'sks dog'" in done.err and Hub.commit(ONE, "main")[:12] in done.err
    assert cones("pull", MANY, "dog.cone", "-o", "mine.cone").lines == ["mine.cone"]
    (work / "dog.cone").write_bytes(b"mine")
    assert cones("pull", MANY, "bad.cone", "-o", "dog.cone", "--overwrite").code == 4
    assert (work / "dog.cone").read_bytes() == b"mine"
    assert cones("pull", ONE, "--overwrite").code == 0
    assert cones_format.load(work / "dog.cone").names == ("dog",)


def test_revision_offline_and_json(hub: Hub, cones: Cones) -> None:
    """A branch and its commit; what was fetched is found again without asking, by its name or as the only one."""
    commit = Hub.commit(ONE, "v2")
    first = cones("pull", ONE, "--revision", "v2", "--json")
    assert first.code == 0, first.err
    assert (first.json["file"], first.json["revision"], first.json["concepts"]) == ("hat.cone", commit, ["hat"])
    hub.asked.clear()
    for words in (("--revision", "v2"), ("--revision", commit), ("hat.cone", "--revision", "v2")):
        again = cones("pull", ONE, *words, "--offline", "--overwrite", "--json")
        assert (again.code, again.json) == (0, first.json), again.err
    assert hub.asked == []


def test_one_name_says_where_a_file_is(hub: Hub, cones: Cones, work: Path) -> None:
    """hf:owner/name, with a file and a branch or without; pull takes it, and every command that takes a .cone file."""
    assert cones("pull", f"hf:{MANY}/dog.cone").lines == ["dog.cone"]
    assert cones("pull", f"{ONE}@v2").lines == ["hat.cone"]
    merged = cones("merge", f"hf:{ONE}", f"hf:{ONE}/hat.cone@v2", "-o", "both.cone")
    assert merged.code == 0 and cones_format.load(work / "both.cone").names == ("dog", "hat"), merged.err
    shown = cones("report", f"hf:{ONE}", "--no-pictures", "--offline", "-o", "-")
    assert shown.code == 0 and b"<h1>dog</h1>" in shown.out
    several, none = cones("report", f"hf:{MANY}", "--no-pictures"), cones("render", "a dog", "-c", "hf:owner/none")
    assert several.code == 2 and "bad.cone, dog.cone" in several.err and none.code == 7


def test_a_hub_that_does_not_answer(hub: Hub, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection, or forbidden to make one, or no room to keep what is fetched: the hint is about that."""
    constants = huggingface_hub.constants
    with monkeypatch.context() as patch:
        for owner, name in ((huggingface_hub.hf_api.api, "endpoint"), (constants, "ENDPOINT")):
            patch.setattr(owner, name, "http://127.0.0.1:9")
        done = cones("pull", ONE)
        assert done.code == 7 and "the Hub cannot be used" in done.err and "connection" in done.err
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        done = cones("pull", ONE)
        assert done.code == 7 and "HF_HUB_OFFLINE" in done.err
    if Path("/sys/kernel").is_dir():  # where even root cannot write
        monkeypatch.setattr(constants, "HF_HUB_CACHE", "/sys/conestool")
        done = cones("pull", ONE)
        assert done.code == 7 and "cache cannot be written" in done.err and "HF_HUB_CACHE" in done.err


@pytest.mark.parametrize("name", ["-rf.cone", ".dog.cone", "a\x1b[2Jb.cone", "a\nb.cone", "a$(x).cone"])
def test_a_name_that_somebody_was_too_clever_with(hub: Hub, served: Path, cones: Cones, work: Path, name: str) -> None:
    """It is no name for a file here, and its escapes reach no terminal; with -o the content is had."""
    (served / "one" / "dog.cone").rename(served / "one" / name)
    done = cones("pull", ONE)
    assert done.code == 2 and "-o" in done.err and "\x1b" not in done.err
    assert list(work.iterdir()) == []
    assert cones("pull", ONE, "-o", "dog.cone").code == 0


def test_a_file_beyond_the_limit_is_not_downloaded(hub: Hub, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is known before."""
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 100)
    for words in ((ONE,), (ONE, "dog.cone")):
        done = cones("pull", *words)
        assert done.code == 4 and "more than the 100" in done.err
    assert not any("resolve" in path for path in hub.asked)


def test_warnings_of_the_server_do_not_reach_the_terminal(hub: Hub, cones: Cones) -> None:
    """The client would log them as they are."""
    hub.headers["X-HF-Warning"] = "topic; \x1b]0;owned\x07 buy now"
    done = cones("pull", ONE, "-v")
    assert done.code == 0 and "buy now" not in done.err and "\x1b" not in done.err


@pytest.fixture
def dog(hub: Hub, work: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> Path:
    """dog.cone in the folder of the run, of somebody who is logged in."""
    monkeypatch.setenv("HF_TOKEN", WRITER)
    return save_cone(work / "dog.cone", concept(warnings=["weak"], held_out=1))


def there(hub: Hub, branch: str = "main") -> dict[str, bytes]:
    """The files of a branch of the new repository."""
    return {file.name: file.read_bytes() for file in hub.repositories[NEW][branch].glob("*.*")}


def card_of(hub: Hub) -> str:
    """The model card of the new repository."""
    return there(hub)["README.md"].decode()


def concept_on(found: BaseModelInfo, **origin: Any) -> Concept:
    """A concept of another base model."""
    return replace(concept(**origin), base=found)


def test_a_new_repository_holds_the_same_bytes_and_a_card(hub: Hub, dog: Path, cones: Cones) -> None:
    """Binary by LFS, text in the commit; stdout is the address."""
    done = cones("push", "dog.cone", NEW)
    assert done.code == 0, done.err
    assert len(done.lines) == 1 and done.lines[0].startswith("http") and done.lines[0].endswith(f"/{NEW}")
    assert there(hub)["dog.cone"] == dog.read_bytes()
    assert "lfs" in hub.asked and NEW not in hub.private
    front = yaml.safe_load(card_of(hub).split("---\n")[1])
    assert front == {"library_name": "conestool", "tags": ["conestool", "concept-neurons", "text-to-image"]}
    shown = ("a photo of a sks dog", "held-out photos", "random indices", "class: dog", "-25.0 %", "weak", "0000" * 16)
    assert [text for text in shown if text not in card_of(hub)] == []
    assert "cones pull owner/dog dog.cone" in card_of(hub)


def test_the_card_shows_pictures(hub: Hub, dog: Path, epsilon_folder: Path, cones: Cones) -> None:
    """Those of the report, without photos; a later push without them keeps what is there."""
    cones_format.save(random_cone(Model.from_pretrained(str(epsilon_folder), device="cpu"), "dog"), dog, overwrite=True)
    for options in (("--pictures", "--model", epsilon_folder), ("--overwrite",)):
        done = cones("push", "dog.cone", NEW, *options)
        assert done.code == 0, done.err
    (picture,) = hub.repositories[NEW]["main"].glob("pictures/*.png")
    assert f"](pictures/{picture.name})" in card_of(hub)
    with Image.open(picture) as image:
        assert image.width > 5 * 256


def test_license_and_base_model_go_where_the_hub_looks(hub: Hub, dog: Path, cones: Cones) -> None:
    """The base model only if it came from the Hub; of one that may be a folder the last part alone, which is said."""
    dog.unlink()
    save_cone(dog, concept_on(base("org/model").model_copy(update={"revision": "ab" * 20})))
    assert cones("push", "dog.cone", NEW, "--license", "mit").code == 0
    front = yaml.safe_load(card_of(hub).split("---\n")[1])
    assert (front["license"], front["base_model"]) == ("mit", ["org/model"])
    dog.unlink()
    save_cone(dog, concept_on(base("clients/acme/sd15")))
    done = cones("push", dog, NEW, "--overwrite")
    assert done.code == 0 and "'clients/acme/sd15'" in done.err
    assert "acme" not in card_of(hub) and "sd15" in card_of(hub) and str(dog.parent) not in card_of(hub)


def test_text_of_a_file_is_escaped_in_the_card(hub: Hub, dog: Path, cones: Cones) -> None:
    """Markup, HTML, links, table borders, control characters."""
    dog.unlink()
    save_cone(dog, concept_on(base(EVIL), notes=EVIL, warnings=[EVIL], instance_prompt=EVIL, author=EVIL))
    done = cones("push", "dog.cone", NEW)
    assert done.code == 0, done.err
    card = card_of(hub)
    assert not set(card) & set("\x1b\x07\u202e") and "<script" not in card and "\n# d" not in card
    assert "](javascript" not in card.replace(r"\]", "")


def test_what_is_there_stays_unless_told(hub: Hub, dog: Path, cones: Cones) -> None:
    """Exit code 2 and no commit; with --overwrite there is one. A card that people wrote is kept even so."""
    assert cones("push", "dog.cone", NEW).code == 0
    before, head = there(hub), hub.head(NEW, "main")
    dog.unlink()
    save_cone(dog, concept(seed=5))
    done = cones("push", "dog.cone", NEW)
    assert done.code == 2 and "--overwrite" in done.err
    assert (there(hub), hub.head(NEW, "main")) == (before, head)
    mine = hub.repositories[NEW]["main"] / "README.md"
    mine.write_text("mine")
    assert cones("push", "dog.cone", NEW, "--overwrite", "--license", "mit").code == 2
    done = cones("push", "dog.cone", NEW, "--overwrite")
    assert done.code == 0 and "stays as it is" in done.err and mine.read_text() == "mine"
    assert there(hub)["dog.cone"] == dog.read_bytes()


def test_the_card_describes_all_files(hub: Hub, dog: Path, work: Path, cones: Cones) -> None:
    """A second push adds to the first one's and keeps its license; a damaged file is left out with a warning."""
    save_cone(work / "hat.cone", concept("hat", "zwx", seed=1))
    assert cones("push", "dog.cone", NEW, "--license", "mit").code == 0
    (hub.repositories[NEW]["main"] / "bad.cone").write_bytes(b"junk")
    done = cones("push", "hat.cone", NEW)
    assert done.code == 0 and "bad.cone" in done.err
    assert all(text in card_of(hub) for text in ("sks dog", "zwx hat", "license: mit"))


def test_private_makes_private_and_never_pretends(hub: Hub, dog: Path, cones: Cones) -> None:
    """A public repository does not become private by the option, so it is refused."""
    assert cones("push", "dog.cone", NEW, "--private").code == 0
    assert NEW in hub.private
    assert cones("push", "dog.cone", NEW, "--private", "--overwrite").code == 0
    hub.private.clear()
    done = cones("push", "dog.cone", NEW, "--private", "--overwrite")
    assert done.code == 2 and "public" in done.err


def test_a_branch_is_made(hub: Hub, dog: Path, cones: Cones) -> None:
    """main stays without the file; JSON tells the commit."""
    done = cones("push", "dog.cone", NEW, "--revision", "v2", "--message", "second", "--json")
    assert done.code == 0, done.err
    assert "dog.cone" in there(hub, "v2") and "dog.cone" not in there(hub)
    assert done.json["commit"] == hub.head(NEW, "v2") and done.json["files"] == ["dog.cone", "README.md"]
    assert cones("push", "dog.cone", NEW, "--revision", "v2", "--overwrite").code == 0


def test_a_merge_can_be_pushed_from_stdin(hub: Hub, dog: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named after its concepts."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(dog.read_bytes())))
    assert cones("push", "-", NEW).code == 0
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
    done = cones("push", "dog.cone", NEW, "--traceback", "-v")
    text = " ".join(done.err.split())
    assert done.code == 7 and message in text and hint in text
    assert token is None or token not in done.err
    assert NEW not in hub.repositories


def test_a_repository_that_moved_on_is_not_overwritten(hub: Hub, dog: Path) -> None:
    """Somebody else's commit between looking and uploading: nothing is lost, and trying again helps."""
    target = open_target(NEW)
    hub.commits[NEW, "main"] = 7
    with pytest.raises(HubError, match="changed on the Hub meanwhile"):
        push(target, {"dog.cone": dog.read_bytes()}, "late")
    assert "dog.cone" not in there(hub)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dog.cone dog", "not a repository"),
        ("dog.cone a/b/c", "not a repository"),
        (f"dog.txt {NEW}", "end it in .cone"),
        (f"dog.cone sub/dog.cone {NEW}", "named twice"),
    ],
)
def test_push_refuses_before_anything_is_asked(hub: Hub, dog: Path, cones: Cones, line: str, message: str) -> None:
    """Names that no repository or file may have."""
    (dog.parent / "sub").mkdir()
    for other in ("dog.txt", "sub/dog.cone"):
        (dog.parent / other).write_bytes(dog.read_bytes())
    done = cones("push", *line.split())
    assert done.code == 2 and message in done.err and hub.asked == []
