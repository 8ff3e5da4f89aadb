"""With how much memory a search makes do, and what it will take."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from conestool.errors import UsageError
from conestool.images.class_images import GROUP
from conestool.images.photos import Photo, to_latents
from conestool.images.segmentation import LOOKS
from conestool.models.model import Model
from conestool.models.sampling import sample
from conestool.search.composites import plan
from conestool.search.config import Resources, Settings
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.loss_terms import PROBES, SAMPLES, Words, prepare, surroundings
from conestool.search.methods.base import make_method
from conestool.search.objective import POOL
from conestool.search.parameters import Layout, borrowed
from conestool.search.prior_images import Priors, other_images, other_nouns, scene_images, to_draw
from conestool.search.report import CANDIDATES, choose
from conestool.search.subject import split

__all__ = ["Estimate", "aside", "at_work", "dry_run"]


@contextmanager
def at_work(model: Model, resources: Resources) -> Iterator[Layout]:
    """The K/V weights of `model`, borrowed for a search; afterwards the model is as it was, bit for bit."""
    home = torch.device("cpu") if resources.offload_scores else model.device
    with borrowed(model.denoiser, home) as layout, ExitStack() as stack:
        if resources.gradient_checkpointing:
            stack.enter_context(checkpointed(model.denoiser))
        yield layout


@contextmanager
def checkpointed(denoiser: Any) -> Iterator[None]:
    """Within it the denoiser's blocks keep their inputs alone for the backward pass, and compute the rest again."""
    if denoiser.is_gradient_checkpointing:
        yield
        return
    try:
        denoiser.enable_gradient_checkpointing()
    except ValueError as error:
        raise UsageError(
            f"{type(denoiser).__name__} cannot recompute activations", "search without gradient checkpointing"
        ) from error
    try:
        yield
    finally:
        denoiser.disable_gradient_checkpointing()


@contextmanager
def aside(model: Model) -> Iterator[None]:
    """Within it autoencoder and text encoders lie in the machine's memory, if the model is on a device with its own.

    For once latents and text are encoded. Parts that accelerate moves by hooks of its own are left to it.
    """
    moved = [] if model.device.type == "cpu" else [part for part in resting(model) if device_of(part) == model.device]
    try:
        for part in moved:
            part.to("cpu")
        release(model.device)
        yield
    finally:
        for part in moved:
            part.to(model.device)


def resting(model: Model) -> list[nn.Module]:
    """The modules of the pipeline that a step of the search does not call."""
    parts = [part for part in model.pipe.components.values() if isinstance(part, nn.Module)]
    return [part for part in parts if part is not model.denoiser and not hasattr(part, "_hf_hook")]


def device_of(module: nn.Module) -> torch.device | None:
    """Where a module's first parameter lies, None if it has none."""
    return next((parameter.device for parameter in module.parameters()), None)


def release(device: torch.device) -> None:
    """Give memory that nothing uses any more back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


STEPS = 3
"""Steps that are run. The first one also loads kernels, and is not timed."""
DRAWING_STEPS = 2
"""Steps of sampling that are run; PixArt-alpha takes no single one."""
REPORT_LOSSES = 7


@dataclass(frozen=True)
class Estimate:
    """Seconds of each phase, and the most bytes at once: those of PyTorch on the device, or of the process on the CPU.

    `memory` is None where the system does not tell it.
    """

    device: str
    dtype: str
    memory: int | None
    phases: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """All phases one after the other."""
        return sum(self.phases.values())

    def record(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {**asdict(self), "seconds": self.seconds}


def dry_run(
    model: Model,
    photos: Sequence[Photo],
    words: Words,
    settings: Settings,
    resources: Resources,
    class_pictures: Sequence[Image.Image] | None = None,
    processes: DistributedState = SINGLE_PROCESS,
) -> Estimate:
    """Run the first steps of the search that `find` would do, and write nothing; the model is as it was afterwards.

    The photos stand for the pictures that the base model would draw: of these one group is drawn, in two steps.
    """
    group, images = resources.pictures(GROUP), [photo.image for photo in photos]
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    to_come, drawing = to_draw(model, words.class_noun, settings, bool(class_pictures)), 0.0
    if to_come and processes.is_main_process:
        prompts = words.of_class[:1] * group
        drawing = timed(model, lambda: sample(model, prompts, range(group), steps=DRAWING_STEPS, batch=group)) / group
    nouns, scenes = other_nouns(model.settings, words.class_noun), scene_images(settings)
    some = plan((words.class_noun,), nouns, min(len(images), scenes), settings.seed)
    priors = Priors(images * 2, images if settings.others else (), nouns, images[: len(some)], some)
    pictures = split(photos, settings.crops, settings.held_out, settings.seed)
    with at_work(model, resources) as layout:
        objective, _ = prepare(
            model, layout, words, pictures, priors, settings, resources, processes, pool=settings.batch
        )
        method = make_method(settings.method, objective, **settings.options)
        encoding = timed(model, lambda: to_latents(model, images, batch=group)) / len(images)
        with aside(model):
            times = [timed(model, lambda k=k: method.step(k)) for k in range(min(STEPS, method.steps))]  # type: ignore[misc]
            batch = objective.batch(0)
            forward = timed(model, lambda: objective.loss(objective.theta, batch)) / len(batch.noisy)
            choose(objective, method.ranking(), settings.density or max(CANDIDATES), batch)
            memory = peak_memory(model.device)
    kept, searched = len(objective.kept), len(photos) + scenes if scenes else 0
    encoded = len(photos) * (1 + settings.crops) + settings.class_images + other_images(settings) + scenes + searched
    asked = sum(not photo.caption for photo in photos) * (1 + len(surroundings(model))) * SAMPLES
    looks = 2 * LOOKS * searched + (asked if settings.captions == "auto" else 0)
    losses = POOL * kept + REPORT_LOSSES * PROBES
    if settings.density is None and method.ranking().count is None:
        losses += len(CANDIDATES) * (POOL * kept + PROBES * (len(objective.terms) - kept))
    passes = max(0, model.defaults.steps - DRAWING_STEPS) * (2 if model.defaults.guidance > 1 else 1)
    alone = forward * processes.num_processes  # what the first process does while the others wait
    phases = {
        "class images": to_come * (drawing + passes * alone),
        "photos": encoded * encoding + looks * alone,
        "search": method.steps * statistics.median(times[1:] or times) + losses * forward,
    }
    return Estimate(str(model.device), str(model.dtype).removeprefix("torch."), memory, phases)


def timed(model: Model, work: Callable[[], object]) -> float:
    """Seconds that `work` takes, to its end on the model's device."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(model.device.type, lambda: None)
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def peak_memory(device: torch.device) -> int | None:
    """The most bytes at once: on CUDA since the counter was reset, on MPS what was taken of the system, else in RAM."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the parent's memory from before exec
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii", errors="replace").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
