"""The commands by name; each is imported when it is asked for, so that one does not wait for the others to start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from conestool.cli import _options
from conestool.cli._help import Command

__all__ = ["NAMES", "Group"]

NAMES = ("find", "inspect", "merge", "tune", "extract", "diff", "apply", "render", "eval", "pull", "push", "doctor")
"""All commands in the order of the help; each is the function of that name in the module of that name."""
FUNCTIONS = {"eval": "evaluate"}
"""Except where a function of that name would hide Python's own."""


class Commands(Mapping[str, Any]):
    """What typer looks commands up in: one is built when it is taken out."""

    def __getitem__(self, name: str) -> Any:
        if name not in NAMES:
            raise KeyError(name)
        return build(name)

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


class Group(TyperGroup):
    """`cones` itself, with the commands of `NAMES`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, without a command being built for them."""
        return list(NAMES)


def build(name: str) -> Any:
    """Import one command and make what typer runs of it."""
    function = getattr(import_module(f"conestool.cli.{name}"), FUNCTIONS.get(name, name))
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=Command, no_args_is_help=name != "doctor")(_options.command(function))
    return get_command(alone)
