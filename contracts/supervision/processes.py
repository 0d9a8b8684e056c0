"""Supervised processes: the pauses before they are started again, and their reported state.

A `Part` is a process with a role: Kafka, the encoder of a model, or the query encoder. `Parts` are
those of one node.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from contracts.supervision.backoff import backoff_s

log = structlog.get_logger(__name__)

PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 60.0
# The least time between two log lines about one part.
_LINE_EVERY_S = 60.0
REASON_CHARS_MAX = 500


class Part:
    """A supervised process: whether it runs, how often it was restarted, and why it ended last.

    `role` is the label of tidelens_child_memory_bytes. `model` is the model that it loads, if any.
    """

    def __init__(
        self,
        role: str,
        model: str = "",
        *,
        pause_max_s: float = PAUSE_MAX_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.role = role
        self.model = model
        self.running = False
        self.restarts = 0
        self.reason: str | None = None
        """The reason of its last end; None if it never ended."""
        self.failures = 0
        """The number of ends since it last ran long enough to count as healthy."""
        self._pause_max_s = pause_max_s
        self._now = now
        self._since = 0.0
        self._line_at = 0.0
        self._unwritten = 0
        self._again_at: float | None = None

    def mark_running(self) -> None:
        """Note that the process works from now on."""
        if not self.running:
            self.running, self._since = True, self._now()

    async def wait_before_restart(self, reason: str, *, trace: str | None = None) -> None:
        """Note that the process ended, and wait until it may be started again.

        Several callers may notice the same end. Those that call during the pause wait for the same
        restart.
        """
        if self._again_at is not None:
            await asyncio.sleep(max(0.0, self._again_at - self._now()))
            return
        pause_s = self.mark_ended(reason, trace=trace)
        self._again_at = self._now() + pause_s
        try:
            await asyncio.sleep(pause_s)
        finally:
            self._again_at = None
        self.restarts += 1

    def mark_ended(self, reason: str, *, trace: str | None = None) -> float:
        """Note that the process ended. Return the pause in seconds before the next start.

        The pause grows with each end, until the process has been healthy: it counts as healthy when
        it has run for as long as the longest pause.
        """
        now = self._now()
        if self.running and now - self._since >= self._pause_max_s:
            self.failures = 0
        self.running, self.reason = False, reason[:REASON_CHARS_MAX]
        self.failures += 1
        pause_s = backoff_s(self.failures, PAUSE_FIRST_S, self._pause_max_s)
        self._unwritten += 1
        if now >= self._line_at:
            self._line_at = now + _LINE_EVERY_S
            self._write(pause_s, trace)
        return pause_s

    def describe(self) -> dict[str, Any]:
        """Return the state that /readyz shows (PartState)."""
        return {
            "role": self.role,
            "model": self.model or None,
            "running": self.running,
            "restarts": self.restarts,
            "reason": self.reason,
        }

    def _write(self, pause_s: float, trace: str | None) -> None:
        more = {"model": self.model, "exception": trace}
        log.error(
            "a process ended and is started again",
            part=self.role,
            **{name: value for name, value in more.items() if value},
            reason=self.reason,
            pause_s=pause_s,
            ended=self._unwritten,
        )
        self._unwritten = 0


class Parts:
    """The parts of one node, in the order in which they were registered."""

    def __init__(self) -> None:
        self._parts: list[Part] = []

    def __iter__(self) -> Iterator[Part]:
        return iter(tuple(self._parts))

    @contextmanager
    def registered(self, part: Part) -> Iterator[Part]:
        """Register a part until the context ends."""
        self._parts.append(part)
        try:
            yield part
        finally:
            self._parts.remove(part)

    def describe(self) -> list[dict[str, Any]]:
        return [part.describe() for part in self]


def exit_reason(exit_code: int | None) -> str:
    """Return an exit code as a reason. A negative one is the signal that killed the process."""
    if exit_code is None:
        return "it ended"
    if exit_code >= 0:
        return f"it ended with exit code {exit_code}"
    try:
        return f"it was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"it was killed by signal {-exit_code}"
