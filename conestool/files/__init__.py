"""Writing files and folders whole or not at all, and sweeping up after writers that were killed."""

from conestool.files.atomic import atomic_file, atomic_folder, check_output, expand_user, write_atomic
from conestool.files.workplace import sweep

__all__ = ["atomic_file", "atomic_folder", "check_output", "expand_user", "sweep", "write_atomic"]
