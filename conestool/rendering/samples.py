"""Pictures that show a concept to people: before the search, during it, and after it beside the base model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conestool.rendering.grid import grid, stack

if TYPE_CHECKING:
    from PIL.Image import Image

    from conestool.concept import Concept
    from conestool.models.model import Model
    from conestool.rendering.drawing import Rendering
    from conestool.search.events import Samples
    from conestool.search.preview import Preview

SCENES = ("a photo of {}", "{} on the beach", "{} in the snow", "{} on a table")
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
PICTURES = 2 * len(SCENES) + len(STRENGTHS) - 1
"""Pictures that are drawn of one concept; strength 1 is there already."""
_WIDE = 8
"""Pictures beside each other in a strip."""


@dataclass(frozen=True)
class Showcase:
    """One concept in `SCENES` with seed 0: `bare` by the base model (with the class noun), `scenes` with the concept,
    and the first of them at each of `STRENGTHS`."""

    concept: Concept
    bare: tuple[Rendering, ...]
    scenes: tuple[Rendering, ...]
    strengths: tuple[Rendering, ...]


def draw_showcase(
    model: Model,
    concept: Concept,
    *,
    allow_base_mismatch: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Showcase:
    """Draw the concept alone; `progress` is told of the pictures done and their total."""
    from conestool.concept import Cone
    from conestool.rendering.drawing import render
    from conestool.search.subject import article

    done = list[int]()

    def draw(words: str, scenes: Sequence[str], strength: float | None) -> list[Rendering]:
        told = None if progress is None else lambda count, _: progress(sum(done) + count, PICTURES)
        drawn = render(
            model,
            [scene.format(article(words)) for scene in scenes],
            None if strength is None else Cone((concept,)),
            strength=1.0 if strength is None else strength,
            literal=True,
            allow_base_mismatch=allow_base_mismatch,
            progress=told,
        )
        done.append(len(drawn))
        return drawn

    bare, scenes = draw(concept.class_noun, SCENES, None), draw(concept.phrase, SCENES, 1.0)
    weaker = [draw(concept.phrase, SCENES[:1], strength)[0] for strength in STRENGTHS[:-1]]
    return Showcase(concept, tuple(bare), tuple(scenes), (*weaker, scenes[0]))


def showcase_sheet(shown: Showcase, photos: Sequence[Image] = ()) -> Image:
    """The photos, the scenes by the base model and by the concept, and the concept at rising strength."""
    from PIL import ImageOps

    size = shown.bare[0].image.size
    own = [ImageOps.fit(photo, size) for photo in photos[: len(STRENGTHS)]]
    rows = [("photos", own)] if own else []
    for name, drawn in (("base model", shown.bare), (shown.concept.name, shown.scenes)):
        rows.append((f"{name}: {', '.join(each.record['sent'] for each in drawn)}", [each.image for each in drawn]))
    label = f"{shown.scenes[0].record['sent']}: strength {', '.join(f'{each:g}' for each in STRENGTHS)}"
    rows.append((label, [each.image for each in shown.strengths]))
    return grid([images for _, images in rows], [text for text, _ in rows])


def strip(samples: Sequence[Samples], before: Image | None = None) -> Image:
    """What a search drew, in the order of its steps, a row for each prompt; below the strip of an interrupted one."""
    rows, labels = [], []
    for number, prompt in enumerate(samples[0].prompts):
        for start in range(0, len(samples), _WIDE):
            part = samples[start : start + _WIDE]
            rows.append([each.images[number] for each in part])
            labels.append(f"{prompt}: after step {', '.join(str(each.done) for each in part)}")
    made = grid(rows, labels)
    return made if before is None else stack([before, made])


def preview_sheet(preview: Preview) -> Image:
    """Each photo, what the model takes for the subject, and the crops; caption and advice above."""
    labels = []
    for each in preview.photos:
        use = "held out for the report, as" if each.held_out else "learned as"
        labels.append("; ".join((f"{each.photo.name}: {use} {each.prompts[0]!r}", *each.advice)))
    return grid([[each.image, each.marked, *each.crops] for each in preview.photos], labels)
