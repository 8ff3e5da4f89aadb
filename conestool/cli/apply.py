"""`cones apply`: write a patched model that other programs load."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _io, _show
from conestool.cli._options import (
    Config,
    DeviceOption,
    Dtype,
    DtypeOption,
    Force,
    ForceModel,
    Json,
    ModelOption,
    Offline,
    Revision,
    flag,
    value,
)

if TYPE_CHECKING:
    from conestool.concept import Cone
    from conestool.diffusion.models import Model

__all__ = ["apply"]

SUFFIX = ".safetensors"


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
    output: Annotated[
        Path,
        value("-o", "--output", metavar="OUT", text="A folder, or one .safetensors file.", show_default=False),
    ],
    kind: Annotated[
        Kind | None,
        value("--as", metavar="KIND", text="folder, checkpoint, denoiser or lora. Default: by the suffix."),
    ] = None,
    rank: Annotated[
        int | None, value("--rank", metavar="N", text="Rank of a LoRA; more keeps more. Default: 64.", min=1)
    ] = None,
    link: Annotated[bool, flag("--link", text="Folder: hard links for unchanged weight files.")] = False,
    model: ModelOption = None,
    revision: Revision = None,
    config: Config = None,
    offline: Offline = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.auto,
    force: Force = False,
    force_model: ForceModel = False,
    json: Json = False,
) -> None:
    """Write a base model with the concepts built in.

    A name that ends in .safetensors becomes a checkpoint in the original layout, for A1111, ComfyUI and InvokeAI; any
    other a diffusers folder. --as denoiser writes the U-Net or transformer alone, --as lora an approximation by SVD.
    """
    from conestool import algebra
    from conestool.cli import _models

    kind = settle(kind, output, rank, link)
    _io.check_outputs([output], "a model", force=force, folder=kind is Kind.folder)
    wanted = [_models.parse_wanted(text) for text in files]
    cones = _io.load_cones([one.path for one in wanted])
    cone = algebra.merge(*cones)
    where = _models.Where(model, device, dtype.value, revision, config, offline)
    base = _models.open_model(where, (cone.base.id, cone.base.revision))
    strength = _models.strengths(wanted, cones)
    options = {"strength": strength, "force": force, "force_model": force_model}
    facts = write(kind, base, cone, output, rank, link, options)
    if json:
        concepts = [{"name": each.name, "id": each.id, "strength": strength[each.name]} for each in cone.concepts]
        _io.emit_json({"output": str(output), "kind": kind.value, "model": base.id, **facts, "concepts": concepts})
    else:
        _io.emit_paths([output])


def settle(kind: Kind | None, output: Path, rank: int | None, link: bool) -> Kind:
    """The kind of output: as given, else by the suffix; UsageError where the options contradict each other."""
    from conestool.errors import UsageError

    if str(output) == _io.STDIO:
        raise UsageError("-o -: a model does not go to stdout", f"name a folder or a {SUFFIX} file")
    single = output.suffix.lower() == SUFFIX
    settled = kind or (Kind.checkpoint if single else Kind.folder)
    if single == (settled is Kind.folder):
        hint = f"leave out {SUFFIX}" if single else f"name it {output.with_suffix(SUFFIX)}"
        raise UsageError(f"{output}: not a name for a {settled.value}", hint)
    if rank is not None and settled is not Kind.lora:
        raise UsageError("--rank: only a LoRA has one", "add --as lora")
    if link and settled is not Kind.folder:
        raise UsageError("--link: only a folder has files to link", "leave it out")
    return settled


def write(
    kind: Kind, base: Model, cone: Cone, output: Path, rank: int | None, link: bool, options: dict[str, Any]
) -> dict[str, Any]:
    """Write the output and say so; returns what JSON tells beyond the rest."""
    from conestool import patch

    if kind is Kind.lora:
        return write_lora(base, cone, output, options if rank is None else {**options, "rank": rank})
    if kind is Kind.folder:
        patch.write_folder(base, cone, output, link=link, **options)
    elif kind is Kind.denoiser:
        patch.write_denoiser(base, cone, output, **options)
    else:
        patch.write_checkpoint(base, cone, output, **options)
        for note in patch.checkpoint_notes(base):
            _show.warn(f"{base.id}: {note}")
    tell(output, TITLES[kind], cone)
    return {}


def write_lora(base: Model, cone: Cone, output: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Write a LoRA, with a bar, and say how near it comes."""
    from conestool import patch
    from conestool.cli._progress import progress

    count = len({param for concept in cone.concepts for param in concept.indices})
    with progress("singular values", count) as tick:
        done = patch.write_lora(base, cone, output, progress=lambda number, total: tick(number), **options)
    tell(output, f"a LoRA of rank {done.rank}, an approximation", cone)
    _show.say(f"it keeps {_show.percent(done.energy)} of the energy of the weight change; a larger --rank keeps more")
    return {"rank": done.rank, "energy": done.energy}


def tell(output: Path, what: str, cone: Cone) -> None:
    """What was written, and which words of a prompt now draw the subjects."""
    phrases = ", ".join(f"{each.phrase!r}" for each in cone.concepts)
    _show.say(f"{output}: {what}; in a prompt write {phrases}")
