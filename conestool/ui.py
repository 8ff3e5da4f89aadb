"""The page of `cones ui`: from photos to a concept, and from concepts to pictures, in a browser on this machine.

Gradio draws it. It listens on 127.0.0.1, sends nothing anywhere, and keeps uploads in a folder that goes with it.
"""

from __future__ import annotations

import functools
import html
import os
import queue
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from conestool import Cone, Model, SearchConfig, find, load, merge, preview, render, save
from conestool._names import guess_noun, plain
from conestool._text import check_name, clean, markdown, one_line
from conestool.errors import ConesError, OutputExistsError, UsageError
from conestool.fingerprint import match
from conestool.images.photos import MAX_FILE_BYTES, Photo, read_photos
from conestool.rendering import png_bytes
from conestool.rendering.library import Offer, scan
from conestool.rendering.samples import strip
from conestool.search.events import Event, LogEvent, Progress, Samples
from conestool.search.subject import article, noun_warnings

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

HOST = "127.0.0.1"
_MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
"""Of all that uses the base model one thing runs at a time."""
_BUTTONS = ["download", "fullscreen"]
_SHOWN: dict[str, Any] = {"object_fit": "contain", "format": "png", "interactive": False, "buttons": _BUTTONS}
"""How pictures are shown: whole, and as they are."""
_CSS = """
.gradio-container > main {max-width: 1180px !important; margin: 0 auto !important}
progress {width: 100%; height: 0.8rem}
"""


class _StopSearchError(Exception):
    """A search has ended: stopped by its button, or with a file."""


@dataclass
class _Studio:
    """What the page works on; `temp` holds what browsers may fetch, `thumbs` a picture of each concept by its id."""

    model: Model
    folder: Path
    temp: Path
    thumbs: dict[str, Image.Image] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> None:
        """Take the base model, until `lock` is released. UsageError while a search of a page that was closed has it."""
        if not self.lock.acquire(blocking=False):
            raise UsageError("the base model is still searching for a page that was closed", "wait, or press Stop")
        self.stop.clear()

    @property
    def nouns(self) -> list[str]:
        """What the base model says that it can draw; most say nothing."""
        return [str(each) for key in ("objects", "wearables") for each in self.model.settings.get(key, ())]

    @property
    def offers(self) -> dict[str, Offer]:
        """The concepts of the folder, copies once, by a label that tells two of one name apart."""
        found = list({offer.same: offer for shelf in scan([self.folder]).folders for offer in reversed(shelf)}.values())
        found.sort(key=lambda offer: offer.name)
        names = [offer.name for offer in found]
        return {each.name if names.count(each.name) == 1 else f"{each.name} ({each.file.name})": each for each in found}

    def chosen(self, labels: Sequence[str]) -> Cone:
        """The ticked concepts in one cone. UsageError for none, or for one whose file has gone."""
        offers = self.offers
        if not labels:
            raise UsageError("no concept is ticked", "tick one or more")
        if gone := [label for label in labels if label not in offers]:
            raise UsageError(f"{gone[0]}: its file is no longer in {self.folder}", "reload the page")
        return merge(*(Cone((load(offers[label].file)[offers[label].name],)) for label in labels))

    def target(self, name: str, overwrite: bool) -> Path:
        """Where a file called `name` goes. UsageError for a name that is none, or a file that is there."""
        check_name(name)
        path = self.folder / f"{name}.cone"
        if path.exists() and not overwrite:
            raise OutputExistsError(f"{path} is there already", "take another name, or tick Overwrite")
        return path

    def lend(self, path: Path) -> str:
        """A copy of a file where browsers may fetch it."""
        return str(shutil.copy(path, self.temp / path.name))

    def photos(self, files: Sequence[str] | None) -> tuple[list[Photo], list[str]]:
        """The uploads as `cones find` reads them, captions in text files included, and notes on the rest."""
        with TemporaryDirectory(dir=self.temp) as place:
            for file in files or ():
                shutil.copy(file, place)
            return read_photos([place], captions=True) if files else read_photos([])


def _shown(function: Callable[..., Any], studio: _Studio, *, model: bool = False) -> Callable[..., Any]:
    """`function(studio, ...)` with what conestool refuses as a message on the page; `model` says that it takes that."""

    def run(*given: Any) -> Any:
        try:
            if not model:
                return function(studio, *given)
            studio.take()
            try:
                return function(studio, *given)
            finally:
                studio.lock.release()
        except ConesError as error:
            raise _told(error) from error

    return run


