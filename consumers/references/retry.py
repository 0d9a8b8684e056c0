"""What failed is tried again: a few times, or longer while nothing at all can be reached."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
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

    `away`: by what lies between us and all hosts, such as the resolver, not by this one host.
    `crowded`: before the host was asked, since others have all there is of something of ours.
    `timed_out`: the host did not answer in time.
    `asked_s`: for how long the host asks to be left alone.
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


class ReferenceRetries:
    """Repeats the attempts of all reads of one kind, since they tell of each other.

    While one fails for the surroundings it is tried for `patience_s`, for a picture is not bad
    because a cable is out. But what fails though another one came through before is the host's.
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
        # By host: how many in a row, and the number of the last.
        self._silent: dict[str, tuple[int, int]] = {}
        self.waiting = 0

    def require_not_given_up(self, host: str) -> None:
        """Raises RejectedRecord for a host that was given up a short while ago."""
        if self._clock() < self._given_up.get(host, float("-inf")):
            why = f"{host} could not be reached, tried again after {self._given_up_s:g} s"
            raise reference_refused(
                "reference_unreachable", why, limit=self._given_up_s, value=host
            )

    @contextmanager
    def attempt_at(self, host: str, *, had_time: bool = True) -> Iterator[None]:
        """One request at `host`, which is given up after as many in a row that timed out as one
        read may have: whoever's they were, else each of a thousand reads would wait for its own.

        `had_time`: not what others had left of it, which is no fault of this host.
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
        # Requests beside each other are one silence, else a host that pauses once were given up.
        if began < last:
            return
        self._silences += 1
        _put(self._silent, host, (count + 1, self._silences))
        if count + 1 >= self._attempts_max:
            del self._silent[host]
            self._give_up(host)

    async def read_with_retries(self, attempt: Callable[[], Awaitable[bytes]]) -> bytes:
        """Raises what `attempt` raises beside Failed, or RejectedRecord `reference_unreachable`."""
        failures, of_host, began, succeeded = 0, 0, 0.0, 0
        waits = False
        try:
            while True:
                before = self._succeeded
                try:
                    data = await attempt()
                except AttemptFailed as failure:
                    failures += 1
                    if failures == 1:
                        began, succeeded = self._clock(), self._succeeded
                    # Attempts that were under way when another came through tell nothing.
                    patient = failure.crowded or (failure.away and before <= succeeded)
                    of_host += not patient
                    elapsed = self._clock() - began
                    if patient and elapsed >= self._patience_s:
                        raise self._unreachable(failure, self._patience_s, elapsed, "s") from None
                    if of_host >= self._attempts_max:
                        raise self._unreachable(
                            failure, self._attempts_max, of_host, "attempts"
                        ) from None
                    self.waiting += patient - waits
                    waits = patient
                    pause_s = min(failure.asked_s, _ASKED_S_MAX) + _backoff(failures)
                else:
                    self._succeeded += 1
                    return data
                await self._sleep(pause_s)
        finally:
            self.waiting -= waits

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
    """As the youngest of those that are remembered; the oldest is forgotten."""
    hosts.pop(host, None)
    hosts[host] = value
    if len(hosts) > _HOSTS_MAX:
        del hosts[next(iter(hosts))]


def _backoff(failures: int) -> float:
    """Anything up to the doubled last one: those who failed together do not come back together."""
    return random.uniform(0, min(_BACKOFF_S_MAX, _BACKOFF_S * 2.0 ** min(failures, 10)))
