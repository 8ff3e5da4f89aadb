"""Patched models on disk: a diffusers folder, or the denoiser alone, in the dtype in which the base model is stored."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conestool._atomic import atomic_file, atomic_folder
from conestool._text import code, markdown
from conestool.apply._modelspec import modelspec
from conestool.apply._safetensors import (
    copy_or_link,
    patch_copy,
    raise_os_errors,
    read_tensors,
    save_tensors,
)
from conestool.apply.edits import Strength, apply_edit_, check_base, check_shapes, strengths, weight_edits
from conestool.apply.live import refuse_applied
from conestool.concept import Cone
from conestool.errors import ModelLoadError, UsageError
from conestool.models._logging import quiet
from conestool.models.kv_weights import canonical_name, kv_weights
from conestool.models.loading import SETTINGS, ModelSource, denoiser_files, load_pipeline, tensor_names, weight_files
from conestool.models.model import Model

_COPIED_SUFFIXES = {".json", ".md", ".txt", ".model", ".safetensors", ""}


def write_folder(
    pipe: Any,
    cone: Cone,
    out: str | Path,
    *,
    strength: Strength = 1.0,
    overwrite: bool = False,
    allow_base_mismatch: bool = False,
    link: bool = False,
) -> Path:
    """Write the patched model as a diffusers folder that `from_pretrained` loads; returns its path.

    A model that came from a folder is copied file by file with the concept neurons zeroed where they lie: shards and
    dtypes stay as they are. Any other is saved by diffusers, each weight as it is stored or, without files, as it is in
    memory. With `link` weight files without concept neurons are hard
    links: they take no space, but a program that later writes into one changes the base model too. The README.md says
    what was applied. Appears whole or not at all. OutputExistsError unless `overwrite`, BaseModelMismatchError unless
    `allow_base_mismatch`.
    """
    model = checked_model(pipe, cone, allow_base_mismatch)
    with atomic_folder(Path(out), overwrite=overwrite) as folder:
        if model.in_folder:
            _copy_parts(model, folder, link)
            _patch_shards(model, cone, strength, folder, link)
        else:
            _save_parts(model, cone, strength, folder)
        (folder / "README.md").write_text(_model_card(model, cone, strength), encoding="utf-8")
    return Path(out)


def write_denoiser(
    pipe: Any,
    cone: Cone,
    out: str | Path,
    *,
    strength: Strength = 1.0,
    overwrite: bool = False,
    allow_base_mismatch: bool = False,
) -> Path:
    """Write the patched denoiser as one `.safetensors` in diffusers naming; its metadata says what was applied."""
    model = checked_model(pipe, cone, allow_base_mismatch)
    with atomic_file(Path(out), overwrite=overwrite) as temporary:
        tensors = patched_tensors(model, cone, strength)
        save_tensors(tensors, temporary, metadata(model, cone, strength) | modelspec(model, cone, "denoiser"))
    return Path(out)


def checked_model(pipe: Any, cone: Cone, allow_base_mismatch: bool) -> Model:
    """The model, once base and shapes are known to fit."""
    model = Model.from_pipeline(pipe)
    if not model.in_folder:
        refuse_applied(model)
    check_base(model, cone, allow_base_mismatch=allow_base_mismatch)
    check_shapes(kv_weights(model.denoiser), cone, model.id)
    return model


def component(model: Model) -> str:
    """Name of the denoiser among the pipeline's parts: unet or transformer."""
    return next(str(name) for name, part in model.pipe.components.items() if part is model.denoiser)


def _copy_parts(model: Model, folder: Path, link: bool) -> None:
    """Copy the parts that the pipeline lists, all but the denoiser's weights; no pickles, no stray checkpoints."""
    source = _source_folder(model)
    listed = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
    for item in sorted(source.iterdir()):
        if item.is_file() and item.suffix in _COPIED_SUFFIXES - {".safetensors"} and not item.name.startswith("."):
            shutil.copyfile(item, folder / item.name)
        elif item.is_dir() and item.name in listed:
            _copy_part(item, folder / item.name, weights=item.name != component(model), link=link)


def _copy_part(source: Path, target: Path, weights: bool, link: bool) -> None:
    """Copy the plain files of one component; with `link` its weights are linked."""
    target.mkdir()
    for item in sorted(source.iterdir()):
        is_weights = item.suffix == ".safetensors"
        if item.is_file() and item.suffix in _COPIED_SUFFIXES and (weights or not is_weights):
            copy_or_link(item, target / item.name, link=link and is_weights)


def _source_folder(model: Model) -> Path:
    """The diffusers folder that the model came from."""
    if model.path is None or not model.in_folder:
        raise ModelLoadError(f"{model.id} did not come from a diffusers folder")
    return model.path


def _patch_shards(model: Model, cone: Cone, strength: Strength, folder: Path, link: bool) -> None:
    """Copy each weight file of the denoiser with its concept neurons zeroed."""
    name, wanted = component(model), weight_edits(cone, strength)
    touched: set[str] = set()
    for file in denoiser_files(_source_folder(model)):
        edits = {key: wanted[key] for key in wanted.keys() & tensor_names(file)}
        touched |= edits.keys()
        if edits:
            patch_copy(file, folder / name / file.name, edits)
        else:
            copy_or_link(file, folder / name / file.name, link=link)
    _refuse_missing(model, wanted.keys() - touched)


