"""What failed is tried again: a few times, or longer while nothing at all can be reached."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from consumers.references.refusals import refused
from contracts.errors import RejectedRecord

_BACKOFF_S = 0.5
_BACKOFF_S_MAX = 10.0
_GIVEN_UP_S = 60.0
_GIVEN_UP_MAX = 1024


class Failed(Exception):
    """An attempt failed at `host`, and the next may not.

    `away`: by what lies between us and all hosts, such as the resolver, not by this one host.
    """

    def __init__(self, host: str, reason: str, *, away: bool = False) -> None:
        super().__init__(f"{host}: {reason}")
        self.host = host
        self.away = away


class Retrying:
    """Repeats the attempts of all reads of one kind, since they tell of each other.

    While one fails for the surroundings it is tried for `patience_s`, for a picture is not bad
    because a cable is out. But when another one came through meanwhile, it was the host after all.
    """

    def __init__(
        self,
        *,
        attempts_max: int,
        patience_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._attempts_max = attempts_max
        self._patience_s = patience_s
        self._sleep = sleep
        self._clock = clock
        self._succeeded = 0
        self._given_up: dict[str, float] = {}
        self.waiting = 0

    def require_hope(self, host: str) -> None:
        """Raises RejectedRecord for a host that was given up a short while ago."""
        if self._clock() < self._given_up.get(host, float("-inf")):
            why = f"{host} could not be reached, tried again after {_GIVEN_UP_S:g} s"
            raise refused("reference_unreachable", why, limit=_GIVEN_UP_S, value=host)

    async def until_read(self, attempt: Callable[[], Awaitable[bytes]]) -> bytes:
        """Raises what `attempt` raises beside Failed, or RejectedRecord `reference_unreachable`."""
        failures, began, succeeded = 0, 0.0, 0
        waits = False
        try:
            while True:
                try:
                    data = await attempt()
                except Failed as failure:
                    failures += 1
                    if failures == 1:
                        began, succeeded = self._clock(), self._succeeded
                    patient = failure.away and self._succeeded == succeeded
                    elapsed = self._clock() - began
                    if patient and elapsed >= self._patience_s:
                        raise self._unreachable(failure, self._patience_s, elapsed, "s") from None
                    if not patient and failures >= self._attempts_max:
                        raise self._unreachable(
                            failure, self._attempts_max, failures, "attempts"
                        ) from None
                    self.waiting += patient - waits
                    waits = patient
                else:
                    self._succeeded += 1
                    return data
                await self._sleep(_backoff(failures))
        finally:
            self.waiting -= waits

    def _unreachable(
        self, failure: Failed, limit: float, value: float, unit: str
    ) -> RejectedRecord:
        if failure.away:
            self._give_up(failure.host)
        why = f"{failure}; limit {limit:g} {unit}, got {value:g}"
        return refused("reference_unreachable", why, limit=limit, value=value)

    def _give_up(self, host: str) -> None:
        self._given_up.pop(host, None)
        self._given_up[host] = self._clock() + _GIVEN_UP_S
        if len(self._given_up) > _GIVEN_UP_MAX:
            del self._given_up[next(iter(self._given_up))]


def _backoff(failures: int) -> float:
    """Anything up to the doubled last one: those who failed together do not come back together."""
    return random.uniform(0, min(_BACKOFF_S_MAX, _BACKOFF_S * 2.0 ** min(failures, 10)))
