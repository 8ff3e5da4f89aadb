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
    identifier is missing or is one of `rivals` other identifiers; `noise` the part of the noise schedule that the
    search looks at (0: no noise, 1: nothing but noise): where there is much, the prompt decides, and with all of it no
    concept is bound to its identifier (docs/method.md). `batch` is the number of samples of each term in a step;
    `class_images` how many the base model draws (a quarter of them only for the report); `crops` how many crops of each
    photo are seen besides the whole; `captions` is where words for the rest of a photo come from (auto: the photos'
    own captions, else the base model's; given: only their own; none); `held_out` how many photos only the
    report sees (None: one of four or more); `density` fixes the fraction of K/V weights to shut; `options` are the
    method's own parameters.
    """

    method: str = DEFAULT_METHOD
    density: float | None = None
    seed: int = 0
    prior_weight: float = 1.0
    contrast: float = 1.0
    rivals: int = 8
    noise: tuple[float, float] = (0.6, 1.0)
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
        require(self.rivals >= 0, "rivals", self.rivals, "at least 0")
        require(0 <= self.noise[0] < self.noise[1] <= 1, "noise", self.noise, "two rising numbers from 0 to 1")
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        require(self.class_images >= 4, "class_images", self.class_images, "at least 4")
        require(self.crops >= 0, "crops", self.crops, "at least 0")
        require(self.captions in CAPTIONS, "captions", self.captions, f"one of {', '.join(CAPTIONS)}")
        require(self.held_out is None or self.held_out >= 0, "held_out", self.held_out, "at least 0")

    def record(self) -> dict[str, Any]:
        """The settings as plain values, without those recorded elsewhere."""
        return {key: value for key, value in asdict(self).items() if key not in ("method", "seed", "options")}


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise UsageError unless `holds`."""
    if not holds:
        raise UsageError(f"{name} is {value}, but must be {rule}")
