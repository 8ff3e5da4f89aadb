"""Everything that touches torch, diffusers and transformers below the search: models, losses, photos, class images."""

from __future__ import annotations

from conestool.diffusion.quiet import hush_import

__all__: list[str] = []

hush_import()
