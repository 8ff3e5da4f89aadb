"""The exceptions of conestool, each with the exit code the command line gives it.

    ConesError                     70  a bug of ours unless a subclass says otherwise
    ├── UsageError                  2  an argument or an output path cannot be used
    │   ├── OutputExistsError       2  the output is there already and may not be overwritten
    │   └── NameClashError          2  two concepts share a name or an identifier
    ├── InputError                  3  photos or prompts cannot be used
    │   ├── PhotoError              3
    │   └── PromptError             3
    ├── FormatError                 4  not a .cone file, or damaged
    │   └── VersionError            4  a .cone file of a later version
    ├── BaseModelMismatchError      5  a concept meets a base model it was not found on
    ├── DeviceError                 6  device missing, or out of memory
    │   ├── OutOfMemoryError        6  the device or the machine has too little memory
    │   └── NonFiniteError          6  the arithmetic gave NaN or infinity
    └── HubError                    7  the Hub cannot be reached, or refuses
        └── ModelLoadError          7  a base model cannot be fetched or read

Every message names the thing (file, option, concept) first and then what is wrong; `hint` says what to do.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = [
    "BaseModelMismatchError",
    "ConesError",
    "DeviceError",
    "FormatError",
    "HubError",
    "InputError",
    "ModelLoadError",
    "NameClashError",
    "NonFiniteError",
    "OutOfMemoryError",
    "OutputExistsError",
    "PhotoError",
    "PromptError",
    "UsageError",
    "VersionError",
    "causes",
    "first_line",
    "is_out_of_memory",
]


OUT_OF_MEMORY = (
    *("out of memory", "not enough memory", "allocate memory", "bad_alloc", "could not create a memory"),
    *("Invalid buffer size", "STATUS_ALLOC_FAILED", "ErrorOutOfMemory"),
)


class ConesError(Exception):
    """Something conestool refuses or cannot do; `str()` is one line, `hint` is what to do about it (or None)."""

    exit_code = 70

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(ConesError):
    """An argument, option or output path that cannot be used."""

    exit_code = 2


class OutputExistsError(UsageError):
    """The output exists and `--overwrite` (or `overwrite=True`) was not given."""


class NameClashError(UsageError):
    """Two concepts with the same name or the same identifier were to be joined."""


class InputError(ConesError):
    """Photos or prompts that cannot be used."""

    exit_code = 3


class PhotoError(InputError):
    """No usable photo, or photos that cannot be read."""


class PromptError(InputError):
    """An empty or undecodable prompt, or no prompt at all."""


class FormatError(ConesError):
    """Bytes that are not a .cone file, or a damaged one; the message gives section and byte offset where known."""

    exit_code = 4


class VersionError(FormatError):
    """A .cone file of a later version, or one that needs a feature this version does not have."""


class BaseModelMismatchError(ConesError):
    """The concept was found on another base model than the one it meets."""

    exit_code = 5


class DeviceError(ConesError):
    """The device is missing, or has too little memory."""

    exit_code = 6


class LostProcessError(DeviceError):
    """Another process of the same search ended."""


class OutOfMemoryError(DeviceError):
    """The device or the machine has too little memory; which options help depends on the command."""


class NonFiniteError(DeviceError):
    """Weights, latents, losses or gradients are NaN or infinite.

    A DeviceError, because whether numbers stay finite depends on what the device computes in, and what helps is what
    helps there: another dtype or device, or another copy of the base model.
    """


class HubError(ConesError):
    """The Hub cannot be reached, does not have what was asked for, or refuses."""

    exit_code = 7


class ModelLoadError(HubError):
    """A base model that cannot be fetched, found or read."""


def first_line(error: BaseException) -> str:
    """The first non-empty line of an exception's text, else its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, of a device or of the machine; needs no torch.

    Only CUDA has a type for it; the CPU, MPS and the libraries below them say it in words.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, MemoryError) or names & {"OutOfMemoryError", "CUDAOutOfMemoryError"}:
        return True
    return isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in OUT_OF_MEMORY)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it was raised from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__
