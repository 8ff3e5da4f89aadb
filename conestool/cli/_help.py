"""How help looks: plain text that fits 80 columns, options in sections by `rich_help_panel`."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

__all__ = ["Command"]

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
