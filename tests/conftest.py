"""What all tests share: a cache of their own, no network, small random base models, and an order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile("shared", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


LONGEST = (
    "test_readme.py",
    "search/test_distributed.py",
    "reliability/test_interruptions.py",
    "test_families.py",
    "test_tasks.py",
    "test_examples.py",
    "reliability/test_memory.py",
    "search/test_dry_run.py",
    "search/test_memory.py",
    "cli/test_interrupt.py",
    "search/test_find.py",
    "cli/test_heavy.py",
    "reliability/test_numbers.py",
)
"""Files that take longest, each in one process: begun last, they would leave the other process without work."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the rest as it was."""
    folder = Path(__file__).parent
    ranks = {folder / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for every test."""
    folder = tmp_path / "cones-cache"
    monkeypatch.setenv("CONES_CACHE", str(folder))
    monkeypatch.delenv("CONES_MODEL", raising=False)
    monkeypatch.delenv("CONES_PATH", raising=False)
    return folder


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
