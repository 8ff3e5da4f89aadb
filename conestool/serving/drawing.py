"""One model that draws what many ask for, with the concepts of folders that others write to."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conestool._names import find_names, key_of
from conestool.concept import Cone
from conestool.errors import ConesError, PromptError
from conestool.models.model import Model
from conestool.rendering import png_bytes, render
from conestool.rendering.library import Offer, Shelf, read_offers, visible

_TAG = re.compile(r"<cone:([^<>:]+)(?::([^<>:]*))?>")
_MAX_LOADED = 256
"""Files whose index sets stay in memory."""


class Index:
    """What `folders` offer; headers are read once, and again when a file has changed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders, self.shelf, self.lock = list(folders), Shelf(()), threading.Lock()
        self.known: dict[Path, tuple[tuple[int, ...], list[Offer]]] = {}

    def update(self) -> Shelf:
        """The shelf as the folders are now; the same one, with what it has loaded, if nothing has changed."""
        with self.lock:
            paths = [visible(folder, "*.cone") for folder in self.folders]
            found = {path: self._look(path) for folder in paths for path in folder}
            if found != self.known or len(self.shelf.loaded) > _MAX_LOADED:
                shelves = [tuple(offer for path in folder for offer in found[path][1]) for folder in paths]
                self.known, self.shelf = found, Shelf(tuple(shelves))
            return self.shelf

    def _look(self, path: Path) -> tuple[tuple[int, ...], list[Offer]]:
        """A file's state and what it offers: nothing if it cannot be read, or has just gone."""
        try:
            stat = path.stat()
            state = stat.st_ino, stat.st_size, stat.st_mtime_ns
            return self.known[path] if self.known.get(path, ((),))[0] == state else (state, read_offers(path))
        except (ConesError, OSError):
            return (), []

    def choose(self, prompt: str) -> tuple[str, Cone | None, dict[str, float]]:
        """The prompt without tags, the concepts that it names, and their strengths.

        `<cone:dog:0.8>` gives the strength of a concept; it stands for its name where that is nowhere else.
        PromptError for a tag that names no concept, or a strength that is none.
        """
        shelf, given = self.update(), dict[str, float]()
        offers = {key_of(offer.name): offer for offer in shelf.offers}
        named = {span.key for span in find_names(_TAG.sub(" ", prompt), offers)}

        def replace(tag: re.Match[str]) -> str:
            offer = offers.get(key_of(tag[1]))
            if offer is None or not re.fullmatch(r"0?\.\d+|[01]|1\.0*|0\.", tag[2] or "1"):
                hint = "for example <cone:dog:0.8>, with a strength from 0 to 1"
                raise PromptError(f"{tag[0]}: {'not a strength' if offer else 'no concept of that name'}", hint)
            given[offer.name] = float(tag[2] or 1)
            return "" if key_of(offer.name) in named else offer.name

        text = " ".join(_TAG.sub(replace, prompt).split()) if "<cone:" in prompt else prompt
        cone = shelf.find(text).cone
        return text, cone, {name: given.get(name, 1.0) for name in (cone.names if cone else ())}


class _Stopped(Exception):  # noqa: N818
    """Nobody waits for the picture any more."""


@dataclass(eq=False)
class Drawing:
    """Pictures of one prompt, a seed each; `options` are those of `render`. `stop` ends it before the next step."""

    prompt: str
    seeds: Sequence[int]
    options: dict[str, Any]
    steps: int
    stop: threading.Event = field(default_factory=threading.Event)
    step: int = 0


class Painter:
    """Draws in the order of asking, in one thread, on `model`, whose weights are bit-identical after each picture."""

    def __init__(self, model: Model, index: Index) -> None:
        self.model, self.index, self.thread = model, index, ThreadPoolExecutor(1)
        self.waiting: list[Drawing] = []
        self.current: Drawing | None = None

    def submit(self, drawing: Drawing) -> Future[list[tuple[bytes, dict[str, Any]]]]:
        """PNG files as `cones render` writes them, with their records; fewer if it is stopped. ConesError."""
        self.waiting.append(drawing)
        return self.thread.submit(self._draw, drawing)

    def _draw(self, drawing: Drawing) -> list[tuple[bytes, dict[str, Any]]]:
        """All pictures of a request; in the drawing thread."""
        drawn: list[tuple[bytes, dict[str, Any]]] = []
        try:
            self.current = drawing
            for seed in drawing.seeds:
                prompt, cone, strength = self.index.choose(drawing.prompt)
                given: dict[str, Any] = {"strength": strength, "seeds": [seed], "progress": lambda done, total: None}
                with self._watched(drawing):
                    (one,) = render(self.model, prompt, cone, **given, **drawing.options)
                drawn.append((png_bytes(one.image, one.record), one.record))
        except _Stopped:
            pass
        finally:
            self.current = None
            self.waiting.remove(drawing)
        return drawn

    @contextmanager
    def _watched(self, drawing: Drawing) -> Iterator[None]:
        """Within it each call of the denoiser counts as a step, and is the last one once the drawing is stopped."""

        def step(*_: Any) -> None:
            if drawing.stop.is_set():
                raise _Stopped
            drawing.step += 1

        hook = self.model.denoiser.register_forward_pre_hook(step)
        try:
            yield
        finally:
            hook.remove()

    def close(self) -> None:
        """Stop everything."""
        for drawing in list(self.waiting):
            drawing.stop.set()
        self.thread.shutdown()
