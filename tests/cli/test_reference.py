"""The reference of the command line is what `--help` says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.command_line import environment

ROOT = Path(__file__).parents[2]


def test_reference_is_current() -> None:
    """docs/cli.md is what scripts/cli_reference.py writes; run it after changing a command."""
    command = [sys.executable, str(ROOT / "scripts" / "cli_reference.py"), "--check"]
    assert subprocess.run(command, env=environment(PYTHONPATH=str(ROOT)), timeout=60, check=False).returncode == 0


def test_reference_has_every_command() -> None:
    """A section per command, and nothing that does not exist."""
    from conestool.cli._app import NAMES

    lines = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").splitlines()
    assert {line.removeprefix("## cones ") for line in lines if line.startswith("## cones ")} == set(NAMES)
