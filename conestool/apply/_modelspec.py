"""What programs read in a file's metadata to sort and show it: the keys of Stability's ModelSpec and of kohya.

Facts: Stability-AI/ModelSpec 1.0.0; kohya-ss/sd-scripts 48d368f (`library/sai_model_spec.py`, `library/sd3_utils.py`,
`train_network.py`); Forge dfdcbab (`extensions-builtin/sd_forge_lora/network.py`), which knows a family by them;
InvokeAI 6.14 (`lora_metadata_extractor.py`) and A1111, which read the sidecar.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conestool._atomic import write_atomic
from conestool._text import escape_json
from conestool.concept import Cone
from conestool.models.model import Model

_STABILITY = "https://github.com/Stability-AI/generative-models"
_BLACK_FOREST_LABS = "https://github.com/black-forest-labs/flux"
_SHOWN_AS = {
    "stable-diffusion-v1": "SD1",
    "stable-diffusion-v2": "SD2",
    "stable-diffusion-xl": "SDXL",
    "flux-1": "Flux",
}
"""What A1111 and Forge call a family, by the beginning of its architecture."""


def modelspec(model: Model, cone: Cone, kind: str) -> dict[str, str]:
    """ModelSpec's required keys for a `kind` of file: checkpoint, denoiser or lora; and what draws the subjects."""
    side, names = model.defaults.size, ", ".join(cone.names)
    if kind == "denoiser":
        implementation = "diffusers"
    elif model.family.name == "flux":
        implementation = _BLACK_FOREST_LABS
    else:
        implementation = _STABILITY
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _architecture(model) + ("/lora" if kind == "lora" else ""),
        "modelspec.implementation": implementation,
        "modelspec.title": names if kind == "lora" else f"{model.info.id} with {names}",
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.trigger_phrase": _phrases(cone),
    }


def _architecture(model: Model) -> str:
    """ModelSpec's id of a model's architecture, as kohya gives it; the family's name where it gives none."""
    config: Any = model.denoiser.config
    name = model.family.name
    if name == "stable-diffusion-xl":
        return "stable-diffusion-xl-v1-base"
    if name == "stable-diffusion-3":
        five = "5-medium" if config.get("dual_attention_layers") else "5-large"
        return f"stable-diffusion-3-{five if config.get('qk_norm') else 'medium'}"
    if name == "flux":
        return "flux-1-dev" if config.get("guidance_embeds") else "flux-1-schnell"
    if name != "stable-diffusion":
        return name
    if not _is_second(model):
        return "stable-diffusion-v1"
    return "stable-diffusion-v2-768-v" if _predicts_velocity(model) else "stable-diffusion-v2-512"


def kohya_metadata(model: Model, cone: Cone, output_name: str, rank: int) -> dict[str, str]:
    """What kohya's own LoRAs tell of themselves, as far as it is true of this one."""
    name = model.family.name
    modules = {"stable-diffusion-3": "networks.lora_sd3", "flux": "networks.lora_flux"}
    versions = {"stable-diffusion-xl": "sdxl_base_v1-0", "flux": "flux1"}
    if name == "stable-diffusion-3":
        version = _architecture(model).removeprefix("stable-diffusion-3-")
    else:
        version = versions.get(name) or ("sd_v2" if _is_second(model) else "sd_v1")
        version += "_v" if name == "stable-diffusion" and _predicts_velocity(model) else ""
    photos = {each.name: {each.phrase: max(1, len(each.origin.photos))} for each in cone.concepts}
    return {
        "ss_network_module": modules.get(name, "networks.lora"),
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_base_model_version": version,
        "ss_v2": str(name == "stable-diffusion" and _is_second(model)),
        "ss_output_name": output_name,
        "ss_tag_frequency": json.dumps(photos),
    }


def _is_second(model: Model) -> bool:
    """Whether a model of the family stable-diffusion is a 2.x, by the width of the text that it reads."""
    config: Any = model.denoiser.config
    return bool(config.get("cross_attention_dim") == 1024)


def _predicts_velocity(model: Model) -> bool:
    """Whether the denoiser was trained to predict velocity."""
    return bool(model.pipe.scheduler.config.get("prediction_type") == "v_prediction")


def _phrases(cone: Cone) -> str:
    """The words that draw the subjects, between commas."""
    return ", ".join(concept.phrase for concept in cone.concepts)


def sidecar_path(file: str | Path) -> Path:
    """Where programs look for what a person should know of a model's file: the same name with .json."""
    return Path(file).with_suffix(".json")


def write_sidecar(pipe: Any, cone: Cone, file: str | Path, *, overwrite: bool = False) -> Path:
    """Write the JSON beside a checkpoint or LoRA that A1111, Forge and InvokeAI show; returns its path.

    "activation text" has the words that draw the subjects, as A1111 adds them to a prompt and InvokeAI lists them.
    Raises as `write_atomic`.
    """
    model, shown = Model.from_pipeline(pipe), {}
    for start, version in _SHOWN_AS.items():
        if _architecture(model).startswith(start):
            shown["sd version"] = version
    names = ", ".join(cone.names)
    told = {"description": f"{names} on {model.info.id}, by conestool", **shown, "activation text": _phrases(cone)}
    path = sidecar_path(file)
    text = escape_json(json.dumps(told, indent=4, ensure_ascii=False))
    return write_atomic(path, (text + "\n").encode(), overwrite=overwrite)
