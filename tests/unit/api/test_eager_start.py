"""A coroutine run until it waits, and the rest of it: as if it had been awaited."""

import asyncio

import pytest

from api.http.eager_start import run_until_blocked

pytestmark = pytest.mark.anyio


async def test_what_need_not_wait_is_done_at_once() -> None:
    done = []

    async def work() -> None:
        done.append(1)

    assert run_until_blocked(work()) is None
    assert done == [1]


async def test_an_error_before_it_waits_comes_out() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_until_blocked(work())


async def test_the_rest_is_awaited() -> None:
    steps, event = [], asyncio.Event()

    async def work() -> None:
        steps.append("begun")
        await event.wait()
        steps.append("on")
        await asyncio.sleep(0.01)
        steps.append("done")

    rest = run_until_blocked(work())
    assert rest is not None
    assert steps == ["begun"]
    asyncio.get_running_loop().call_soon(event.set)
    await rest
    assert steps == ["begun", "on", "done"]


async def test_an_error_of_what_it_waits_for_reaches_it() -> None:
    failing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    seen = []

    async def work() -> None:
        try:
            await failing
        except ValueError as error:
            seen.append(str(error))
            raise KeyError("after") from error

    rest = run_until_blocked(work())
    assert rest is not None
    failing.set_exception(ValueError("no"))
    with pytest.raises(KeyError, match="after"):
        await rest
    assert seen == ["no"]


async def test_a_time_limit_ends_it_where_it_waits() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(asyncio.current_task())

    rest = run_until_blocked(work())
    assert rest is not None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await rest
    assert ended == [asyncio.current_task()]


async def test_what_is_never_awaited_is_ended_with_its_coroutine() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    working = work()
    assert run_until_blocked(working) is not None
    working.close()
    assert ended == [1]
