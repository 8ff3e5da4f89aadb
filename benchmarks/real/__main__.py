"""Run what is missing: `python -m benchmarks.real`; see the package's docstring."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fidelity.store import CELL_FOLDER, Store
from benchmarks.real.bench import Bench, Cell
from benchmarks.real.dataset import DataSet, Subject, read_data
from benchmarks.real.plan import Options, cost
from benchmarks.real.report import write_report
from conestool._atomic import write_atomic
from conestool.errors import ConesError, UsageError
from conestool.evaluation import load_clip, load_dino
from conestool.images.photos import read_photos
from conestool.models.devices import dtype_name
from conestool.models.model import Defaults, Model

SETTINGS = "settings.json"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__)
    default = Options()
    parser.add_argument("--model", help="a diffusers folder, or a .safetensors checkpoint")
    parser.add_argument("--config", help="the folder with the configuration of a single file")
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder of DreamBooth's data or CustomConcept101's"
    )
    parser.add_argument("--clip", type=Path, help="the folder of a CLIP; ViT-B/32 to compare")
    parser.add_argument("--dino", type=Path, help="the folder of a DINO; ViT-S/16 to compare")
    parser.add_argument("--out", type=Path, help="results, kept and gone on with")
    parser.add_argument("--subjects", nargs="+", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of searches and LoRAs")
    parser.add_argument("--steps", type=int, default=default.steps, help="of searches and LoRAs")
    parser.add_argument("--method", default=default.method, help="METHOD,KEY=VALUE,...: also settings of the search")
    parser.add_argument("--pictures", type=int, default=default.pictures, help="of each prompt")
    parser.add_argument("--control-pictures", type=int, default=default.control_pictures, help="of each prompt")
    parser.add_argument("--class-pictures", type=int, default=default.class_pictures, help="of the bare class")
    parser.add_argument("--prompts", type=int, help="so many of the prompts, evenly spaced; default: all")
    parser.add_argument("--render-steps", type=int, help="of a picture, class images too; default: the model's")
    parser.add_argument("--guidance", type=float, help="of a picture, class images too; default: the model's")
    parser.add_argument("--size", type=int, help="side of a picture, for searches too; default: the model's")
    parser.add_argument("--lora-rates", nargs="*", type=float, default=list(default.lora_rates), help="none: no LoRA")
    parser.add_argument("--lora-rank", type=int, default=default.lora_rank)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--micro-batch", type=int, help="samples at once; default: as many as fit")
    parser.add_argument("--sheet", type=int, default=3, help="subjects on the sheet")
    parser.add_argument("--plan", action="store_true", help="say what it would compute, and end")
    args = parser.parse_args(arguments)
    missing = [f"--{name}" for name in ("model", "clip", "dino", "out") if getattr(args, name) is None]
    if missing and not args.plan:
        parser.error(f"the following arguments are required, but for --plan: {', '.join(missing)}")
    return args


def options_of(args: argparse.Namespace) -> Options:
    """What all subjects share."""
    names = ("steps", "method", "pictures", "control_pictures", "class_pictures", "prompts")
    given = {name: getattr(args, name) for name in (*names, "lora_rank", "micro_batch")}
    return Options(**given, lora_rates=tuple(args.lora_rates))


def check_photos(subjects: Sequence[Subject]) -> int:
    """How many photos all subjects have; PhotoError, before any work, for the first with one that cannot be read."""
    return sum(len(read_photos([subject.folder])[0]) for subject in subjects)


def check_encoder(folder: Path) -> str:
    """A digest of an encoder's weights; UsageError, with what to do, for a folder that has none that can be loaded."""
    files = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: no config.json in it", "give a folder as transformers saves it")
    if not files:
        raise UsageError(
            f"{folder}: no .safetensors weights in it",
            f"""make them of pytorch_model.bin: python -c "from transformers import AutoModel as A; """
            f"""A.from_pretrained('{folder}').save_pretrained('{folder}')\"""",
        )
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in files:
        with file.open("rb") as data:
            digest.update(hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()[:12]


def open_bench(args: argparse.Namespace, options: Options) -> Bench:
    """Load base model and encoders."""
    model = Model.from_pretrained(args.model, device=args.device, dtype=args.dtype, config=args.config, offline=True)
    model.defaults = drawing(args, model.defaults)
    store = Store(args.out / CELL_FOLDER)
    return Bench(model, store, options, load_clip(str(args.clip), True), load_dino(str(args.dino), True))


def drawing(args: argparse.Namespace, default: Defaults) -> Defaults:
    """How pictures are drawn: as told, else by `default`."""
    guidance = default.guidance if args.guidance is None else args.guidance
    return Defaults(args.render_steps or default.steps, guidance, args.size or default.size)


def settings_of(args: argparse.Namespace, bench: Bench, data: DataSet) -> dict[str, Any]:
    """Everything that decides the results but subjects, seeds and the rates of LoRAs."""
    model = bench.model
    return bench.options.record() | {
        "data": data.name,
        "model": model.info.digests["f32"],
        "model name": model.info.id,
        "device": model.device.type,
        "dtype": dtype_name(model.dtype),
        "render_steps": model.defaults.steps,
        "guidance": model.defaults.guidance,
        "size": model.defaults.size,
        "clip": f"{vit(bench.clip.model.config.vision_config)}, {check_encoder(args.clip)}",
        "dino": f"{vit(bench.dino.model.config)}, {check_encoder(args.dino)}",
    }


def vit(config: Any) -> str:
    """The shape of a vision transformer as papers name it: ViT-S/16."""
    letter = {384: "S", 768: "B", 1024: "L", 1280: "H"}.get(config.hidden_size, str(config.hidden_size))
    return f"ViT-{letter}/{config.patch_size}"


def keep_settings(settings: dict[str, Any], out: Path) -> None:
    """Write the settings of a new run; UsageError for an old one with others, whose results would mix with these."""
    path = out / SETTINGS
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        differ = [f"{key} {old.get(key)} -> {value}" for key, value in settings.items() if old.get(key) != value]
        if differ := [text for text in differ if not text.startswith("model name ")]:
            raise UsageError(f"{out} holds results of other settings: {'; '.join(differ)}", "give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(settings, indent=1).encode(), overwrite=True)


def run(cells: Sequence[Cell]) -> list[str]:
    """Do what is missing of all cells, saying what is done; returns what failed, and goes on after it."""
    failed = []
    for number, cell in enumerate(cells, 1):
        for name, work in cell.run():
            what = f"{cell.subject.name}, seed {cell.seed}: {name}"
            try:
                done = work()
            except ConesError as error:
                failed.append(f"{what}: {error}")
                print(f"[{number}/{len(cells)}] {failed[-1]}", flush=True)
                continue
            if done:
                print(f"[{number}/{len(cells)}] {what}: {done}", flush=True)
    return failed


def work(args: argparse.Namespace) -> list[str]:
    """The whole run; returns what failed."""
    options, data = options_of(args), read_data(args.data)
    subjects = data.choose(args.subjects)
    photos = check_photos(subjects)
    if args.plan:
        print(*cost(subjects, len(args.seeds), options, photos, drawing(args, Defaults())).lines(), sep="\n")
        return []
    for folder in (args.clip, args.dino):
        check_encoder(folder)
    begun = time.monotonic()
    bench = open_bench(args, options)
    settings = settings_of(args, bench, data)
    keep_settings(settings, args.out)
    print(f"{len(subjects)} subjects, {photos} photos; loaded in {time.monotonic() - begun:.0f} s", flush=True)
    cells = [Cell(bench, subject, seed) for seed in args.seeds for subject in subjects]
    failed = run(cells)
    print(*write_report(bench, cells, data, settings, args.out, args.sheet), sep="\n")
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0, 1 if something failed, the code of an error before any work, or 130 after Ctrl-C."""
    args = parse(arguments)
    try:
        failed = work(args)
    except ConesError as error:
        print(f"error: {error}" + (f"\n  {error.hint}" if error.hint else ""))
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped: the same command resumes")
        return 130
    if failed:
        print(f"{len(failed)} failed; the same command tries them again:", *failed, sep="\n  ")
    return int(bool(failed))


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
