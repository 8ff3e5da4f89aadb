"""Where base models come from: the packaged one, folders, single files and the Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from conestool._atomic import expand_user
from conestool._text import quoted
from conestool.errors import HubError, ModelLoadError, UsageError, first_line
from conestool.hub import hub_errors
from conestool.models._logging import quiet
from conestool.models._lookalikes import POINTER, refuse_lookalike
from conestool.models.conversion.fused_qkv import has_layout, load_converted, load_transformer
from conestool.models.families import FAMILIES, PIPELINES, Family, family_of_file

STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_KV_KEY = re.compile(r"(?:\.to_[kv]|\.add_[kv]_proj|\.qkv|single_blocks\.\d+\.linear1)\.weight$")
"""Names of K/V weights in folders and single files, alone or stacked with others."""
_LIBRARIES = ("diffusers", "transformers")
_DENOISERS = ("unet", "transformer")
_SPARE = ("safety_checker", "feature_extractor")
"""Parts that the folder of a 1.x or 2.x may list and lack: nothing here needs them, and diffusers can go without."""
_POINTER_SIZE = 1024
"""Bytes that a git-lfs pointer has at most."""
SETTINGS = "pocket.json"
"""A model folder's defaults for drawing, where it has some: see `conestool.models.model.read_defaults`."""


@dataclass(frozen=True)
class ModelSource:
    """A base model on disk: `path` is a diffusers folder or a single file, `config` the latter's configuration."""

    id: str
    path: Path
    revision: str | None = None
    config: Path | None = None
    stored_dtype: torch.dtype | None = None
    size: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def single_file(self) -> bool:
        """Whether it is one checkpoint file."""
        return self.path.is_file()


def pocket_folder() -> Path:
    """The folder of the base model inside the package."""
    return Path(__file__).parent.parent / "pocket"


def resolve_source(
    model_id: str, *, revision: str | None = None, offline: bool = False, config: str | None = None
) -> ModelSource:
    """Find the files of a model; only a Hub id (owner/name, no such path here) may be downloaded."""
    path = pocket_folder() if model_id == "pocket" else expand_user(model_id)
    if path.is_dir():
        return folder_source(model_id, path)
    if path.is_file():
        return _file_source(model_id, path, config, offline)
    if not is_hub_id(model_id):
        raise UsageError(
            f"{model_id}: no such model", "give pocket, a diffusers folder, a .safetensors file or a Hub id"
        )
    folder = download_snapshot(model_id, revision, offline)
    return folder_source(model_id, folder, revision=folder.name if folder.parent.name == "snapshots" else revision)


def is_hub_id(model_id: str) -> bool:
    """Whether it has the form owner/name and does not look like a path."""
    owner, slash, name = model_id.partition("/")
    plain = not model_id.startswith((".", "~", "/")) and "\\" not in model_id and "/" not in name
    suffix = model_id.lower().endswith((".safetensors", ".ckpt", ".cone", ".pt", ".pth", ".bin", ".gguf"))
    return bool(slash and owner and name and plain and not suffix and not Path(owner).is_dir())


def folder_source(model_id: str, path: Path, revision: str | None = None) -> ModelSource:
    """A diffusers folder, checked for being one."""
    if not (path / "model_index.json").is_file():
        inside = sorted(path.glob("*.safetensors"))
        hint = f"give the file in it: {quoted(inside[0])}" if inside else "give the folder that holds model_index.json"
        raise ModelLoadError(f"{model_id}: not a diffusers folder, it has no model_index.json", hint)
    _refuse_pointers(model_id, path)
    listed = read_json(path / "model_index.json")
    _check_no_custom_code(model_id, listed)
    _refuse_pipeline(model_id, str(listed.get("_class_name")))
    spare = _SPARE if listed["_class_name"] == "StableDiffusionPipeline" else ()
    parts = [name for name, kind in listed.items() if isinstance(kind, list) and kind and kind[0] is not None]
    missing = [name for name in parts if name not in spare and not (path / name).is_dir()]
    if missing:
        raise ModelLoadError(f"{model_id}: {', '.join(missing)} is missing in the folder")
    files = denoiser_files(path)
    if not files:
        raise ModelLoadError(
            f"{model_id}: no .safetensors weights in unet/ or transformer/", "pickled .bin weights are never loaded"
        )
    _check_not_eight_bit(model_id, files)
    settings = read_json(path / SETTINGS)
    size = sum(file.stat().st_size for file in files)
    return ModelSource(model_id, path, revision, None, _most_common_dtype(files[0]), size, settings)


