"""What all tests share: a cache of their own, no network, and small random base models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("shared", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for every test."""
    folder = tmp_path / "cones-cache"
    monkeypatch.setenv("CONES_CACHE", str(folder))
    monkeypatch.delenv("CONES_MODEL", raising=False)
    monkeypatch.delenv("CONES_PATH", raising=False)
    return folder


@pytest.fixture(scope="session")
def epsilon_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random base model that predicts noise; tests must not change its files."""
    from tests.tiny import save_pipeline

    return save_pipeline(tmp_path_factory.mktemp("models") / "epsilon")


@pytest.fixture(scope="session")
def v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random base model that predicts velocity; tests must not change its files."""
    from tests.tiny import save_pipeline

    return save_pipeline(tmp_path_factory.mktemp("models") / "velocity", "v_prediction", seed=7)
