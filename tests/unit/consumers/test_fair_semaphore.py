"""Groups take turns: one with many waiters does not hold up one with few."""

import asyncio

import pytest

from consumers.fair_semaphore import FairSemaphore

pytestmark = pytest.mark.anyio


class Queue:
    """Tasks that take a turn and keep it until `end`."""

    def __init__(self, count: int) -> None:
        self.turns = FairSemaphore(count)
        self.began: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def come(self, *names: str) -> None:
        """Start tasks, each in the group that its first letter names."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._hold(name))
            await asyncio.sleep(0)

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
            await asyncio.wait([self.tasks[name]])
            await asyncio.sleep(0)

    async def _hold(self, name: str) -> None:
        async with self.turns.permit(name[0]):
            self.began.append(name)
            await self._ends[name].wait()


async def test_a_newcomer_waits_for_one_of_each_other_group() -> None:
    queue = Queue(2)
    await queue.come(*(f"a{n}" for n in range(100)), "b1", "c1", "b2")
    assert queue.began == ["a0", "a1"]
    await queue.end("a0", "a1", "a2", "b1", "c1")
    assert queue.began == ["a0", "a1", "a2", "b1", "c1", "a3", "b2"]
    await queue.come("d1")
    await queue.end("a3")
    assert queue.began[-1] == "a4"
    await queue.end("b2")
    assert queue.began[-1] == "d1"


async def test_who_left_is_forgotten_and_costs_its_group_no_turn() -> None:
    queue = Queue(1)
    await queue.come("a0", "b0", "c0", "b1")
    queue.tasks["b0"].cancel()
    await queue.end("a0")  # before b0 has run to its end
    assert queue.began == ["a0", "b1"]
    await queue.come(*(f"d{n}" for n in range(100)))
    for n in range(100):
        queue.tasks[f"d{n}"].cancel()
    await asyncio.wait([queue.tasks[f"d{n}"] for n in range(100)])
    assert list(queue.turns._waiting) == ["c"]
    await queue.end("b1", "c0")
    assert queue.began == ["a0", "b1", "c0"] and queue.turns._free == 1


async def test_no_turn_is_lost_or_given_twice() -> None:
    turns = FairSemaphore(1)
    await turns.acquire("a")
    left, given, stays, next_one = (
        asyncio.create_task(turns.acquire(group)) for group in ("b", "b", "c", "d")
    )
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.sleep(0)
    turns.release()
    given.cancel()  # in the same moment, before it hears of its turn
    await asyncio.wait([left, given])
    assert left.cancelled() and given.cancelled()
    async with asyncio.timeout(60):
        await stays
    await asyncio.sleep(0)
    assert not next_one.done()
    turns.release()
    async with asyncio.timeout(60):
        await next_one
    turns.release()
    await turns.acquire("e")
    assert not turns._free