def _refuse_pointers(model_id: str, path: Path) -> None:
    """Refuse a folder in which files are what git leaves in their place until git-lfs has fetched them."""
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.stat().st_size < _POINTER_SIZE and file.read_bytes().startswith(POINTER):
            refuse_lookalike(f"{model_id}: {file.relative_to(path)}", file)


def _refuse_pipeline(model_id: str, name: str) -> None:
    """Refuse a folder whose pipeline does not draw from text alone; the refiner is the second half of one that does."""
    if name not in PIPELINES:
        raise ModelLoadError(
            f"{model_id}: its pipeline is {name}, which does not draw pictures from a prompt alone here",
            f"give a folder of one of these: {', '.join(dict.fromkeys(PIPELINES))}",
        )


def _check_no_custom_code(model_id: str, listed: dict[str, Any]) -> None:
    """Refuse a model_index.json that names classes outside diffusers and transformers: importing them runs code.

    Some versions of diffusers would look for such a class in the model's own .py files.
    """
    from diffusers import pipelines

    for name, kind in listed.items():
        library = kind[0] if isinstance(kind, list) and kind else None
        known = library in (None, *_LIBRARIES) or (str(library).isidentifier() and hasattr(pipelines, str(library)))
        if not known or (name == "_class_name" and not isinstance(kind, str)):
            raise ModelLoadError(f"{model_id}: {name} needs code that is not part of diffusers", "it is never run")


def _check_not_eight_bit(model_id: str, files: list[Path]) -> None:
    """Refuse files that hold a K/V weight in 8 bits: neither its value nor the model's identity could be read.

    diffusers leaves such weights as they are in any dtype, and a copy that keeps their scales beside them holds other
    values still. Text encoders and autoencoders may be in 8 bits.
    """
    for file in files:
        for name, kind in _dtype_names(file).items():
            if kind.startswith("F8_") and _KV_KEY.search(name):
                raise ModelLoadError(
                    f"{model_id}: {name} is stored as {kind}, 8 bits a weight",
                    "take a float16, bfloat16 or float32 copy of the model; --dtype cannot make one of this",
                )


def _file_source(model_id: str, path: Path, config: str | None, offline: bool) -> ModelSource:
    """A single checkpoint file together with the folder that holds its configuration."""
    refuse_lookalike(model_id, path)
    _check_not_eight_bit(model_id, [path])
    dtype, folder = _most_common_dtype(path), _resolve_config(path, config, offline)
    return ModelSource(model_id, path, None, folder, dtype, path.stat().st_size, read_json(folder / SETTINGS))


def _resolve_config(path: Path, config: str | None, offline: bool) -> Path:
    """The configuration folder of a single file: as given, beside it under its name, or in the Hub's cache."""
    if config is not None:
        folder = expand_user(config)
        folder = folder if folder.is_dir() else download_snapshot(config, None, offline, weights=False)
        _check_no_custom_code(config, read_json(folder / "model_index.json"))
        return folder
    beside = path.with_suffix("")
    if (beside / "model_index.json").is_file():
        _check_no_custom_code(str(beside), read_json(beside / "model_index.json"))
        return beside
    repository = _infer_config_repo(path)
    try:
        return download_snapshot(repository, None, offline=True, weights=False)
    except ModelLoadError:
        raise ModelLoadError(
            f"{path.name}: the configuration of its family ({repository}) is not on this machine",
            f"name a diffusers folder of the same family, or the Hub id {repository}, as its configuration",
        ) from None


