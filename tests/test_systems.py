"""Linux, macOS and Windows: what is only there on some of them is never taken for granted when modules are imported."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LACKING = """
import os, signal, sys, pkgutil, importlib
import accelerate, diffusers, huggingface_hub, jinja2, PIL.Image, platformdirs, rich.progress, torch, typer
from diffusers import StableDiffusionPipeline  # what others import is theirs to get along with
platformdirs.user_cache_path()
for name in ("resource", "fcntl", "termios", "tty", "pty", "pwd", "grp", "syslog", "readline"):
    sys.modules[name] = None
flags = ("O_NOCTTY", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC")
calls = ("fork", "forkpty", "geteuid", "getuid", "getgid", "mkfifo", "sched_getaffinity", "uname", "killpg")
for name in (*flags, *calls):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGPIPE", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGTSTP", "SIGCHLD", "SIGWINCH", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
import conestool
modules = ["conestool", *(each.name for each in pkgutil.walk_packages(conestool.__path__, "conestool."))]
for name in modules:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(modules))
"""
"""A Python without what Windows lacks imports every module of the package."""


def test_every_module_is_imported_without_what_windows_lacks() -> None:
    """`resource`, `fcntl`, flags of os.open, signals; a module that needs one asks for it where it is used."""
    done = subprocess.run([sys.executable, "-c", LACKING], capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 100


def test_systems_are_named() -> None:
    """In pyproject.toml's classifiers."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
    systems = {each.removeprefix("Operating System :: ") for each in told if each.startswith("Operating System")}
    assert systems == {"MacOS", "Microsoft :: Windows", "POSIX :: Linux"}
