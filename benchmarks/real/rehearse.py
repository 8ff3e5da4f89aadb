"""All of `python -m benchmarks.real` on random weights of the real sizes: `python -m benchmarks.real.rehearse`.

It makes a Stable Diffusion 1.5 (a folder as it is published, and one file in the original layout), a CLIP ViT-B/32 and
a DINO ViT-S/16 in a folder, and runs the benchmark there with few steps and samples: first on the folder, then on the
single file, which must find everything done. What it prints is what docs/experiments/real.md tells of a rehearsal.

With CLIP's own vocabulary, the file bpe_simple_vocab_16e6.txt.gz of the package open-clip-torch, identifiers and
prompts are those of the real model; without it pocket's stands in. Without a data set, examples/ stand in.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import PNDMScheduler
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from benchmarks.configurations import CLIP_B32, DINO_S, PNDM, TOKENS
from benchmarks.real.__main__ import main as run
from benchmarks.speed.render import POCKET, make_pipeline
from benchmarks.speed.shapes import SHAPES, fill
from benchmarks.speed.steps import Setup
from conestool.models._logging import quiet
from conestool.search.loss_terms import COMMON_BACKGROUNDS, prepare
from tests.support.ldm_writer import save_original

EXAMPLES = Path(__file__).parents[2] / "examples"
STAND_INS = {"rex": "dog", "cat": "cat"}
"""Folders of examples/ that take the place of a data set, and their classes."""
FEW = [
    *("--steps", "2", "--method", "mask,density=0.01,batch_size=1,num_class_images=4,num_crops=0"),
    *("--pictures", "1", "--prompts", "1", "--class-pictures", "1", "--render-steps", "2", "--lora-rates", "0.001"),
]
MEANS = {"clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])}
MEANS["dino"] = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and standard deviation of a pixel, as their published folders have them."""


def make_tokenizer(folder: Path, vocabulary: Path | None) -> CLIPTokenizer:
    """CLIP's tokenizer from its own file of merges (OpenAI's SimpleTokenizer: bytes, bytes at a word's end, merges)."""
    if vocabulary is None:
        return CLIPTokenizer.from_pretrained(POCKET / "tokenizer", model_max_length=TOKENS)
    with gzip.open(vocabulary, "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]
    letters = [chr(byte) for byte in kept] + [chr(256 + number) for number in range(len(others))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


def save_model(folder: Path, tokenizer: CLIPTokenizer, base: str) -> None:
    """The base model in float16, as a folder and, beside it, as one file."""
    setup = Setup(SHAPES[base], 64, dtype=torch.float16)
    with quiet():
        pipe = make_pipeline(setup, setup.weights())
        pipe.scheduler, pipe.tokenizer = PNDMScheduler(**PNDM), tokenizer
        pipe.save_pretrained(folder)
    listed = json.loads((folder / "model_index.json").read_text())
    listed |= {  # as published, from where people leave out the parts that only look for what is not safe
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "requires_safety_checker": True,
    }
    (folder / "model_index.json").write_text(json.dumps(listed, indent=2))
    save_original(pipe, folder.with_suffix(".safetensors"))


def save_encoders(folder: Path, tokenizer: CLIPTokenizer) -> None:
    """CLIP and DINO with random weights, and how they want pictures."""
    ends = {
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }  # as in the published file, which means the last one
    text, seen = CLIP_B32["text_config"] | ends, CLIP_B32["vision_config"]
    config = CLIPConfig(text_config=text, vision_config=seen, projection_dim=512)
    for name, model in (("clip", CLIPModel(config)), ("dino", ViTModel(ViTConfig(**DINO_S)))):
        fill(model)
        with quiet():
            model.save_pretrained(folder / name)
        mean, std = MEANS[name]
        told = {"image_mean": mean, "image_std": std, "size": 224}
        (folder / name / "preprocessor_config.json").write_text(json.dumps(told))
    tokenizer.save_pretrained(folder / "clip")


def save_stand_in(folder: Path) -> Path:
    """Photos of examples/ in the layout of DreamBooth's data set, with a few of its prompts."""
    for name in STAND_INS:
        shutil.copytree(EXAMPLES / name, folder / name, dirs_exist_ok=True)
    lines = [f"'a {{0}} {{1}} {rest}'.format(unique_token, class_token)," for rest in ("in the snow", "on the beach")]
    rows = [f"{name},{noun}" for name, noun in STAND_INS.items()]
    text = ["Classes", "", "subject_name,class", *rows, "", "Prompts", ""]
    for title in ("Object Prompts", "Live Subject Prompts"):
        text += [title, "", "prompt_list = [", *lines, "]", ""]
    (folder / "prompts_and_classes.txt").write_text("\n".join(text))
    return folder


@contextmanager
def few_samples() -> Iterator[None]:
    """Within it a search measures losses on one sample, freezes two targets a term, asks a photo for one background,
    and has no more pictures drawn than it needs."""
    short = partial(prepare, num_frozen_targets=2)
    changes: dict[str, Any] = {
        "conestool.search.find.NUM_EVAL_SAMPLES": 1,
        "conestool.search.find.prepare": short,
        "conestool.search.loss_terms.CAPTION_SAMPLES": 1,
        "conestool.search.loss_terms.COMMON_BACKGROUNDS": COMMON_BACKGROUNDS[:1],
        "conestool.search.loss_terms.NUM_EVAL_SAMPLES": 1,
        "conestool.images.class_images.GROUP_SIZE": 1,
        "benchmarks.real.lora.prepare": short,
    }
    with ExitStack() as stack:
        for name, value in changes.items():
            stack.enter_context(patch(name, value))
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing in the folder, and run twice; 0 if all went well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real.rehearse", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="7 GB; kept, and used again")
    parser.add_argument("--vocabulary", type=Path, help="bpe_simple_vocab_16e6.txt.gz; default: pocket's vocabulary")
    parser.add_argument("--data", type=Path, help="the folder of a data set; default: photos of examples/")
    parser.add_argument("--subjects", nargs="+", default=["rex"])
    parser.add_argument("--base", default="sd15", choices=("sd15", "toy"))
    parser.add_argument("--dtype", default="bfloat16")
    args, more = parser.parse_known_args(arguments)
    folder, begun = args.folder, time.monotonic()
    tokenizer = make_tokenizer(folder / "tokenizer", args.vocabulary)
    if not (folder / "model.safetensors").is_file():
        save_model(folder / "model", tokenizer, args.base)
    if not (folder / "dino" / "model.safetensors").is_file():
        save_encoders(folder, tokenizer)
        print(f"models made in {time.monotonic() - begun:.0f} s", flush=True)
    data = args.data or save_stand_in(folder / "data")
    words = ["--data", str(data), "--clip", str(folder / "clip"), "--dino", str(folder / "dino")]
    words += ["--out", str(folder / "out"), "--subjects", *args.subjects, "--dtype", args.dtype, *FEW, *more]
    for model in (folder / "model", folder / "model.safetensors"):
        begun = time.monotonic()
        with few_samples():
            code = run(["--model", str(model), *words])
        print(f"{model.name}: {code}, {time.monotonic() - begun:.0f} s", flush=True)
        if code:
            return code
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