def _infer_config_repo(path: Path) -> str:
    """The Hub repository whose configuration diffusers would use for this checkpoint."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

    with wrap_load_errors(str(path)):
        return str(fetch_diffusers_config(load_single_file_checkpoint(str(path)))["pretrained_model_name_or_path"])


def load_pipeline(source: ModelSource, dtype: torch.dtype) -> Any:
    """The diffusers pipeline of `source` in `dtype`, in evaluation mode, from local files alone."""
    import diffusers

    options: dict[str, Any] = {"torch_dtype": dtype, "local_files_only": True}
    if source.single_file:
        family = family_of_file(source.id, tensor_names(source.path))
        _check_config_family(source, family)
        kind = getattr(diffusers, family.pipeline_class)
        with wrap_load_errors(source.id), quiet():
            more = {**_absent_parts(Path(source.config or "")), **family.pipeline_options}
            more |= {**_load_missing_components(source, family, dtype), **options}
            pipe = kind.from_single_file(str(source.path), config=str(source.config), **more)
            return _check_fully_loaded(pipe, family)
    more = {**_folder_options(source.path), **options}
    with wrap_load_errors(source.id), quiet():
        return diffusers.DiffusionPipeline.from_pretrained(source.path, use_safetensors=True, **more)


def _check_fully_loaded(pipe: Any, family: Family) -> Any:
    """The pipeline with T5's embedding tied, of which diffusers leaves one copy unread where a file has only the other.

    ModelLoadError if anything else was not read.
    """
    for part in family.single_file_components:
        module = pipe.components[part]
        if hasattr(module, "tie_weights"):
            module.tie_weights()
        for name, value in module.named_parameters() if module is not None else ():
            if value.is_meta:
                raise ModelLoadError(f"{part} lacks {name}")
    return pipe


def _load_missing_components(source: ModelSource, family: Family, dtype: torch.dtype) -> dict[str, Any]:
    """Of a family whose files may hold the transformer alone: that, and the parts that the configuration folder has.

    The rest diffusers reads from the file. ModelLoadError if a part is in neither.
    """
    import diffusers
    import transformers

    folder, names = Path(source.config or ""), tensor_names(source.path)
    listed = read_json(folder / "model_index.json")
    missing = [
        part for part, mark in family.single_file_components.items() if not any(name.startswith(mark) for name in names)
    ]
    parts: dict[str, Any] = {}
    for part in missing:
        library, name = listed.get(part) or (None, None)
        if name is None and part == "text_encoder_3":
            parts[part] = parts["tokenizer_3"] = None
        elif name is None or not weight_files(folder / part):
            raise ModelLoadError(
                f"{source.id}: it holds no {part}, and neither does its configuration {folder.name}",
                "name a diffusers folder that holds the weights of what the file lacks as its configuration (--config)",
            )
        else:
            kind = getattr(diffusers if library == "diffusers" else transformers, str(name))
            parts[part] = kind.from_pretrained(folder / part, torch_dtype=dtype, local_files_only=True)
    if family.single_file_components:
        kind = getattr(diffusers, read_json(folder / "transformer" / "config.json")["_class_name"])
        parts["transformer"] = load_transformer(source.path, kind, folder / "transformer", dtype)
    return parts


def _check_config_family(source: ModelSource, family: Family) -> None:
    """Refuse the configuration of another family than the single file's, from which something else would be built."""
    kind = read_json(Path(source.config or "") / "model_index.json").get("_class_name")
    others = {other.pipeline_class for other in FAMILIES} - {family.pipeline_class}
    if kind in others:
        raise ModelLoadError(
            f"{source.id}: it holds {family.name}, and its configuration is that of a {kind}",
            f"name a folder or Hub id of the family {family.name} as its configuration (--config)",
        )


def _folder_options(folder: Path) -> dict[str, Any]:
    """Arguments for the pipeline that the folder lists, without a safety checker: conestool does not measure that.

    The variant is "fp16" where the folder holds the denoiser in that alone.
    """
    files = denoiser_files(folder)
    variant = "fp16" if files and all(".fp16." in file.name for file in files) else None
    listed = read_json(folder / "model_index.json")
    options = next(family.pipeline_options for family in FAMILIES if family.pipeline_class == listed["_class_name"])
    return {"variant": variant, **_absent_parts(folder), **options}


