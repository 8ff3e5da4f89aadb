"""Begin where an exported model stands, by default the packaged one: ``python -m training.pocket.adopt --work F``.

Writes the checkpoints that the other stages go on from, with the averaged weights as fp16 has them. The optimizers
begin anew, with a warm-up.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel

from conestool.models.loading import pocket_folder
from training.pocket import autoencoder, models, tokenizer
from training.pocket.common import load_state, save_state


def read_parts(model: Path) -> torch.nn.ModuleDict:
    """Return U-Net and text encoder of an exported model in fp32, under the names that ``train.pt`` has."""
    parts = torch.nn.ModuleDict({"unet": models.build_unet(), "text": models.build_text_encoder(tokenizer.build())})
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
    parts["unet"].load_state_dict(unet.state_dict())
    parts["text"].load_state_dict(text.state_dict())
    return parts


def adopt(model: Path, work: Path) -> dict[str, Any]:
    """Write ``train.pt`` and ``decoder.pt``, and ``autoencoder.pt`` and ``scale.pt`` where they are not there yet.

    Refuses a folder with a training, or whose latents have another scale.
    """
    if (work / "train.pt").exists():
        raise SystemExit(f"{work} holds a training already; take another --work")
    parts = read_parts(model)
    vae = AutoencoderTiny.from_pretrained(model / "vae", torch_dtype=torch.float32)
    told = json.loads((model / "pocket.json").read_text(encoding="utf-8"))
    scale = float(vae.config.scaling_factor)
    known = load_state(work / "scale.pt")
    if known and abs(known["scaling_factor"] / scale - 1) > 0.05:
        raise SystemExit(f"{model}: trained on other latents than those of {work}; begin with autoencoder --known")
    average = [parameter.detach().clone() for parameter in parts.parameters()]
    state = {
        "model": parts.state_dict(), "average": average, "optimizers": [], "seen": int(told["images_seen"]),
        "steps": 0, "scale": scale,
    }  # fmt: skip
    coded = {"model": vae.state_dict(), "light": autoencoder.LightDecoder().state_dict(), "seen": 0}
    for name in ("autoencoder.pt", "decoder.pt"):
        if name == "decoder.pt" or not (work / name).exists():
            save_state(work / name, coded)
    if not known:
        save_state(work / "scale.pt", {"scaling_factor": scale})
    save_state(work / "train.pt", state)
    return state


def main() -> None:
    """Adopt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=pocket_folder(), help="an exported model; default: the packaged")
    args = parser.parse_args()
    state = adopt(args.model, args.work)
    print(f"{state['seen']} images seen: {args.work / 'train.pt'}")


if __name__ == "__main__":
    main()
