"""Write the averaged weights as a diffusers folder: ``python -m training.pocket.export --work F --out MODEL``."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from training.pocket import autoencoder, captions, models, tokenizer, world
from training.pocket.common import load_state
from training.pocket.pool import load_autoencoder

STEPS, GUIDANCE, SIZE = 25, 3.0, autoencoder.SIZE


def read_average(work: Path) -> tuple[torch.nn.ModuleDict, dict[str, Any]]:
    """Return U-Net and text encoder with the averaged weights of ``train.pt``, and the state."""
    state = load_state(work / "train.pt")
    if state is None:
        raise SystemExit(f"no train.pt in {work}: run python -m training.pocket.train first")
    parts = torch.nn.ModuleDict({"unet": models.build_unet(), "text": models.build_text_encoder(tokenizer.build())})
    parts.load_state_dict(state["model"])
    for parameter, mean in zip(parts.parameters(), state["average"], strict=True):
        parameter.data.copy_(mean)
    return parts.eval(), state


def build_pipeline(work: Path) -> tuple[StableDiffusionPipeline, dict[str, Any]]:
    """Assemble the pipeline of the last checkpoint, in fp32."""
    parts, state = read_average(work)
    vae = load_autoencoder(work)
    vae.register_to_config(scaling_factor=state["scale"])
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=parts["text"],
        tokenizer=tokenizer.build(),
        unet=parts["unet"],
        scheduler=models.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe, state


def facts(state: dict[str, Any]) -> dict[str, Any]:
    """Return what ``pocket.json`` says of the model: what it can draw, and the defaults."""
    return {
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "size": SIZE,
        "max_length": tokenizer.MAX_LENGTH,
        "images_seen": state["seen"],
        "objects": [*world.ANIMALS, *world.THINGS],
        "animals": list(world.ANIMALS),
        "wearables": list(world.WEARABLES),
        "hats": list(world.HATS),
        "colours": list(world.COLOURS),
        "backgrounds": {"plain": ""} | {kind: captions.PLACES[kind][0] for kind in world.BACKGROUNDS},
        "identifiers": list(world.IDENTIFIERS),
    }


def write_model(work: Path, out: Path) -> None:
    """Write the folder: parts as fp16 safetensors, tokenizer with CLIP's files, ``pocket.json``."""
    pipe, state = build_pipeline(work)
    pipe.to(torch.float16).save_pretrained(out, safe_serialization=True)
    _edit(out / "text_encoder" / "config.json", dtype="float32")  # fp16 on disk, fp32 by default in memory
    _edit(out / "vae" / "config.json", block_out_channels=None)
    bpe = json.loads((out / "tokenizer" / "tokenizer.json").read_text())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]]
    (out / "tokenizer" / "vocab.json").write_text(json.dumps(bpe["vocab"], ensure_ascii=False))
    (out / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    shutil.copy(world.HERE / "identifiers.json", out / "tokenizer" / "identifiers.json")
    (out / "pocket.json").write_text(json.dumps(facts(state), indent=1) + "\n")
    for path in out.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _edit(path: Path, **values: str | None) -> None:
    """Set keys of a JSON file; None removes a key."""
    table = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in table.items() if v is not None}, indent=2) + "\n")


def main() -> None:
    """Export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write_model(args.work, args.out)
    print(args.out)


if __name__ == "__main__":
    main()
