"""`cones batch` on one machine: the same files as `cones find`, done once, whatever stops it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from conestool import format as cones_format
from conestool.batch.driver import Batch
from conestool.batch.jobs import Job, Payload, RenderOptions, assign_identifiers, job_key, payload_of
from conestool.batch.store import open_store
from conestool.errors import UsageError
from conestool.search.config import DEFAULT_RESOURCES
from tests.batch.conftest import NAMES, QUICK, photo
from tests.support.command_line import COMMAND, ROOT, Cones, environment


@pytest.fixture(autouse=True)
def base(epsilon_folder: Path, monkeypatch: pytest.MonkeyPatch, shared_cache: Path) -> None:
    """Everything here is about the small model."""
    monkeypatch.setenv("CONES_MODEL", str(epsilon_folder))
    monkeypatch.setenv("CONES_CACHE", str(shared_cache))


def ledger(folder: Path) -> list[dict[str, Any]]:
    """What the ledger of a folder says."""
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]


def test_files_are_those_of_find(found: dict[str, bytes], subjects: Path, cones: Cones, work: Path) -> None:
    """Byte for byte, also those whose class images and frozen targets an earlier subject left."""
    for name in ("cat-1", "dog-2"):
        (concept,) = cones_format.loads(found[name]).concepts
        words = ["--class-noun", name[:3], "--identifier", concept.identifier, "--no-sheet", *QUICK]
        assert cones("find", subjects / name, "-o", f"{name}.cone", *words).code == 0
        assert (work / f"{name}.cone").read_bytes() == found[name]


def test_what_is_done_is_skipped_and_what_failed_is_retried(
    found: dict[str, bytes], subjects: Path, cones: Cones, work: Path
) -> None:
    """A line of the ledger for each; new options ask before they replace a file."""
    for name in ("dog-1", "dog-2"):
        for each in sorted((subjects / name).iterdir()):
            (work / "in" / name).mkdir(parents=True, exist_ok=True)
            (work / "in" / name / each.name).write_bytes(each.read_bytes())
    (work / "in" / "dog-2" / "2.png").write_bytes(b"\x89PNG no more")
    first = cones("batch", "in", "-o", "out", "--json", *QUICK)
    assert first.code == 1 and "failed: dog-2: 2.png: not an image" in first.err
    lines = {line["name"]: line for line in map(json.loads, first.lines)}
    assert ledger(work / "out") == list(lines.values())
    assert {"held_out_before", "random_after"} < lines["dog-1"]["losses"].keys()
    assert (lines["dog-1"]["file"], lines["dog-1"]["photos"], lines["dog-2"]["state"]) == ("dog-1.cone", 2, "failed")
    assert "2 photos only" in lines["dog-1"]["warnings"][0] and lines["dog-1"]["seconds"] > 0
    second = cones("batch", "in", "-o", "out", *QUICK)
    assert second.code == 1 and "0 done, 1 done before, 1 failed" in second.err and "not an image" in second.err
    (work / "in" / "dog-2" / "2.png").unlink()
    assert "1 done, 1 done before, 0 failed" in cones("batch", "in", "-o", "out", "--retry", "--report", *QUICK).err
    page = (work / "out" / "report.html").read_text(encoding="utf-8")
    assert all(f"{name}.cone" in page for name in ("dog-1", "dog-2")) and page.count("data:image/png") > 4
    assert all((work / "out" / f"{name}.cone").read_bytes() == found[name] for name in ("dog-1", "dog-2"))
    other = cones("batch", "in", "-o", "out", *QUICK, "--seed", "1")
    assert other.code == 2 and "dog-1, dog-2: done with other files, options or base model" in other.err
    assert cones("batch", "in", "-o", "out", *QUICK, "--seed", "1", "--overwrite").code == 0
    assert (work / "out" / "dog-1.cone").read_bytes() != found["dog-1"]


def test_a_killed_driver_loses_the_subject_in_work_alone(
    found: dict[str, bytes], subjects: Path, cones: Cones, work: Path
) -> None:
    """A torn line does not count, a file without a line is not in the way, another file of that name is."""
    (work / "out").mkdir()
    (work / "out" / "cat-1.cone").write_bytes(found["cat-1"])
    (work / "out" / "dog-1.cone").write_bytes(b"mine")
    (work / "out" / "ledger.jsonl").write_bytes(b'{"name": "dog-2", "state": "do')
    done = cones("batch", subjects, "-o", "out", *QUICK)
    assert done.code == 1 and "failed: dog-1: " in done.err and "exists already" in done.err
    assert (work / "out" / "dog-1.cone").read_bytes() == b"mine"
    kept = (work / "out" / "ledger.jsonl").read_bytes().splitlines()[1:]
    assert {json.loads(line)["name"]: json.loads(line)["state"] for line in kept} == {
        "cat-1": "done", "dog-1": "failed", "dog-2": "done"
    }  # fmt: skip


def test_a_full_disk_stops_the_batch(found: dict[str, bytes], subjects: Path, work: Path, cones: Cones) -> None:
    """Here no file may be longer than 6,000 bytes, which the ledger soon is; with room again the rest is done."""
    (work / "out").mkdir()
    (work / "out" / "ledger.jsonl").write_bytes(b"x" * 5500)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        done = cones("batch", subjects, "-o", "out", *QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.code == 2 and "ledger.jsonl: cannot be written: File too large" in done.err
    assert cones("batch", subjects, "-o", "out", *QUICK).code == 0
    assert {name: (work / "out" / f"{name}.cone").read_bytes() for name in NAMES} == found


def test_processes_find_the_same_and_may_die(found: dict[str, bytes], subjects: Path, tmp_path: Path) -> None:
    """One of two is killed as soon as there is a file; nothing is missing, and nobody is left behind."""
    command = [*COMMAND, "batch", str(subjects), "-o", "out", "--jobs", "2", "--attempts", "4", *QUICK]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT), CONES_MODEL=os.environ["CONES_MODEL"]),
        stderr=subprocess.PIPE,
    ) as driver:
        killed: list[int] = []
        while driver.poll() is None:
            if not killed and list((tmp_path / "out").glob("*.cone")):
                killed = [pid for pid in children(driver.pid) if "spawn_main" in words_of(pid)]
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.05)
        assert driver.stderr is not None
        assert driver.returncode == 0, driver.stderr.read()
    assert {name: (tmp_path / "out" / f"{name}.cone").read_bytes() for name in NAMES} == found
    assert len(killed) == 2 and not [pid for pid in killed if "spawn_main" in words_of(pid)]


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def words_of(pid: int) -> str:
    """A process's command line, "" if there is none of that number."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_text() if path.exists() else ""


