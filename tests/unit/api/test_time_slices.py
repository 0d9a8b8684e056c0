"""Slices of work: others get their turns between them, and those at one gate go one at a time."""

import asyncio
from collections import Counter

import pytest

from api.http.time_slices import TimeSlice

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every slice is over at once."""
    monkeypatch.setattr("api.http.time_slices.SLICE_S", -1.0)


async def worked(paces: list[TimeSlice], steps: int = 5) -> list[list[int]]:
    """Return the workers that did a step, in each turn of the loop."""
    turns: list[list[int]] = [[]]

    async def work(number: int, pace: TimeSlice) -> None:
        for _ in range(steps):
            await pace.yield_when_over()
            turns[-1].append(number)

    tasks = [asyncio.create_task(work(number, pace)) for number, pace in enumerate(paces)]
    while not all(task.done() for task in tasks):
        turns.append([])
        await asyncio.sleep(0)
    return turns


async def test_without_a_gate_each_has_a_slice_in_a_turn() -> None:
    turns = await worked([TimeSlice() for _ in range(4)])
    assert max(map(len, turns)) == 4


async def test_at_one_gate_one_of_them_has_a_slice_in_a_turn_and_each_its_share() -> None:
    gate = asyncio.Lock()
    turns = await worked([TimeSlice(gate) for _ in range(4)])
    assert max(map(len, turns)) == 1
    steps = [number for turn in turns for number in turn]
    assert len(steps) == 20
    for start in range(0, 20, 4):
        assert Counter(steps[start : start + 4]) == Counter(range(4)), "nobody is passed over"


async def test_tasks_that_share_the_slices_of_one_request_share_their_time() -> None:
    pace = TimeSlice()
    turns = await worked([pace] * 4)
    assert max(map(len, turns)) == 1


async def test_what_has_time_left_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.http.time_slices.SLICE_S", 60.0)
    turns = await worked([TimeSlice()])
    assert [turn for turn in turns if turn] == [[0] * 5]
