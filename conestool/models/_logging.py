"""Keeps third-party chatter away from people: one filter at import, one context manager around loading."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class _TorchvisionFilter(logging.Filter):
    """Drops transformers' notes that an image processor falls back to PIL because torchvision is absent."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "requires torchvision" not in record.getMessage()


def silence_import() -> None:
    """Silence the torchvision notes that importing diffusers causes; everything else transformers says stays."""
    logger = logging.getLogger("transformers.utils.import_utils")
    if not any(isinstance(known, _TorchvisionFilter) for known in logger.filters):
        logger.addFilter(_TorchvisionFilter())


@contextmanager
def quiet() -> Iterator[None]:
    """Within it diffusers and transformers log errors only, draw no progress bars and announce no future changes.

    Their settings return afterwards. The announcements concern this package, not the person who runs it.
    """
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    logs = (diffusers_log, transformers_log)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for log, (verbosity, bars) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()
