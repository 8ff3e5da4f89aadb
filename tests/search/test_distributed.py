"""Several processes at one search, launched as users do: the same file as one process makes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conestool import format as cones
from conestool.concept import Cone
from conestool.errors import LostProcessError, UsageError
from conestool.models.model import Model
from conestool.search.distributed import SINGLE_PROCESS, DistributedState, _distributed_errors, join
from conestool.search.find import find
from conestool.search.methods import METHODS
from tests.search.together import shared, tuned_together
from tests.support.command_line import environment
from tests.support.photos import noisy_photos as photos
from tests.support.photos import save_noisy_photos
from tests.support.searches import common
from tests.support.tiny_models import random_cone

ROOT = Path(__file__).parents[2]
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
FIND = "find photos -o dog.cone --steps 2 --density 0.02 --class-images photos --captions none --other-class-weight 0"
SAME = 0.99
"""The least share of indices in common: sums in another order may tip a weight that stands on an edge."""


def launch(*words: str, cwd: Path) -> Any:
    """Two processes on the CPU."""
    env = environment(PYTHONPATH=str(ROOT), CONES_CACHE=str(cwd / "cache"), GLOO_SOCKET_IFNAME="lo")
    return subprocess.run([*LAUNCH, *words], cwd=cwd, capture_output=True, text=True, env=env, timeout=280, check=False)


@pytest.fixture(scope="module")
def made(epsilon_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left of `together`."""
    folder = tmp_path_factory.mktemp("made")
    done = launch("tests.search.together", str(epsilon_folder), str(folder), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.usefixtures("few_probes")
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_find_what_one_finds(method: str, made: Path, model: Model) -> None:
    """By every method: both have the same bytes, and one process has nearly the same indices and losses."""
    first, second = (made / f"{method}-{rank}.cone" for rank in (0, 1))
    assert first.read_bytes() == second.read_bytes()
    together, alone = cones.load(first), find(model, photos(), "dog", config=shared(method))
    assert common(together, alone) >= SAME
    ours, theirs = (each.concepts[0].origin for each in (together, alone))
    assert ours.parameters == theirs.parameters
    assert ours.losses is not None and theirs.losses is not None
    for key, value in theirs.losses.model_dump().items():
        assert ours.losses.model_dump()[key] == pytest.approx(value, rel=1e-3)


def test_all_stop_after_the_same_step_and_go_on_together(made: Path) -> None:
    """A Ctrl-C in one process stops both; resumed they end with the indices of an undisturbed search."""
    assert all((made / f"stopped-{rank}.txt").exists() for rank in (0, 1))
    resumed, whole = cones.load(made / "resumed-0.cone"), cones.load(made / "mask-0.cone")
    assert (made / "resumed-0.cone").read_bytes() == (made / "resumed-1.cone").read_bytes()
    assert common(resumed, whole) >= SAME


@pytest.mark.usefixtures("few_probes")
def test_concepts_are_tuned_together(made: Path, model: Model) -> None:
    """Both processes have the same bytes, resumed too; one process has nearly the same."""
    files = [made / f"{name}-{rank}.cone" for name in ("tuned", "tuned-resumed") for rank in (0, 1)]
    assert len({file.read_bytes() for file in files}) == 1
    assert all((made / f"tune-stopped-{rank}.txt").exists() for rank in (0, 1))
    together, alone = cones.load(files[0]), tuned_together(model, made, SINGLE_PROCESS)
    before = random_cone(model, "dog", "hat", density=0.2)
    for name in ("dog", "hat"):
        assert together[name].id != before[name].id
        assert common(*(Cone((cone[name],)) for cone in (together, alone))) >= SAME
        ours, theirs = (cone[name].origin.parameters["tune"]["losses"] for cone in (together, alone))
        assert ours == {key: pytest.approx(value, rel=1e-3) for key, value in theirs.items()}


def test_processes_with_different_photos_are_refused(made: Path) -> None:
    """In both, before the first step."""
    for rank in (0, 1):
        assert "different photos" in (made / f"different-{rank}.txt").read_text()


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with photos."""
    save_noisy_photos(tmp_path / "photos")
    return tmp_path


def test_the_command_speaks_and_writes_once(desk: Path, epsilon_folder: Path) -> None:
    """`torchrun -m conestool find`: one JSON on stdout, each line of the report once, and the file."""
    done = launch("conestool", *FIND.split(), "--model", str(epsilon_folder), "--json", "-v", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["file"] == "dog.cone"
    assert done.stderr.count("4 photos of 'dog'") == 1
    assert cones.load(desk / "dog.cone").concepts
    assert not list(desk.glob("*.checkpoint"))


def test_an_error_in_one_process_ends_all_and_is_said_once(desk: Path, epsilon_folder: Path) -> None:
    """With the number of the process; nothing is written."""
    script = desk / "uneven.py"
    script.write_text(
        "import os, sys\nfrom conestool.cli.main import main\n"
        "sys.argv[1:] = [word.replace('MODEL', 'nowhere' if os.environ['RANK'] == '1' else sys.argv[-1])"
        " for word in sys.argv[1:-1]]\nmain()\n"
    )
    words = (*LAUNCH[:-1], str(script), *FIND.split(), "--model", "./MODEL", str(epsilon_folder))
    done = subprocess.run(
        [word.replace("./MODEL", "MODEL") for word in words],
        cwd=desk,
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=str(ROOT), CONES_CACHE=str(desk / "cache"), HF_HUB_OFFLINE="1"),
        timeout=280,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.count("error: process 1: ") == 1
    assert "error: another" not in done.stderr
    assert not (desk / "dog.cone").exists()


def test_rows_are_dealt_out_evenly_and_completely() -> None:
    """Every row to one process, and a single process has them all in order."""
    dealt = [DistributedState(rank, 3).shard(8) for rank in range(3)]
    assert sorted(torch.cat(dealt).tolist()) == list(range(8))
    assert {len(rows) for rows in dealt} == {2, 3}
    assert SINGLE_PROCESS.shard(4).tolist() == [0, 1, 2, 3]


def test_what_makes_no_sense_under_a_launcher_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several processes would each do all of the work and write the same file, or meet on one device."""
    from conestool.cli.main import run

    for name in ("cuda:1", "mps"):
        with pytest.raises(UsageError, match=name):
            join(name)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in ("render", "merge", "eval"):
        assert run([command, "x"]) == 2
        assert f"{command} is work for one process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("[gloo] Connection closed by peer [127.0.0.1]:4711", True),
        ("Timed out waiting 1800000ms for recv operation to complete", True),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", False),
        ("Invalid scalar type", False),
    ],
)
def test_only_what_a_backend_says_of_a_lost_process_is_called_that(text: str, lost: bool) -> None:
    with pytest.raises(LostProcessError if lost else RuntimeError) as caught, _distributed_errors():
        raise RuntimeError(text)
    assert isinstance(caught.value, LostProcessError) == lost
