"""What a .cone file may hold; see "Limits" in spec/cone-1.md."""

from __future__ import annotations

HEADER = 1 << 20
"""Bytes of the header."""

FILE = 1 << 28
"""Bytes of a file, 256 MiB."""

CONCEPTS = 256
"""Concepts in a file."""

BASES = 256
"""Base model descriptions in a file."""

TENSORS = 4096
"""K/V tensors of a base model."""

DIMENSIONS = 8
"""Dimensions of a tensor."""

SECTIONS = 16
"""Sections of a concept."""

NEURONS = 1 << 26
"""Concept neurons in a file, over all its concepts (10 % of SDXL's K/V weights are 5.5e7); 256 MiB in memory."""

ROWS = 1 << 14
"""Rows of all tensor tables of a file: each takes a reader some time, however few its neurons are."""

WINDOW = 1 << 27
"""Bytes of the window that a zstd frame may ask for, 128 MiB: what zstd's own decoders allow by default."""

DEPTH = 16
"""Nesting of arrays and maps in the header."""
