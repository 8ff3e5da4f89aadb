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

from training.pocket import domain


def run(*command: str, processes: int = 1) -> None:
    """Run a stage; several processes work as one team of one-thread processes."""
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} if processes > 1 else None
    subprocess.run([*launch, *command], check=True, env=environment)


def install_icons(work: Path) -> Path:
    """Fetch the pinned icon packages with npm into the work folder; returns its ``node_modules``."""
    folder = work / "npm"
    if not (folder / "node_modules" / "@iconify-json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(domain.HERE / name, folder / name)
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder / "node_modules"


def prepare(args: argparse.Namespace) -> None:
    """Make what training needs: sprites, autoencoder, pools."""
    work, device = str(args.work), ["--device", args.device]
    if not (args.work / "sprites.npz").exists():
        icons = args.icons or install_icons(args.work)
        run("training.pocket.icons", "--icons", str(icons), "--work", work)
    if not (args.work / "scale.pt").exists():
        minutes = ["--minutes", str(args.autoencoder_minutes)]
        run("training.pocket.autoencoder", "--work", work, *minutes, *device, processes=args.processes)
    for mix, shards in (("core", args.shards // 3), ("narrow", args.shards // 2), ("wide", args.shards)):
        run("training.pocket.pool", "--work", work, "--mix", mix, "--shards", str(shards), *device)


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="sprites, pools and checkpoints; kept")
    parser.add_argument("--out", type=Path, required=True, help="the exported model")
    parser.add_argument("--icons", type=Path, help="a node_modules folder that has the icon packages already")
    parser.add_argument("--minutes", type=float, default=90, help="for text encoder and U-Net")
    parser.add_argument("--domain", choices=("core", "narrow", "wide"), default="wide", help="of the last part")
    parser.add_argument("--autoencoder-minutes", type=float, default=12)
    parser.add_argument("--judge-minutes", type=float, default=14)
    parser.add_argument("--shards", type=int, default=24, help="of 5000 scenes each")
    parser.add_argument("--processes", type=int, default=1, help="one-thread processes on a CPU: one for each core")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--renders", type=int, default=500)
    args = parser.parse_args()
    work, device = str(args.work), ["--device", args.device]
    prepare(args)
    train = ["training.pocket.train", "--work", work, *device]
    if not (args.work / "train.pt").exists():
        for mix, counts in (("core", (".8", ".16", ".02", ".02")), ("narrow", (".7", ".2", ".05", ".05"))):
            part = ["--pool", f"{mix}-*.pt", "--counts", *counts, "--minutes", str(args.minutes / 4)]
            run(*train, *part, processes=args.processes)
        args.minutes /= 2
    last = ["--pool", f"{args.domain}-*.pt", "--minutes", str(args.minutes), "--decay", str(args.minutes / 2)]
    run(*train, *last, processes=args.processes)
    run("training.pocket.export", "--work", work, "--out", str(args.out))
    if args.renders:
        if not (args.work / "evaluator.pt").exists():
            run("training.pocket.evaluator", "--work", work, "--minutes", str(args.judge_minutes), *device)
        run("training.pocket.evaluator", "--work", work, "--export")
        out = ["--out", str(args.work / "evaluation"), "--renders", str(args.renders)]
        run("training.pocket.evaluate", "--work", work, *out)


if __name__ == "__main__":
    main()
