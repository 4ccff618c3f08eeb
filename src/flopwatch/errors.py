"""Error kinds: what went wrong, how to go on, and the exit code that says so to a shell."""

from __future__ import annotations

from typing import Final

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_DOES_NOT_FIT: Final = 3
EXIT_MISSING: Final = 4
EXIT_INTERRUPTED: Final = 130


class FlopwatchError(Exception):
    """An expected failure: a message (value and rule), a hint (the way out), an exit code.

    The command line prints it as one line on stderr and exits with `exit_code`; a library caller catches it.
    """

    exit_code: int = EXIT_FAILURE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """The one line that a user reads."""
        return self.message if self.hint is None else f"{self.message}; {self.hint}"


class InputError(FlopwatchError):
    """The request cannot be understood or contradicts itself (exit code 2)."""

    exit_code = EXIT_USAGE


class SpecError(InputError):
    """A ModelSpec or Workload that describes no network or no work (exit code 2)."""


class UnknownModelError(InputError):
    """No preset, file or model type of that name (exit code 2)."""


class UnknownDeviceError(InputError):
    """No device of that name in the catalogue or the user's file (exit code 2)."""


class AmbiguousDeviceError(InputError):
    """Several devices have that name, and their peaks differ (exit code 2)."""


class DeviceFileError(InputError):
    """A user's device file that cannot be used: file, key and reason (exit code 2)."""


class DoesNotFitError(FlopwatchError):
    """Not even the smallest piece of the work fits, or a budget is exceeded (exit code 3)."""

    exit_code = EXIT_DOES_NOT_FIT


class RegressionError(FlopwatchError):
    """A change past what `--fail-if` allows (exit code 3)."""

    exit_code = EXIT_DOES_NOT_FIT


class MissingError(FlopwatchError):
    """A package, extra or device that this needs is not here (exit code 4)."""

    exit_code = EXIT_MISSING


class StoreError(FlopwatchError):
    """The results store cannot be read or written (exit code 1; what was already stored is kept)."""


class NotAStoreError(StoreError):
    """The file that was named is no results store of this flopwatch (exit code 2)."""

    exit_code = EXIT_USAGE


class ProbeError(FlopwatchError):
    """A probe ended without the answer that was asked for (exit code 1)."""
