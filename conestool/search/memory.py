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
from conestool.images.class_images import GROUP_SIZE
from conestool.images.photos import Photo, to_latents
from conestool.images.segmentation import NUM_SAMPLES
from conestool.models.model import Model
from conestool.models.sampling import sample
from conestool.search.composites import sample_specs
from conestool.search.config import Resources
from conestool.search.context import SearchContext
from conestool.search.loss_terms import CAPTION_SAMPLES, NUM_EVAL_SAMPLES, SubjectPrompts, background_phrases, prepare
from conestool.search.methods import make_method, resolve_method
from conestool.search.objective import NUM_FROZEN_TARGETS
from conestool.search.parameters import FlatParameters, trainable_kv_weights
from conestool.search.prior_images import (
    PriorImages,
    num_images_to_draw,
    num_other_images,
    num_scene_images,
    preserved_classes,
)
from conestool.search.report import DENSITY_GRID, select_density
from conestool.search.subject import split_photos

__all__ = [
    "Estimate",
    "dry_run",
    "frozen_modules",
    "offload_frozen_modules",
    "peak_memory",
    "recompute_activations",
    "search_mode",
]


@contextmanager
def search_mode(model: Model, resources: Resources) -> Iterator[FlatParameters]:
    """The K/V weights of `model`, trainable for a search; afterwards the model is as it was, bit for bit."""
    score_device = torch.device("cpu") if resources.offload_scores else model.device
    with trainable_kv_weights(model.denoiser, score_device) as params, ExitStack() as stack:
        if resources.gradient_checkpointing:
            stack.enter_context(recompute_activations(model.denoiser))
        yield params


@contextmanager
def recompute_activations(denoiser: Any) -> Iterator[None]:
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
def offload_frozen_modules(model: Model) -> Iterator[None]:
    """Within it autoencoder and text encoders lie in the machine's memory, if the model is on a device with its own.

    For once latents and text are encoded. Parts that accelerate moves by hooks of its own are left to it.
    """
    moved = []
    if model.device.type != "cpu":
        first = ((part, next(part.parameters(), None)) for part in frozen_modules(model))
        moved = [part for part, weight in first if weight is not None and weight.device == model.device]
    try:
        for part in moved:
            part.to("cpu")
        if model.device.type in ("cuda", "mps"):
            getattr(torch, model.device.type).empty_cache()
        yield
    finally:
        for part in moved:
            part.to(model.device)


def frozen_modules(model: Model) -> list[nn.Module]:
    """The modules of the pipeline that a step of the search does not call."""
    parts = [part for part in model.pipe.components.values() if isinstance(part, nn.Module)]
    return [part for part in parts if part is not model.denoiser and not hasattr(part, "_hf_hook")]


_STEPS = 3
"""Steps that are run. The first one also loads kernels, and is not timed."""
_DRAWING_STEPS = 2
"""Steps of sampling that are run; PixArt-alpha takes no single one."""
_REPORT_LOSSES = 7


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
    context: SearchContext,
    photos: Sequence[Photo],
    subject: SubjectPrompts,
    class_images: Sequence[Image.Image] | None = None,
) -> Estimate:
    """Run the first steps of the search that `find` would do, and write nothing; the model is as it was afterwards.

    The photos stand for the pictures that the base model would draw: of these one group is drawn, in two steps.
    """
    model, config, processes = context.model, context.config, context.processes
    group, images = context.resources.image_batch_size(GROUP_SIZE), [photo.image for photo in photos]
    method_config = resolve_method(config.method)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    to_draw, drawing = num_images_to_draw(context, subject.class_noun, bool(class_images)), 0.0
    if to_draw and processes.is_main_process:
        prompts = subject.class_prompts[:1] * group
        drawing = _timed(model, lambda: sample(model, prompts, range(group), steps=_DRAWING_STEPS, batch=group)) / group
    nouns, scenes = preserved_classes(model.settings, subject.class_noun), num_scene_images(config)
    specs = sample_specs((subject.class_noun,), nouns, min(len(images), scenes), config.seed)
    priors = PriorImages(
        class_images=images * 2,
        other_images=images if config.other_class_weight else (),
        other_classes=nouns,
        scene_images=images[: len(specs)],
        composite_specs=specs,
    )
    with search_mode(model, context.resources) as params:
        split = split_photos(photos, config)
        objective, _ = prepare(context, params, subject, split, priors, num_frozen_targets=config.batch_size)
        method = make_method(method_config, objective)
        encoding = _timed(model, lambda: to_latents(model, images, batch=group)) / len(images)
        with offload_frozen_modules(model):
            steps = range(min(_STEPS, method_config.steps))
            times = [_timed(model, lambda k=k: method.step(k)) for k in steps]  # type: ignore[misc]
            batch = objective.batch(0)
            forward = _timed(model, lambda: objective.loss(objective.weights, batch)) / len(batch)
            select_density(objective, method.ranking(), config.density or max(DENSITY_GRID), batch)
            memory = peak_memory(model.device)
    frozen, searched = len(objective.frozen_targets), len(photos) + scenes if scenes else 0
    encoded = len(photos) * (1 + config.num_crops) + config.num_class_images + num_other_images(config)
    asked = sum(not photo.caption for photo in photos) * (1 + len(background_phrases(model))) * CAPTION_SAMPLES
    looks = 2 * NUM_SAMPLES * searched + (asked if config.captions == "auto" else 0)
    losses = NUM_FROZEN_TARGETS * frozen + _REPORT_LOSSES * NUM_EVAL_SAMPLES
    if config.density is None and method.ranking().count is None:
        selection = NUM_FROZEN_TARGETS * frozen + NUM_EVAL_SAMPLES * (len(objective.terms) - frozen)
        losses += len(DENSITY_GRID) * selection
    passes = max(0, model.defaults.steps - _DRAWING_STEPS) * (2 if model.defaults.guidance > 1 else 1)
    alone = forward * processes.num_processes  # what the first process does while the others wait
    phases = {
        "class images": to_draw * (drawing + passes * alone),
        "photos": (encoded + scenes + searched) * encoding + looks * alone,
        "search": method_config.steps * statistics.median(times[1:] or times) + losses * forward,
    }
    return Estimate(str(model.device), str(model.dtype).removeprefix("torch."), memory, phases)


def _timed(model: Model, work: Callable[[], object]) -> float:
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
