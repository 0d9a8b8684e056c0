"""What a command says about the error that ended it, and its exit code."""

from dataclasses import dataclass

from contracts.errors import TidelensError, UsageError


@dataclass(frozen=True, slots=True)
class Failure:
    code: int
    message: str


def describe_failure(error: BaseException) -> Failure | None:
    """Return what to say about the error, or None for a defect of ours."""
    if isinstance(error, UsageError):
        return Failure(2, str(error))
    if isinstance(error, TidelensError):
        return Failure(1, str(error))
    if isinstance(error, OSError):
        # No nearer code could say what to do about it.
        told = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        return Failure(1, told or repr(error))
    return None