def test_a_manifest_says_it_all(found: dict[str, bytes], subjects: Path, cones: Cones, work: Path) -> None:
    """Lines of JSON with URLs that workers read, CSV with columns of settings, into storage; each like the folder's."""
    (concept,) = cones_format.loads(found["dog-1"]).concepts
    row = {"class_noun": "dog", "name": "dog-1", "identifier": concept.identifier, "steps": 2, "density": 0.02}
    urls = [f"file://{path}" for path in sorted((subjects / "dog-1").iterdir())]
    (work / "rows.jsonl").write_text(json.dumps(row | {"photos": urls}) + "\n")
    files = ";".join(str(path) for path in sorted((subjects / "dog-1").iterdir()))
    cells = ",".join(map(str, row.values()))
    (work / "rows.csv").write_text(f"{','.join(row)},photos,author\n{cells},{files},\n")
    for number, rows in enumerate(("rows.jsonl", "rows.csv")):
        place = work / f"out-{number}"
        assert cones("batch", rows, "-o", f"file://{place}", *QUICK[4:]).code == 0
        assert (place / "dog-1.cone").read_bytes() == found["dog-1"]
        assert json.loads((place / "ledger" / "dog-1.json").read_text())["state"] == "done"
        assert "1 done before" in cones("batch", rows, "-o", f"file://{place}", *QUICK[4:]).err


