"""Begin where an earlier training stands, without its work folder.

    python -m training.pocket.adopt --work F                 # from the committed weights of a training under way
    python -m training.pocket.adopt --work F --write         # write those, from train.pt
    python -m training.pocket.adopt --work F --model MODEL   # from an exported model, such as conestool/pocket

Writes the checkpoints that the other stages go on from. The optimizers begin anew, with a warm-up. Weights are the
averaged ones, as fp16 has them in a model, and as bytes with a scale for every 128 in the committed file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPTextModel

from training.pocket import autoencoder, models, tokenizer
from training.pocket.common import load_state, save_state
from training.pocket.export import read_average
from training.pocket.pieces import dequantize, quantize

#: U-Net and text encoder of the training under way.
WEIGHTS = Path(__file__).parent / "weights.safetensors"


def read_parts(model: Path) -> torch.nn.ModuleDict:
    """Return U-Net and text encoder of an exported model in fp32, under the names that ``train.pt`` has."""
    parts = torch.nn.ModuleDict({"unet": models.build_unet(), "text": models.build_text_encoder(tokenizer.build())})
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
    parts["unet"].load_state_dict(unet.state_dict())
    parts["text"].load_state_dict(text.state_dict())
    return parts


def _refuse_training(work: Path) -> None:
    if (work / "train.pt").exists():
        raise SystemExit(f"{work} holds a training already; take another --work")


def _begin(parts: torch.nn.ModuleDict, seen: int, scale: float) -> dict[str, Any]:
    """Return what ``train.pt`` holds for weights without their optimizers."""
    average = [parameter.detach().clone() for parameter in parts.parameters()]
    return {
        "model": parts.state_dict(), "average": average, "optimizers": [], "seen": seen, "steps": 0, "scale": scale
    }  # fmt: skip


def write_weights(work: Path, path: Path = WEIGHTS) -> None:
    """Write the averaged weights of ``train.pt``, matrices as bytes."""
    parts, state = read_average(work)
    coded: dict[str, torch.Tensor] = {}
    for name, tensor in parts.state_dict().items():
        if tensor.ndim < 2:
            coded[f"{name}/whole"] = tensor.float().contiguous()
        else:
            coded |= {f"{name}/{part}": value.contiguous() for part, value in quantize(tensor).items()}
    save_file(coded, path, metadata={"images_seen": str(state["seen"]), "scale": str(state["scale"])})


def read_weights(work: Path, path: Path = WEIGHTS) -> dict[str, Any]:
    """Write ``train.pt`` from such a file; refuses a folder with a training, or whose latents have another scale."""
    _refuse_training(work)
    parts = torch.nn.ModuleDict({"unet": models.build_unet(), "text": models.build_text_encoder(tokenizer.build())})
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        coded: dict[str, dict[str, torch.Tensor]] = {}
        for key in file.keys():  # noqa: SIM118
            name, part = key.rsplit("/", 1)
            coded.setdefault(name, {})[part] = file.get_tensor(key)
    parts.load_state_dict({n: each["whole"] if "whole" in each else dequantize(each) for n, each in coded.items()})
    scale = load_state(work / "scale.pt")
    if scale and abs(scale["scaling_factor"] / float(facts["scale"]) - 1) > 0.05:
        raise SystemExit(f"{path}: trained on other latents than those of {work}; begin with autoencoder --known")
    state = _begin(parts, int(facts["images_seen"]), float(facts["scale"]))
    save_state(work / "train.pt", state)
    return state


def adopt(model: Path, work: Path) -> dict[str, Any]:
    """Write ``autoencoder.pt``, ``decoder.pt``, ``scale.pt`` and ``train.pt``; refuses a folder with a training."""
    _refuse_training(work)
    parts = read_parts(model)
    vae = AutoencoderTiny.from_pretrained(model / "vae", torch_dtype=torch.float32)
    told = json.loads((model / "pocket.json").read_text(encoding="utf-8"))
    scale = float(vae.config.scaling_factor)
    state = _begin(parts, int(told["images_seen"]), scale)
    coded = {"model": vae.state_dict(), "light": autoencoder.LightDecoder().state_dict(), "seen": 0}
    for name in ("autoencoder.pt", "decoder.pt"):
        save_state(work / name, coded)
    save_state(work / "scale.pt", {"scaling_factor": scale})
    save_state(work / "train.pt", state)
    return state


def main() -> None:
    """Adopt, or write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="an exported model")
    parser.add_argument("--write", action="store_true", help=f"write {WEIGHTS.name} instead")
    args = parser.parse_args()
    if args.write:
        write_weights(args.work)
        print(WEIGHTS)
        return
    state = adopt(args.model, args.work) if args.model else read_weights(args.work)
    print(f"{state['seen']} images seen: {args.work / 'train.pt'}")


if __name__ == "__main__":
    main()
