"""Everything from nothing, or from where it stopped: ``python -m training.pocket --work F --out MODEL``.

Runs the stages one after the other, each in processes of its own; a stage that has finished is skipped, one that was
stopped goes on. ``--minutes`` is the time for the U-Net; run it again to train the same model further.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conestool.models.loading import pocket_folder

#: What sprites, shards and checkpoints take.
NEEDED_BYTES = 4 << 30


def run(*command: str, processes: int = 1) -> None:
    """Run a stage; several processes work as one team of one-thread processes."""
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    if processes > 1:
        environment["OMP_NUM_THREADS"] = "1"
    subprocess.run([*launch, *command], check=True, env=environment)


def prepare(args: argparse.Namespace) -> None:
    """Make what training needs: sprites, latents, scenes, and the packaged weights or a text encoder that can read."""
    work, device = str(args.work), ["--device", args.device]
    run("training.pocket.sprites", "--work", work)
    if args.new_latents and not (args.work / "scale.pt").exists():
        minutes = ["--minutes", str(args.autoencoder_minutes)]
        run("training.pocket.autoencoder", "--work", work, *minutes, *device, processes=args.processes)
    elif not (args.work / "autoencoder.pt").exists():
        run("training.pocket.autoencoder", "--work", work, "--known")
    run("training.pocket.pool", "--work", work, "--shards", str(args.shards), *device)
    if (pocket_folder() / "unet").exists() and not args.new_latents and not (args.work / "train.pt").exists():
        run("training.pocket.adopt", "--work", work)
    elif not (args.work / "text.pt").exists() and not (args.work / "train.pt").exists():
        run("training.pocket.text", "--work", work)


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="sprites, scenes and checkpoints; kept")
    parser.add_argument("--out", type=Path, required=True, help="the exported model")
    parser.add_argument("--minutes", type=float, default=90, help="for text encoder and U-Net")
    parser.add_argument("--autoencoder-minutes", type=float, default=20, help="with --new-latents")
    parser.add_argument("--new-latents", action="store_true", help="train the encoder too, not the committed one")
    parser.add_argument("--shards", type=int, default=40, help="of 5000 scenes each")
    parser.add_argument("--processes", type=int, default=1, help="one-thread processes on a CPU: one for each core")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(args.work).free < NEEDED_BYTES:
        raise SystemExit(f"{args.work}: less than {NEEDED_BYTES >> 30} GiB free; make room or take another --work")
    work, device = str(args.work), ["--device", args.device]
    prepare(args)
    minutes = ["--minutes", str(args.minutes), "--decay", str(args.minutes / 3)]
    run("training.pocket.train", "--work", work, *minutes, *device, processes=args.processes)
    run("training.pocket.export", "--work", work, "--out", str(args.out))


if __name__ == "__main__":
    main()
