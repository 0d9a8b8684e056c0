"""Processes that are started again when they end: the pauses between, and what is reported.

A `Part` is one process with its job: Kafka, the encoder of a model, or the encoder of queries.
`Parts` are the parts of one node.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from contracts.supervision.backoff import pause_after

log = structlog.get_logger(__name__)

PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 60.0
# A part that ends again and again writes one line in this time.
_LINE_EVERY_S = 60.0
REASON_CHARS_MAX = 500


class Part:
    """One process: whether it runs, how often it was started again, and why it ended last.

    `role` is the label that tidelens_child_memory_bytes has; `model` is what it loads, if anything.
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
        """Why it ended last; None if it never did."""
        self.failures = 0
        """How often it ended since it last ran long enough to count as healthy."""
        self._pause_max_s = pause_max_s
        self._now = now
        self._since = 0.0
        self._line_at = 0.0
        self._unwritten = 0
        self._again_at: float | None = None

    def runs(self) -> None:
        """Note that the process does its work from now on."""
        if not self.running:
            self.running, self._since = True, self._now()

    async def pause(self, reason: str, *, trace: str | None = None) -> None:
        """Note that it ended, and wait for as long as it should stay down.

        Many may notice that at once: those who come while it stays down wait for the same start.
        """
        if self._again_at is not None:
            await asyncio.sleep(max(0.0, self._again_at - self._now()))
            return
        pause_s = self.ended(reason, trace=trace)
        self._again_at = self._now() + pause_s
        try:
            await asyncio.sleep(pause_s)
        finally:
            self._again_at = None
        self.restarts += 1

    def ended(self, reason: str, *, trace: str | None = None) -> float:
        """Return how long to wait before the next start: longer each time, until it was healthy.

        It counts as healthy when it has run for as long as the longest pause.
        """
        now = self._now()
        if self.running and now - self._since >= self._pause_max_s:
            self.failures = 0
        self.running, self.reason = False, reason[:REASON_CHARS_MAX]
        self.failures += 1
        pause_s = pause_after(self.failures, PAUSE_FIRST_S, self._pause_max_s)
        self._unwritten += 1
        if now >= self._line_at:
            self._line_at = now + _LINE_EVERY_S
            self._write(pause_s, trace)
        return pause_s

    def describe(self) -> dict[str, Any]:
        """Return what /readyz says about it."""
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
    """The parts of one node, in the order in which they came."""

    def __init__(self) -> None:
        self._parts: list[Part] = []

    def __iter__(self) -> Iterator[Part]:
        return iter(tuple(self._parts))

    @contextmanager
    def showing(self, part: Part) -> Iterator[Part]:
        self._parts.append(part)
        try:
            yield part
        finally:
            self._parts.remove(part)

    def describe(self) -> list[dict[str, Any]]:
        return [part.describe() for part in self]


def why_ended(exit_code: int | None) -> str:
    """Say what an exit code means; a negative one is the signal that killed the process."""
    if exit_code is None:
        return "it ended"
    if exit_code >= 0:
        return f"it ended with exit code {exit_code}"
    try:
        return f"it was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"it was killed by signal {-exit_code}"
