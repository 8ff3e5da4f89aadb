"""What a search will take: memory by calculation, time by measuring one small step."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from conestool.diffusion.locating import LOOKS
from conestool.diffusion.models import Model
from conestool.diffusion.prior import GROUP
from conestool.diffusion.prompts import encode
from conestool.diffusion.weights import kv_weights
from conestool.search.captions import SAMPLES, surroundings
from conestool.search.density import CANDIDATES
from conestool.search.layout import Use, top
from conestool.search.metering import Imagined, Meter, coder_bytes
from conestool.search.methods import METHODS, make_method
from conestool.search.objective import Objective, Pictures, Term
from conestool.search.priors import other_images, scene_images
from conestool.search.resources import Resources, at_work, resting
from conestool.search.settings import Settings
from conestool.search.terms import PROBES

__all__ = ["Forecast", "Job", "Phase", "forecast", "search_memory"]

REHEARSED = 4_000_000
PARTS = 64
PROBE_BATCHES = 7
FLOAT = 4
SLACK = {"cuda": 1.1, "mps": 1.1, "cpu": 1.6}
"""By how much allocators and kernels take more than the tensors. On the CPU measured on pocket, where RAM grew by twice
the tensors' peak (`python -m tests.search.forecasting`) and less is expected of larger models; else our guess."""
CONTEXT = {"cuda": 400_000_000}
"""Bytes of a device that its own runtime takes, before the first tensor. Our choice: they differ by card and driver."""


