"""Which `.cone` files a prompt asks for: those that offer the concepts named by its words, and least besides."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conestool._atomic import expand_user
from conestool._names import find_names, key_of
from conestool._text import quoted
from conestool.concept import Cone
from conestool.errors import FormatError, NameClashError, UsageError
from conestool.format import Header, load, read_header
from conestool.ops import merge


@dataclass(frozen=True)
class Offer:
    """One concept in one file, as the file's header tells it; `id` is its exact id, which covers its floats."""

    file: Path
    name: str
    id: str
    identifier: str
    class_noun: str

    @property
    def same(self) -> tuple[str, str, str]:
        """What two copies of one concept share."""
        return self.id, self.identifier.casefold(), self.class_noun.casefold()


@dataclass(frozen=True)
class Selection:
    """What was found for a prompt: the concepts its words name (None if none), and the files they came from."""

    cone: Cone | None
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Shelf:
    """All concepts on offer, folder by folder, and notes on files that could not be read."""

    folders: tuple[tuple[Offer, ...], ...]
    notes: tuple[str, ...] = ()
    loaded: dict[Path, Cone] = field(default_factory=dict, compare=False, repr=False)

    def find(self, prompt: str) -> Selection:
        """The concepts whose names stand in `prompt`, from the files that offer them and least besides.

        A name in an earlier folder hides that name in later ones. NameClashError, listing the files, if two files of
        one folder offer different concepts of one name, and equally much besides.
        """
        prompt = unicodedata.normalize("NFC", prompt)
        offers = self.by_name()
        wanted = [offers[key] for key in dict.fromkeys(span.key for span in find_names(prompt, offers))]
        besides = self.besides(wanted)
        for number, found in enumerate(wanted):
            least = min(besides[offer.file] for offer in found)
            wanted[number] = [offer for offer in found if besides[offer.file] == least]
            refuse_different(wanted[number])
        return self.take(wanted)

    def find_ids(self, ids: Iterable[str]) -> Selection:
        """The concepts with these exact ids; UsageError if one is in no file."""
        everything = [offer for folder in self.folders for offer in folder]
        places = {wanted: [offer for offer in everything if offer.id == wanted] for wanted in ids}
        missing = [wanted[:16] for wanted, offers in places.items() if not offers]
        if missing:
            raise UsageError(f"no .cone file here holds the concept {', '.join(missing)}", "give the file with -c")
        return self.take(list(places.values()))

    @property
    def offers(self) -> list[Offer]:
        """What is on offer, each name once, as `find` looks it up; in order of the names."""
        return [offers[0] for _, offers in sorted(self.by_name().items())]

    def besides(self, wanted: Sequence[Sequence[Offer]]) -> Counter[Path]:
        """How many concepts each file holds that are not wanted."""
        held = Counter(offer.file for folder in self.folders for offer in folder)
        return held - Counter(offer.file for offers in wanted for offer in offers)

    def by_name(self) -> dict[str, list[Offer]]:
        """Offers by the key of their name, from the first folder that has it."""
        found: dict[str, list[Offer]] = {}
        for folder in self.folders:
            here: dict[str, list[Offer]] = {}
            for offer in folder:
                here.setdefault(key_of(offer.name), []).append(offer)
            found = here | found
        return found

    def take(self, wanted: Sequence[Sequence[Offer]]) -> Selection:
        """Load each wanted concept, of which equal offers are given, and put them all into one Cone.

        Of the files that offer a concept the one with the fewest others, then the one with most of the wanted, then
        the first by name.
        """
        if not wanted:
            return Selection(None)
        besides = self.besides(wanted)
        used = Counter(offer.file for offers in wanted for offer in offers)
        names: dict[Path, list[str]] = {}
        for offers in wanted:
            file = min((offer.file for offer in offers), key=lambda file: (besides[file], -used[file], file))
            names.setdefault(file, []).extend(offer.name for offer in offers if offer.file == file)
        for file in names.keys() - self.loaded.keys():
            self.loaded[file] = load(file)
        parts = [Cone(tuple(self.loaded[file][name] for name in chosen)) for file, chosen in names.items()]
        return Selection(merge(*parts), tuple(names))


def find_ids(ids: Iterable[str], folders: Sequence[str | Path] | None = None) -> Selection:
    """The concepts with these content ids, such as a picture's record names."""
    return scan(folders).find_ids(ids)


def search_folders() -> list[Path]:
    """The current folder, then those in $CONES_PATH, each once."""
    listed = [part for part in os.environ.get("CONES_PATH", "").split(os.pathsep) if part]
    unique: dict[Path, Path] = {}
    for folder in [Path(), *(expand_user(part) for part in listed)]:
        unique.setdefault(folder.resolve(), folder)
    return list(unique.values())


def scan(folders: Sequence[str | Path] | None = None) -> Shelf:
    """Read the headers of all `.cone` files in `folders`; what cannot be read becomes a note."""
    shelves, notes = [], list[str]()
    for folder in search_folders() if folders is None else folders:
        found, bad = headers([folder])
        notes += bad
        shelves.append(tuple(offer for file, head in found for offer in _offers(file, head)))
    return Shelf(tuple(shelves), tuple(notes))


def headers(folders: Sequence[str | Path]) -> tuple[list[tuple[Path, Header]], list[str]]:
    """The headers of all `.cone` files in `folders`, and a note on each file that cannot be read."""
    found, notes = [], []
    for file in (file for folder in folders for file in visible(Path(folder), "*.cone")):
        try:
            found.append((file, read_header(file)))
        except (FormatError, UsageError, OSError) as error:
            notes.append(f"passed over {error}")
    return found, notes


def read_offers(file: Path) -> list[Offer]:
    """What a file offers, by its header. FormatError, UsageError, OSError."""
    return _offers(file, read_header(file))


def _offers(file: Path, header: Header) -> list[Offer]:
    """What the file with that header offers."""
    return [Offer(file, each.name, each.id, each.identifier, each.class_noun) for each in header.concepts]


def visible(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder that match, in name order; no hidden ones, as in a shell."""
    return sorted(file for file in folder.glob(pattern) if not file.name.startswith(".")) if folder.is_dir() else []


def refuse_different(offers: Sequence[Offer]) -> None:
    """Raise NameClashError unless all offers of a name are copies of one concept."""
    first = offers[0]
    other = next((offer for offer in offers if offer.same != first.same), None)
    if other is not None:
        raise NameClashError(
            f"{first.file} and {other.file} offer different concepts named {first.name}",
            f"say which to use: -c {quoted(first.file)}",
        )
