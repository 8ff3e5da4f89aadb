"""The command line `cones`: one file per command, `main` registers them, `_io` and `_show` own the streams."""

from __future__ import annotations