def _refuse_missing(model: Model, missing: Set[str]) -> None:
    """Raise ModelLoadError if weights that should be zeroed are in none of the denoiser's files."""
    if missing:
        raise ModelLoadError(f"{model.id}: its {component(model)} folder has no weights called {min(missing)}")


def patched_tensors(model: Model, cone: Cone, strength: Strength) -> dict[str, Tensor]:
    """The denoiser's weights as they are stored, with the concepts applied."""
    tensors, wanted = component_tensors(model, component(model)), weight_edits(cone, strength)
    _refuse_missing(model, wanted.keys() - tensors.keys())
    for param, edit in wanted.items():
        tensors[param] = tensors[param].clone()
        apply_edit_(tensors[param], edit)
    return tensors


def component_tensors(model: Model, name: str) -> dict[str, Tensor]:
    """The weights of one component as they are stored in the model's files, else those in memory; on the CPU."""
    files = weight_files(_source_folder(model) / name) if model.in_folder else []
    if files:
        return dict(pair for file in files for pair in read_tensors(file)[0].items())
    state = _unrounded(model).components[name].state_dict()
    _refuse_adapters(model.id, state)
    return {canonical_name(key): _narrowed(value, model).cpu().contiguous() for key, value in state.items()}


def _unrounded(model: Model) -> Any:
    """The pipeline with all weights as stored: read once more in float32, unless they are that in memory already."""
    if model.path is None or model.dtype == torch.float32:
        return model.pipe
    source = ModelSource(model.id, model.path, None, model.config, model.stored_dtype, 0, model.settings)
    return load_pipeline(source, torch.float32)


def _save_parts(model: Model, cone: Cone, strength: Strength, folder: Path) -> None:
    """Let diffusers save the pipeline, return its weights to how they are stored, then apply the concepts."""
    _refuse_adapters(model.id, model.denoiser.state_dict())
    with quiet(), raise_os_errors(folder):
        _unrounded(model).save_pretrained(folder)
    if model.settings:
        (folder / SETTINGS).write_text(json.dumps(model.settings, indent=2) + "\n", encoding="utf-8")
    wanted, missing = weight_edits(cone, strength), set(weight_edits(cone, strength))
    for file in sorted(folder.rglob("*.safetensors")):
        tensors, metadata = read_tensors(file)
        tensors = {key: _narrowed(value, model) for key, value in tensors.items()}
        if file.parent.name == component(model):
            missing -= tensors.keys()
            for param in wanted.keys() & tensors.keys():
                apply_edit_(tensors[param], wanted[param])
        save_tensors(tensors, file, metadata)
    _refuse_missing(model, missing)


def _refuse_adapters(model_id: str, state: Mapping[str, Tensor]) -> None:
    """Refuse to write a part in memory that carries LoRA layers: the file would hold neither."""
    if any(".base_layer." in key for key in state):
        raise UsageError(
            f"{model_id} carries LoRA layers that are not part of its weights",
            "call pipe.fuse_lora() and pipe.unload_lora_weights() first",
        )


def _narrowed(value: Tensor, model: Model) -> Tensor:
    """A floating-point tensor in the dtype that most of the model is stored in, if nothing is lost; else as it is."""
    if model.stored_dtype is None or not value.is_floating_point():
        return value
    narrow = value.to(model.stored_dtype)
    return narrow if torch.equal(narrow.to(value.dtype), value) else value


def metadata(model: Model, cone: Cone, strength: Strength) -> dict[str, str]:
    """What a file tells of itself: the concepts applied, and on what."""
    return {"format": "pt", "cones": json.dumps(_applied_concepts(cone, strength)), "cones_base": model.info.id}


def _applied_concepts(cone: Cone, strength: Strength) -> list[dict[str, Any]]:
    """What was applied, for metadata."""
    given = strengths(cone, strength)
    return [
        {
            "name": concept.name,
            "class_noun": concept.class_noun,
            "identifier": concept.identifier,
            "id": concept.id,
            "strength": given[concept.name],
            "neurons": concept.neurons,
        }
        for concept in cone.concepts
    ]


def _model_card(model: Model, cone: Cone, strength: Strength) -> str:
    """The model card: what was applied, then the base model's own card, whose front matter stays in front."""
    front, body = _split_card(model)
    rows = [
        f"| {markdown(used['name'])} | {code(used['identifier'] + ' ' + used['class_noun'])} "
        f"| {used['neurons']:,} | {used['strength']:g} | `{used['id'][:16]}` |"
        for used in _applied_concepts(cone, strength)
    ]
    lines = [
        f"# {markdown(model.info.id)} with concepts: {', '.join(map(markdown, cone.names))}",
        "",
        "conestool zeroed the concept neurons of these concepts (multiplied the weights by 1 - strength). "
        "Draw a subject with the words in the second column.",
        "",
        "| concept | in a prompt | neurons | strength | content id |",
        "|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join([*front, *lines, "", *body]).rstrip() + "\n"


def _split_card(model: Model) -> tuple[list[str], list[str]]:
    """Front matter and text of the base model's README.md, as lines; both empty if it has none."""
    if not model.in_folder or not (path := _source_folder(model) / "README.md").is_file():
        return [], []
    text = path.read_text(encoding="utf-8", errors="replace")
    matter = re.match(r"---\n.*?\n---\n", text, re.DOTALL)
    front = matter.group().splitlines() if matter else []
    return [*front, ""] if front else [], ["---", "", *text[matter.end() if matter else 0 :].splitlines()]
