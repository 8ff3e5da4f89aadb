"""Write docs/cli.md from the help of every command: python scripts/cli_reference.py [--check]."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cli.md"
HEAD = """\
# The command line

Written by `python scripts/cli_reference.py` from `cones --help`; do not edit.

stdout carries paths, JSON (`--json`) or bytes (`-o -`); everything for people is on stderr. `-` reads stdin.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | `diff` found differences, a `--min-...` gate of `eval` failed, or a job of `batch` did |
| 2 | usage: an argument or an output that cannot be used |
| 3 | photos or prompts that cannot be used |
| 4 | not a `.cone` file, damaged, or of a later version |
| 5 | the concept was found on another base model |
| 6 | device missing, out of memory, or its arithmetic gave NaN or infinity |
| 7 | a base model that cannot be fetched or read, or a Hub that cannot be reached or refuses |
| 70 | a bug in cones; `--traceback` shows the rest |
| 130 | stopped with Ctrl-C |

| variable | meaning |
|---|---|
| `CONES_MODEL` | base model where `--model` is not given |
| `CONES_PATH` | more folders in which `render`, `list` and `serve` look for `.cone` files |
| `CONES_CACHE` | where class images and model hashes are kept |
| `CONES_TOKEN` | the token of `serve` where `--token` is not given |
| `HF_TOKEN` | login to the Hub, in place of what `hf auth login` stored |
| `HF_HUB_OFFLINE` | the Hub is never asked |
| `OMP_WAIT_POLICY` | how threads of the CPU wait; `PASSIVE` unless it is set ([performance](performance.md)) |
| `NO_COLOR` | no colour and no moving bars |
"""


def help_of(*arguments: str) -> str:
    """The help text of one command, as 80 columns show it."""
    from typer.testing import CliRunner

    from conestool.cli.main import app

    shown = CliRunner().invoke(app, [*arguments, "--help"], prog_name="cones", terminal_width=80, max_content_width=80)
    return str(shown.stdout).rstrip()


def page() -> str:
    """The whole reference as Markdown."""
    from conestool.cli._app import NAMES

    parts = [HEAD, f"## cones\n\n```text\n{help_of()}\n```\n"]
    parts += [f"## cones {name}\n\n```text\n{help_of(name)}\n```\n" for name in NAMES]
    return "\n".join([*parts, methods()])


def methods() -> str:
    """The search methods with their parameters, as Markdown."""
    from conestool.search.methods import METHODS

    lines = ["## Search methods", "", "`--method NAME,PARAMETER=VALUE,...` of `cones find`:", ""]
    for name, config in sorted(METHODS.items()):
        lines += [
            f"**`{name}`** {' '.join((config.__doc__ or '').split())}",
            "",
            "| parameter | default | |",
            "|---|---|---|",
        ]
        lines += [f"| `{each.name}` | {each.default} | {each.metadata['help']} |" for each in fields(config)]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Write the page; with --check, say whether it is current."""
    text = page()
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
