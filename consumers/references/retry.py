"""Retries of references: a few times, or for longer while nothing at all can be reached."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from consumers.references.errors import reference_refused
from contracts.errors import RejectedRecord

_BACKOFF_S = 0.5
_BACKOFF_S_MAX = 10.0
_ASKED_S_MAX = 10.0
_HOSTS_MAX = 1024

_T = TypeVar("_T")


class AttemptFailed(Exception):
    """An attempt failed at `host`, and the next may not.

    `away` is true when the cause lies between Tidelens and all hosts, such as the resolver;
    `crowded` when the host was not asked, since other references hold all of a limited resource;
    `timed_out` when the host did not answer in time. `asked_s` is how many seconds the host asks to
    be left alone.
    """

    def __init__(
        self,
        host: str,
        reason: str,
        *,
        away: bool = False,
        crowded: bool = False,
        timed_out: bool = False,
        asked_s: float = 0.0,
    ) -> None:
        super().__init__(f"{host}: {reason}")
        self.host = host
        self.away = away
        self.crowded = crowded
        self.timed_out = timed_out
        self.asked_s = asked_s


@dataclass(slots=True)
class _Progress:
    """The failures of one read, and those among them that count against the host.

    `began` is the clock at the first one, and `succeeded` the reads that had succeeded by then.
    """

    failures: int = 0
    of_host: int = 0
    began: float = 0.0
    succeeded: int = 0
    waits: bool = False


class ReferenceRetries:
    """The attempts of all reads of the web, or of S3: each shows what the others can expect.

    A read has `attempts_max` attempts at a host. While it fails because nothing can be reached, it
    is tried again for `patience_s` seconds instead: a picture is not bad because a cable is out.
    But a failure after another read came through is that of the host. A host that was given up is
    not asked for `given_up_s` seconds. `waiting` counts the reads that wait for the network.
    """

    def __init__(
        self,
        *,
        attempts_max: int,
        patience_s: float,
        given_up_s: float = 60.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._attempts_max = attempts_max
        self._patience_s = patience_s
        self._given_up_s = given_up_s
        self._sleep = sleep
        self._clock = clock
        self._succeeded = 0
        self._given_up: dict[str, float] = {}
        self._silences = 0
        # How many requests in a row a host left unanswered, and the number of the last one.
        self._silent: dict[str, tuple[int, int]] = {}
        self.waiting = 0

    def require_not_given_up(self, host: str) -> None:
        """Raise RejectedRecord for a host that was given up less than `given_up_s` seconds ago."""
        if self._clock() < self._given_up.get(host, float("-inf")):
            why = f"{host} could not be reached, tried again after {self._given_up_s:g} s"
            raise reference_refused(
                "reference_unreachable", why, limit=self._given_up_s, value=host
            )

    @contextmanager
    def attempt_at(self, host: str, *, had_time: bool = True) -> Iterator[None]:
        """Hold one request at `host`, and count those that time out.

        The host is given up after `attempts_max` of them in a row, of whichever reads they were:
        otherwise each of a thousand reads would wait for its own. `had_time` is false when earlier
        requests had used most of the time up, which is not a fault of this host.
        """
        began = self._silences
        try:
            yield
        except AttemptFailed as failure:
            if failure.timed_out and had_time:
                self._note_silence(host, began)
            raise
        except RejectedRecord:
            self._silent.pop(host, None)
            raise
        else:
            self._silent.pop(host, None)

    def _note_silence(self, host: str, began: int) -> None:
        count, last = self._silent.get(host, (0, 0))
        # Requests at the same time count once: a host that pauses once must not be given up.
        if began < last:
            return
        self._silences += 1
        _put(self._silent, host, (count + 1, self._silences))
        if count + 1 >= self._attempts_max:
            del self._silent[host]
            self._give_up(host)

    async def read_with_retries(self, attempt: Callable[[], Awaitable[bytes]]) -> bytes:
        """Call `attempt` until it returns bytes, and return these.

        Raises what `attempt` raises beside AttemptFailed, and RejectedRecord
        `reference_unreachable` once the attempts or the patience are used up.
        """
        progress = _Progress()
        try:
            while True:
                before = self._succeeded
                try:
                    data = await attempt()
                except AttemptFailed as failure:
                    self._note_failure(progress, failure, before)
                    pause_s = min(failure.asked_s, _ASKED_S_MAX) + _backoff(progress.failures)
                else:
                    self._succeeded += 1
                    return data
                await self._sleep(pause_s)
        finally:
            self.waiting -= progress.waits

    def _note_failure(self, progress: "_Progress", failure: AttemptFailed, before: int) -> None:
        """Count a failed attempt, and raise RejectedRecord if there may be no other.

        `before` is the number of reads that had succeeded when the attempt began.
        """
        progress.failures += 1
        if progress.failures == 1:
            progress.began, progress.succeeded = self._clock(), self._succeeded
        # An attempt that was under way when another read came through does not count as a later
        # failure: it may have met the same outage.
        patient = failure.crowded or (failure.away and before <= progress.succeeded)
        progress.of_host += not patient
        elapsed = self._clock() - progress.began
        if patient and elapsed >= self._patience_s:
            raise self._unreachable(failure, self._patience_s, elapsed, "s") from None
        if progress.of_host >= self._attempts_max:
            raise self._unreachable(
                failure, self._attempts_max, progress.of_host, "attempts"
            ) from None
        self.waiting += patient - progress.waits
        progress.waits = patient

    def _unreachable(
        self, failure: AttemptFailed, limit: float, value: float, unit: str
    ) -> RejectedRecord:
        if failure.away:
            self._give_up(failure.host)
        why = f"{failure}; limit {limit:g} {unit}, got {value:g}"
        return reference_refused("reference_unreachable", why, limit=limit, value=value)

    def _give_up(self, host: str) -> None:
        _put(self._given_up, host, self._clock() + self._given_up_s)


def _put(hosts: dict[str, _T], host: str, value: _T) -> None:
    """Remember a host as the youngest one, and forget the oldest of too many."""
    hosts.pop(host, None)
    hosts[host] = value
    if len(hosts) > _HOSTS_MAX:
        del hosts[next(iter(hosts))]


def _backoff(failures: int) -> float:
    """Return a random pause in seconds, whose limit doubles with each failure.

    Reads that failed together so do not come back together ("full jitter", AWS Architecture Blog).
    """
    return random.uniform(0, min(_BACKOFF_S_MAX, _BACKOFF_S * 2.0 ** min(failures, 10)))
