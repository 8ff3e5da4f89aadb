"""Everything a search can be told, checked once; it goes into the file's header as it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from conestool.errors import UsageError

__all__ = ["DEFAULT_METHOD", "Settings"]

DEFAULT_METHOD = "mask"
CAPTIONS = ("auto", "given", "none")


@dataclass(frozen=True)
class Settings:
    """How `find` searches.

    `prior_weight` is lambda of L_con; `contrast` the weight of a term that holds the model still on the photos when the
    identifier is missing or is one of `rivals` other identifiers; `others` that of a term that holds its pictures of
    other things still; `scenes` that of a term that shows the subject among other things (see `scenes.py`); `noise` the
    part of the noise schedule that the search looks at (0: no noise, 1: nothing but noise): where there is much, the
    prompt decides, and with all of it no concept is bound to its identifier (docs/method.md). `batch` is the number of
    samples of each term in a step (see `sizes`); `class_images` how many the base model draws (a quarter of them only
    for the report); `crops` how many crops of each photo are seen besides the whole; `captions` is where words for the
    rest of a photo come from (auto: the photos' own captions, else the base model's; given: only their own; none);
    `held_out` how many photos only the report sees (None: one of four or more); `density` fixes the fraction of K/V
    weights to shut; `options` are the method's own parameters.
    """

    method: str = DEFAULT_METHOD
    density: float | None = None
    seed: int = 0
    prior_weight: float = 1.0
    contrast: float = 1.0
    rivals: int = 8
    others: float = 1.0
    scenes: float = 0.0
    noise: tuple[float, float] = (0.3, 1.0)
    batch: int = 8
    class_images: int = 32
    crops: int = 3
    captions: str = "auto"
    held_out: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.density is None or 0 < self.density < 1, "density", self.density, "between 0 and 1")
        require(self.prior_weight >= 0, "prior_weight", self.prior_weight, "at least 0")
        require(self.contrast >= 0, "contrast", self.contrast, "at least 0")
        require(self.others >= 0, "others", self.others, "at least 0")
        require(self.scenes >= 0, "scenes", self.scenes, "at least 0")
        require(self.rivals >= 0, "rivals", self.rivals, "at least 0")
        require(0 <= self.noise[0] < self.noise[1] <= 1, "noise", self.noise, "two rising numbers from 0 to 1")
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        require(self.class_images >= 4, "class_images", self.class_images, "at least 4")
        require(self.crops >= 0, "crops", self.crops, "at least 0")
        require(self.captions in CAPTIONS, "captions", self.captions, f"one of {', '.join(CAPTIONS)}")
        require(self.held_out is None or self.held_out >= 0, "held_out", self.held_out, "at least 0")

    def sizes(self) -> dict[str, int]:
        """Samples of each term of the loss in a step, of the terms that have a weight.

        Class images and pictures of other things share the samples of one term: with as many of each, a step takes a
        third longer and finds nothing better (docs/method.md).
        """
        shared = self.batch if not (self.prior_weight and self.others) else max(1, self.batch // 2)
        sizes = {
            "instance": (self.batch, 1.0),
            "class": (shared, self.prior_weight),
            "contrast": (self.batch, self.contrast),
            "others": (shared, self.others),
            "scenes": (self.batch, self.scenes),
        }
        return {name: size for name, (size, weight) in sizes.items() if weight}

    def record(self) -> dict[str, Any]:
        """The settings as plain values, without those recorded elsewhere."""
        return {key: value for key, value in asdict(self).items() if key not in ("method", "seed", "options")}


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise UsageError unless `holds`."""
    if not holds:
        raise UsageError(f"{name} is {value}, but must be {rule}")
