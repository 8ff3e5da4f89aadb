"""The subjects of DreamBooth's data set and of CustomConcept101, read from their folders as they are published.

DreamBooth (github.com/google/dreambooth): `dataset/prompts_and_classes.txt` and `dataset/SUBJECT/*.jpg`.
CustomConcept101 (github.com/adobe-research/custom-diffusion, `customconcept101`): `dataset.json`, `prompts/*.txt`, and
the photos of an archive of their own, `benchmark_dataset/SUBJECT/*`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conestool.errors import UsageError
from conestool.evaluation import check_templates

__all__ = ["CUSTOM", "DREAMBOOTH", "DataSet", "Subject", "read_data"]

DREAMBOOTH, CUSTOM = "DreamBooth", "CustomConcept101"
LIVE = ("cat", "dog")
"""The classes that DreamBooth counts as live subjects: nine of its thirty subjects, which have prompts of their own."""
_CLASSES = "prompts_and_classes.txt"
_ENTRIES = "dataset.json"
_KEYS = ("class_prompt", "instance_data_dir", "prompt_filename")
_PROMPT = re.compile(r"^'(.+)'\.format\(", re.MULTILINE)


@dataclass(frozen=True)
class Subject:
    """A subject: its name, class noun, the folder of its photos, and its prompts with {} where it stands."""

    name: str
    noun: str
    folder: Path
    templates: tuple[str, ...]


@dataclass(frozen=True)
class DataSet:
    """A data set by its name, and its subjects in the order of its file."""

    name: str
    subjects: tuple[Subject, ...]

    def choose(self, names: Sequence[str] | None) -> list[Subject]:
        """The subjects of these names, or all; UsageError for an unknown name and for one without its photos."""
        known = {subject.name: subject for subject in self.subjects}
        unknown = [name for name in names or () if name not in known]
        if unknown:
            raise UsageError(f"{self.name} has no subject {', '.join(unknown)}", f"there are: {', '.join(known)}")
        chosen = [known[name] for name in names] if names else list(self.subjects)
        missing = [subject for subject in chosen if not subject.folder.is_dir()]
        if missing:
            here = [subject.name for subject in chosen if subject not in missing]
            also = " (its photos are an archive of their own)" if self.name == CUSTOM else ""
            hint = f"name those that are there: --subjects {' '.join(here)}" if here else f"unpack the photos{also}"
            raise UsageError(f"{missing[0].folder}: no such folder, for {len(missing)} of {len(chosen)} subjects", hint)
        return chosen


def read_data(folder: Path) -> DataSet:
    """The data set in `folder`, whichever of the two it is; UsageError if it is neither, or lacks a file."""
    for place in (folder, folder / "dataset", folder / "customconcept101"):
        if (place / _CLASSES).is_file():
            return _read_dreambooth(place)
        if (place / _ENTRIES).is_file():
            return _read_custom(place)
    raise UsageError(
        f"{folder}: neither {_CLASSES} (DreamBooth) nor {_ENTRIES} (CustomConcept101) is in it",
        "give the folder `dataset` of github.com/google/dreambooth, or `customconcept101` of "
        "github.com/adobe-research/custom-diffusion",
    )


def _read_dreambooth(folder: Path) -> DataSet:
    """DreamBooth's: one file with the classes, the prompts of objects and those of live subjects."""
    text = (folder / _CLASSES).read_text(encoding="utf-8")
    parts = re.split(r"^(Classes|Object Prompts|Live Subject Prompts)\s*$", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    rows = re.findall(r"^([\w-]+),(.+?)\s*$", sections.get("Classes", ""), re.MULTILINE)
    nouns = {name: noun for name, noun in rows if name != "subject_name"}
    objects, live = (_templates(folder, sections, name) for name in ("Object Prompts", "Live Subject Prompts"))
    if not nouns:
        raise UsageError(f"{folder / _CLASSES}: lists no classes", "download the file again")
    return DataSet(
        DREAMBOOTH,
        tuple(Subject(name, noun, folder / name, live if noun in LIVE else objects) for name, noun in nouns.items()),
    )


def _templates(folder: Path, sections: dict[str, str], name: str) -> tuple[str, ...]:
    """The prompts of one section of DreamBooth's file, which are lines of Python: 'a {0} {1} in the snow'.format(..."""
    found = _PROMPT.findall(sections.get(name, ""))
    if not found:
        raise UsageError(f"{folder / _CLASSES}: has no {name}", "download the file again")
    return check_templates(text.replace("{0} {1}", "{}") for text in found)


def _read_custom(folder: Path) -> DataSet:
    """CustomConcept101's: a list of entries, each with its photos, class and file of prompts."""
    path = folder / _ENTRIES
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}", "download the file again") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or not entries:
        raise UsageError(f"{path}: not a list of subjects", "download the file again")
    return DataSet(CUSTOM, tuple(_entry(folder, number, entry) for number, entry in enumerate(entries)))


def _entry(folder: Path, number: int, entry: dict[str, Any]) -> Subject:
    """One subject of CustomConcept101."""
    lacking = [key for key in _KEYS if not isinstance(entry.get(key), str)]
    if lacking:
        raise UsageError(f"{folder / _ENTRIES}: entry {number} has no {lacking[0]}", "download the file again")
    photos, prompts = folder / entry["instance_data_dir"], folder / entry["prompt_filename"]
    if not prompts.is_file():
        raise UsageError(f"{prompts}: no such file, and {photos.name} has its prompts there", "download it as well")
    lines = (line.strip() for line in prompts.read_text(encoding="utf-8").splitlines())
    return Subject(photos.name, entry["class_prompt"], photos, check_templates(line for line in lines if line))
