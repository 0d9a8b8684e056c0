"""Requests to a group's coordinator, which may not be there yet.

The first group of a cluster waits until __consumer_offsets is created, and a restarted broker loads
it. Both take a moment, in which every answer is an error.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiokafka.errors import (
    BrokerResponseError,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaError,
    NotCoordinatorError,
    for_code,
)

_TRIES = 50
_RETRY_S = 0.1

_SOON = (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError)

T = TypeVar("T")


async def ask_coordinator(ask: Callable[[], Awaitable[T]], *, retry_s: float = _RETRY_S) -> T:
    """Call `ask` until the coordinator answers, up to 50 times, and return its answer.

    The calls are `retry_s` seconds apart, so that it waits for about five seconds by default.
    Raises the coordinator's error after that, and any other error at once.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            return await ask()
        except _SOON:
            if attempt == _TRIES:
                raise
            await asyncio.sleep(retry_s)
    raise AssertionError("unreachable")


def raise_for_code(code: int) -> None:
    """Raise the KafkaError of a code that is not 0."""
    if code:
        error: type[KafkaError] = for_code(code)
        assert issubclass(error, BrokerResponseError)
        raise error()
