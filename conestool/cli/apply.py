"""`cones apply`: write a patched model that other programs load."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _options, _output, _selection, _streams
from conestool.cli._options import MAX_COUNT, AllowBaseMismatch, DrawingWhere, Json, Overwrite, flag, value
from conestool.errors import UsageError

if TYPE_CHECKING:
    from conestool.concept import Cone
    from conestool.models.model import Model

SUFFIX = ".safetensors"
FILES = (
    *(".bin", ".ckpt", ".cone", ".gguf", ".h5", ".json", ".mar", ".msgpack", ".npz", ".onnx", ".pickle", ".pkl"),
    *(".png", ".pt", ".pth", ".safetensor", ".sft", ".tar", ".zip"),
)
"""Endings that nobody means a folder by."""


class Kind(StrEnum):
    """What `--as` takes."""

    folder = "folder"
    checkpoint = "checkpoint"
    denoiser = "denoiser"
    lora = "lora"


TITLES = {
    Kind.folder: "a diffusers folder",
    Kind.checkpoint: "a checkpoint in the original layout",
    Kind.denoiser: "the patched denoiser in diffusers naming",
}


def apply(
    files: Annotated[list[str], typer.Argument(metavar="FILE[:STRENGTH]...", help=".cone files; - reads stdin.")],
    output: Annotated[Path, value("OUT", "A folder, or one .safetensors file.", "-o", "--output", show_default=False)],
    kind: Annotated[
        Kind | None, value("KIND", "folder, checkpoint, denoiser or lora. Default: by the suffix.", "--as")
    ] = None,
    rank: Annotated[
        int | None, value("N", "Rank of a LoRA; more keeps more. Default: 64.", min=1, max=MAX_COUNT)
    ] = None,
    link: Annotated[bool, flag("Folder: hard links for unchanged weight files.")] = False,
    sidecar: Annotated[
        bool, flag("Also a .json beside the file: A1111 and InvokeAI show the prompt's words from it.")
    ] = False,
    *,
    where: DrawingWhere,
    overwrite: Overwrite = False,
    allow_base_mismatch: AllowBaseMismatch = False,
    json: Json = False,
) -> None:
    """Write a base model with the concepts built in.

    A name that ends in .safetensors becomes a checkpoint in the original layout, for ComfyUI, A1111 and others; any
    other a diffusers folder. --as denoiser writes the U-Net or transformer alone, --as lora an approximation by SVD.
    Which program reads which of them for which base model: docs/other-programs.md has a table.
    """
    kind = settle(kind, output, rank, link, sidecar)
    _streams.check_outputs([output], "a model", overwrite=overwrite, folder=kind is Kind.folder)
    if sidecar:
        _streams.check_outputs([output.with_suffix(".json")], "a sidecar", overwrite=overwrite)
    cone, strength, _ = _selection.load_named(files)
    # nothing is computed: stored weights are copied, and no device has a part in it
    where = replace(where, device="cpu" if where.device == "auto" else where.device)
    base = _options.open_model(where, (cone.base.id, cone.base.revision))
    options = {"strength": strength, "overwrite": overwrite, "allow_base_mismatch": allow_base_mismatch}
    facts, made = write(kind, base, cone, output, rank, link, options), [output]
    if sidecar:
        from conestool.apply import write_sidecar

        made.append(write_sidecar(base, cone, output, overwrite=overwrite))
        facts["sidecar"] = str(made[-1])
    concepts = [{"name": each.name, "id": each.id, "strength": strength[each.name]} for each in cone.concepts]
    told = {"output": str(output), "kind": kind.value, "model": base.id, **facts, "concepts": concepts}
    _streams.emit_result(told, made, json)


def settle(kind: Kind | None, output: Path, rank: int | None, link: bool, sidecar: bool) -> Kind:
    """The kind of output: as given, else by the suffix; UsageError where the options contradict each other."""
    if str(output) == _streams.STDIO:
        raise UsageError("-o -: a model does not go to stdout", f"name a folder or a {SUFFIX} file")
    single = output.suffix.lower() == SUFFIX
    if output.suffix.lower() in FILES:
        hint = f"name it {output.with_suffix(SUFFIX)}, or without an ending for a diffusers folder"
        raise UsageError(f"{output}: a model is never written as {output.suffix}", hint)
    settled = kind or (Kind.checkpoint if single else Kind.folder)
    if single == (settled is Kind.folder):
        hint = f"leave out {SUFFIX}" if single else f"name it {output.with_suffix(SUFFIX)}"
        raise UsageError(f"{output}: not a name for a {settled.value}", hint)
    if rank is not None and settled is not Kind.lora:
        raise UsageError("--rank: only a LoRA has one", "add --as lora")
    if link and settled is not Kind.folder:
        raise UsageError("--link: only a folder has files to link", "leave it out")
    if sidecar and settled is Kind.folder:
        raise UsageError("--sidecar: only a single file has one; the folder's README.md says the same", "leave it out")
    return settled


def write(
    kind: Kind, base: Model, cone: Cone, output: Path, rank: int | None, link: bool, options: dict[str, Any]
) -> dict[str, Any]:
    """Write the output and say so; returns what JSON tells beyond the rest."""
    from conestool import apply as export

    if kind is Kind.lora:
        return write_lora(base, cone, output, options if rank is None else {**options, "rank": rank})
    if kind is Kind.folder:
        export.write_folder(base, cone, output, link=link, **options)
    elif kind is Kind.denoiser:
        export.write_denoiser(base, cone, output, **options)
    else:
        export.write_checkpoint(base, cone, output, **options)
        for note in export.checkpoint_notes(base):
            _output.warn(f"{base.id}: {note}")
    tell(output, TITLES[kind], cone)
    return {}


def write_lora(base: Model, cone: Cone, output: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Write a LoRA, with a bar, and say how near it comes."""
    from conestool import apply as export
    from conestool.cli._output import progress

    count = len({param for concept in cone.concepts for param in concept.indices})
    with progress("singular values", count) as tick:
        done = export.write_lora(base, cone, output, progress=lambda number, total: tick(number), **options)
    tell(output, f"a LoRA of rank {done.rank}, an approximation", cone)
    _output.say(
        f"it keeps {_output.percent(done.energy)} of the energy of the weight change; a larger --rank keeps more"
    )
    return {"rank": done.rank, "energy": done.energy}


def tell(output: Path, what: str, cone: Cone) -> None:
    """What was written, and which words of a prompt now draw the subjects."""
    phrases = ", ".join(f"{each.phrase!r}" for each in cone.concepts)
    _output.say(f"{output}: {what}; in a prompt write {phrases}")
