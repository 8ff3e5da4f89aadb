"""Numbers on the command line: every one that is out of range is refused, and none becomes a bug."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from conestool.cli._app import FUNCTIONS, NAMES
from tests.support.command_line import Cones, concept, save_cone

HUGE = str(10**20)
NEEDED = {"tune": ("--photos", "x=.")}
BY_CONFIGURATION = ("find", "tune")
"""Commands whose numbers are those of a configuration, which knows their ranges."""


def integers() -> list[tuple[str, str, Any]]:
    """Command, option and what typer knows of it, for every option that takes a whole number.

    typer.Option takes the first name of an option in an annotation for its default, until it builds the command.
    """
    found = []
    for name in NAMES:
        function = getattr(import_module(f"conestool.cli.{name}"), FUNCTIONS.get(name, name))
        for hint in get_type_hints(function, include_extras=True).values():
            kind, *notes = get_args(hint) or (hint,)
            if notes and int in (kind, *get_args(kind)):
                found.append((name, notes[0].default, notes[0]))
    return found


def test_every_integer_option_has_both_ends() -> None:
    """So that none reaches code that cannot hold it."""
    found = integers()
    assert {("render", "--seed"), ("render", "-n"), ("find", "--seed"), ("apply", "--rank")} <= {
        (command, option) for command, option, _ in found
    }
    checked = [(command, option, known) for command, option, known in found if command not in BY_CONFIGURATION]
    assert not [(command, option) for command, option, known in checked if None in (known.min, known.max)]


@pytest.mark.parametrize(("command", "option"), [each[:2] for each in integers()])
@pytest.mark.parametrize("number", [HUGE, f"-{HUGE}"])
def test_integers_out_of_range_are_refused(cones: Cones, work: Path, command: str, option: str, number: str) -> None:
    """Exit code 2, with the name of the option or its field, before anything else is looked at."""
    words = [f"{option}={number}"] if option.startswith("--") else [option, number]
    save_cone(work / "x", concept("x"))
    done = cones(command, "x", *NEEDED.get(command, ()), *words)
    assert done.code == 2
    assert option.lstrip("-").replace("-", "_") in done.err.replace("-", "_")
