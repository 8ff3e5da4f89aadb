"""Stepping a method to its end: progress, saving, resuming, and stopping between two steps."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import clear_frames
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from conestool._atomic import write_atomic
from conestool.errors import OutOfMemoryError, UsageError
from conestool.models.sampling import sample
from conestool.search.context import SearchContext
from conestool.search.events import LogEvent, Progress, Samples
from conestool.search.methods.base import Method
from conestool.search.objective import LossScale, Objective
from conestool.search.parameters import topk_mask

SAVE_SECONDS = 30.0
_CURVE = 48
"""Points of a loss curve at most."""
_SAMPLE_DENSITY = 0.01
"""At which samples are drawn of a method without a number of its own, where none is given."""


def run_loop(
    context: SearchContext,
    method: Method,
    objectives: Sequence[Objective],
    checkpoint: Checkpoint,
    resume: bool,
    prompts: Sequence[str] = (),
) -> list[float]:
    """Step `method`, which works on `objectives`, to its end; returns the loss curve (see `loss_curve`).

    The `prompts` are drawn at the start, every `context.sample_every` steps, and at the end; that changes nothing else.
    Where `checkpoint` has a path, it is written every half minute, at the end of a run longer than that, and on Ctrl-C,
    which waits for the step to end (a second one does not wait, and leaves the last written state), and where memory
    runs out. Of several
    processes all stop after the same step, and the first alone reads and writes the state.
    """
    steps, callback, processes = method.config.steps, context.callback, context.processes
    losses = torch.full((steps,), torch.nan)
    search = _SearchState(method, [objective.scale for objective in objectives], losses)
    begun = time.monotonic()
    with _catch_sigint() as wanted:
        done = _load_checkpoint(context, search, checkpoint) if checkpoint.path and resume else 0
        last = time.monotonic()
        _draw_samples(context, method, objectives[0], done, prompts)
        while done < steps:
            losses[done] = loss = _step(context, search, checkpoint, done)
            done += 1
            count = method.count()
            density = None if count is None else count / len(objectives[0].weights)
            callback(Progress("search", done, steps, loss, density))
            if done == steps or (context.sample_every and done % context.sample_every == 0):
                _draw_samples(context, method, objectives[0], done, prompts)
            stop = processes.any(wanted())
            if stop or time.monotonic() - last > SAVE_SECONDS:
                _save_checkpoint(context, search, checkpoint, done)
                last = time.monotonic()
            if stop:
                raise KeyboardInterrupt
    if time.monotonic() - begun > SAVE_SECONDS:
        _save_checkpoint(context, search, checkpoint, done)
    return loss_curve(losses)


def loss_curve(losses: Tensor) -> list[float]:
    """L_con of all steps (n,) in 48 points at most, each the mean of as many neighbouring steps, in four digits."""
    parts = torch.tensor_split(losses, min(_CURVE, len(losses)))
    return [float(f"{float(part.mean()):.4g}") for part in parts]


@torch.no_grad()
def _draw_samples(
    context: SearchContext, method: Method, objective: Objective, done: int, prompts: Sequence[str]
) -> None:
    """Draw the `prompts` with what the method would zero now, if samples are wanted; the first process does."""
    if not (context.sample_every and prompts and context.processes.is_main_process):
        return
    weights, mask = objective.weights, None
    if done:
        ranking = method.ranking()
        share = round((context.config.density or _SAMPLE_DENSITY) * len(weights))
        count = share if context.config.density or ranking.count is None else ranking.count
        mask = topk_mask(ranking.scores, count) if count else None
    objective.params.set_(weights if mask is None else weights * ~mask)
    batch = context.resources.image_batch_size(len(prompts))
    images = sample(context.model, prompts, [0] * len(prompts), batch=batch)
    context.callback(Samples(done, method.config.steps, prompts, images))


@dataclass(frozen=True)
class _SearchState:
    """A method with the loss scales of its objectives, and its losses: all that a search is between two steps."""

    method: Method
    scales: Sequence[LossScale]
    losses: Tensor

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that `load_state_dict` needs to resume from here."""
        named = (
            (f"{name}.{number}", value)
            for number, scale in enumerate(self.scales)
            for name, value in scale.state_dict().items()
        )
        return {**self.method.state_dict(), **dict(named), "losses": self.losses}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from `state`."""
        self.method.load_state_dict(state)
        self.losses.copy_(state["losses"])
        for number, scale in enumerate(self.scales):
            scale.load_state_dict({name.removesuffix(f".{number}"): value for name, value in state.items()})


def _step(context: SearchContext, search: _SearchState, checkpoint: Checkpoint, done: int) -> float:
    """One step; where memory runs out the finished ones are saved before the error goes on: no method has changed."""
    try:
        return search.method.step(done)
    except OutOfMemoryError as error:
        clear_frames(error.__traceback__)
        if done:
            _save_checkpoint(context, search, checkpoint, done)
        raise


def _save_checkpoint(context: SearchContext, search: _SearchState, checkpoint: Checkpoint, done: int) -> None:
    """Save the search, if this process is to; if that fails, for instance on a full disk, warn and let it continue."""
    if not context.processes.is_main_process:
        return
    try:
        checkpoint.save(done, search.state_dict())
    except UsageError as error:
        context.callback(LogEvent(f"the search continues unsaved: {error}", warning=True))


def _load_checkpoint(context: SearchContext, search: _SearchState, checkpoint: Checkpoint) -> int:
    """Bring `search` to where a saved run stopped; returns the number of finished steps.

    The first process reads the file and the others have it from there.
    """
    processes = context.processes
    found = checkpoint.load() if processes.is_main_process else None
    steps = int(processes.sum(float(found[0]) if found else 0.0))
    if not steps:
        context.callback(
            LogEvent(f"{checkpoint.path and checkpoint.path.name} is not there: starting from the beginning")
        )
        return 0
    if found:
        search.load_state_dict(found[1])
    if processes.num_processes > 1:
        state = sorted(search.state_dict().items())
        search.load_state_dict({name: processes.broadcast(value.contiguous().clone()) for name, value in state})
    context.callback(LogEvent(f"resumed after step {steps} of {search.method.config.steps}"))
    return steps


@contextmanager
def _catch_sigint() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C; yields whether there was one. The second raises KeyboardInterrupt at once.

    Outside the main thread, where signals cannot be caught, it yields a constant False.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)


def config_hash(facts: Any) -> str:
    """Sha256 hex of everything that a search depends on: equal keys, equal results."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A safetensors file with a method's tensors, the number of finished steps and the run's key.

    Without a path nothing is saved.
    """

    path: Path | None
    key: str

    def save(self, steps: int, state: Mapping[str, Tensor]) -> None:
        """Write the state after `steps` steps, atomically."""
        if not self.path:
            return
        tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        write_atomic(self.path, save(tensors, {"key": self.key, "steps": str(steps)}), overwrite=True)

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """Finished steps and state, or None if there is no file; UsageError if it belongs to another run."""
        if not (self.path and self.path.exists()):
            return None
        try:
            with safe_open(self.path, "pt") as file:
                facts = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"{self.path}: not a saved search: {error}", "delete it, or run without --resume"
            ) from error
        if facts.get("key") != self.key:
            raise UsageError(
                f"{self.path}: saved by a search with other photos, settings or base model, dtype or device",
                "repeat the interrupted command as it was, or run without --resume",
            )
        return int(facts["steps"]), state
