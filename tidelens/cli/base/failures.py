"""The message and the exit code of a command that an error has ended."""

from dataclasses import dataclass

from contracts.errors import TidelensError, UsageError


@dataclass(frozen=True, slots=True)
class Failure:
    """A line to show, and an exit code: 2 if the operator has to change something, or else 1."""

    code: int
    message: str


def describe_failure(error: BaseException) -> Failure | None:
    """Return the failure to show, or None if the error is a defect of Tidelens."""
    if isinstance(error, UsageError):
        return Failure(2, str(error))
    if isinstance(error, TidelensError):
        return Failure(1, str(error))
    if isinstance(error, OSError):
        # The code that called the system did not know what to do about it.
        message = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        return Failure(1, message or repr(error))
    return None
