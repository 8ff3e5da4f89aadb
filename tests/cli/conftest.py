"""The command line inside this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conestool.cli.main import run


@dataclass(frozen=True)
class Outcome:
    """What one command line left: exit code, bytes on stdout, text on stderr."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines on stdout."""
        return self.out.decode().splitlines()

    @property
    def json(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)


Cones = Callable[..., Outcome]


@pytest.fixture
def cones(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cones:
    """Call with the arguments of one command line; it runs in an empty folder of its own, `tmp_path / "work"`."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def call(*arguments: str | Path) -> Outcome:
        capfdbinary.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return Outcome(code, out, err.decode())

    return call


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder in which `cones` runs."""
    return tmp_path / "work"
