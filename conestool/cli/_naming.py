"""What a new concept is called when nobody said: the output's stem, else the folder's name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from conestool.errors import UsageError
from conestool.text import NAME_LENGTH

__all__ = ["guess_noun", "name_from_path", "name_source", "settle"]

NOTHING = (
    "photo photos picture pictures pic pics image images img imgs foto fotos bild bilder data dataset datasets input "
    "inputs train training instance instances sample samples subject subjects examples file files new folder untitled "
    "tmp temp dcim camera roll album downloads desktop documents concept concepts out output test copy final "
    "dsc pxl screenshot v ver version take set no nr"
)
OWNERS = "my our your his her their the a an this that"
VAGUE = frozenset(f"{NOTHING} {OWNERS}".split())
"""Words that say nothing about a subject; v3 is v and 3 by the time they are looked up."""
PARTS = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def name_source(photos: Sequence[Path], output: Path | None) -> Path | None:
    """The path whose name says what the subject is: the output, else the one folder that holds the photos.

    None if the names say nothing (`photos`, `out.cone`, `img_0412`) or the photos come from several folders.
    """
    folders = {(path if path.is_dir() else path.parent).resolve() for path in photos}
    candidates = [folders.pop()] if len(folders) == 1 else []
    if output is not None and not is_folder(output):
        candidates.insert(0, output.with_suffix("") if output.suffix == ".cone" else output)
    return next((path for path in candidates if guess_words(path.name)), None)


def is_folder(path: Path) -> bool:
    """Whether an output names a folder to write into."""
    return path.is_dir() or str(path) == "-"


def words(text: str) -> list[str]:
    """The words of a name, split at everything that is no letter or digit, and between letters and final digits."""
    return PARTS.findall(re.sub(r"(?<=[^\W\d_])(?=\d+\b)", " ", text.replace("_", " ")))


def guess_words(text: str) -> list[str]:
    """The words of a name that describe a subject: no owners, no numbers, nothing vague."""
    return [word for word in words(text) if word.lower() not in VAGUE and not word.isdigit()]


def name_from_path(path: Path) -> str:
    """A concept name from a path's last part: `my dog (2)` is my-dog-2."""
    parts = PARTS.findall(path.name.replace("_", " "))
    if not parts:
        raise UsageError(f"{path.name!r}: no letters to name a concept by", "use --name")
    return "-".join(parts)[:NAME_LENGTH].rstrip("-'’")


def guess_noun(text: str) -> str:
    """The class noun in a name: `dog`, `my-dog`, `dog2` and `Dog_v3` are all dog; `teddy-bear` is teddy bear."""
    return " ".join(word.lower() for word in guess_words(text))[:NAME_LENGTH].rstrip()


def settle(photos: Sequence[Path], output: Path | None, name: str | None, noun: str | None) -> tuple[str, str]:
    """Concept name and class noun: as given, and what is missing from the output's or the folder's name.

    Raises UsageError if that name says nothing: a concept called `photos` of the class "photos" helps nobody.
    """
    source = name_source(photos, output)
    if noun is None and source is None:
        raise UsageError(
            f"{photos[0]}: cannot tell from its name what the photos show",
            "name the output after it, for example -o dog.cone, or use --class-noun",
        )
    noun = noun or guess_noun(source.name if source else "")
    return name or name_from_path(source or Path(noun)), noun