def test_render_and_eval_go_the_same_way(found: dict[str, bytes], subjects: Path, cones: Cones, work: Path) -> None:
    """Prompts times concepts, and reports of many files, are what the commands for one make."""
    for name in ("cat-1", "dog-1"):
        (work / f"{name}.cone").write_bytes(found[name])
    (work / "prompts.txt").write_text("a {} on the beach\n")
    assert (
        cones("batch", "cat-1.cone", "dog-1.cone", "--task", "render", "--prompts", "prompts.txt", "-o", "out").code
        == 0
    )
    assert cones("render", "a dog-1 on the beach", "-c", "dog-1.cone", "-o", "one.png").code == 0
    assert (work / "out" / "dog-1-0002.png").read_bytes() == (work / "one.png").read_bytes()
    (work / "rows.csv").write_text("cones,quick\ndog-1.cone,yes\n")
    assert cones("batch", "rows.csv", "--task", "eval", "--photos", subjects, "-o", "reports").code == 0
    one = cones("eval", "dog-1.cone", "--photos", subjects / "dog-1", "--quick", "--json").json
    assert json.loads((work / "reports" / "dog-1.json").read_bytes()).items() <= one.items()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ('{"name": "dog"}', "rows.jsonl: line 1: it names no photos"),
        ('{"photos": "nowhere"}', "nowhere: no such file or folder"),
        (
            '{"photos": "in/dog"}\n{"photos": "in/dog", "name": "Dog"}',
            "line 2: the name Dog is that of rows.jsonl: line 1",
        ),
        ('{"photos": "in/dog", "colour": 3}', "dog: colour: Extra inputs are not permitted"),
        ('{"photos": "in/dog", "density": 3}', "density is 3"),
        ('{"photos": "in/dog"', "line 1 is not JSON"),
        ('{"photos": "in/dog", "name": "../dog"}', "concept name '../dog' is not usable"),
    ],
)
def test_a_bad_manifest_is_refused_before_work(rows: str, told: str, cones: Cones, work: Path) -> None:
    """With the row and what is wrong with it."""
    photo(work / "in" / "dog" / "1.png", 1)
    (work / "rows.jsonl").write_text(rows)
    done = cones("batch", "rows.jsonl", "-o", "out")
    assert done.code == 2 and told in done.err
    assert not (work / "out").exists()


def test_identifiers_never_collide_and_stay() -> None:
    """More subjects than words: some get several; what was given before stays when others come in between."""
    words = ("sks", "zwx", "qyx")
    jobs = [Job(f"dog-{number}", options={}) for number in range(9)]
    given = assign_identifiers(jobs, words, {})
    assert len(set(given.values())) == 9 and set(words) < set(given.values())
    more = assign_identifiers([Job("a", options={"identifier": "own"}), Job("b"), *jobs], words, given)
    assert given.items() <= more.items() and more["a"] == "own" and len(set(more.values())) == 11
    with pytest.raises(UsageError, match="b and a have the identifier 'own'"):
        assign_identifiers([Job(name, options={"identifier": "own"}) for name in "ab"], words, {})


def test_of_several_ledgers_the_latest_line_counts(tmp_path: Path) -> None:
    """Whatever their names: what one part did after another run failed is done."""
    (tmp_path / "dog.cone").write_bytes(b"a concept")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dog.png").write_bytes(b"a picture")
    job = Job("dog", cones=(str(tmp_path / "dog.cone"),))

    def prepare(job: Job, identifier: str | None) -> Payload:
        return payload_of(job, "render", RenderOptions(prompt="a dog"), DEFAULT_RESOURCES)

    line = {"name": "dog", "key": job_key(prepare(job, None), {})}
    for name, state, at in (("ledger.jsonl", "failed", 1.5), ("ledger-1-of-2.jsonl", "done", 2.5)):
        (tmp_path / "out" / name).write_text(json.dumps({**line, "state": state, "time": at}) + "\n")
    store = open_store(str(tmp_path / "out"), "")
    batch = Batch("render", [job], prepare, store, lambda done, total, names: None, lambda line: None)
    assert batch._left() == []
    assert (batch.outcome.skipped, batch.outcome.failed) == (1, {})


def test_parts_share_the_work(found: dict[str, bytes], subjects: Path, cones: Cones, work: Path) -> None:
    """As the tasks of an array job do: each with a ledger of its own, all with the same identifiers."""
    for part, done in (("1/2", "2 done"), ("2/2", "1 done")):
        assert done in cones("batch", subjects, "-o", "out", "--part", part, *QUICK).err
    assert {name: (work / "out" / f"{name}.cone").read_bytes() for name in NAMES} == found
    assert "3 done before" in cones("batch", subjects, "-o", "out", *QUICK).err
