"""The command line `cones`: one file per command, `_commands` lists them, `_io` and `_show` own the streams."""

from __future__ import annotations
