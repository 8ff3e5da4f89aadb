"""What a search would learn from, before it starts: crops, captions, what is taken for the subject, and advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from conestool.images.class_images import GROUP_SIZE
from conestool.images.photos import Photo, square, to_latents
from conestool.images.segmentation import bounding_square
from conestool.models.model import Model
from conestool.search.composites import locate_subject
from conestool.search.config import DEFAULT_RESOURCES, Resources, SearchConfig
from conestool.search.context import SearchContext
from conestool.search.events import Callback, LogEvent, no_callback, shown
from conestool.search.find import add_captions, as_photos, photo_warnings, resolve_names
from conestool.search.prior_images import preserved_classes
from conestool.search.subject import captioned_prompts, crops, noun_warnings, split_photos

_TWINS, _FLAT, _SMALL, _ALIKE, _DISTINCT = 0.1, 0.06, 0.3, 0.08, 0.15
"""Our choices, on pixels from 0 to 1: the root-mean-square difference of thumbnails below which two photos are twins;
the share of the contrast that fine detail has in 128 pixels, below which a photo is blurred; the part of the side that
a subject should take; the difference in colour up to which backgrounds are one; and the one from which a pixel is not
of a photo's plain ground."""
_THUMBNAIL, _SHARP = 16, 128
"""Sides of the pictures in which twins and blur are looked for."""


@dataclass(frozen=True, kw_only=True)
class PhotoPreview:
    """One photo as the search would see it; `photo.caption` is the caption in force.

    `image` is its middle square in the model's size. `crops` are learned from as well, none where the photo is
    `held_out` for the report. `subject` is where the model sees the class, boolean, (h, w) in latents. `prompts` are
    those that it is learned under.
    """

    photo: Photo
    held_out: bool
    image: Image.Image
    crops: tuple[Image.Image, ...]
    subject: NDArray[np.bool_]
    prompts: tuple[str, ...]
    advice: tuple[str, ...] = ()

    @property
    def marked(self) -> Image.Image:
        """The photo with all but the subject faded."""
        mask = Image.fromarray(self.subject.astype(np.uint8) * 255).resize(self.image.size, Image.Resampling.BICUBIC)
        faded = Image.blend(self.image, Image.new("RGB", self.image.size, "white"), 0.8)
        return Image.composite(self.image, faded, mask)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """All photos in the order given, and `advice` that concerns them together."""

    class_noun: str
    identifier: str
    photos: tuple[PhotoPreview, ...]
    advice: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """All but the pictures, as plain values."""
        photos = [
            {
                "name": each.photo.name,
                "caption": each.photo.caption,
                "held_out": each.held_out,
                "subject": round(float(each.subject.mean()), 3),
                "prompts": [*each.prompts],
                "advice": [*each.advice],
            }
            for each in self.photos
        ]
        return {
            "class_noun": self.class_noun,
            "identifier": self.identifier,
            "photos": photos,
            "advice": [*self.advice],
        }


def preview(
    pipe: Any,
    images: Sequence[Photo | Image.Image],
    class_noun: str,
    *,
    name: str | None = None,
    identifier: str | None = None,
    config: SearchConfig | None = None,
    callback: Callback | None = None,
    resources: Resources = DEFAULT_RESOURCES,
) -> Preview:
    """What `find` with the same arguments would learn from, without a search: seconds instead of minutes.

    The model chooses captions where photos have none, as it would for `find`; give `find` the photos of the preview,
    with a `caption` changed where it is wrong. Where the subject is, is asked as `find` does, whose loss counts these
    cells most. Errors are those of `find`.
    """
    model, config = Model.from_pipeline(pipe), config or SearchConfig()
    context = SearchContext(model=model, config=config, resources=resources, callback=callback or shown())
    photos = as_photos(images)
    subject = resolve_names(model, class_noun, name, identifier, context.callback)
    photos = add_captions(replace(context, callback=no_callback), photos, class_noun)
    held = {id(image) for image in split_photos(photos, config).validation}
    squares = [square(photo.image, model.defaults.size) for photo in photos]
    latents = to_latents(model, squares, batch=resources.image_batch_size(GROUP_SIZE))
    masks = locate_subject(context, latents, class_noun, preserved_classes(model.settings, class_noun))
    twins = _twin_advice(photos, squares)
    seen: list[PhotoPreview] = []
    for photo, image, mask, twin in zip(photos, squares, masks, twins, strict=True):
        cut = [] if id(photo.image) in held else crops(photo, config.num_crops, config.seed)
        prompts = captioned_prompts(subject.instance_prompts, subject.phrase, class_noun, photo.caption)
        made = PhotoPreview(
            photo=photo,
            held_out=id(photo.image) in held,
            image=image,
            crops=tuple(square(crop, image.width) for crop in cut),
            subject=mask.cpu().numpy(),
            prompts=tuple(dict.fromkeys(prompts)),
            advice=(*_photo_advice(photo, image, mask), *twin),
        )
        seen.append(made)
    advice = [*photo_warnings(photos), *noun_warnings(model.settings, class_noun), *_background_advice(seen)]
    for text in advice:
        context.callback(LogEvent(text, warning=True))
    return Preview(class_noun=class_noun, identifier=subject.identifier, photos=tuple(seen), advice=tuple(advice))