@dataclass(frozen=True)
class Job:
    """What is to be done: how many photos, pictures to draw (those in the cache do not count), how, and by how many."""

    photos: int
    drawings: int
    settings: Settings
    resources: Resources
    processes: int = 1

    @property
    def asks(self) -> bool:
        """Whether the model is asked what the photos show."""
        return self.settings.captions == "auto"

    @property
    def samples(self) -> int:
        """Samples of one step in one process."""
        return -(-sum(self.settings.sizes().values()) // self.processes)

    @property
    def at_once(self) -> int:
        """Samples in the denoiser at once, while it learns."""
        return min(self.samples, self.resources.samples)

    @property
    def pictures(self) -> int:
        """Pictures to encode."""
        photos = self.photos * (1 + self.settings.crops)
        own = photos + self.settings.class_images + other_images(self.settings) + scene_images(self.settings)
        return own + self.looked_at

    @property
    def looked_at(self) -> int:
        """Pictures in which a subject is looked for."""
        scenes = scene_images(self.settings)
        return self.photos + scenes if scenes else 0


@dataclass(frozen=True)
class Phase:
    """One phase: the most bytes at once on the device (in all, not beside the others), and seconds."""

    memory: int
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """What each phase takes, what peaks other options would have, and the bytes that the device has to give.

    `free` counts what this process holds by now as free, since `memory` counts it too; None where nobody knows.
    """

    device: str
    dtype: str
    phases: Mapping[str, Phase]
    lower: Mapping[str, int] = field(default_factory=dict)
    free: int | None = None

    @property
    def memory(self) -> int:
        """The most bytes at once."""
        return max(phase.memory for phase in self.phases.values())

    @property
    def seconds(self) -> float:
        """All phases one after the other."""
        return sum(phase.seconds for phase in self.phases.values())

    def record(self) -> dict[str, Any]:
        """All of it as plain values."""
        phases = {name: {"memory": each.memory, "seconds": each.seconds} for name, each in self.phases.items()}
        told = {"device": self.device, "dtype": self.dtype, "memory": self.memory, "seconds": self.seconds}
        return {**told, "free": self.free, "phases": phases, "lower": dict(self.lower)}


@dataclass(frozen=True)
class Vectors:
    """Bytes for each K/V weight of a method's vectors: while the denoiser learns, and at their peak; seconds a step."""

    held: float
    peak: float
    seconds: float


def forecast(model: Model, job: Job) -> Forecast:
    """Predict what `find` will take; runs one small step, and leaves the model bit for bit as it was."""
    sizes = Sizes.of(model, job.settings)
    units, memory = measured(model, job, sizes.vectors.seconds), sizes.memory(job)
    found = {name: Phase(memory[name], seconds) for name, seconds in durations(model, job, units).items()}
    plain = str(model.dtype).removeprefix("torch.")
    options = alternatives(job, model.device.type)
    lower = {name: max(sizes.memory(each).values()) for name, each in options.items()}
    peak = max(phase.memory for phase in found.values())
    kept = {name: size for name, size in lower.items() if size < 0.97 * peak}
    return Forecast(str(model.device), plain, found, kept, free_bytes(model.device))


def alternatives(job: Job, device: str) -> dict[str, Job]:
    """Jobs with one more option that saves memory, by its name on the command line, and with all of them."""
    changes: dict[str, dict[str, Any]] = {
        "--micro-batch 1": {"micro_batch": 1},
        "--gradient-checkpointing": {"gradient_checkpointing": True},
    }
    if device != "cpu":
        changes["--offload-scores"] = {"offload_scores": True}
    whole = {key: value for change in changes.values() for key, value in change.items()}
    changes = {name: change for name, change in changes.items() if replace(job.resources, **change) != job.resources}
    if len(changes) > 1:
        changes[" ".join(changes)] = whole
    return {name: replace(job, resources=replace(job.resources, **change)) for name, change in changes.items()}


@dataclass(frozen=True)
class Sizes:
    """The bytes that a model's parts take, from which those of any job follow.

    `held` are on the device by now, `aside` those of them that leave it for the search; `weights` counts K/V weights.
    """

    imagined: Imagined
    vae: Any
    vae_dtype: torch.dtype
    scale: int
    guided: bool
    device: str
    held: int
    aside: int
    weights: int
    vectors: Vectors
    coded: dict[int, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, settings: Settings) -> Sizes:
        """Those of a model in memory."""
        weights = sum(parameter.numel() for parameter in kv_weights(model.denoiser).values())
        side, device = model.defaults.size // model.scale, model.device.type
        latents = (int(model.pipe.vae.config.latent_channels), side, side)
        cond = encode(model, [""])
        return cls(
            imagined=Imagined(model.family, model.denoiser, latents, cond, model.dtype),
            vae=model.pipe.vae,
            vae_dtype=model.pipe.vae.dtype,
            scale=model.scale,
            guided=model.defaults.guidance > 1,
            device=device,
            held=held_bytes(model.device),
            aside=0 if device == "cpu" else sum(parameter_bytes(part) for part in resting(model)),
            weights=weights,
            vectors=rehearse(settings, weights, model.dtype),
        )

    def memory(self, job: Job) -> dict[str, int]:
        """Bytes of each phase."""
        ask, group = self.imagined, job.resources.pictures(GROUP)
        encoding, decoding = self.coding(group)
        drawing = max(ask.pass_bytes(group * (1 + self.guided), learning=False), decoding) if job.drawings else 0
        asking = ask.pass_bytes(job.resources.pictures(SAMPLES), learning=False) if job.asks else 0
        beside = {
            "class images": drawing,
            "photos": max(encoding, asking),
            "search": search_memory(ask, self.vectors, self.weights, job, self.device == "cpu"),
        }
        fixed, slack = self.held + CONTEXT.get(self.device, 0), SLACK[self.device]
        gone = {"search": self.aside}
        return {name: round(fixed - gone.get(name, 0) + slack * size) for name, size in beside.items()}

    def coding(self, pictures: int) -> tuple[int, int]:
        """Bytes of encoding and decoding so many at once."""
        if pictures not in self.coded:
            self.coded[pictures] = coder_bytes(self.vae, self.vae_dtype, self.imagined.latents, self.scale, pictures)
        return self.coded[pictures]


def search_memory(ask: Imagined, vectors: Vectors, weights: int, job: Job, on_cpu: bool) -> int:
    """Bytes that the loop takes on its device beside the model's weights."""
    learning = ask.pass_bytes(job.at_once, checkpointing=job.resources.gradient_checkpointing)
    looking = ask.pass_bytes(min(PROBES, job.resources.samples), learning=False)
    if job.resources.offload_scores and not on_cpu:
        return max(learning, looking)
    if job.samples > job.at_once or job.processes > 1 or ask.dtype == torch.float16:  # then they are added up in fp32
        learning += weights * torch.float32.itemsize
    return round(max(vectors.held * weights + max(learning, looking), vectors.peak * weights))


@dataclass
class Rehearsal:
    """An objective of random gradients, to see what a method does with its vectors."""

    theta: Tensor
    meter: Meter
    held: int = 0

    def parts(self, *vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The vectors in as many parts as a small U-Net has parameters of K and V."""
        return zip(*(torch.tensor_split(vector, PARTS) for vector in vectors), strict=True)

    def gradient(self, weights: Tensor | Iterable[Tensor], index: int, use: Use) -> float:
        """Numbers without meaning; notes what is alive while a real gradient is computed."""
        if not isinstance(weights, Tensor):
            deque(weights, maxlen=0)
        self.held = self.meter.live
        for number, (part,) in enumerate(self.parts(self.theta)):
            use(number, part.float() * 1e-3)
        return 0.0


def rehearse(settings: Settings, weights: int, dtype: torch.dtype) -> Vectors:
    """One step of the method on vectors of at most 4 million entries, and the choice of weights by its ranking.

    `dtype` is that of the model's weights.
    """
    count = min(weights, REHEARSED)
    with Meter() as meter:
        stage = Rehearsal(torch.randn(count).to(dtype), meter)
        method = make_method(settings.method, cast(Objective, stage), **settings.options)
        method.step(0)
        top(method.ranking().scores, count // 50)
    began = time.perf_counter()  # outside: the meter itself takes longer than small pieces of work do
    method.step(1)
    seconds = (time.perf_counter() - began) * weights / count
    return Vectors(stage.held / count, meter.peak / count, seconds)


@dataclass(frozen=True)
class Units:
    """Seconds of a sample's step (forward and backward) and forward pass, of a picture's encoding and decoding, and of
    a method's own part of a step."""

    step: float
    forward: float
    encode: float
    decode: float
    update: float


def measured(model: Model, job: Job, update: float) -> Units:
    """One sample through everything that takes time, and the seconds that a method's own part takes."""
    side = model.defaults.size
    pixels = torch.zeros(1, 3, side, side)
    with at_work(model, replace(job.resources, offload_scores=True)) as layout:
        encoding, latents = timed(model.device, lambda: model.family.latents(model.pipe, pixels))
        cond = encode(model, ["a"])
        objective = Objective(model, layout, [Term("one", Pictures(latents.to(model.device)), cond, 1.0, 1)])
        batch = objective.batch(0)
        objective.loss(objective.theta, batch)  # the first pass also loads kernels
        forward, _ = timed(model.device, lambda: objective.loss(objective.theta, batch))
        step, _ = timed(model.device, lambda: objective.backward(batch, lambda number, part: None))
    vae = model.pipe.vae
    with torch.no_grad():
        decoding, _ = timed(model.device, lambda: vae.decode(latents.to(vae.device, vae.dtype)))
    return Units(step, forward, encoding, decoding, update)


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `work` takes, to its end on the device, and what it returns."""
    with finished(device):
        began = time.perf_counter()
        out = work()
    return time.perf_counter() - began, out


@contextmanager
def finished(device: torch.device) -> Iterator[None]:
    """Wait for the device before and after."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    wait()
    yield
    wait()


def durations(model: Model, job: Job, unit: Units) -> dict[str, float]:
    """Seconds of each phase, from those of a sample; on a GPU, where samples together are faster, rather too many."""
    settings, defaults = job.settings, model.defaults
    steps = steps_of(settings)
    drawing = defaults.steps * (2 if defaults.guidance > 1 else 1) * unit.forward + unit.decode
    asked = job.photos * (1 + len(surroundings(model))) * SAMPLES if job.asks else 0
    kept = 128 * (len(settings.sizes()) - 1)
    looks = PROBE_BATCHES * PROBES + kept
    if settings.density is None and settings.method != "mask":
        looks += len(CANDIDATES) * (PROBES + kept)
    return {
        "class images": job.drawings * drawing,
        "photos": job.pictures * unit.encode + (asked + 2 * LOOKS * job.looked_at) * unit.forward,
        "search": steps * (job.samples * unit.step + unit.update) + looks * unit.forward / job.processes,
    }


def steps_of(settings: Settings) -> int:
    """Steps of the search."""
    fields = METHODS[settings.method].__dataclass_fields__  # type: ignore[attr-defined]
    return int(settings.options.get("steps", fields["steps"].default))


def parameter_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's weights."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def held_bytes(device: torch.device) -> int:
    """Bytes that this process holds on the device by now; on the CPU those in RAM, libraries included."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.current_allocated_memory())
    return resident()


def resident() -> int:
    """Bytes of this process in RAM; where the system does not say, the most there ever were."""
    pages = Path("/proc/self/statm")
    if pages.is_file():
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that the device has for this process, those that it holds included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    lines = dict(line.split(":", 1) for line in info.read_text(encoding="ascii").splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024 + resident()
