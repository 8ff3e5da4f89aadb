"""Commands in processes that may allocate little more than they hold: `python -m tests.hostile.starving FOLDER`.

Each command of the standard input, a JSON list of lists of words, runs in a fork of a process that has loaded
everything already; the output is a JSON list of exit codes and of what was said.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from conestool.cli.main import run
from conestool.models.model import Model
from tests.hostile.memory import limit_memory

SPARE = 48 << 20
"""Bytes that may be allocated."""


def starve(words: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a command in a fork with SPARE bytes to allocate."""
    log = Path("said.txt")
    child = os.fork()
    if not child:
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 2)
        limit_memory(SPARE)
        os._exit(run(words))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(encoding="utf-8")


def main() -> None:
    """Load once what all commands need, then starve each."""
    os.chdir(sys.argv[1])
    from conestool.evaluation import evaluate
    from conestool.rendering import render
    from conestool.search.find import find
    from conestool.search.tune import tune

    assert all((evaluate, render, find, tune))
    model = Model.from_pretrained("pocket")
    model.pipe("a dog", num_inference_steps=1, height=16, width=16)
    print(json.dumps([starve(words) for words in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
