"""Concept neurons in diffusion models: find, merge and render subjects as sets of integers.

    from conestool import apply_cones, find, load, merge, render

    both = merge(find(pipe, images, class_noun="dog"), load("hat.cone"))
    render(pipe, "a dog in a hat", both)[0].image

    with apply_cones(pipe, both):  # weights are bit-identical afterwards
        pipe(both.prompt("a dog in a hat")).images[0]  # prompts as "a sks dog in a zwx hat"

`pipe` is any diffusers text-to-image pipeline whose denoiser has K/V projections. Names are imported when first used,
so that reading and merging files never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conestool.apply import apply_cones, load_cones, unload_cones
    from conestool.concept import BaseModelInfo, Concept, Cone, Losses, Provenance
    from conestool.errors import ConesError
    from conestool.evaluation.evaluate import evaluate
    from conestool.format import dumps, load, loads, save
    from conestool.models.model import Model
    from conestool.ops import diff, extract, merge
    from conestool.rendering import render
    from conestool.search.config import Resources, SearchConfig
    from conestool.search.find import find
    from conestool.search.methods.cones import ConesConfig
    from conestool.search.methods.joint_mask import JointMaskConfig
    from conestool.search.methods.mask import MaskConfig
    from conestool.search.methods.taylor import TaylorConfig
    from conestool.search.methods.tstat import TStatConfig
    from conestool.search.preview import Preview, preview
    from conestool.search.tune import TuneConfig, tune

__version__ = "0.1.0"

__all__ = [
    "BaseModelInfo",
    "Concept",
    "Cone",
    "ConesConfig",
    "ConesError",
    "JointMaskConfig",
    "Losses",
    "MaskConfig",
    "Model",
    "Preview",
    "Provenance",
    "Resources",
    "SearchConfig",
    "TStatConfig",
    "TaylorConfig",
    "TuneConfig",
    "__version__",
    "apply_cones",
    "diff",
    "dumps",
    "evaluate",
    "extract",
    "find",
    "load",
    "load_cones",
    "loads",
    "merge",
    "preview",
    "render",
    "save",
    "tune",
    "unload_cones",
]

HOMES = {
    "conestool.concept": ("BaseModelInfo", "Concept", "Cone", "Losses", "Provenance"),
    "conestool.ops": ("diff", "extract", "merge"),
    "conestool.models.model": ("Model",),
    "conestool.errors": ("ConesError",),
    "conestool.format": ("dumps", "load", "loads", "save"),
    "conestool.apply": ("apply_cones", "load_cones", "unload_cones"),
    "conestool.evaluation": ("evaluate",),
    "conestool.rendering": ("render",),
    "conestool.search.config": ("Resources", "SearchConfig"),
    "conestool.search.find": ("find",),
    "conestool.search.methods.cones": ("ConesConfig",),
    "conestool.search.methods.joint_mask": ("JointMaskConfig",),
    "conestool.search.methods.mask": ("MaskConfig",),
    "conestool.search.methods.taylor": ("TaylorConfig",),
    "conestool.search.methods.tstat": ("TStatConfig",),
    "conestool.search.preview": ("Preview", "preview"),
    "conestool.search.tune": ("TuneConfig", "tune"),
}


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'conestool' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
