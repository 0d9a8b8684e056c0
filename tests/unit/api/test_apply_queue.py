"""Batches reach the lists in order, and a list never claims a state that it is not exact at."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from api.live.limits import ListLimits
from api.live.top import apply_queue as module
from api.live.top.apply_queue import ApplyQueue
from api.live.top.ranked_item import ranked_item
from api.live.top.standing_query import StandingQuery
from api.live.top.standing_set import StandingQuerySet
from api.queries.prepare import PreparedQuery, _Summand
from contracts.errors import NotReady
from contracts.events.record import RecordPosition
from contracts.ports.hit import Hit
from contracts.ports.search import AppliedBatch
from contracts.score import Vectors, unit
from contracts.supervision.side_tasks import SideTasks
from contracts.wire.as_of import AsOf
from tests.kits.api_kit import SlackMatcher

pytestmark = pytest.mark.anyio
X = unit([1.0, 0.0])


def hit(item_id: str, score: float = 0.0) -> Hit:
    return Hit("images", item_id, 0, score, RecordPosition("t", 0, 0))


class Desk:
    """A standing set that follows an index whose state is the number of its last batch."""

    def __init__(self, **limits: float) -> None:
        self.state = 0
        self.is_ready = True
        self.woken = 0
        self.set = StandingQuerySet(SlackMatcher(), lambda: None)
        self.folding = ApplyQueue(self, self.set, SideTasks(), ListLimits(**limits))  # type: ignore[arg-type]

    def as_of(self) -> AsOf:
        if not self.is_ready:
            raise NotReady("not yet")
        return AsOf("s", "e", {"images": [self.state]})

    def wake(self) -> None:
        self.woken += 1

    def put(self, *ids: str, gone: tuple[str, ...] = ()) -> None:
        self.state += 1
        vectors: Vectors = np.stack([X] * len(ids)) if ids else np.empty((0, 2), np.float16)
        hits = [hit(item_id) for item_id in ids]
        self.folding.add_batches([AppliedBatch("images", ids, vectors, gone, hits.__getitem__)])

    def stand(self) -> StandingQuery:
        return self.searched(StandingQuery(PreparedQuery("images", [_Summand(1.0, X)], k=2)))

    def searched(self, standing: StandingQuery, *ids: str) -> StandingQuery:
        if standing not in self.set._all:
            standing.subscribe(self.wake)
            self.set.add(standing)
        self.set.take_due(9)
        ranked = [ranked_item(hit(item_id, 1.0)) for item_id in ids]
        self.folding.add_result(standing, X, ranked, self.as_of())
        return standing

    @property
    def at(self) -> int | None:
        as_of = self.folding.as_of(next(iter(self.set._all)))
        return None if as_of is None else as_of.offsets["images"][0]


class Thread:
    """A thread in which products end when the test lets them."""

    def __init__(self) -> None:
        self.let = asyncio.Semaphore(0)

    async def __call__(self, work: Callable[[], Any]) -> Any:
        await self.let.acquire()
        return work()


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> Thread:
    thread = Thread()
    monkeypatch.setattr(module, "in_thread", thread)
    return thread


def ids(standing: StandingQuery) -> list[str]:
    return [item.id for _, item in standing.list.top()]


async def settled() -> None:
    for _ in range(9):
        await asyncio.sleep(0)


async def test_a_small_batch_is_folded_in_the_same_turn() -> None:
    desk = Desk()
    standing = desk.stand()
    desk.put("a")
    assert (ids(standing), desk.at) == (["a"], 1)
    assert desk.folding._task is None


async def test_a_list_is_of_the_state_before_until_a_large_one_is_folded(thread: Thread) -> None:
    desk = Desk(inline_pairs_max=0)
    standing = desk.stand()
    desk.put("a")
    desk.put("b", gone=("a",))
    await settled()
    assert (ids(standing), desk.at) == ([], 0)
    for state, listed in ((1, ["a"]), (2, ["b"])):
        thread.let.release()
        await settled()
        assert (ids(standing), desk.at) == (listed, state)
    assert desk.folding._task is None
    desk.state = 3  # a marker, after which nothing is sent
    assert desk.at == 3


async def test_while_lists_are_changed_they_are_of_no_state(thread: Thread) -> None:
    desk = Desk(inline_pairs_max=0, slice_s=-1.0)
    standing, other = desk.stand(), desk.stand()
    desk.put("a")
    thread.let.release()
    assert desk.at == 0
    for one in (standing, other):
        one.subscribers[0].has_changed = False
    states, woken = [], desk.woken
    while desk.folding._task is not None:
        await asyncio.sleep(0)
        states.append((desk.at, desk.woken - woken))
    # Both that changed are woken, and the one that asked in vain.
    assert states == [(None, 0), (None, 0), (1, 3)]
    assert ids(standing) == ids(other) == ["a"]


async def test_what_was_found_waits_for_what_it_may_have_seen(thread: Thread) -> None:
    desk = Desk(inline_pairs_max=0)
    desk.stand()
    late = StandingQuery(PreparedQuery("images", [_Summand(1.0, X)], k=2))
    desk.put("a")
    desk.searched(late, "a")
    desk.put("b")
    assert not late.is_current
    thread.let.release()
    await settled()
    assert (ids(late), late.is_current, desk.at) == (["a"], True, 1)
    thread.let.release()
    await settled()
    assert (ids(late), desk.at) == (["a", "b"], 2)


async def test_what_was_found_for_one_that_is_searched_again_is_dropped(thread: Thread) -> None:
    desk = Desk(inline_pairs_max=0)
    desk.stand()
    again = StandingQuery(PreparedQuery("images", [_Summand(1.0, X)], k=2))
    desk.put("a")
    desk.searched(again, "a")
    desk.set.requeue(again)
    desk.put("b")
    desk.set.take_due(1)  # it will see both
    for _ in range(2):
        thread.let.release()
    await settled()
    assert not again.is_current
    desk.searched(again, "a", "b")
    assert (ids(again), desk.at) == (["a", "b"], 2)


async def test_one_that_goes_while_it_is_matched_leaves_nothing_behind(thread: Thread) -> None:
    desk = Desk(inline_pairs_max=0)
    gone, last = desk.stand(), desk.stand()
    desk.put("a")
    await settled()
    desk.set.remove(gone)
    thread.let.release()
    await settled()
    assert (ids(last), ids(gone)) == (["a"], [])
    desk.set.remove(last)
    assert len(desk.set._shared_items["images"]) == 0


async def test_another_index_ends_what_was_under_way(thread: Thread) -> None:
    desk = Desk(inline_pairs_max=0, slice_s=-1.0)
    all_of_them = [desk.stand() for _ in range(3)]
    for released in (0, 1):
        desk.put("a")
        for _ in range(released):
            thread.let.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        desk.folding.invalidate_all()
        desk.state = 0
        for standing in all_of_them:
            desk.searched(standing, "new")
        thread.let.release()
        await settled()
        assert [ids(standing) for standing in all_of_them] == [["new"]] * 3
        assert (desk.at, desk.folding._task, desk.folding._rows) == (0, None, 0)


async def test_too_far_behind_all_are_searched_anew(thread: Thread) -> None:
    desk = Desk(inline_pairs_max=0, waiting_rows_max=10)
    standing = desk.stand()
    for n in range(6):
        desk.put(f"a{n}")
    assert not standing.is_current
    assert (desk.set.waiting(), len(desk.folding._waiting)) == (1, 0)
    desk.searched(standing, "a0", "a1")
    assert desk.at == 6


async def test_after_a_defect_no_list_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: Callable[[], Any]) -> Any:
        raise MemoryError

    monkeypatch.setattr(module, "in_thread", broken)
    desk = Desk(inline_pairs_max=0)
    standing = desk.stand()
    with capture_logs() as logs:
        desk.put("a")
        await settled()
    assert (standing.is_current, desk.set.waiting(), desk.folding._task) == (False, 1, None)
    assert [(line["task"], line["error"]) for line in logs] == [("folding", "MemoryError: ")]


async def test_a_batch_of_an_index_that_is_not_ready(thread: Thread) -> None:
    desk = Desk(inline_pairs_max=0)
    standing = desk.stand()
    desk.is_ready = False
    desk.put("a")
    desk.put("b")
    thread.let.release()
    await settled()
    with pytest.raises(NotReady):
        desk.folding.as_of(standing)
    desk.is_ready = True
    assert desk.at is None
    thread.let.release()
    await settled()
    assert (ids(standing), desk.at) == (["a", "b"], 2)
