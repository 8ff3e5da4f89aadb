"""The commands by name, each imported when it is asked for, and how their help looks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from conestool.cli import _options

NAMES = (
    *("find", "batch", "inspect", "list", "report", "merge", "tune", "extract", "diff", "apply", "render", "eval"),
    *("serve", "ui", "pull", "push", "doctor"),
)
"""All commands in the order of the help; each is the function of that name in the module of that name."""
FUNCTIONS = {"eval": "evaluate", "list": "list_cones"}
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

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each name with the first line about it, without a command being built for that."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, function_of(name).__doc__.partition("\n")[0]) for name in NAMES])


def function_of(name: str) -> Any:
    """Import the function of one command."""
    return getattr(import_module(f"conestool.cli.{name}"), FUNCTIONS.get(name, name))


def build(name: str) -> Any:
    """Make of one command what typer runs."""
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    function = _options.command(function_of(name))
    alone.command(name, cls=Command, no_args_is_help=name not in ("doctor", "list", "ui"))(function)
    return get_command(alone)


GENERAL = "General"
TYPE_NOTE = re.compile(r" <.*>$")


class Command(TyperCommand):
    """A command whose help names arguments as they are typed and sorts options into sections."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS] A B...`, brackets around what may be left out."""
        pieces = ["[OPTIONS]"]
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                name = str(param.metavar or param.name)
                pieces.append(name if param.required else f"[{name}]")
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections: arguments, options, then every panel in the order of its first option."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            if param.param_type_name == "argument":
                text = str(record[1]).replace("  [required]", "")
                sections["Arguments"].append((TYPE_NOTE.sub("", str(record[0])), text))
            else:
                panel = GENERAL if param.name == "help" else getattr(param, "rich_help_panel", None)
                sections.setdefault(panel or "Options", []).append((str(record[0]), str(record[1])))
        for title in sorted(sections, key=lambda name: name == GENERAL):
            if sections[title]:
                with formatter.section(title):
                    formatter.write_dl(sections[title])
