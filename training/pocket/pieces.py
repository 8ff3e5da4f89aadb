"""A training in small files, to be carried to a machine without network and back.

    python -m training.pocket.pieces --work F --to DIR     # train.pt (if there is one), encoder and scale as pieces
    python -m training.pocket.pieces --work F --from DIR   # pieces as train.pt, which training on the CPU goes on from

A folder of pieces holds the encoder and the averaged weights in fp16, the optimizers' first moments as bytes with a
scale for every 128, and second moments of matrices as means of rows and columns (Shazeer and Stern 2018, "Adafactor").
Training goes on from the averaged weights. Each piece has 12 MiB at most; ``manifest.json`` has their checksums.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from training.pocket.common import load_state, save_state

PIECE, MOST_PIECES = 12 << 20, 5
MANIFEST, FORMAT = "manifest.json", 1
_BLOCK = 128


def quantize(values: Tensor) -> dict[str, Tensor]:
    """Return bytes with a scale for every 128, and the shape."""
    flat = values.float().flatten()
    blocks = torch.cat([flat, flat.new_zeros(-len(flat) % _BLOCK)]).view(-1, _BLOCK)
    scale = (blocks.abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)
    shape = torch.tensor(values.shape, dtype=torch.int32)
    return {"bytes": (blocks / scale).round().to(torch.int8), "scale": scale, "shape": shape}


def dequantize(parts: dict[str, Tensor]) -> Tensor:
    """Return what `quantize` was given, within half a step of each scale."""
    shape = parts["shape"].tolist()
    return (parts["bytes"] * parts["scale"]).flatten()[: math.prod(shape)].view(shape)


def _factor(square: Tensor) -> dict[str, Tensor]:
    if square.ndim < 2:
        return {"whole": square.float()}
    matrix = square.float().flatten(1)
    return {"rows": matrix.mean(1), "columns": matrix.mean(0)}


def _square(parts: dict[str, Tensor], moment: Tensor) -> Tensor:
    """Return second moments, nowhere below the square of the first: no weight then moves by more than the rate."""
    square = parts.get("whole")
    if square is None:
        square = parts["rows"][:, None] * parts["columns"] / parts["rows"].mean().clamp(min=1e-30)
    return torch.maximum(square.view(moment.shape), moment.square())


def pack(state: dict[str, Any] | None, encoder: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return all that travels, by name; ``state`` is what ``train.pt`` holds, None before there is one.

    What is no tensor is under "json", as bytes.
    """
    facts: dict[str, Any] = {"format": FORMAT, "scale": scale, "trained": state is not None}
    out = {f"encoder/{name}": tensor.half() for name, tensor in encoder.items()}
    if state:
        names = list(state["model"])
        if [state["model"][n].shape for n in names] != [mean.shape for mean in state["average"]]:
            raise SystemExit("train.pt holds other weights than averages: it was made by another version")
        out |= {f"average/{name}": mean.half() for name, mean in zip(names, state["average"], strict=True)}
        facts |= {"seen": state["seen"], "steps": state["steps"], "names": names, "groups": []}
        for number, each in enumerate(state["optimizers"]):
            facts["groups"].append([group | {"lr": float(group["lr"])} for group in each["param_groups"]])
            for row, values in each["state"].items():
                for key, value in values.items():
                    kinds = {"exp_avg_sq": _factor, "exp_avg": quantize, "momentum": quantize}
                    parts = kinds[key](value) if key in kinds else {"as is": value.float()}
                    out |= {f"optimizer/{number}/{row}/{key}/{part}": part_of for part, part_of in parts.items()}
    out["json"] = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in out.items()}


def facts_of(packed: dict[str, Tensor]) -> dict[str, Any]:
    """Return what travels and is no tensor: ``scale``, whether anything was ``trained``, ``seen``, ``steps``."""
    facts: dict[str, Any] = json.loads(bytes(packed["json"].tolist()))
    if facts["format"] != FORMAT:
        raise SystemExit(
            f"pieces of format {facts['format']}, not {FORMAT}: read them with the version that wrote them"
        )
    return facts


