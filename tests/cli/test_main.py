"""Every way to stop has its exit code and its message; numbers out of range are refused; the reference is current."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from conestool import errors
from conestool.cli import _options, main
from conestool.cli._app import FUNCTIONS, NAMES
from conestool.cli._options import note_fallback
from conestool.cli.main import describe
from tests.support.command_line import ROOT, Cones, concept, environment, save_cone

CODES = {
    errors.UsageError: 2,
    errors.OutputExistsError: 2,
    errors.NameClashError: 2,
    errors.PhotoError: 3,
    errors.PromptError: 3,
    errors.FormatError: 4,
    errors.VersionError: 4,
    errors.BaseModelMismatchError: 5,
    errors.DeviceError: 6,
    errors.NonFiniteError: 6,
    errors.HubError: 7,
    errors.ModelLoadError: 7,
}


def test_every_error_keeps_message_hint_and_code() -> None:
    """What the library raises is what the user reads; a new exception class needs a code from 2 to 7."""
    assert all(describe(kind("what", "how")) == ("what", "how", code) for kind, code in CODES.items())
    classes = [each for each in map(vars(errors).get, errors.__all__) if isinstance(each, type)]
    public = {each for each in classes if issubclass(each, errors.ConesError)} - {errors.ConesError, errors.InputError}
    assert public == CODES.keys() | {errors.OutOfMemoryError}


TORCHS = type("OutOfMemoryError", (RuntimeError,), {})


@pytest.mark.parametrize(
    ("error", "message", "hint", "code"),
    [
        (KeyboardInterrupt(), "", "", 130),
        (BrokenPipeError(), "^$", "^None$", 0),
        (MemoryError(), "out of memory", ".", 6),
        (TORCHS("CUDA out of memory"), "out of memory", ".", 6),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "out of memory", ".", 6),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "a.png: No space left on device$", "", 2),
        (ValueError("first\nsecond"), "a bug in cones: ValueError: first$", "--traceback", 70),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_ways_to_stop(error: BaseException, message: str, hint: str, code: int) -> None:
    """Ctrl-C, a closed pipe, memory of the machine or a device, a full disk, and a bug in one line."""
    told = describe(error)
    assert told[2] == code and re.match(message, told[0]) and re.search(hint, str(told[1]))


@pytest.mark.skipif(sys.platform != "linux", reason="asks the OpenMP that PyTorch brings there")
@pytest.mark.parametrize(("given", "spins"), [(None, "0"), ("ACTIVE", "30000000000")])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(given: str | None, spins: str) -> None:
    """OpenMP, which reads the variable once, when torch is imported, says how long it spins."""
    env = environment(OMP_DISPLAY_ENV="verbose", OMP_WAIT_POLICY=given or "")
    if given is None:
        del env["OMP_WAIT_POLICY"]
    words = [sys.executable, "-m", "conestool", "doctor", "-q"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


@pytest.mark.parametrize("name", main.HELPS)
def test_what_helps_against_out_of_memory_are_options_of_that_command(name: str, cones: Cones) -> None:
    """None is named that the command lacks, that is in use already, or that cannot help where memory ran out."""
    known = cones(name, "--help").out.decode()
    on_device = describe(errors.OutOfMemoryError("cuda is out of memory"), [name])
    assert on_device[::2] == ("cuda is out of memory", 6)
    assert all(word in known for word in re.findall(r"--[a-z-]+", str(on_device[1])))
    on_cpu = describe(MemoryError("bad"), [name, "--dtype", "bfloat16", "--micro-batch=1"])
    named = set(re.findall(r"--[a-z-]+", str(on_cpu[1])))
    assert on_cpu[2] == 6 and not named & {"--device", "--offload-scores", "--dtype", "--micro-batch"}


def test_render_is_told_of_its_batch_only_if_it_has_one() -> None:
    """One picture at a time is the default."""
    error = errors.OutOfMemoryError("cuda is out of memory")
    assert "--batch 1" not in str(describe(error, ["render", "a dog"])[1])
    assert "--batch 1" in str(describe(error, ["render", "a dog", "--batch", "8"])[1])


def test_only_our_own_warnings_are_shown(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A library below a folder that happens to be called conestool stays quiet; the package itself is heard."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    main.calm_libraries()
    warnings.showwarning("noise", UserWarning, "/src/conestool/.venv/lib/torch/x.py", 1)
    warnings.showwarning("careful", UserWarning, str(main.PACKAGE / "patch" / "x.py"), 1)
    assert capfd.readouterr().err == "warning: careful\n"


@pytest.mark.parametrize(("device", "value", "noted"), [("mps", "1", True), ("mps", "0", False), ("cpu", "1", False)])
def test_the_fallback_of_mps_to_the_cpu_is_noted(
    device: str, value: str, noted: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only where it is asked for and there is such a GPU."""
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", value)
    note_fallback(device)
    assert ("MPS_FALLBACK=1" in capsys.readouterr().err) is noted


def integers() -> list[tuple[str, str, Any]]:
    """Command, option and what typer knows of it, for every option that takes a whole number.

    typer.Option takes the first name of an option in an annotation for its default, until it builds the command.
    """
    found = []
    for name in NAMES:
        function = getattr(import_module(f"conestool.cli.{name}"), FUNCTIONS.get(name, name))
        for hint in get_type_hints(_options.command(function), include_extras=True).values():
            kind, *notes = get_args(hint) or (hint,)
            if notes and int in (kind, *get_args(kind)):
                found.append((name, notes[0].default, notes[0]))
    return found


def test_integers_out_of_range_are_refused(cones: Cones, work: Path) -> None:
    """Exit code 2, with the name of the option or its field, before anything else is looked at.

    Every option has both ends; those of searches are of a configuration, which knows its ranges.
    """
    found = integers()
    assert {("render", "--seed"), ("render", "-n"), ("find", "--seed"), ("apply", "--rank")} <= {e[:2] for e in found}
    assert not [e for e in found if e[0] not in ("find", "tune", "batch") and None in (e[2].min, e[2].max)]
    save_cone(work / "x", concept("x"))
    needed = {"tune": ("--photos", "x=."), "batch": ("-o", "out")}
    for command, option, _ in found:
        for number in (10**20, -(10**20)):
            words = [f"{option}={number}"] if option.startswith("--") else [option, str(number)]
            done = cones(command, "x", *needed.get(command, ()), *words)
            assert done.code == 2, (command, words)
            assert option.lstrip("-").replace("-", "_") in done.err.replace("-", "_"), (command, words)


def test_reference_is_current() -> None:
    """docs/cli.md is what scripts/cli_reference.py writes, with a section a command; run it after changing one."""
    command = [sys.executable, str(ROOT / "scripts" / "cli_reference.py"), "--check"]
    assert subprocess.run(command, env=environment(PYTHONPATH=str(ROOT)), timeout=60, check=False).returncode == 0
    lines = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").splitlines()
    assert {line.removeprefix("## cones ") for line in lines if line.startswith("## cones ")} == set(NAMES)


@pytest.mark.parametrize(
    ("platform", "before", "after"),
    [
        ("linux", None, "expandable_segments:True"),
        ("linux", "backend:native", "backend:native"),
        ("darwin", None, None),
    ],
)
def test_a_cards_memory_may_grow_unless_the_user_said_how(
    monkeypatch: pytest.MonkeyPatch, platform: str, before: str | None, after: str | None
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    if before:
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", before)
    else:
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "")
        monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    main.let_memory_grow()
    assert os.environ.get("PYTORCH_CUDA_ALLOC_CONF") == after
