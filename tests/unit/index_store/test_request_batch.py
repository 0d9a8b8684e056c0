"""Requests that arrive while a batch runs form the next batch; an error stays with its request."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from index_store.search.request_batch import RequestBatcher

pytestmark = pytest.mark.anyio


class Work:
    """Work that doubles numbers as soon as the test allows it, and raises ValueError for 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may = threading.Event()

    def __call__(self, asked: Sequence[int]) -> list[int]:
        self.batches.append(list(asked))
        assert self.may.wait(60)
        if 13 in asked:
            raise ValueError("13")
        return [2 * one for one in asked]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def test_one_batch_runs_and_one_waits() -> None:
    work = Work()
    lane = RequestBatcher(work)
    asking = [asyncio.create_task(lane.ask(1))]
    await until(lambda: work.batches)
    asking += [asyncio.create_task(lane.ask(n)) for n in (2, 3, 4)]
    await until(lambda: lane.waiting() == 3)
    asking[2].cancel()
    await asyncio.sleep(0)
    work.may.set()
    assert await asyncio.gather(*asking[:2], asking[3]) == [2, 4, 8]
    assert work.batches == [[1], [2, 4]]
    assert lane.waiting() == 0
    assert await lane.ask(5) == 10


async def test_an_error_is_only_for_who_caused_it() -> None:
    work = Work()
    lane = RequestBatcher(work)
    asking = [asyncio.create_task(lane.ask(n)) for n in (1, 13, 2)]
    work.may.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert (found[0], found[2]) == (2, 4)
    assert isinstance(found[1], ValueError)


async def test_a_batch_has_a_limit() -> None:
    work = Work()
    lane = RequestBatcher(work)
    asking = [asyncio.create_task(lane.ask(n)) for n in range(100, 300)]
    work.may.set()
    assert await asyncio.gather(*asking) == [2 * n for n in range(100, 300)]
    assert max(map(len, work.batches)) == 64


async def test_a_quick_batch_runs_on_the_loop_and_others_get_their_turn() -> None:
    ran: list[tuple[list[int], bool]] = []

    def work(asked: Sequence[int]) -> list[int]:
        ran.append((list(asked), threading.current_thread() is threading.main_thread()))
        return [2 * one for one in asked]

    lane = RequestBatcher(work, lambda asked: len(asked) == 1)
    assert await lane.ask(1) == 2
    assert await asyncio.gather(lane.ask(2), lane.ask(3)) == [4, 6]
    assert ran == [([1], True), ([2, 3], False)]
    # A caller that asks again and again leaves the loop to others between its requests.
    turns = 0

    async def ask_often() -> None:
        for n in range(100):
            await lane.ask(n)

    asking = asyncio.create_task(ask_often())
    while not asking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 100


async def test_an_error_of_a_quick_one_is_raised_as_any_other() -> None:
    work = Work()
    work.may.set()
    lane = RequestBatcher(work, lambda _: True)
    with pytest.raises(ValueError, match="13"):
        await lane.ask(13)
    assert await lane.ask(1) == 2
