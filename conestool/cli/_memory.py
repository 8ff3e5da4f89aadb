"""What to do when memory runs out: for each command, its own options that help."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["HELPS", "advice"]

SEARCH = ("--micro-batch 1", "--gradient-checkpointing", "--offload-scores")
PLACE = ("--dtype bfloat16", "--device cpu")
HELPS = {
    "find": (*SEARCH, *PLACE),
    "tune": (*SEARCH, *PLACE),
    "render": ("a smaller --size", *PLACE),
    "eval": ("--micro-batch 1", *PLACE),
    "apply": PLACE,
}
"""By command, most useful first; a command that is not here has no option that lowers its memory."""
ELSEWHERE = ("--device cpu", "--offload-scores")
"""Options that move something off a device, and are of no use where the machine's own memory ran out."""
OTHERS = "closing other programs"


def advice(command: str | None, arguments: Sequence[str], on_cpu: bool) -> str:
    """The hint for a command line that ran out of memory: the options of its `command` that it does not use yet."""
    left = [text for text in HELPS.get(command or "", ()) if not used(text, arguments)]
    many = ["--batch 1"] if command == "render" and used("--batch", arguments) else []
    left = [*many, *(text for text in left if not (on_cpu and text in ELSEWHERE))]
    return f"what helps: {', '.join([*left, OTHERS])}"


def used(text: str, arguments: Sequence[str]) -> bool:
    """Whether the command line has this very option with this very value."""
    return f" {text} " in f" {' '.join(arguments)} ".replace("=", " ")
