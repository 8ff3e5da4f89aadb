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

from conestool.diffusion.quiet import quiet
from conestool.errors import ModelLoadError, UsageError

__all__ = [
    "STORED",
    "Source",
    "denoiser_files",
    "is_hub_id",
    "load_pipeline",
    "locate",
    "pocket_folder",
    "read_json",
    "reading",
    "weight_files",
]

STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DENOISERS = ("unet", "transformer")


@dataclass(frozen=True)
class Source:
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
    return Path(__file__).parent.parent / "models" / "pocket"


def locate(model_id: str, *, revision: str | None = None, offline: bool = False, config: str | None = None) -> Source:
    """Find the files of a model; only a Hub id (owner/name, no such path here) may be downloaded."""
    path = pocket_folder() if model_id == "pocket" else Path(model_id).expanduser()
    if path.is_dir():
        return folder_source(model_id, path)
    if path.is_file():
        return file_source(model_id, path, config, offline)
    if not is_hub_id(model_id):
        raise UsageError(
            f"{model_id}: no such model", "give pocket, a diffusers folder, a .safetensors file or a Hub id"
        )
    folder = fetch(model_id, revision, offline)
    return folder_source(model_id, folder, revision=folder.name if folder.parent.name == "snapshots" else revision)


def is_hub_id(model_id: str) -> bool:
    """Whether it has the form owner/name and does not look like a path."""
    owner, slash, name = model_id.partition("/")
    plain = not model_id.startswith((".", "~", "/")) and "\\" not in model_id and "/" not in name
    suffix = model_id.lower().endswith((".safetensors", ".ckpt", ".cone", ".pt", ".bin"))
    return bool(slash and owner and name and plain and not suffix and not Path(owner).is_dir())


def folder_source(model_id: str, path: Path, revision: str | None = None) -> Source:
    """A diffusers folder, checked for being one."""
    if not (path / "model_index.json").is_file():
        raise ModelLoadError(f"{model_id}: not a diffusers folder, it has no model_index.json")
    listed = read_json(path / "model_index.json")
    missing = [name for name, kind in listed.items() if needed(name, kind) and not (path / name).is_dir()]
    if missing:
        raise ModelLoadError(f"{model_id}: {', '.join(missing)} is missing in the folder")
    files = denoiser_files(path)
    if not files:
        raise ModelLoadError(
            f"{model_id}: no .safetensors weights in unet/ or transformer/", "pickled .bin weights are never loaded"
        )
    settings = read_json(path / "pocket.json")
    size = sum(file.stat().st_size for file in files)
    return Source(model_id, path, revision, None, stored_dtype(files[0]), size, settings)


def needed(name: str, kind: Any) -> bool:
    """Whether an entry of model_index.json is a part without which nothing can be drawn."""
    is_part = isinstance(kind, list) and bool(kind) and kind[0] is not None
    return is_part and name not in ("safety_checker", "feature_extractor", "image_encoder")


def file_source(model_id: str, path: Path, config: str | None, offline: bool) -> Source:
    """A single checkpoint file together with the folder that holds its configuration."""
    if path.suffix.lower() != ".safetensors":
        raise ModelLoadError(f"{model_id}: not a .safetensors file", "pickled checkpoints are never loaded; convert it")
    dtype, folder = stored_dtype(path), find_config(path, config, offline)
    return Source(model_id, path, None, folder, dtype, path.stat().st_size, read_json(folder / "pocket.json"))


def find_config(path: Path, config: str | None, offline: bool) -> Path:
    """The configuration folder of a single file: as given, beside it under its name, or in the Hub's cache."""
    if config is not None:
        folder = Path(config).expanduser()
        return folder if folder.is_dir() else fetch(config, None, offline, weights=False)
    beside = path.with_suffix("")
    if (beside / "model_index.json").is_file():
        return beside
    repository = guess_repository(path)
    try:
        return fetch(repository, None, offline=True, weights=False)
    except ModelLoadError:
        raise ModelLoadError(
            f"{path.name}: the configuration of its family ({repository}) is not on this machine",
            f"name a diffusers folder of the same family, or the Hub id {repository}, as its configuration",
        ) from None


