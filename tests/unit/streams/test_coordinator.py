"""A coordinator that is not there yet is asked again; other errors are raised."""

from collections.abc import Awaitable, Callable

import pytest
from aiokafka.errors import (
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    KafkaError,
    NotCoordinatorError,
)

from streams.groups import coordinator

pytestmark = pytest.mark.anyio


def failing(*errors: KafkaError) -> Callable[[], Awaitable[str]]:
    """Make a call that raises these errors one after the other, then answers."""
    left = list(errors)

    async def ask() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return ask


async def test_a_coordinator_is_waited_for() -> None:
    ask = failing(CoordinatorNotAvailableError(), NotCoordinatorError())
    assert await coordinator.ask_coordinator(ask, retry_s=0) == "answer"


async def test_but_not_for_ever() -> None:
    ask = failing(*(CoordinatorNotAvailableError() for _ in range(1000)))
    with pytest.raises(CoordinatorNotAvailableError):
        await coordinator.ask_coordinator(ask, retry_s=0)


async def test_other_errors_come_at_once() -> None:
    ask = failing(GroupAuthorizationFailedError())
    with pytest.raises(GroupAuthorizationFailedError):
        await coordinator.ask_coordinator(ask, retry_s=0)
    assert await ask() == "answer"


def test_codes() -> None:
    coordinator.raise_for_code(0)
    with pytest.raises(CoordinatorNotAvailableError):
        coordinator.raise_for_code(15)