def _absent_parts(folder: Path) -> dict[str, None]:
    """Arguments that keep a pipeline from asking for parts that the folder lists, lacks and does not need."""
    listed = read_json(folder / "model_index.json")
    return {name: None for name in _SPARE if name in listed and not any((folder / name).glob("*.json"))}


def denoiser_files(folder: Path) -> list[Path]:
    """The weight files of the denoiser that are loaded from a diffusers folder; a variant only if there is no other."""
    return [file for name in _DENOISERS for file in weight_files(folder / name)]


def weight_files(part: Path) -> list[Path]:
    """The weight files of one component that are loaded from its folder; a variant only if there is no other."""
    files = sorted(part.glob("*.safetensors"))
    plain = [file for file in files if re.fullmatch(r"[^.]+\.safetensors", file.name)]
    return plain or [file for file in files if ".fp16." in file.name]


def original_denoiser_weights(path: Path, denoiser: Any, wanted: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """The `wanted` weights of the denoiser as a single file stores them, under the names that `denoiser` gives them.

    By the conversion with which such files are loaded; the tensors are read from the file when they are used.
    """
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
    from safetensors.torch import load_file

    if has_layout(denoiser):
        yield from load_converted(path, denoiser, sorted(wanted))
        return
    kind = type(getattr(denoiser, "_orig_mod", denoiser)).__name__
    convert = SINGLE_FILE_LOADABLE_CLASSES[kind]["checkpoint_mapping_fn"]
    with quiet():
        tensors = convert(config=denoiser.config, checkpoint=load_file(path))
    yield from ((name, tensors[name]) for name in wanted.intersection(tensors))


def tensor_names(path: Path) -> set[str]:
    """The names of the tensors in a safetensors file; ModelLoadError if the file is damaged."""
    from safetensors import safe_open

    with wrap_load_errors(str(path)), safe_open(path, "pt") as file:
        return set(file.keys())


def _most_common_dtype(path: Path) -> torch.dtype | None:
    """The dtype that most of a safetensors file's tensors have; ModelLoadError if the file is damaged."""
    kinds = list(_dtype_names(path).values())
    return STORED_DTYPES.get(max(set(kinds), key=kinds.count)) if kinds else None


def _dtype_names(path: Path) -> dict[str, str]:
    """How a safetensors file stores each of its tensors, such as F16; ModelLoadError if the file is damaged."""
    from safetensors import safe_open

    with wrap_load_errors(str(path)), safe_open(path, "pt") as file:
        return {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if the file is not there."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadError(f"{path}: not JSON: {first_line(error)}") from error
    return value if isinstance(value, dict) else {}


def download_snapshot(model_id: str, revision: str | None, offline: bool, weights: bool = True) -> Path:
    """The local snapshot of a Hub repository, downloaded unless it is cached or `offline` is set."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"revision": revision, "local_files_only": offline}
    with wrap_hub_errors(model_id, revision, offline), quiet():
        if weights:
            return Path(DiffusionPipeline.download(model_id, use_safetensors=True, safety_checker=None, **options))
        return Path(snapshot_download(model_id, allow_patterns=["*.json", "*.txt", "*.model"], **options))


@contextmanager
def wrap_hub_errors(model_id: str, revision: str | None, offline: bool) -> Iterator[None]:
    """What goes wrong between here and the Hub as a ModelLoadError that says what to do."""
    try:
        with hub_errors(model_id, revision, offline, what="model"):
            yield
    except HubError as error:
        raise ModelLoadError(str(error), error.hint) from error


@contextmanager
def wrap_load_errors(name: str) -> Iterator[None]:
    """Turn whatever goes wrong while third-party code reads a model into a one-line ModelLoadError."""
    try:
        yield
    except (ModelLoadError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelLoadError(f"{name}: cannot be read: {first_line(error)}") from error
