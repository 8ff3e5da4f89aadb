"""`cones find --dry-run`: what it says, and that it does nothing else."""

from __future__ import annotations

from pathlib import Path

from tests.search.test_memory import photos
from tests.support.command_line import Cones


def test_a_dry_run_estimates_and_writes_nothing(cones: Cones, work: Path, epsilon_folder: Path) -> None:
    """A table for people, JSON for programs, and no file."""
    (work / "photos").mkdir()
    for number, photo in enumerate(photos()):
        photo.save(work / "photos" / f"{number}.png")
    words = ("find", "photos", "-o", "dog.cone", "--model", epsilon_folder, "--steps", "3", "--dry-run", "-v")
    done = cones(*words, "--json")
    assert done.code == 0, done.err
    told = done.json
    assert told["memory"] > 1e8 and told["seconds"] == sum(told["phases"].values())
    assert told["phases"].keys() == {"class images", "photos", "search"}
    assert "an estimate" in done.err and "class images" in done.err and "at most" in done.err
    assert [path.name for path in work.iterdir()] == ["photos"]
    given = cones(*words, "--json", "--class-images", "photos", "--other-class-weight", "0").json
    assert given["phases"]["class images"] == 0
    assert given["phases"]["search"] > 0
