"""One line of the doctor's table, and what a check is.

Checks import what they need when they run: a package that is absent is then one failed line.
"""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from contracts.errors import ConfigurationError
from contracts.settings import KafkaSettings, Settings

State = Literal["ok", "warning", "failed", "skipped"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """`fix` is one line, a command or a setting, exactly where there is something to mend."""

    name: str
    state: State
    detail: str
    fix: str | None = None

    def __post_init__(self) -> None:
        if (self.fix is not None) != (self.state in ("warning", "failed")):
            raise ValueError(f"{self.name}: {self.state} with the fix {self.fix!r}")


Check = Callable[[Settings, KafkaSettings], Awaitable[Sequence[Finding]]]
Look = Callable[[Settings, KafkaSettings], Sequence[Finding]]


def ok(name: str, detail: str) -> Finding:
    return Finding(name, "ok", _line(detail))


def skipped(name: str, detail: str) -> Finding:
    return Finding(name, "skipped", _line(detail))


def warning(name: str, detail: str, *, fix: str) -> Finding:
    return Finding(name, "warning", _line(detail), _line(fix))


def failed(name: str, detail: str, *, fix: str) -> Finding:
    return Finding(name, "failed", _line(detail), _line(fix))


def told(name: str, error: Exception, *, fix: str) -> Finding:
    """What went wrong; our own errors say after a semicolon what to do, `fix` is for the others."""
    cause, _, advice = str(error).partition("; ")
    if isinstance(error, ConfigurationError):
        fix = "set what it names; `tidelens config` explains each setting"
    return failed(name, cause or type(error).__name__, fix=advice or fix)


def in_thread(look: Look) -> Check:
    """The check that makes `look` beside the loop."""

    @functools.wraps(look)
    async def check(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
        return await beside(lambda: look(settings, kafka))

    return check


async def beside(work: Callable[[], T]) -> T:
    """What `work` returns, from a thread that holds up nobody's exit when it hangs.

    asyncio.to_thread's are waited for when the loop closes.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(how: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            how(value)

    def run() -> None:
        how: Callable[[Any], None]
        value: Any
        try:
            how, value = done.set_result, work()
        except Exception as error:
            how, value = done.set_exception, error
        with suppress(RuntimeError):  # nobody waited, and the loop is closed
            loop.call_soon_threadsafe(settle, how, value)

    threading.Thread(target=run, daemon=True).start()
    return await done


def _line(text: str) -> str:
    return " ".join(text.split())
