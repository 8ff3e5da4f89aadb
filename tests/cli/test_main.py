"""Every way to stop has its exit code and its message."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import warnings

import pytest

from conestool import errors
from conestool.cli import main
from conestool.cli._options import note_fallback
from conestool.cli.main import describe
from tests.support.command_line import Cones, environment

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


@pytest.mark.parametrize(("kind", "code"), CODES.items())
def test_errors_keep_message_hint_and_code(kind: type[errors.ConesError], code: int) -> None:
    """What the library raises is what the user reads."""
    assert describe(kind("what", "how")) == ("what", "how", code)


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


def test_every_error_has_a_code_in_the_contract() -> None:
    """A new exception class needs a code from 2 to 7."""
    classes = [each for each in map(vars(errors).get, errors.__all__) if isinstance(each, type)]
    public = {each for each in classes if issubclass(each, errors.ConesError)} - {errors.ConesError, errors.InputError}
    assert public == CODES.keys() | {errors.OutOfMemoryError}


@pytest.mark.parametrize("name", main.HELPS)
def test_what_helps_against_out_of_memory_are_options_of_that_command(name: str, cones: Cones) -> None:
    """None is named that the command lacks, that is in use already, or that cannot help where memory ran out."""
    known = cones(name, "--help").out.decode()
    on_device = describe(errors.OutOfMemoryError("cuda is out of memory"), [name])
    assert on_device[::2] == ("cuda is out of memory", 6)
    for word in re.findall(r"--[a-z-]+", str(on_device[1])):
        assert word in known
    on_cpu = describe(MemoryError("bad"), [name, "--dtype", "bfloat16", "--micro-batch=1"])
    assert on_cpu[2] == 6
    named = set(re.findall(r"--[a-z-]+", str(on_cpu[1])))
    assert not named & {"--device", "--offload-scores", "--dtype", "--micro-batch"}


def test_render_is_told_of_its_batch_only_if_it_has_one() -> None:
    """One picture at a time is the default."""
    error = errors.OutOfMemoryError("cuda is out of memory")
    assert "--batch 1" not in str(describe(error, ["render", "a dog"])[1])
    assert "--batch 1" in str(describe(error, ["render", "a dog", "--batch", "8"])[1])


def test_interruption() -> None:
    """Ctrl-C is 130."""
    assert describe(KeyboardInterrupt())[2] == 130


def test_closed_pipe_says_nothing() -> None:
    """BrokenPipeError has no message and no failure."""
    assert describe(BrokenPipeError()) == ("", None, 0)


def test_memory_of_the_machine_and_of_a_device() -> None:
    """MemoryError, torch's own error by its name, and the CPU allocator's RuntimeError are all 6."""
    torchs = type("OutOfMemoryError", (RuntimeError,), {})
    for error in (MemoryError(), torchs("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: not enough memory")):
        message, hint, code = describe(error)
        assert code == 6
        assert message.startswith("out of memory")
        assert hint


def test_system_errors_name_the_file() -> None:
    """A full disk is no bug of ours."""
    assert describe(OSError(errno.ENOSPC, "No space left on device", "a.png"))[::2] == (
        "a.png: No space left on device",
        2,
    )


def test_bug_asks_for_a_report() -> None:
    """Anything else is 70, in one line."""
    message, hint, code = describe(ValueError("first\nsecond"))
    assert (message, code) == ("a bug in cones: ValueError: first", 70)
    assert "--traceback" in str(hint)


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