def encoder_of(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's weights in fp32."""
    return {name.removeprefix("encoder/"): t.float() for name, t in packed.items() if name.startswith("encoder/")}


def unpack(packed: dict[str, Tensor]) -> dict[str, Any] | None:
    """Return what ``train.pt`` is to hold, with the averaged weights as the weights; None where nothing was trained."""
    facts = facts_of(packed)
    if not facts["trained"]:
        return None
    model = {name: packed[f"average/{name}"].float() for name in facts["names"]}
    tree: dict[tuple[int, int], dict[str, dict[str, Tensor]]] = {}
    for name, tensor in packed.items():
        if name.startswith("optimizer/"):
            _, group, at, key, part = name.split("/")
            tree.setdefault((int(group), int(at)), {}).setdefault(key, {})[part] = tensor
    optimizers: list[dict[str, Any]] = [{"state": {}, "param_groups": groups} for groups in facts["groups"]]
    for (number, row), keys in tree.items():
        values = {key: parts["as is"] for key, parts in keys.items() if "as is" in parts}
        values |= {key: dequantize(p) for key, p in keys.items() if "bytes" in p}
        if "exp_avg_sq" in keys:
            values["exp_avg_sq"] = _square(keys["exp_avg_sq"], values["exp_avg"])
        optimizers[number]["state"][row] = values
    average = [tensor.clone() for tensor in model.values()]
    told = {key: facts[key] for key in ("seen", "steps", "scale")}
    return {"model": model, "average": average, "optimizers": optimizers, **told}


def write(folder: Path, packed: dict[str, Tensor], stage: Path) -> None:
    """Put a set of pieces in the place of the one before, whole or not at all.

    They are made in ``stage`` where that is on the same disk, so that a run that is cut leaves nothing half done in
    the place that is copied back. Cut between the two renames, it leaves the last set there as ``.NAME.old``.
    """
    blob = safetensors.torch.save(packed)
    parts = [blob[start : start + PIECE] for start in range(0, len(blob), PIECE)]
    if len(parts) > MOST_PIECES:
        raise SystemExit(f"{len(blob) >> 20} MiB: more than {MOST_PIECES} pieces of {PIECE >> 20} MiB")
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage.mkdir(parents=True, exist_ok=True)
    if stage.stat().st_dev != folder.parent.stat().st_dev:
        stage = folder.parent
    new, old = stage / f".{folder.name}.new", stage / f".{folder.name}.old"
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir()
    sums = {}
    for number, part in enumerate(parts):
        (new / f"piece-{number}.bin").write_bytes(part)
        sums[f"piece-{number}.bin"] = hashlib.sha256(part).hexdigest()
    told = {key: value for key, value in facts_of(packed).items() if key not in ("names", "groups")}
    (new / MANIFEST).write_text(json.dumps(told | {"pieces": sums}, indent=1) + "\n", encoding="utf-8")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read(folder: Path) -> dict[str, Tensor]:
    """Return what `pack` gave, once every piece is there and has its checksum."""
    if not (folder / MANIFEST).exists():
        raise SystemExit(f"no {folder / MANIFEST}: make pieces with python -m training.pocket.pieces --work F --to DIR")
    sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["pieces"]
    blob = bytearray()
    for name, wanted in sums.items():
        part = (folder / name).read_bytes() if (folder / name).exists() else b""
        if hashlib.sha256(part).hexdigest() != wanted:
            raise SystemExit(f"{folder / name} is missing or damaged: carry it again")
        blob += part
    return safetensors.torch.load(bytes(blob))


def pack_work(work: Path) -> dict[str, Tensor]:
    """Return what travels of a work folder."""
    coded, scale = load_state(work / "autoencoder.pt"), load_state(work / "scale.pt")
    if coded is None or scale is None:
        raise SystemExit(f"no autoencoder.pt or scale.pt in {work}: run training.pocket.autoencoder and .pool first")
    encoder = {name: tensor for name, tensor in coded["model"].items() if name.startswith("encoder.")}
    return pack(load_state(work / "train.pt"), encoder, float(scale["scaling_factor"]))


def unpack_work(packed: dict[str, Tensor], work: Path) -> dict[str, Any]:
    """Write ``train.pt``; refuses what was trained on other latents, and to go back."""
    state, coded, before = unpack(packed), load_state(work / "autoencoder.pt"), load_state(work / "train.pt")
    if state is None:
        raise SystemExit("these pieces hold no training yet, only the encoder")
    if coded is None:
        raise SystemExit(f"no autoencoder.pt in {work}: take the work folder that the pieces were made from")
    if any(not torch.equal(coded["model"][name].half().float(), each) for name, each in encoder_of(packed).items()):
        raise SystemExit(f"{work / 'autoencoder.pt'} is another one: its latents are not those of these pieces")
    if before and before["seen"] >= state["seen"]:
        raise SystemExit(f"train.pt in {work} has seen {before['seen']} images, these pieces {state['seen']}: kept")
    save_state(work / "train.pt", state)
    return state


def main() -> None:
    """Turn ``train.pt`` into pieces or pieces into ``train.pt``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--to", type=Path, help="a folder, replaced")
    way.add_argument("--from", type=Path, dest="origin", help="a folder of pieces")
    args = parser.parse_args()
    if args.to:
        write(args.to, pack_work(args.work), args.to.parent)
        print((args.to / MANIFEST).read_text(encoding="utf-8"), end="")
    else:
        print(f"{unpack_work(read(args.origin), args.work)['seen']} images seen: {args.work / 'train.pt'}")


if __name__ == "__main__":
    main()
