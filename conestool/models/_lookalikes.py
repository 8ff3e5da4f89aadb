"""Files that are given as a base model and are something else: what each is, and what to give instead."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from conestool.errors import ModelLoadError

POINTER = b"version https://git-lfs"
_LOOKALIKES: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    ((POINTER,), "a git-lfs pointer, and not the weights themselves", "run: git lfs pull"),
    ((b"GGUF",), "a GGUF file, whose weights are quantised", "give the model as .safetensors in float16 or float32"),
    (
        (b"PK\3\4", b"\x80\2", b"\x80\3", b"\x80\4"),
        "a pickled checkpoint, which could run code",
        "pickled checkpoints are never loaded; give the .safetensors of the same model, or convert it",
    ),
    ((b"<",), "a web page, and not the weights themselves", "download the file itself again"),
)
"""First bytes, what a file is, and what to do."""
_SUFFIXES = {
    ".cone": ("a concept, and not a base model", "name the base model that it was found on, and the concept beside it"),
    ".gguf": _LOOKALIKES[1][1:],
    **dict.fromkeys((".ckpt", ".pt", ".pth", ".bin", ".pkl"), _LOOKALIKES[2][1:]),
}
_LORA = ("a LoRA, which is added to a base model", "give the base model itself")
_TENSORS = (
    (
        ("down_blocks.", "transformer_blocks."),
        "a denoiser alone, as diffusers names it",
        "give the whole diffusers folder",
    ),
    (("encoder.conv_in.", "encoder.down"), "an autoencoder alone", "give the whole model"),
    (("text_model.", "encoder.block.", "shared."), "a text encoder alone", "give the whole model"),
)
"""How names of tensors begin, what a file is that has such, and what to do."""


def refuse_lookalike(name: str, file: Path) -> None:
    """Raise ModelLoadError for a file that cannot be a base model's weights, by its first bytes and its ending."""
    with file.open("rb") as opened:
        start = opened.read(32)
    if not start:
        raise ModelLoadError(f"{name}: an empty file", "copy or download it again")
    for beginnings, what, hint in _LOOKALIKES:
        if start.startswith(beginnings):
            raise ModelLoadError(f"{name}: {what}", hint)
    suffix = file.suffix.lower()
    if suffix in _SUFFIXES:
        what, hint = _SUFFIXES[suffix]
        raise ModelLoadError(f"{name}: {what}", hint)
    if suffix != ".safetensors":
        raise ModelLoadError(f"{name}: not a .safetensors file", "give one, or a diffusers folder")


def what_tensors_are(names: Collection[str]) -> tuple[str, str] | None:
    """What a safetensors file is that holds tensors of these names, and what to give instead; None if unknown."""
    if any(".lora_" in name or name.startswith("lora_") for name in names):
        return _LORA
    for beginnings, what, hint in _TENSORS:
        if any(name.startswith(beginnings) for name in names):
            return what, hint
    return None
