"""`cones apply`: write a patched model that other programs load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    value,
)

if TYPE_CHECKING:
    from conestool.concept import Cone

__all__ = ["apply"]


def apply(
    files: Annotated[list[str], typer.Argument(metavar="FILE[:STRENGTH]...", help=".cone files; - reads stdin.")],
    output: Annotated[
        Path,
        value("-o", "--output", metavar="OUT", text="A folder, or one .safetensors file.", show_default=False),
    ],
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

    A folder is a complete diffusers pipeline; a .safetensors file holds the denoiser alone.
    """
    from conestool import algebra
    from conestool.cli import _models
    from conestool.errors import UsageError

    if str(output) == _io.STDIO:
        raise UsageError("-o -: a model does not go to stdout", "name a folder or a .safetensors file")
    single = output.suffix.lower() == ".safetensors"
    _io.check_outputs([output], "a model", force=force, folder=not single)
    wanted = [_models.parse_wanted(text) for text in files]
    cones = _io.load_cones([one.path for one in wanted])
    cone = algebra.merge(*cones)
    where = _models.Where(model, device, dtype.value, revision, config, offline)
    base = _models.open_model(where, (cone.base.id, cone.base.revision))
    from conestool.patch import write_denoiser, write_folder

    write = write_denoiser if single else write_folder
    strength = _models.strengths(wanted, cones)
    write(base, cone, output, strength=strength, force=force, force_model=force_model)
    tell(cone, output, single)
    if json:
        concepts = [{"name": each.name, "id": each.id, "strength": strength[each.name]} for each in cone.concepts]
        _io.emit_json({"output": str(output), "model": base.id, "concepts": concepts})
    else:
        _io.emit_paths([output])


def tell(cone: Cone, output: Path, single: bool) -> None:
    """What was written, and which words of a prompt now draw the subjects."""
    phrases = ", ".join(f"{each.phrase!r}" for each in cone.concepts)
    what = "the patched denoiser" if single else "a diffusers folder"
    _show.say(f"{output}: {what}; in a prompt write {phrases}")
