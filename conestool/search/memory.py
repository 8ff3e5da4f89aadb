"""With how much memory a search makes do, and what it will take."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from traceback import clear_frames
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import nn

from conestool.errors import OutOfMemoryError, UsageError, causes, is_out_of_memory
from conestool.images.class_images import GROUP_SIZE
from conestool.images.photos import Photo, to_latents
from conestool.images.segmentation import NUM_SAMPLES
from conestool.models.devices import dtype_name, memory_errors
from conestool.models.memory import Fit, peak_memory, reclaim, sliced_attention
from conestool.models.model import Model
from conestool.models.sampling import sample
from conestool.search.composites import sample_specs
from conestool.search.config import Resources
from conestool.search.context import SearchContext
from conestool.search.events import MemoryChoice
from conestool.search.loss_terms import CAPTION_SAMPLES, NUM_EVAL_SAMPLES, SubjectPrompts, background_phrases, prepare
from conestool.search.methods import Method, make_method, resolve_method
from conestool.search.objective import NUM_FROZEN_TARGETS, Objective
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


@contextmanager
def search_mode(model: Model, resources: Resources, layers: str = "all") -> Iterator[FlatParameters]:
    """The K/V weights of the `layers` of `model`, trainable; afterwards the model is as it was, bit for bit."""
    score_device = torch.device("cpu") if resources.offload_scores else model.device
    with (
        memory_errors(model.device),
        trainable_kv_weights(model.denoiser, score_device, layers) as params,
        sliced_attention(model.device),
        recompute_activations(model.denoiser) if resources.gradient_checkpointing else nullcontext(),
    ):
        yield params


@contextmanager
def stepping(context: SearchContext, objectives: Sequence[Objective], make: Callable[[], _Method]) -> Iterator[_Method]:
    """The method that `make` makes on `objectives`, for the steps of a search, within the memory that is free.

    Unless `Resources.micro_batch` says how many samples go at once, that is measured. Where fewer than four fit,
    activations are recomputed, and where not even one does, the search's vectors go to the machine's memory. The
    callback is told what was chosen. OutOfMemoryError if nothing of it is enough.
    """
    model, resources, first = context.model, context.resources, objectives[0]
    recomputed, stays = resources.gradient_checkpointing, model.device.type != "cuda"
    drawn = bool(context.sample_every)  # samples need the other parts
    with nullcontext() if drawn else offload_frozen_modules(model), ExitStack() as stack:
        if resources.micro_batch is not None:
            yield make()
            return
        method: _Method | None = None
        found: Fit | None = None
        while True:
            try:
                with memory_errors(model.device):
                    method, found = make(), first.fit(len(objectives))
            except OutOfMemoryError:
                if recomputed and (stays or first.params.device.type == "cpu"):
                    raise
            fits = found is not None and (recomputed or found.samples >= min(_FEW, found.most))
            if fits and method is not None and found is not None:
                break
            method = found = None
            reclaim(model.device)
            if recomputed:
                first.params.move(torch.device("cpu"))
                continue
            recomputed = True
            if model.denoiser._supports_gradient_checkpointing:
                stack.enter_context(recompute_activations(model.denoiser))
        for each in objectives:
            each.step_size = found.samples
        context.callback(memory_choice(model, found, recomputed, first.params.device != model.device))
        yield method


def memory_choice(model: Model, found: Fit, recomputed: bool = False, moved: bool = False) -> MemoryChoice:
    """What was chosen and why, for people and for programs."""
    record = {**asdict(found), "gradient_checkpointing": recomputed, "offload_scores": moved}
    why = f": {found.each / 1e9:.2f} GB each, {found.free / 1e9:.1f} GB free on {model.device}" if found.each else ""
    also = [text for text, holds in (("activations recomputed", recomputed), ("scores off the device", moved)) if holds]
    text = f"{found.samples} of {found.most} samples at once{why}"
    return MemoryChoice(", ".join([text, *also]), record={**record, "device": str(model.device)})


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

    For once latents and text are encoded. What accelerate moves by hooks of its own leaves the device by these, and the
    denoiser comes to it.
    """
    moved, home = [], next(model.denoiser.parameters()).device
    if model.device.type != "cpu":
        first = ((part, next(part.parameters(), None)) for part in frozen_modules(model))
        moved = [part for part, weight in first if weight is not None and weight.device == model.device]
    try:
        for part in moved:
            part.to("cpu")
        if home != model.device:
            for hook in getattr(model.pipe, "_all_hooks", ()):
                hook.offload()
            model.denoiser.to(model.device)
        reclaim(model.device)
        yield
    except BaseException as error:
        if is_out_of_memory(error):  # activations hang on the frames that the error came through
            for each in causes(error):
                clear_frames(each.__traceback__)
        raise
    finally:
        reclaim(model.device)
        _put_back(model, moved, home)


