"""What a model is: its K/V weights streamed through the digests, remembered by file identity.

The digests are numpy alone and lives in `conestool.fingerprint`; spec/cone-1.md says which bytes are hashed. A
model from a folder or a single file is known by the weights stored there, whatever dtype it was loaded in; any other by
the weights in memory. Neither is affected by concepts that are applied at the moment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import safe_open
from torch import Tensor, nn

from conestool._atomic import expand_user
from conestool.concept import BaseModelInfo
from conestool.errors import UsageError
from conestool.fingerprint import fingerprint
from conestool.models.cache import cache_get, cache_set
from conestool.models.kv_weights import kv_weights, unwrap_compiled
from conestool.models.loading import denoiser_files, original_denoiser_weights, wrap_load_errors
from conestool.models.model import Model

_Fields = dict[str, Any]
_FIELDS = {"structure", "tensors", "digests"}
_CACHE_VERSION = 3


_FROZEN_FIELDS: WeakKeyDictionary[nn.Module, _Fields | None] = WeakKeyDictionary()
"""What a denoiser was before concepts were applied to it, None if nobody had asked."""
_HASH_CACHE: WeakKeyDictionary[nn.Module, tuple[list[int], _Fields]] = WeakKeyDictionary()


def describe_model(model: Model) -> BaseModelInfo:
    """The identity of `model` without the concepts applied to it.

    Costs about a second for SD 1.5, and next to nothing when the files, or the weights in memory, are known already.
    UsageError if it is asked for the first time while concepts are applied with `verify_base_model=False`.
    """
    fields = _fields_of_files(model) or _fields_in_memory(model)
    dtype = model.stored_dtype if model.path and model.stored_dtype else model.dtype
    return BaseModelInfo(
        id=public_id(model.id),
        revision=model.revision,
        family=model.family.name,
        dtype=str(dtype).removeprefix("torch."),
        **fields,
    )


def file_sha256(model: Model) -> str | None:
    """The SHA-256 of the single file that a model came from, which is how other programs know it; None for others."""
    if model.path is None or model.in_folder:
        return None
    key = _file_key([model.path])
    known = cache_get("sha256", key)
    if isinstance(known, str):
        return known
    with model.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if _file_key([model.path]) == key:  # nobody replaced it meanwhile
        cache_set("sha256", key, found)
    return found


def public_id(model_id: str) -> str:
    """A model's id without the folders of whoever uses it: an absolute path is cut down to its last part."""
    path = expand_user(model_id)
    return path.name if path.is_absolute() else model_id


def _fields_of_files(model: Model) -> _Fields | None:
    """The fields of BaseModelInfo by the model's files; None if it has none, or if they lack some K/V weight."""
    if model.path is None:
        return None
    files = denoiser_files(model.path) if model.in_folder else [model.path]
    wanted = set(kv_weights(model.denoiser))
    key = _file_key(files)
    known = _validated(cache_get("identity", key))
    if known is not None and known["tensors"].keys() == wanted:
        return known
    found = folder_weights(files, wanted) if model.in_folder else _single_file_weights(model, files[0], wanted)
    fields = fingerprint((name, _as_array(tensor)) for name, tensor in found)
    if fields["tensors"].keys() != wanted:
        return None
    if _file_key(files) == key:  # nobody replaced them meanwhile
        cache_set("identity", key, fields)
    return fields


def folder_weights(files: list[Path], wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
    """The `wanted` tensors of a diffusers folder's weight files, one at a time."""
    for file in files:
        with wrap_load_errors(str(file)), safe_open(file, "pt") as opened:
            for key in wanted.intersection(opened.keys()):
                yield key, opened.get_tensor(key)


def _single_file_weights(model: Model, file: Path, wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
    """The `wanted` tensors of a single file, under the names of the denoiser that was loaded from it."""
    with wrap_load_errors(model.id):
        yield from original_denoiser_weights(file, model.denoiser, wanted)


def _fields_in_memory(model: Model) -> _Fields:
    """The fields of BaseModelInfo by the weights in memory; hashed anew only if a checksum says that they changed."""
    denoiser = unwrap_compiled(model.denoiser)
    if denoiser in _FROZEN_FIELDS:
        before = _FROZEN_FIELDS[denoiser]
        if before is None:
            raise UsageError(
                f"{model.id} cannot be identified while concepts are applied unchecked",
                "apply them with verify_base_model=True, or ask for model.info before",
            )
        return before
    weights = kv_weights(denoiser)
    sums = _checksums(weights)
    known = _HASH_CACHE.get(denoiser)
    if known is None or known[0] != sums:
        fields = fingerprint((name, _as_array(param.detach())) for name, param in weights.items())
        known = _HASH_CACHE[denoiser] = (sums, fields)
    return known[1]


def _checksums(weights: Mapping[str, Tensor]) -> list[int]:
    """Per tensor the sum of its bits read as integers: cheap, and different after any change that matters here."""
    return [int(value) for value in torch.stack([_bit_sum(weight.detach()) for weight in weights.values()]).tolist()]


def _bit_sum(tensor: Tensor) -> Tensor:
    """The sum, modulo 2^64, of a tensor's memory read as 64-bit integers, or 16-bit ones if its size needs that."""
    word = torch.int64 if tensor.numel() * tensor.element_size() % 8 == 0 else torch.int16
    return tensor.contiguous().view(-1).view(word).sum(dtype=torch.int64)


def _as_array(tensor: Tensor) -> Any:
    """The tensor as a numpy array; bfloat16, which numpy lacks, as float32, which is exact."""
    tensor = tensor.cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def freeze_identity(model: Model, info: BaseModelInfo | None) -> None:
    """From now `describe_model` answers for the weights as they are, with `info` if it is known."""
    denoiser = unwrap_compiled(model.denoiser)
    fields = info.model_dump(include=_FIELDS) if info else None
    if info is None and (known := _HASH_CACHE.get(denoiser)) and known[0] == _checksums(kv_weights(denoiser)):
        fields = known[1]  # they have been hashed before
    _FROZEN_FIELDS[denoiser] = fields


def unfreeze_identity(denoiser: nn.Module) -> None:
    """The weights of `denoiser` are again what they were before `freeze_identity`."""
    del _FROZEN_FIELDS[denoiser]


def _file_key(files: list[Path]) -> str:
    """Cache key of files: their resolved paths, inodes, sizes and times of change.

    The time of content alone would not do: whoever copies a file can give it any, and archives and container images
    often give all files the same. The inode's own time no program can set.
    """
    found = [(file.resolve(), file.stat()) for file in files]
    facts = [(str(path), it.st_ino, it.st_size, it.st_mtime_ns, it.st_ctime_ns) for path, it in found]
    return hashlib.sha256(json.dumps([_CACHE_VERSION, facts]).encode()).hexdigest()


def _validated(value: Any) -> _Fields | None:
    """The fields that were remembered; None unless all are there in the right form."""
    try:
        BaseModelInfo(id="", family="", dtype="", **value)
    except (TypeError, ValueError):
        return None
    return dict(value)
