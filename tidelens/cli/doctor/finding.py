"""A line of the doctor's table, and the type of a check.

Checks import what they need when they run, so a package that is absent is one failed line.
"""

import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from contracts.errors import ConfigurationError
from contracts.settings import KafkaSettings, Settings
from tidelens.process.threads import in_daemon_thread

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the table. `fix` is a command or a setting if something has to be changed."""

    name: str
    state: State
    detail: str
    fix: str | None = None

    def __post_init__(self) -> None:
        if (self.fix is not None) != (self.state in ("warning", "failed")):
            raise ValueError(f"{self.name}: {self.state} with the fix {self.fix!r}")


Check = Callable[[Settings, KafkaSettings], Awaitable[Sequence[Finding]]]
BlockingCheck = Callable[[Settings, KafkaSettings], Sequence[Finding]]


def ok(name: str, detail: str) -> Finding:
    """Return a finding of a check that passed."""
    return Finding(name, "ok", _line(detail))


def skipped(name: str, detail: str) -> Finding:
    """Return a finding of a check that could not run, or does not apply."""
    return Finding(name, "skipped", _line(detail))


def warning(name: str, detail: str, *, fix: str) -> Finding:
    """Return a finding of something that works, but not well."""
    return Finding(name, "warning", _line(detail), _line(fix))


def failed(name: str, detail: str, *, fix: str) -> Finding:
    """Return a finding of something that does not work."""
    return Finding(name, "failed", _line(detail), _line(fix))


def from_error(name: str, error: Exception, *, fix: str) -> Finding:
    """Return a failed finding of an error.

    The errors of Tidelens say what to do after a semicolon; `fix` is for the others.
    """
    cause, _, advice = str(error).partition("; ")
    if isinstance(error, ConfigurationError):
        fix = "set what it names; `tidelens config` explains each setting"
    return failed(name, cause or type(error).__name__, fix=advice or fix)


def in_thread(blocking: BlockingCheck) -> Check:
    """Return a check that runs `blocking` in a thread of its own."""

    @functools.wraps(blocking)
    async def check(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
        return await in_daemon_thread(lambda: blocking(settings, kafka))

    return check


def _line(text: str) -> str:
    return " ".join(text.split())