def _put_back(model: Model, parts: Sequence[nn.Module], home: torch.device) -> None:
    """Return `parts` to the model's device and the denoiser to its `home`; the whole model to the CPU if that fails."""
    device = model.device
    try:
        with memory_errors(device):
            if home != device:
                model.denoiser.to(home)
            for part in parts:
                part.to(device)
    except OutOfMemoryError:
        warnings.warn(f"{device} has no room left: the whole model is on the CPU now", stacklevel=2)
        model.pipe.to("cpu")


def frozen_modules(model: Model) -> list[nn.Module]:
    """The modules of the pipeline that a step of the search does not call."""
    parts = [part for part in model.pipe.components.values() if isinstance(part, nn.Module)]
    return [part for part in parts if part is not model.denoiser and not hasattr(part, "_hf_hook")]


_FEW = 4
"""Samples at once below which it is better to recompute activations."""
_Method = TypeVar("_Method", bound=Method)


_STEPS = 3
"""Steps that are run. The first one also loads kernels, and is not timed."""
_DRAWING_STEPS = 2
"""Steps of sampling that are run; PixArt-alpha takes no single one."""
_REPORT_LOSSES = 7


@dataclass(frozen=True)
class Estimate:
    """Seconds of each phase, and the most bytes at once: those of PyTorch on the device, or of the process on the CPU.

    `memory` is None where the system does not tell it, `samples` are those of a step that go at once.
    """

    device: str
    dtype: str
    memory: int | None
    phases: Mapping[str, float]
    samples: int

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
    to_draw, drawing = num_images_to_draw(context, subject.class_noun, bool(class_images)), 0.0
    if to_draw and processes.is_main_process:
        prompts = subject.class_prompts[:1] * group
        draw = partial(sample, model, prompts, range(group), steps=_DRAWING_STEPS, batch=group)
        drawing = _timed(model, draw, warm=True) / group
    nouns, scenes = preserved_classes(model.settings, subject.class_noun), num_scene_images(config)
    specs = sample_specs((subject.class_noun,), nouns, min(len(images), scenes), config.seed)
    priors = PriorImages(
        class_images=images * 2,
        other_images=images if config.other_class_weight else (),
        other_classes=nouns,
        scene_images=images[: len(specs)],
        composite_specs=specs,
    )
    with search_mode(model, context.resources, config.layers) as params:
        split = split_photos(photos, config)
        objective, _ = prepare(context, params, subject, split, priors, num_frozen_targets=config.batch_size)
        encoding = _timed(model, lambda: to_latents(model, images, batch=group), warm=True) / len(images)
        before = peak_memory(model.device)  # a card's counter begins anew where it is seen how many samples fit
        with stepping(context, [objective], lambda: make_method(method_config, objective)) as method:
            steps = range(min(_STEPS, method_config.steps))
            times = [_timed(model, lambda k=k: method.step(k)) for k in steps]  # type: ignore[misc]
            batch = objective.batch(0)
            forward = _timed(model, lambda: objective.loss(objective.weights, batch)) / len(batch)
            select_density(objective, method.ranking(), config.density or max(DENSITY_GRID), batch)
            memory = max(filter(None, (before, peak_memory(model.device))), default=None)
            samples = objective.micro_batch_size or objective.step_size
    frozen, searched = len(objective.frozen_targets), len(photos) + scenes if scenes else 0
    encoded = len(photos) * (1 + config.num_crops) + config.num_class_images + num_other_images(config)
    asked = sum(not photo.caption for photo in photos) * (1 + len(background_phrases(model))) * CAPTION_SAMPLES
    looks = 2 * NUM_SAMPLES * (searched + (len(split.train) if config.subject_share else 0))
    looks += asked if config.captions == "auto" else 0
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
    return Estimate(str(model.device), dtype_name(model.dtype), memory, phases, samples)


def _timed(model: Model, work: Callable[[], object], warm: bool = False) -> float:
    """Seconds that `work` takes, to its end on the model's device; with `warm` a device does it once before."""

    def wait() -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        elif model.device.type == "mps":
            torch.mps.synchronize()

    if warm and model.device.type != "cpu":
        work()
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began
