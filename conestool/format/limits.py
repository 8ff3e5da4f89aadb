"""What a .cone file may hold; see "Limits" in spec/cone-1.md."""

from __future__ import annotations

MAX_HEADER_BYTES = 1 << 20
"""Bytes of the header."""

MAX_FILE_BYTES = 1 << 28
"""Bytes of a file, 256 MiB."""

MAX_CONCEPTS = 256
"""Concepts in a file."""

MAX_BASES = 256
"""Base model descriptions in a file."""

MAX_TENSORS = 4096
"""K/V tensors of a base model."""

MAX_DIMENSIONS = 8
"""Dimensions of a tensor."""

MAX_SECTIONS = 16
"""Sections of a concept."""

MAX_NEURONS = 1 << 26
"""Concept neurons in a file, over all its concepts (10 % of SDXL's K/V weights are 5.5e7); 256 MiB in memory."""

MAX_TABLE_ROWS = 1 << 14
"""Rows of all tensor tables of a file: each takes a reader some time, however few its neurons are."""

MAX_WINDOW_BYTES = 1 << 27
"""Bytes of the window that a zstd frame may ask for, 128 MiB: what zstd's own decoders allow by default."""

MAX_DEPTH = 16
"""Nesting of arrays and maps in the header."""
