"""The supervisor of side tasks: tasks whose errors do not end the role.

A role has a few main tasks, listed in `MAIN`. Without one of them it cannot do its job, so the end
of one ends the role. Every other task, such as writing snapshots, measuring the lag or returning
memory, is a side task. An error of a side task is logged and counted under its name, and the task
is tried again after a growing pause. docs/internals/tasks.md lists all of them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import structlog
from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from contracts.errors import BrokerUnavailable, TidelensError
from contracts.supervision.backoff import backoff_s

log = structlog.get_logger(__name__)

# Long-running tasks whose end must end the role.
MAIN = frozenset({"api", "encoders", "queries", "spaces", "streams", "worker"})

# Short, so that a task that waits for a broker goes on soon after the broker is back.
PAUSE_MAX_S = 10.0
# A long-running task counts as working once it has run for this long without an error.
_STEADY_S = 10.0

Run = Callable[[], Coroutine[Any, Any, None]]
Work = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class _State:
    """The state of one task; times are by the monotonic clock, `failed_at` by the wall clock."""

    failures: int = 0
    # Failures since the task last worked.
    in_row: int = 0
    reason: str = ""
    failed_at: float = 0.0
    again_at: float = 0.0
    # The time from which a long-running task counts as working, since it does not report that.
    steady_at: float = inf


class SideTasks(Collector):
    """The supervisor of a process's side tasks; `for_space` supervises those of a space.

    The pause after a first failure lasts `pause_min_s` seconds. Tests may pass their own `sleep`
    and `now`.
    """

    def __init__(
        self,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
        pause_min_s: float = 1.0,
    ) -> None:
        self._sleep = sleep
        self._now = now
        self._pause_min_s = pause_min_s
        self._space = ""
        self._states: dict[tuple[str, str], _State] = {}

    @contextmanager
    def for_space(self, space: str) -> Iterator["SideTasks"]:
        """Yield the supervisor of one space; its counts are forgotten at the end."""
        own = SideTasks(sleep=self._sleep, now=self._now, pause_min_s=self._pause_min_s)
        own._space, own._states = space, self._states
        try:
            yield own
        finally:
            for key in [key for key in self._states if key[0] == space]:
                del self._states[key]

    def supervise(self, runs: Mapping[str, Run]) -> dict[str, Run]:
        """Return the tasks `runs` by name, each supervised unless it is one of `MAIN`."""
        return {
            name: run if name in MAIN else partial(self.forever, name, run)
            for name, run in runs.items()
        }

    async def run_step(self, name: str, work: Work) -> bool:
        """Run `work`, one step of a timer. Return whether it was run and raised no error.

        It is not run during the pause after a failure.
        """
        state = self._state(name)
        if self._now() < state.again_at:
            return False
        return await self._attempt(name, state, work)

    async def until_done(self, name: str, work: Work) -> None:
        """Run `work`, and run it again after a pause for as long as it raises an error."""
        state = self._state(name)
        while True:
            if await self._attempt(name, state, work):
                return
            state.steady_at = state.again_at + _STEADY_S
            await self._sleep(state.again_at - self._now())

    async def forever(self, name: str, run: Work) -> None:
        """Run a task that should never return, again and again; a return counts as a failure."""

        async def unending() -> None:
            await run()
            raise RuntimeError("it ended, but should run until it is cancelled")

        await self.until_done(name, unending)

    @contextmanager
    def count_failures(self, name: str) -> Iterator[None]:
        """Suppress an error of the body, and log and count it as a failure of this task.

        A cancellation of the running task is raised. A CancelledError that a library raises without
        one counts as an error.
        """
        try:
            yield
        except Exception as error:
            self._failed(name, error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._failed(name, error)
        else:
            self._worked(name)

    def failing(self) -> dict[str, dict[str, Any]]:
        """Return the tasks that fail now by name, each with its reason, count and time.

        The tasks of the process are included in those of a space.
        """
        return {
            name: {"reason": state.reason, "failures": state.in_row, "at": state.failed_at}
            for (space, name), state in self._states.items()
            if space in ("", self._space) and self._fails(state)
        }

    def collect(self) -> Iterable[Metric]:
        """Return the metrics: the failures of all tasks, and which of them fail now."""
        labels = ["task", "space"]
        failures = CounterMetricFamily(
            "tidelens_side_task_failures",
            "Errors of side tasks, without which a role goes on; the label space is empty for "
            "tasks of the process.",
            labels=labels,
        )
        failing = GaugeMetricFamily(
            "tidelens_side_task_failing",
            "1 while the last attempt of a side task has failed, otherwise 0.",
            labels=labels,
        )
        for (space, name), state in sorted(self._states.items()):
            failures.add_metric([name, space], state.failures)
            failing.add_metric([name, space], int(self._fails(state)))
        return [failures, failing]

    async def _attempt(self, name: str, state: _State, work: Work) -> bool:
        before = state.failures
        with self.count_failures(name):
            await work()
        return state.failures == before

    def _state(self, name: str) -> _State:
        return self._states.setdefault((self._space, name), _State())

    def _fails(self, state: _State) -> bool:
        return state.in_row > 0 and self._now() < state.steady_at

    def _failed(self, name: str, error: BaseException) -> None:
        state = self._state(name)
        state.failures += 1
        state.in_row = state.in_row + 1 if self._fails(state) else 1
        state.reason, state.failed_at = _described(error), time.time()
        pause_s = backoff_s(state.in_row, self._pause_min_s, PAUSE_MAX_S)
        state.again_at, state.steady_at = self._now() + pause_s, inf
        about = {"task": name, "error": state.reason, "again_in_s": pause_s}
        if self._space:
            about["space"] = self._space
        # The errors of aiokafka and of Tidelens have the attribute `retriable`.
        foreseen = isinstance(error, OSError) or hasattr(error, "retriable")
        if isinstance(error, BrokerUnavailable | ConnectionError) or (
            foreseen and not isinstance(error, TidelensError | OSError)
        ):
            log.warning("put off until the broker answers", **about)
        elif foreseen:
            log.warning("a side task failed; it is tried again", **about)
        else:
            # An unexpected error: the log must show where it came from.
            log.error("a side task failed; it is tried again", **about, exc_info=error)

    def _worked(self, name: str) -> None:
        state = self._state(name)
        if self._fails(state):
            log.info("a side task works again", task=name, after_failures=state.in_row)
        state.in_row, state.again_at = 0, 0.0


def _described(error: BaseException) -> str:
    # A task group wraps the error of one of its tasks. The log line is about the cause.
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
