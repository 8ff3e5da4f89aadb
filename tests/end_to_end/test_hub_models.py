"""Models by Hub id, against a stand-in of the Hub on this machine; the network is never asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conestool import format as cones_format
from conestool.models.model import Model
from tests.support.command_line import Cones
from tests.support.hub_server import TOKEN, Hub, serving
from tests.support.tiny_models import random_cone

NAME, GATED = "owner/name", "owner/gated"


@pytest.fixture
def hub(epsilon_folder: Path, v_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An open model with another one on branch v2, and a gated one."""
    hub = Hub({NAME: {"main": epsilon_folder, "v2": v_folder}, GATED: {"main": epsilon_folder}}, {GATED})
    with serving(hub, tmp_path / "hub", monkeypatch):
        yield hub


@pytest.fixture
def dog(epsilon_folder: Path, cones: Cones, work: Path) -> Path:
    """A concept of the model on branch main, in the folder where `cones` runs."""
    cones_format.save(random_cone(Model.from_pretrained(str(epsilon_folder))), work / "dog.cone")
    return work / "dog.cone"


def test_a_model_is_fetched_once_and_then_found_offline(hub: Hub, dog: Path, cones: Cones) -> None:
    """The concept of the folder fits the repository; with --offline nothing is asked."""
    command = ("inspect", "dog.cone", "--model", NAME, "--json")
    done = cones(*command)
    assert done.code == 0, done.err
    assert done.json[0]["model_check"]["text"] == "equal" and any("unet" in path for path in hub.asked)
    hub.asked.clear()
    again = cones(*command, "--offline")
    assert (again.code, again.json, hub.asked) == (0, done.json, [])


def test_a_fetched_model_is_found_when_the_hub_no_longer_answers(hub: Hub, dog: Path, cones: Cones) -> None:
    """A repository that was taken down is still in the cache."""
    command = ("inspect", "dog.cone", "--model", NAME)
    assert cones(*command).code == 0
    hub.repositories.clear()
    assert cones(*command).code == 0


def test_revision_picks_the_commit(hub: Hub, dog: Path, cones: Cones) -> None:
    """Branch v2 is another model, by name and by commit; the commit is what a concept records."""
    commit = Hub.commit(NAME, "v2")
    for revision in ("v2", commit):
        assert Model.from_pretrained(NAME, revision=revision).info.revision == commit
    assert cones("inspect", "dog.cone", "--model", NAME, "--revision", "v2").code == 5
    assert Model.from_pretrained(NAME).revision == Hub.commit(NAME, "main")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ((GATED,), "owner/gated: gated on the Hub", "hf auth login"),
        (("owner/nmae",), "owner/nmae: no such model here or on the Hub", "check the spelling"),
        ((NAME, "--revision", "v9"), "owner/name: the Hub has no revision 'v9' of it", "branches"),
        ((NAME, "--offline"), "owner/name: not on this machine", "without --offline"),
    ],
    ids=["gated", "misspelt", "no such revision", "offline"],
)
def test_says_why_a_model_cannot_be_had(
    hub: Hub, dog: Path, cones: Cones, options: tuple[str, ...], message: str, hint: str
) -> None:
    """Exit code 7, the reason and what to do; offline nothing is asked."""
    done = cones("inspect", "dog.cone", "--model", *options)
    text = " ".join(done.err.split())
    assert done.code == 7 and message in text and hint in text
    assert bool(hub.asked) is ("--offline" not in options)


def test_a_token_opens_a_gated_model(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """After accepting the terms and logging in."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert Model.from_pretrained(GATED).id == GATED
