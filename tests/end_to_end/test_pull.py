"""`cones pull` with the Hub's own client, against a stand-in of the Hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from conestool import format as cones_format
from conestool.format import limits
from tests.support.command_line import Cones, concept, save_cone
from tests.support.hub_server import TOKEN, Hub, serving

ONE, MANY, GATED, EMPTY = "owner/one", "owner/many", "owner/gated", "owner/empty"


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
def hub(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with these repositories, one of them gated."""
    folders = {ONE: "one", MANY: "many", GATED: "one", EMPTY: "empty"}
    hub = Hub({name: {"main": served / folder} for name, folder in folders.items()}, {GATED})
    hub.repositories[ONE]["v2"] = served / "v2"
    with serving(hub, tmp_path / "hub", monkeypatch):
        yield hub


def test_the_only_file_comes_under_its_name(hub: Hub, served: Path, cones: Cones, work: Path) -> None:
    """Byte for byte; its path alone is on stdout, and stderr says what draws it."""
    done = cones("pull", ONE)
    assert (done.code, done.lines) == (0, ["dog.cone"]), done.err
    assert (work / "dog.cone").read_bytes() == (served / "one" / "dog.cone").read_bytes()
    assert "'sks dog'" in done.err and Hub.commit(ONE, "main")[:12] in done.err


def test_several_files_must_be_named(hub: Hub, cones: Cones, work: Path) -> None:
    """The error lists them."""
    done = cones("pull", MANY)
    assert done.code == 2 and "bad.cone, dog.cone" in done.err
    assert cones("pull", MANY, "dog.cone", "-o", "mine.cone").lines == ["mine.cone"]
    assert cones_format.load(work / "mine.cone").names == ("dog",)


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


def test_a_damaged_file_never_lands(hub: Hub, cones: Cones, work: Path) -> None:
    """Exit code 4, also with --overwrite over a good one, which stays."""
    (work / "bad.cone").write_bytes(b"mine")
    done = cones("pull", MANY, "bad.cone", "--overwrite")
    assert done.code == 4 and "owner/many/bad.cone" in done.err
    assert (work / "bad.cone").read_bytes() == b"mine"


def test_what_is_there_needs_force(hub: Hub, cones: Cones, work: Path) -> None:
    """As for every command."""
    (work / "dog.cone").write_bytes(b"mine")
    assert cones("pull", ONE).code == 2
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
    for arguments in (("--revision", "v2"), ("--revision", commit), ("hat.cone", "--revision", "v2")):
        again = cones("pull", ONE, *arguments, "--offline", "--overwrite", "--json")
        assert (again.code, again.json) == (0, first.json), again.err
    assert cones("pull", ONE, "--offline").code == 7
    assert hub.asked == []


def test_bytes_go_to_a_pipe(hub: Hub, served: Path, cones: Cones) -> None:
    """With -o -, and not together with JSON."""
    assert cones("pull", ONE, "-o", "-").out == (served / "one" / "dog.cone").read_bytes()
    assert cones("pull", ONE, "-o", "-", "--json").code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        ((GATED,), 7, "owner/gated/dog.cone: gated on the Hub", "hf auth login"),
        (("owner/noe",), 7, "owner/noe: no such repository on the Hub", "spelling"),
        ((ONE, "--revision", "v9"), 7, "owner/one: the Hub has no revision 'v9'", "branches"),
        ((ONE, "cat.cone"), 7, "owner/one/cat.cone: the Hub has no such file", "files on its page"),
        ((ONE, "--offline"), 7, "owner/one: not on this machine", "without --offline"),
        ((EMPTY,), 2, "owner/empty: no .cone file in it", "its page"),
        (("../one",), 2, "not a repository of the Hub", "owner/name"),
    ],
    ids=["gated", "misspelt", "no revision", "no file", "offline", "none", "no name"],
)
def test_says_why_not(
    hub: Hub, cones: Cones, work: Path, arguments: tuple[str, ...], code: int, message: str, hint: str
) -> None:
    """The reason and what to do; nothing is left behind."""
    done = cones("pull", *arguments)
    text = " ".join(done.err.split())
    assert done.code == code and message in text and hint in text
    assert list(work.iterdir()) == []


def test_a_token_opens_and_is_not_told(hub: Hub, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """From HF_TOKEN; a wrong one is told apart from none."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert cones("pull", GATED).code == 0
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    done = cones("pull", ONE, "-o", "x.cone", "--traceback")
    assert done.code == 7 and "not valid" in done.err and "hf_wrong" not in done.err


def test_a_hub_that_does_not_answer(hub: Hub, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection, or forbidden to make one."""
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    done = cones("pull", ONE)
    assert done.code == 7 and "the Hub cannot be used" in done.err and "connection" in done.err
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    done = cones("pull", ONE)
    assert done.code == 7 and "HF_HUB_OFFLINE" in done.err


@pytest.mark.parametrize("name", ["-rf.cone", ".dog.cone", "a\x1b[2Jb.cone", "a\nb.cone", "a$(x).cone"])
def test_a_name_that_somebody_was_too_clever_with(hub: Hub, served: Path, cones: Cones, work: Path, name: str) -> None:
    """It is no name for a file here, and its escapes reach no terminal; with -o the content is had."""
    (served / "one" / "dog.cone").rename(served / "one" / name)
    done = cones("pull", ONE)
    assert done.code == 2 and "-o" in done.err and "\x1b" not in done.err
    assert list(work.iterdir()) == []
    assert cones("pull", ONE, "-o", "dog.cone").code == 0


def test_a_file_beyond_the_limit_is_not_downloaded(
    hub: Hub, cones: Cones, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is known before."""
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 100)
    for arguments in ((ONE,), (ONE, "dog.cone")):
        done = cones("pull", *arguments)
        assert done.code == 4 and "more than the 100" in done.err
    assert not any("resolve" in path for path in hub.asked)


def test_warnings_of_the_server_do_not_reach_the_terminal(hub: Hub, cones: Cones) -> None:
    """The client would log them as they are."""
    hub.headers["X-HF-Warning"] = "topic; \x1b]0;owned\x07 buy now"
    done = cones("pull", ONE, "-v")
    assert done.code == 0 and "buy now" not in done.err and "\x1b" not in done.err


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that even root cannot write")
def test_a_cache_that_cannot_be_written_is_named(hub: Hub, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint is about the place where the Hub's client keeps what it fetched, not about the connection."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/sys/conestool")
    done = cones("pull", ONE)
    assert done.code == 7 and "cache cannot be written" in done.err and "HF_HUB_CACHE" in done.err
