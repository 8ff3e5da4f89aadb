"""Everything that `find` and `tune` can be told, checked once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from conestool.errors import UsageError

__all__ = ["DEFAULT_METHOD", "PLENTY", "Resources", "Settings", "Tuning"]

DEFAULT_METHOD = "mask"
CAPTIONS = ("auto", "given", "none")


@dataclass(frozen=True)
class Settings:
    """How `find` searches.

    `prior_weight` is lambda of L_con; `contrast` the weight of a term that holds the model still on the photos when the
    identifier is missing or is one of `rivals` other identifiers; `others` that of a term that holds its pictures of
    other things still; `scenes` that of a term that shows the subject among other things (`composites.py`); `noise` the
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


@dataclass(frozen=True)
class Tuning:
    """How `tune` works: its mask's parameters (see JointMask), and what `find` would do with the photos.

    `scenes` is the weight of the term that shows the subjects together (see `composites.py`). Of `settings` seed,
    prior_weight, contrast, others, batch, class_images, crops, captions and held_out count. With the photos and
    settings of the search the same photos are held out again.
    """

    steps: int = 20
    rate: float = 0.05
    margin: float = 0.1
    caution: float = 0.5
    reopen_only: bool = False
    scenes: float = 2.0
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.rate > 0, "rate", self.rate, "above 0")
        require(0 < self.margin <= 0.5, "margin", self.margin, "above 0 and at most 0.5")
        require(0 < self.caution <= 0.5, "caution", self.caution, "above 0 and at most 0.5")
        require(self.scenes >= 0, "scenes", self.scenes, "at least 0")

    def own(self) -> dict[str, Any]:
        """The mask's parameters by name."""
        return {key: value for key, value in asdict(self).items() if key not in ("settings", "scenes")}

    @property
    def shown(self) -> Settings:
        """The settings, with the weight of scenes that they have here."""
        return replace(self.settings, scenes=self.scenes)

    def record(self) -> dict[str, Any]:
        """The values in force, for the file's header."""
        settings = {key: value for key, value in self.shown.record().items() if key != "density"}
        return self.own() | settings


AT_ONCE = 32


@dataclass(frozen=True)
class Resources:
    """How a search spends memory and time; nothing of it goes into the file.

    `micro_batch` is how many samples go through the model at once (None: a step's whole batch, up to 32, and eight
    pictures where it draws or encodes); gradients of the parts are added in fp32. `gradient_checkpointing` recomputes
    activations in the backward pass instead of keeping them. `offload_scores` keeps the search's own vectors (several
    fp32 numbers for every K/V weight) in the machine's memory, where its steps then run, instead of on the device.
    """

    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    offload_scores: bool = False

    def __post_init__(self) -> None:
        require(self.micro_batch is None or self.micro_batch >= 1, "micro_batch", self.micro_batch, "at least 1")

    @property
    def samples(self) -> int:
        """The most samples that the denoiser sees at once."""
        return self.micro_batch or AT_ONCE

    def pictures(self, usual: int) -> int:
        """The most pictures that are drawn or encoded at once, where it is `usual` with memory to spare."""
        return min(usual, self.samples)


PLENTY = Resources()