def _told(error: BaseException) -> gr.Error:
    """An error as the page shows it: text, whatever is in it."""
    hint = getattr(error, "hint", None) or "--"
    told = clean(error) or type(error).__name__
    text = told if "--" in hint else f"{told}: {hint}"  # an option of the command line helps nobody here
    return gr.Error(html.escape(text), duration=20, print_exception=not isinstance(error, ConesError))


def _build(studio: _Studio) -> gr.Blocks:
    """The page for the concepts of the studio's folder; what browsers may fetch is copied into its `temp`."""
    with gr.Blocks(title="conestool", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(
            f"# conestool\nA few photos of one subject become a concept; its name in a prompt draws it. "
            f"Base model: **{markdown(studio.model.id)}**. Concepts: **{markdown(studio.folder.resolve())}**."
        )
        with gr.Tab("Find a concept", id="find"):
            _find_tab(studio)
        with gr.Tab("Concepts and pictures", id="concepts") as tab:
            listed = _concepts_tab(studio)
        for event in (tab.select, page.load):
            event(functools.partial(_listed, studio), [listed[1]], listed, show_progress="hidden")
    return page


def _find_tab(studio: _Studio) -> None:
    """Photos in, what will be learned, the search with its strip, and the file."""
    photos = gr.State([])
    with gr.Row():
        with gr.Column(min_width=300):
            files = gr.File(label="Photos, 3 to 5 of one subject", file_count="multiple", height=180)
            name = gr.Textbox(label="Name", info="What prompts will call it", placeholder="rex", max_length=64)
            known = {"info": "A word that the base model knows; empty: as names say", "allow_custom_value": True}
            noun = gr.Dropdown(studio.nouns, value=None, label="What it is", **known)
            look = gr.Button("1. Look at the photos", variant="primary")
        with gr.Column(scale=2, min_width=300):
            seen = gr.Gallery(label="What will be learned: photos, subject, crops", columns=5, height=360, **_SHOWN)
            advice = gr.Markdown("Drop photos, say what they show, and look.")
            table: dict[str, Any] = {"type": "array", "column_count": 2, "static_columns": [0], "wrap": True}
            captions = gr.Dataframe(
                headers=["photo", "what else it shows"], interactive=True, visible=False, label="Captions", **table
            )
    with gr.Accordion("Search settings", open=False), gr.Row():
        steps = gr.Slider(1, 300, 60, step=1, label="Steps")
        every = gr.Slider(1, 50, 10, step=1, label="Draw every so many steps")
        priors = gr.Slider(4, 128, SearchConfig().num_class_images, step=1, label="Class images")
    with gr.Row(equal_height=True):
        start = gr.Button("2. Find the concept", variant="primary", interactive=False)
        stop = gr.Button("Stop", variant="stop")
        overwrite = gr.Checkbox(label="Overwrite a file of this name", container=False)
    status = gr.HTML()
    drawn = gr.Image(label="While it searches", format="png", interactive=False, visible=False, buttons=_BUTTONS)
    about = gr.HTML()
    file = gr.DownloadButton("Download", visible=False)

    found = [noun, photos, seen, advice, captions, start]
    given, busy = [files, name, noun, priors], {"show_progress_on": [seen]}  # the noun can be said after an error
    look.click(_shown(_look, studio, model=True), given, found, **busy, **_MODEL)
    files.change(lambda: ([], gr.update(interactive=False)), None, [photos, start], show_progress="hidden")
    start.click(
        functools.partial(_search, studio),
        [photos, captions, name, noun, overwrite, steps, every, priors],
        [status, drawn, about, file],
        show_progress="hidden",
        **_MODEL,
    )
    stop.click(studio.stop.set, None, None, queue=False, show_progress="hidden")


def _words(name: str, noun: str | None) -> tuple[str, str]:
    """Name and class noun, the noun in the place of a name that is missing. UsageError if that is missing too."""
    noun = (noun or "").strip()
    if not noun:
        raise UsageError("what the photos show is missing", 'say it in a word or two, such as "dog"')
    check_name(name.strip() or noun)
    return name.strip() or noun, noun


def _guess(studio: _Studio, names: Sequence[str]) -> str:
    """The class noun in the first name that has one, as `cones find` reads it; "" if the model knows none of them."""
    nouns = [noun for name in names if (noun := guess_noun(name.rsplit(".", 1)[0]))]
    return next((noun for noun in nouns if not noun_warnings(studio.model.settings, noun)), "")


def _look(studio: _Studio, files: Sequence[str] | None, name: str, noun: str | None, priors: float) -> tuple[Any, ...]:
    """What a search would learn from."""
    photos, notes = studio.photos(files)
    name, noun = _words(name, noun or _guess(studio, [name, *(photo.name for photo in photos)]))
    told: list[str] = []
    config = SearchConfig(num_class_images=int(priors))

    def tell(event: Event) -> None:
        if isinstance(event, LogEvent):
            told.append(event.text)

    found = preview(studio.model, photos, noun, name=name, config=config, callback=tell)
    pictures: list[tuple[Image.Image, str]] = []
    for each in found.photos:
        use = "for the report" if each.held_out else "learned"
        pictures += [(each.image, f"{clean(each.photo.name)}: {use}"), (each.marked, "the subject")]
        pictures += [(crop, "crop") for crop in each.crops]
    learned, thing = markdown(found.photos[0].prompts[0]), markdown(article(noun))
    lines = [f"Learned as **{learned}**. Is it {thing}? Then find it; else say what it is, and look again."]
    lines += [f"- {markdown(text)}" for text in dict.fromkeys([*notes, *told, *found.advice])]
    lines += [f"- {markdown(each.photo.name)}: {markdown(text)}" for each in found.photos for text in each.advice]
    table = [[clean(each.photo.name), each.photo.caption] for each in found.photos]
    kept = [each.photo for each in found.photos]
    shown = kept, pictures, "\n".join(lines), gr.update(value=table, visible=True)
    return gr.update(value=noun), *shown, gr.update(interactive=True)


def _search(
    studio: _Studio,
    photos: Sequence[Photo],
    captions: Any,
    name: str,
    noun: str | None,
    overwrite: bool,
    *numbers: float,
) -> Iterator[tuple[Any, ...]]:
    """A search; yields what the page shows after each of its events.

    `numbers` are its steps, the steps from picture to picture, and the class images.
    """
    steps, every, priors = map(int, numbers)
    try:
        name, noun = _words(name, noun)
        path = studio.target(name, overwrite)
        texts = [one_line("caption", str(row[1] or "").strip()) for row in captions]
        photos = [replace(photo, caption=text) for photo, text in zip(photos, texts, strict=True)]
        config = SearchConfig(method=f"mask,steps={steps}", num_class_images=priors, captions="given")
        studio.take()
    except ConesError as error:
        raise _told(error) from error
    events = _begin(studio, path, overwrite, photos, noun, name=name, config=config, sample_every=every)
    samples: list[Samples] = []
    notes: list[str] = []
    progress = ""
    hidden, same = gr.update(visible=False), gr.skip()
    yield "Begins...", hidden, "", hidden
    while not isinstance(event := events.get(), BaseException):
        picture, about, file = same, same, same
        if isinstance(event, Samples):
            samples.append(event)
            picture = gr.update(value=strip(samples), visible=True)
        elif isinstance(event, LogEvent):
            notes.append(event.text)
        elif isinstance(event, Progress):
            progress = _bar(event)
        else:
            [concept] = event.concepts
            studio.thumbs[concept.id] = samples[-1].images[0]
            about = event._repr_html_()
            file = gr.update(value=str(studio.temp / path.name), label=f"Download {path.name}", visible=True)
        yield progress + _list(notes), picture, about, file
    ended = str(event) if isinstance(event, _StopSearchError) else "It failed."
    yield f"<b>{html.escape(ended)}</b>{_list(notes)}", same, same, same
    if not isinstance(event, _StopSearchError):
        raise _told(event) from event


def _begin(
    studio: _Studio, path: Path, overwrite: bool, *given: Any, **options: Any
) -> queue.Queue[Event | Cone | BaseException]:
    """Search in a thread of its own, which writes the file even if the page is closed meanwhile; returns its events.

    The last one is how it ended, an exception in any case.
    """
    events: queue.Queue[Event | Cone | BaseException] = queue.Queue()

    def tell(event: Event) -> None:
        if studio.stop.is_set():
            raise _StopSearchError("Stopped.")
        events.put(event)

    def work() -> None:
        try:
            found = find(studio.model, *given, callback=tell, **options)
            save(found, studio.temp / path.name, overwrite=True)
            events.put(found)
            save(found, path, overwrite=overwrite)
            events.put(_StopSearchError(f"Found: {path}"))
        except BaseException as error:
            events.put(error)
        finally:
            studio.lock.release()

    threading.Thread(target=work, daemon=True).start()
    return events


def _bar(event: Progress) -> str:
    """A stage as HTML."""
    loss = "" if event.loss is None else f", loss {event.loss:.4f}"
    text = html.escape(f"{event.stage}: {event.done} of {event.total}{loss}")
    return f"<div>{text}</div><progress value='{event.done}' max='{event.total}' aria-label='{text}'></progress>"


def _list(notes: Sequence[str]) -> str:
    """Notes as HTML."""
    return "".join(f"<div>{html.escape(clean(text))}</div>" for text in dict.fromkeys(notes))


def _concepts_tab(studio: _Studio) -> list[Any]:
    """The folder's concepts, merging by ticking, pictures beside the base model's; returns gallery, ticks, notes."""
    gallery = gr.Gallery(label="Concepts", columns=6, height=240, allow_preview=False, fit_columns=False, **_SHOWN)
    notes = gr.Markdown()
    with gr.Row():
        ticked = gr.CheckboxGroup([], label="Tick concepts to draw, to merge or to download", scale=4)
        sketch = gr.Button("Draw missing pictures", min_width=180)

    def sliders(labels: list[str]) -> None:
        with gr.Row():
            looks: dict[str, Any] = {"step": 0.05, "interactive": True}
            strengths = [gr.Slider(0, 1, 1, label=f"Strength of {each}", key=each, **looks) for each in labels]
        given = [prompt, ticked, regions, seed, count, steps, guidance, *strengths]
        draw.click(_shown(_draw, studio, model=True), given, [pictures], **_MODEL)

    gr.render(inputs=[ticked])(sliders)
    prompt = gr.Textbox(label="Prompt", info="Name the ticked concepts in it", placeholder="a dog in a hat")
    draw = gr.Button("Draw", variant="primary")
    with gr.Accordion("Picture settings", open=False), gr.Row():
        defaults = studio.model.defaults
        seed = gr.Number(0, label="First seed", precision=0, minimum=0, maximum=2**63 - 1)
        count = gr.Slider(1, 16, 2, step=1, label="Pictures")
        steps = gr.Slider(1, 100, defaults.steps, step=1, label="Sampling steps")
        guidance = gr.Slider(0, 20, defaults.guidance, step=0.5, label="Guidance")
        regions = gr.Checkbox(label="Each in its own part of the picture", info="Slower")
    pictures = gr.Gallery(label="The base model beside the concepts, seed by seed", columns=2, **_SHOWN)
    with gr.Row():
        merged = gr.Textbox(label="Name of a merged file", placeholder="dog-and-hat", max_length=64, scale=2)
        join = gr.Button("Merge the ticked", min_width=160)
        fetch = gr.Button("Download the ticked", min_width=160)
    files = gr.File(label="Files", interactive=False, visible=False)
    outputs = [gallery, ticked, notes]
    sketch.click(_shown(_draw_missing, studio, model=True), [ticked], outputs, **_MODEL)
    join.click(_shown(_merge, studio), [ticked, merged], [*outputs, files, merged])
    fetch.click(_shown(_fetch, studio), [ticked], [files])
    return outputs


def _listed(studio: _Studio, ticked: Sequence[str]) -> tuple[Any, ...]:
    """Gallery, ticks and notes as the folder is now."""
    offers = studio.offers
    shown = []
    for label, offer in offers.items():
        words = f"{label}: {offer.identifier} {offer.class_noun}"
        shown.append((studio.thumbs.get(offer.id) or Image.new("RGB", (64, 64), "#d9d9de"), clean(words)))
    notes = "\n".join(f"- {markdown(note)}" for note in scan([studio.folder]).notes)
    kept = [label for label in ticked if label in offers]
    return shown, gr.update(choices=list(offers), value=kept), notes or ("" if offers else "No concept here yet.")


def _draw_missing(studio: _Studio, ticked: Sequence[str]) -> tuple[Any, ...]:
    """A picture of each concept of this base model that has none."""
    for offer in studio.offers.values():
        concept = load(offer.file)[offer.name]
        if offer.id not in studio.thumbs and match(concept.base, studio.model.info).accepted:
            [drawn] = render(
                studio.model, f"a photo of a {concept.phrase}", Cone((concept,)), literal=True, progress=_quiet
            )
            studio.thumbs[offer.id] = drawn.image
    return _listed(studio, ticked)


def _merge(studio: _Studio, ticked: Sequence[str], name: str) -> tuple[Any, ...]:
    """The ticked concepts in one file."""
    if len(ticked) < 2:
        raise UsageError("a merge needs two concepts", "tick two or more")
    cone = studio.chosen(ticked)
    path = studio.target((name or "").strip() or "-and-".join(cone.names), overwrite=False)
    save(cone, path)
    gr.Info(html.escape(f"Merged: {path}"))
    return *_listed(studio, []), gr.update(value=[studio.lend(path)], visible=True), ""


def _fetch(studio: _Studio, ticked: Sequence[str]) -> Any:
    """The files of the ticked concepts."""
    studio.chosen(ticked)
    offers = studio.offers
    return gr.update(value=[studio.lend(path) for path in {offers[label].file for label in ticked}], visible=True)


def _draw(studio: _Studio, prompt: str, ticked: Sequence[str], regions: bool, *numbers: float) -> list[tuple[str, str]]:
    """Pictures of a prompt with the ticked concepts, each beside the base model's with the same seed.

    `numbers` are first seed, number of seeds, steps, guidance, and the strength of each concept.
    """
    first, count, steps = (int(number or 0) for number in numbers[:3])
    guidance, *strengths = numbers[3:]
    cone, offers = studio.chosen(ticked), studio.offers
    cone.prompt(prompt or "")  # refuses one that names none of them
    given = {offers[label].name: strength for label, strength in zip(ticked, strengths, strict=True)}
    options: dict[str, Any] = {"seeds": range(first, first + count), "steps": steps, "guidance": guidance}
    options["progress"] = _quiet
    pairs = zip(
        render(studio.model, plain(prompt, cone.concepts), **options),
        render(studio.model, prompt, cone, strength=given, regions=regions, **options),
        strict=True,
    )
    said = ", ".join(f"{name} {strength:g}" for name, strength in given.items())
    shown = []
    for bare, drawn in pairs:
        for kind, each, words in (("base", bare, "base model"), ("concepts", drawn, said)):
            path = studio.temp / f"{kind}-{each.record['seed']}-{secrets.token_hex(4)}.png"
            path.write_bytes(png_bytes(each.image, each.record))
            shown.append((str(path), clean(f"{words}; seed {each.record['seed']}: {each.record['sent']}")))
    return shown


def _quiet(done: int, total: int) -> None:
    """No bar in the terminal."""


def serve(model: Model, folder: Path, port: int, *, share: bool, browser: bool, tell: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C; `tell` is given its address, and the public one if `share` asked for it.

    UsageError for a port in use, or if no public address can be had.
    """
    with TemporaryDirectory(prefix="cones-ui-") as temp:
        os.environ["GRADIO_TEMP_DIR"] = temp
        studio = _Studio(model, folder, Path(temp))
        page = _build(studio)
        try:
            where: dict[str, Any] = {"server_name": HOST, "server_port": port, "share": share, "inbrowser": browser}
            looks: dict[str, Any] = {"footer_links": [], "theme": gr.themes.Default(), "css": _CSS}
            limits: dict[str, Any] = {"max_file_size": MAX_FILE_BYTES, "ssr_mode": False, "prevent_thread_lock": True}
            _, _, public = page.launch(quiet=True, **where, **looks, **limits)
        except OSError as error:
            raise UsageError(f"--port {port}: in use", "end what uses it, or take another port") from error
        try:
            tell(f"http://{HOST}:{port}")
            if share:
                tell(public)
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
        finally:
            studio.stop.set()
            with studio.lock:  # a search ends at its next step, and leaves the weights as they were
                page.close(verbose=False)
