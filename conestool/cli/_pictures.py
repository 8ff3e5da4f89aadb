"""Where pictures go: file names from prompts, folders, sheets and stdout, all settled before anything is drawn."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conestool._text import cut_bytes
from conestool.cli import _streams
from conestool.errors import OutputExistsError, UsageError

if TYPE_CHECKING:
    from conestool.cli._selection import Chosen
    from conestool.rendering import Rendering

SLUG_LENGTH = 60
LONGEST_NAME = 200
"""Bytes of a file name, which leave room for numbers; file systems take 255."""


@dataclass(frozen=True)
class Targets:
    """One path per picture, in order, or one for the sheet; "-" is stdout."""

    paths: tuple[Path, ...]
    overwrite: bool
    numbered: bool = False
    """Whether the names are ours: a name that another command took meanwhile gives way to the next free one."""

    def check(self) -> None:
        """Refuse paths that cannot be written; makes the folder that was named."""
        for folder in {path.parent for path in self.paths if str(path) != _streams.STDIO}:
            if not folder.exists() and folder.parent.is_dir():
                folder.mkdir(exist_ok=True)
        _streams.check_outputs(self.paths, "a PNG", overwrite=self.overwrite)

    def write(self, index: int, data: bytes) -> Path:
        """Write picture `index`; returns where it went."""
        path = self.paths[index]
        while True:
            try:
                return _streams.write_bytes(path, data, "a PNG", overwrite=self.overwrite)
            except OutputExistsError:
                if not self.numbered:
                    raise
                path = free(self.paths[index])


def settle(output: str | None, jobs: Sequence[tuple[str, Sequence[int]]], *, sheet: bool, overwrite: bool) -> Targets:
    """The targets of a run: one picture for each seed of each prompt, or a single sheet of them."""
    count = 1 if sheet else sum(len(seeds) for _, seeds in jobs)
    if output == _streams.STDIO or (output and Path(output).suffix and not is_folder(output)):
        if count > 1:
            raise UsageError(f"-o {output}: {count} pictures for one file", "name a folder, or use --grid")
        if output != _streams.STDIO and Path(output).suffix.lower() != ".png":
            raise UsageError(f"-o {output}: pictures are written as PNG", "let the name end in .png")
        return Targets((Path(output),), overwrite)
    folder = Path(output) if output else Path()
    names = [slug(jobs[0][0])] if count == 1 else many(jobs)
    paths = [folder / f"{name}.png" for name in names]
    numbered = output is None and not overwrite
    if numbered:
        paths = [free(path) for path in paths]
    return Targets(tuple(paths), overwrite, numbered)


def is_folder(output: str) -> bool:
    """Whether `-o` names a folder: there already, or typed with a slash at its end."""
    return Path(output).is_dir() or output.endswith(("/", os.sep))


def many(jobs: Sequence[tuple[str, Sequence[int]]]) -> list[str]:
    """Names of several pictures: numbered by prompt, and by seed where a prompt has several."""
    digits = len(str(len(jobs)))
    out = []
    for number, (prompt, seeds) in enumerate(jobs, 1):
        first = f"{number:0{digits}}-" if len(jobs) > 1 else ""
        out += [f"{first}{slug(prompt)}" + (f"-{seed}" if len(seeds) > 1 else "") for seed in seeds]
    return out


def slug(prompt: str) -> str:
    """A file name from a prompt: "a dog in a hat" is a-dog-in-a-hat."""
    text = unicodedata.normalize("NFKC", prompt).casefold()
    words = re.findall(r"[^\W_]+", text)
    out = "-".join(words)
    if len(out) > SLUG_LENGTH:
        out = out[: SLUG_LENGTH + 1].rsplit("-", 1)[0][:SLUG_LENGTH]
    return cut_bytes(out, LONGEST_NAME) or "picture"


def free(path: Path) -> Path:
    """`path`, or the first of path-2, path-3 and so on that is not there yet."""
    number, out = 1, path
    while os.path.lexists(out):
        number += 1
        out = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return out


def make_sheet(drawn: Sequence[Rendering], bare: Sequence[Rendering], chosen: Sequence[Chosen]) -> bytes:
    """One PNG of all pictures: a row per prompt and a column per seed, or, with `bare`, base model beside concepts."""
    from conestool.rendering import sheet_bytes

    wide = len(chosen[0].seeds)
    if bare:
        labels = [f"{each.prompt} (seed {seed})" if wide > 1 else each.prompt for each in chosen for seed in each.seeds]
        names = " + ".join(dict.fromkeys(each.applied for each in chosen if each.applied))
        pairs = list(zip(bare, drawn, strict=True))
        return sheet_bytes(pairs, labels, ["base model", names or "base model"])
    rows = [drawn[start : start + wide] for start in range(0, len(drawn), wide)]
    if wide == 1:
        return sheet_bytes(rows, [each.prompt for each in chosen])
    if all(each.seeds == chosen[0].seeds for each in chosen):
        return sheet_bytes(rows, [each.prompt for each in chosen], [f"seed {seed}" for seed in chosen[0].seeds])
    return sheet_bytes(rows, [f"{each.prompt} (seeds {each.seeds[0]} to {each.seeds[-1]})" for each in chosen])


def png_of(rendering: Rendering) -> bytes:
    """One picture as PNG with its record."""
    from conestool.rendering import png_bytes

    return png_bytes(rendering.image, rendering.record)