def guess_repository(path: Path) -> str:
    """The Hub repository whose configuration diffusers would use for this checkpoint."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

    with reading(str(path)):
        return str(fetch_diffusers_config(load_single_file_checkpoint(str(path)))["pretrained_model_name_or_path"])


def fetch(model_id: str, revision: str | None, offline: bool, weights: bool = True) -> Path:
    """The local snapshot of a Hub repository, downloaded unless it is cached or `offline` is set."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"revision": revision, "local_files_only": offline}
    with hub_errors(model_id, revision, offline), quiet():
        if weights:
            return Path(DiffusionPipeline.download(model_id, use_safetensors=True, safety_checker=None, **options))
        return Path(snapshot_download(model_id, allow_patterns=["*.json", "*.txt", "*.model"], **options))


@contextmanager
def hub_errors(model_id: str, revision: str | None, offline: bool) -> Iterator[None]:
    """Turn what goes wrong between here and the Hub into a ModelLoadError that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ModelLoadError(*explain(model_id, revision, offline, error)) from error


def explain(model_id: str, revision: str | None, offline: bool, error: BaseException) -> tuple[str, str]:
    """Message and hint for a failed download; diffusers hides the Hub's answer behind errors of its own."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    chain = list(causes(error))
    if offline:
        return f"{model_id}: not on this machine", "run once without --offline"
    if any(isinstance(cause, GatedRepoError) for cause in chain):
        return f"{model_id}: gated on the Hub", "accept its terms there, then: hf auth login"
    if any(isinstance(cause, RevisionNotFoundError) for cause in chain):
        return f"{model_id}: the Hub has no revision {revision!r} of it", "see the branches and commits on its page"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in chain):
        return f"{model_id}: no such model here or on the Hub", "check the spelling; for a private one: hf auth login"
    hint = "check the connection; --offline uses the cache alone"
    return f"{model_id}: cannot be fetched: {first_line(chain[-1])[:200]}", hint


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it was raised from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__


def load_pipeline(source: Source, dtype: torch.dtype) -> Any:
    """The diffusers pipeline of `source` in `dtype`, in evaluation mode, from local files alone."""
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    options: dict[str, Any] = {"torch_dtype": dtype, "local_files_only": True}
    with reading(source.id), quiet():
        if source.single_file:
            return StableDiffusionPipeline.from_single_file(
                str(source.path), config=str(source.config), safety_checker=None, **options
            )
        variant = fp16_only(source.path)
        return DiffusionPipeline.from_pretrained(
            source.path, use_safetensors=True, variant=variant, **safety_off(source.path), **options
        )


def safety_off(folder: Path) -> dict[str, Any]:
    """Arguments that leave out a safety checker the folder may list: it is not part of what conestool measures."""
    listed = read_json(folder / "model_index.json").get("safety_checker")
    return {"safety_checker": None, "requires_safety_checker": False} if listed else {}


def fp16_only(folder: Path) -> str | None:
    """The variant "fp16" where a folder holds the denoiser in that variant alone."""
    files = denoiser_files(folder)
    return "fp16" if files and all(".fp16." in file.name for file in files) else None


def denoiser_files(folder: Path) -> list[Path]:
    """The weight files of the denoiser that are loaded from a diffusers folder; a variant only if there is no other."""
    return [file for name in DENOISERS for file in weight_files(folder / name)]


def weight_files(part: Path) -> list[Path]:
    """The weight files of one component that are loaded from its folder; a variant only if there is no other."""
    files = sorted(part.glob("*.safetensors"))
    plain = [file for file in files if re.fullmatch(r"[^.]+\.safetensors", file.name)]
    return plain or [file for file in files if ".fp16." in file.name]


def stored_dtype(path: Path) -> torch.dtype | None:
    """The dtype that most of a safetensors file's tensors have; ModelLoadError if the file is damaged."""
    from safetensors import safe_open

    with reading(str(path)), safe_open(path, "pt") as file:
        kinds = [file.get_slice(key).get_dtype() for key in file.keys()]  # noqa: SIM118
    return STORED.get(max(set(kinds), key=kinds.count)) if kinds else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if the file is not there."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadError(f"{path}: not JSON: {first_line(error)}") from error
    return value if isinstance(value, dict) else {}


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever goes wrong while third-party code reads a model into a one-line ModelLoadError."""
    try:
        yield
    except (ModelLoadError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelLoadError(f"{name}: cannot be read: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first non-empty line of an exception's text, else its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
