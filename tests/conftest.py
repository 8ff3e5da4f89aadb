"""What all tests share: a cache of their own, no network, small random base models, and an order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from conestool.cli.main import run
from tests.support.command_line import Cones, Outcome

if TYPE_CHECKING:
    from conestool.models.model import Model

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile("shared", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


LONGEST = (
    "search/test_distributed.py",
    "test_rehearsal.py",
    "search/test_card.py",
    "batch/test_batch.py",
    "hostile/test_interruptions.py",
    "end_to_end/test_families.py",
    "end_to_end/test_find.py",
    "end_to_end/test_examples.py",
    "hostile/test_out_of_memory.py",
    "serving/test_serve.py",
    "search/test_dry_run.py",
    "search/test_numbers.py",
    "end_to_end/test_documents.py",
    "search/test_memory.py",
    "benchmarks/test_real.py",
    "search/test_find.py",
    "end_to_end/test_render.py",
)
"""Files that take longest, each in one process: begun last, they would leave the other process without work."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the rest as it was; long tests only when asked for."""
    folder = Path(__file__).parent
    ranks = {folder / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
    if os.environ.get("CONES_TEST_ALL") != "1":
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long: CONES_TEST_ALL=1"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for every test."""
    folder = tmp_path / "cones-cache"
    monkeypatch.setenv("CONES_CACHE", str(folder))
    monkeypatch.delenv("CONES_MODEL", raising=False)
    monkeypatch.delenv("CONES_PATH", raising=False)
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The empty folder in which `cones` runs."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def cones(capfdbinary: pytest.CaptureFixture[bytes], work: Path, monkeypatch: pytest.MonkeyPatch) -> Cones:
    """Call with the words of a command line, which runs in this process, in `work`."""
    monkeypatch.chdir(work)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def call(*words: str | Path) -> Outcome:
        capfdbinary.readouterr()
        code = run([str(word) for word in words])
        out, err = capfdbinary.readouterr()
        return Outcome(code, out, err.decode())

    return call


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for tests that need pictures of the base model and do not care who drew them."""
    return tmp_path_factory.mktemp("shared") / "cones-cache"


@pytest.fixture
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches measure their losses on 8 samples: for tests in which the numbers themselves do not matter."""
    monkeypatch.setattr("conestool.search.loss_terms.NUM_EVAL_SAMPLES", 8)


@pytest.fixture(scope="session")
def epsilon_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random base model that predicts noise; tests must not change its files."""
    from tests.support.tiny_models import save_pipeline

    return save_pipeline(tmp_path_factory.mktemp("models") / "epsilon")


@pytest.fixture(scope="session")
def v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random base model that predicts velocity; tests must not change its files."""
    from tests.support.tiny_models import save_pipeline

    return save_pipeline(tmp_path_factory.mktemp("models") / "velocity", "v_prediction", seed=7)


@pytest.fixture(scope="module")
def model(epsilon_folder: Path) -> Model:
    """The model of `epsilon_folder`, loaded once for the tests of a file, which leave it as it is."""
    from conestool.models.model import Model

    return Model.from_pretrained(str(epsilon_folder))
