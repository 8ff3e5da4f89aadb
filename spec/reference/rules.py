"""What says that a file breaks a rule of spec/cone-1.md."""

from __future__ import annotations


class RuleError(Exception):
    """A file breaks a rule."""

    def __init__(self, rule: int, what: str, stored: bytes = b"", found: bytes = b"") -> None:
        """`stored` is a sha256 or content id in the header, `found` what should be there."""
        super().__init__(f"R{rule}: {what}")
        self.rule, self.stored, self.found = rule, stored, found


def need(rule: int, holds: bool, what: str) -> None:
    """Raise a fault unless the rule holds."""
    if not holds:
        raise RuleError(rule, what)
