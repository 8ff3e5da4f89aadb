"""Samplers: schedulers of diffusers that draw here, under the names that AUTOMATIC1111's web interface has for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from conestool._text import fold
from conestool.errors import UsageError

KARRAS = "use_karras_sigmas"
PLAIN = {KARRAS: False, "use_exponential_sigmas": False, "use_beta_sigmas": False}


@dataclass(frozen=True)
class Sampler:
    """One way to draw: `kind` is the diffusers class without "Scheduler", `options` are what it is set to.

    `flow` is whether it is for models that learned a flow (SD3, Flux), `known` whether A1111 has the name too, and
    `package` what it needs besides.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    flow: bool = False
    known: bool = True
    package: str | None = None

    def make(self, config: Mapping[str, Any]) -> Any:
        """The scheduler, with the training configuration of another one; UsageError if its package is missing."""
        import diffusers

        try:
            return getattr(diffusers, f"{self.kind}Scheduler").from_config(config, **self.options)
        except ImportError as error:
            raise UsageError(
                f"scheduler {self.name} needs a package that is not installed", f"pip install {self.package}"
            ) from error

    def is_that_of(self, scheduler: Any) -> bool:
        """Whether a scheduler draws as this sampler does."""
        config = scheduler.config
        same = all(config.get(key, value) == value for key, value in self.options.items())
        return type(scheduler).__name__ == f"{self.kind}Scheduler" and same


def plain_and_karras(name: str, kind: str, package: str | None = None, **options: Any) -> list[Sampler]:
    """A sampler with the noise levels that the model was trained on, and with those of Karras et al. (2022)."""
    return [
        Sampler(name, kind, {**options, **PLAIN}, package=package),
        Sampler(f"{name} Karras", kind, {**options, **PLAIN, KARRAS: True}, package=package),
    ]


SAMPLERS = (
    *plain_and_karras("Euler", "EulerDiscrete"),
    Sampler("Euler a", "EulerAncestralDiscrete"),
    *plain_and_karras("Heun", "HeunDiscrete"),
    *plain_and_karras("LMS", "LMSDiscrete", "scipy"),
    *plain_and_karras("DPM2", "KDPM2Discrete"),
    *plain_and_karras("DPM2 a", "KDPM2AncestralDiscrete"),
    *plain_and_karras("DPM++ 2M", "DPMSolverMultistep", algorithm_type="dpmsolver++"),
    *plain_and_karras("DPM++ 2M SDE", "DPMSolverMultistep", algorithm_type="sde-dpmsolver++"),
    Sampler("DDIM", "DDIM"),
    Sampler("PLMS", "PNDM", {"skip_prk_steps": True}),
    *plain_and_karras("UniPC", "UniPCMultistep"),
    Sampler("LCM", "LCM"),
    Sampler("DDPM", "DDPM", known=False),
    Sampler("DEIS", "DEISMultistep", known=False),
    Sampler("DPM++ singlestep", "DPMSolverSinglestep", {"lower_order_final": True}, known=False),
    Sampler("SA-Solver", "SASolver", known=False),
    Sampler("TCD", "TCD", known=False),
    Sampler("Euler", "FlowMatchEulerDiscrete", flow=True),
    Sampler("Heun", "FlowMatchHeunDiscrete", flow=True),
)
"""All that are offered; a test draws with each. For one name and model there is one."""


def find_sampler(name: str, flow: bool) -> Sampler:
    """The sampler of this name (A1111's, or a class of diffusers) for a model that learned a flow, or did not.

    UsageError for a name that is not known, or for one of the other kind of model.
    """
    called = [each for each in SAMPLERS if key(name) in (key(each.name), key(each.kind))]
    fitting = [each for each in called if each.flow is flow]
    if fitting:
        return fitting[0]
    names = ", ".join(each.name for each in SAMPLERS if each.flow is flow)
    if called:
        raise UsageError(f"scheduler {name}: the model was trained on another kind of noise", f"use one of {names}")
    raise UsageError(f"scheduler {name!r} is not known, or does not draw pictures here", f"use one of {names}")


def key(name: str) -> str:
    """What spellings of a name share: DPM++ 2M, dpmpp_2m and k_dpmpp_2m; DDIM and DDIMScheduler."""
    letters = re.sub(r"[^a-z0-9]", "", fold(name).replace("+", "p").removeprefix("k_"))
    return letters.removesuffix("scheduler")


def a1111_name(scheduler: Any) -> str | None:
    """What A1111 calls a scheduler with its settings; None if it has none such."""
    return next((each.name for each in SAMPLERS if each.known and each.is_that_of(scheduler)), None)


@contextmanager
def sampling_with(pipe: Any, name: str | None) -> Iterator[str]:
    """Within it `pipe` samples as `name` says; yields the name that brings the same back on the same model.

    None, and the class of the model's own scheduler, leave that as it is.
    """
    own = pipe.scheduler
    called, used = choose(own, name)
    pipe.scheduler = used
    try:
        with from_the_first_step(used):
            yield called
    finally:
        pipe.scheduler = own


def choose(own: Any, name: str | None) -> tuple[str, Any]:
    """The name under which a record knows the scheduler that `name` asks for, and that scheduler."""
    kind = type(own).__name__
    if name is None or key(name) == key(kind):
        return kind, own
    sampler = find_sampler(name, flow="beta_schedule" not in own.config)
    if sampler.is_that_of(own) and sampler.options:
        return kind, own
    return sampler.name, sampler.make(own.config)


@contextmanager
def from_the_first_step(scheduler: Any) -> Iterator[None]:
    """Within it a scheduler begins at its first step, and does not look for the one with the first timestep.

    Where two steps round to one timestep, diffusers would take the second, and run off the end of its noise levels:
    with those of Karras on a model whose last timestep is pure noise.
    """
    if not hasattr(scheduler, "set_begin_index"):
        yield
        return
    set_timesteps = scheduler.set_timesteps

    @wraps(set_timesteps)
    def set_and_begin(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        scheduler.set_begin_index(0)

    scheduler.set_timesteps = set_and_begin
    try:
        yield
    finally:
        del scheduler.set_timesteps
