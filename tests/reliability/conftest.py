"""The fixtures of the command line's tests serve here too."""

from tests.cli.conftest import cones, work

__all__ = ["cones", "work"]
