"""`cones doctor`: what this machine offers, and the JSON that a bug report should hold."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from conestool.cli import _output, _streams
from conestool.cli._options import Json

LIBRARIES = (
    *("conestool", "torch", "diffusers", "transformers", "huggingface_hub", "safetensors", "numpy", "pillow"),
    *("zstandard", "msgpack", "pydantic", "typer", "rich"),
)
VARIABLES = (
    *("CONES_MODEL", "CONES_PATH", "CONES_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS"),
    *("OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES", "PYTORCH_ENABLE_MPS_FALLBACK"),
)
DTYPES = ("float32", "bfloat16", "float16")


def doctor(json: Json = False) -> None:
    """Show devices, number types, versions, memory and cache.

    The JSON names no folder of yours outside the home folder, which is written as ~.
    """
    record = {
        "system": system(),
        "versions": versions(),
        "devices": devices(),
        "pocket": pocket(),
        "cache": cache(),
        "environment": {name: tilde(os.environ[name]) for name in VARIABLES if name in os.environ},
    }
    show(record)
    if json:
        _streams.emit_json(record)


def system() -> dict[str, Any]:
    """Operating system, Python, cores that this process may use, and memory in bytes."""
    import psutil

    held = psutil.virtual_memory()
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": held.total,
        "memory_free": held.available,
    }


def versions() -> dict[str, str | None]:
    """Versions of the libraries that matter, None where one is missing."""
    from importlib.metadata import PackageNotFoundError, version

    out: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = None
    if out["conestool"] is None:
        from conestool import __version__

        out["conestool"] = __version__
    return out


def devices() -> list[dict[str, Any]]:
    """Every device that `--device` takes here, with its memory and the dtypes that work on it."""
    import psutil
    import torch

    processor = platform.processor() or platform.machine()
    found: list[dict[str, Any]] = [{"device": "cpu", "name": processor, "memory": psutil.virtual_memory().total}]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append({"device": f"cuda:{index}", "name": properties.name, "memory": properties.total_memory})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU", "memory": torch.mps.recommended_max_memory()})
    for device in found:
        device["dtypes"] = [dtype for dtype in DTYPES if works(device["device"], dtype)]
    return found


def works(device: str, dtype: str) -> bool:
    """Whether a small matrix product runs on `device` in `dtype`; tried, not looked up."""
    import torch

    try:
        ones = torch.ones(4, 4, device=device, dtype=getattr(torch, dtype))
        return bool((ones @ ones).sum().item() == 64)
    except (RuntimeError, TypeError):
        return False


def pocket() -> dict[str, Any]:
    """Whether the embedded base model is there, and its bytes."""
    folder = Path(__file__).parent.parent / "pocket"
    return {"installed": (folder / "model_index.json").is_file(), "bytes": folder_size(folder)}


def cache() -> dict[str, Any]:
    """Where intermediate results are kept (class images, model hashes), and their bytes."""
    from conestool.models.cache import cache_dir

    folder = cache_dir()
    return {"folder": tilde(folder), "bytes": folder_size(folder)}


def folder_size(folder: Path) -> int:
    """Bytes of all files below `folder`; 0 if it is not there."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def tilde(path: str | Path) -> str:
    """`path` with the home folder written as ~."""
    from conestool._atomic import expand_user

    home, text = str(expand_user("~")), str(path)
    return "~" + text[len(home) :] if text == home or text.startswith(home + os.sep) else text


def show(record: dict[str, Any]) -> None:
    """The record as tables."""
    host, library = record["system"], record["versions"]
    held = f"{_output.size(host['memory'])}, {_output.size(host['memory_free'])} free"
    _output.say(f"cones {library['conestool']}, Python {host['python']} on {host['platform']}", "bold")
    _output.facts([["cores", str(host["cores"])], ["memory", held]])
    _output.say("devices", "bold")
    rows = [[d["device"], _output.size(d["memory"] or 0), ", ".join(d["dtypes"]), d["name"]] for d in record["devices"]]
    _output.table(rows, right=(1,), head=False)
    _output.say("libraries", "bold")
    _output.facts([[name, found or "missing"] for name, found in library.items() if name != "conestool"])
    _output.say("files", "bold")
    embedded, kept = record["pocket"], record["cache"]
    rows = [["pocket", _output.size(embedded["bytes"]) if embedded["installed"] else "missing"]]
    rows += [["cache", f"{_output.size(kept['bytes'])} in {kept['folder']}"]]
    rows += [[name, value] for name, value in record["environment"].items()]
    _output.facts(rows)