def _pixels(image: Image.Image) -> NDArray[np.float32]:
    """(h, w, 3), 0 to 1."""
    return np.asarray(image).astype(np.float32) / np.float32(255)


def _spread(image: Image.Image, mask: Tensor) -> float:
    """The part of the side that the subject takes: what the `mask` (h, w) says, or less where a plain ground shows it.

    A small model expects its subjects in one size, and its mask then says little of how large they are.
    """
    pixels = _pixels(image)
    ground = np.median(np.concatenate([pixels[[0, -1]].reshape(-1, 3), pixels[:, [0, -1]].reshape(-1, 3)]), axis=0)
    distinct = torch.from_numpy(np.abs(pixels - ground).max(2) > _DISTINCT)
    return min(bounding_square(each)[2] / len(each) for each in (mask, distinct))


def _twin_advice(photos: Sequence[Photo], squares: Sequence[Image.Image]) -> list[list[str]]:
    """For each photo what to do if it is nearly the same as one before it."""
    small, found = [_pixels(image.resize((_THUMBNAIL,) * 2, Image.Resampling.BOX)) for image in squares], []
    for number, one in enumerate(small):
        near = [k for k, other in enumerate(small[:number]) if np.square(one - other).mean() < _TWINS**2]
        found.append([f"nearly the same as {photos[k].name}: one of them is enough" for k in near[:1]])
    return found


def _photo_advice(photo: Photo, image: Image.Image, mask: Tensor) -> list[str]:
    """What to do about one photo."""
    found = []
    if min(photo.image.size) < image.width:
        found.append(f"{min(photo.image.size)} pixels, enlarged to the model's {image.width}: take a larger one")
    fine = square(image, min(image.width, _SHARP))
    half = fine.resize((max(1, fine.width // 2),) * 2, Image.Resampling.BOX)
    coarse = half.resize(fine.size, Image.Resampling.BICUBIC)
    if float((_pixels(fine) - _pixels(coarse)).std()) < _FLAT * float(_pixels(fine).std()):
        found.append("blurred: take a sharper one")
    if (spread := _spread(image, mask)) < _SMALL:
        found.append(f"the subject seems to take {spread:.0%} of the side: crop closer to it")
    return found


def _background_advice(photos: Sequence[PhotoPreview]) -> list[str]:
    """A warning if what surrounds the subject is the same in all photos: by its caption, or by its colours."""
    captions, colours = {each.photo.caption for each in photos}, []
    for each in photos:
        mask = np.asarray(Image.fromarray(each.subject).resize(each.image.size))
        outside = _pixels(each.image)[~mask | mask.all()]
        colours.append(np.concatenate([outside.mean(0), outside.std(0)]))
    far = np.ptp(colours, axis=0).max()
    worded = len(captions) == 1 and "" not in captions
    if len(photos) < 2 or (far > _ALIKE and not worded):
        return []
    where = f" ({captions.pop()})" if worded else ""
    return [f"one background in all photos{where}: it may be learned with the subject; take some elsewhere"]
