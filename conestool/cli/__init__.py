"""The command line `cones`: one file per command, `_app` lists them, `_streams` and `_output` own the streams."""

from __future__ import annotations
