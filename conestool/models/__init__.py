"""Base models: loading them, what differs between their families, prompts, losses and sampling."""

from __future__ import annotations

from conestool.models._logging import silence_import

__all__: list[str] = []

silence_import()
