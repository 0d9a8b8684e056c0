"""The client's list is the exact list at every cursor that a server ever sends.

Random histories consist of puts, removals, batches, reconnects, slow readers and replaced logs.
Searches take a while, so that batches fall between a search's view and its answer. The truth is a
dictionary that is sorted whole, for the state that each cursor names.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from api.live.limits import ListLimits, LiveLimits
from api.live.top import apply_queue
from api.live.top.apply_queue import ApplyQueue
from api.live.top.ranked_list import StandingList
from api.live.top.refilled_list import RefilledList
from api.live.top.shared_items import _SharedItem
from contracts.ports.hit import VectorQuery
from contracts.score import unit
from contracts.topics import Target
from contracts.wire.as_of import AsOf
from contracts.wire.delta import apply_changes, wire_list_changes
from tests.kits.api_kit import BruteIndex, Follower, Kit, RealIndex, Socket
from tests.kits.waiting import turns

WORDS = ("red", "cat", "dog")
IDS = tuple("abcdefgh")
KEPT = st.lists(st.sampled_from(IDS), unique=True, max_size=8)


def listed(names: list[str], versions: list[int]) -> list[dict[str, Any]]:
    return [
        {"id": name, "rank": rank, "version": version}
        for rank, (name, version) in enumerate(zip(names, versions, strict=False), start=1)
    ]


@given(KEPT, KEPT, st.lists(st.integers(0, 1), min_size=8, max_size=8))
def test_applying_the_difference_gives_the_new_list(
    before: list[str], after: list[str], versions: list[int]
) -> None:
    old, new = listed(before, [0] * 8), listed(after, versions)
    assert apply_changes(old, wire_list_changes(old, new)) == new


@given(KEPT, st.data())
def test_moves_are_the_fewest_possible(before: list[str], data: st.DataObject) -> None:
    after = data.draw(st.permutations(before))
    old, new = listed(before, [0] * 8), listed(list(after), [0] * 8)
    moves = [change for change in wire_list_changes(old, new) if change["change"] == "move"]
    places = [before.index(name) for name in after]
    longest = max(
        (
            size
            for size in range(len(places) + 1)
            for chosen in itertools.combinations(places, size)
            if list(chosen) == sorted(chosen)
        ),
        default=0,
    )
    assert len(moves) == len(before) - longest


TARGET = st.sampled_from(["images", "captions"])
ID = st.sampled_from(IDS)
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
GROUP = st.sampled_from([None, "one", "two"])
PUT = st.tuples(st.just("put"), TARGET, ID, TEXT, GROUP)
REMOVE = st.tuples(st.just("remove"), TARGET, ID)
QUERY = st.fixed_dictionaries(
    {"k": st.integers(1, 4), "target": TARGET},
    optional={
        "min_score": st.sampled_from([0.0, 0.3, 0.7]),
        "collapse": st.just("item"),
        "include": st.just(["vector"]),
    },
)
BY_TEXT = st.builds(lambda text: {"text": text}, TEXT)
ASKED = st.one_of(
    BY_TEXT,
    BY_TEXT,
    st.builds(lambda name, of: {"id": name, "of": of}, ID, TARGET),
    st.builds(
        lambda text, name, of: {
            "fuse": [{"text": text, "weight": 0.6}, {"id": name, "of": of, "weight": -0.5}]
        },
        TEXT,
        ID,
        TARGET,
    ),
)
SUBSCRIBE = st.tuples(st.just("subscribe"), QUERY, ASKED)
RARE = st.one_of(
    SUBSCRIBE,
    st.tuples(st.just("unsubscribe"), st.integers(0, 9)),
    st.tuples(st.just("hold")),
    st.tuples(st.just("marker"), TARGET),
    st.tuples(st.just("reconnect")),
    st.tuples(st.just("replaced"), PUT),
)
BATCH = st.tuples(st.just("batch"), st.lists(PUT | REMOVE, min_size=1, max_size=6))
STEP = st.one_of(PUT, PUT, PUT, REMOVE, BATCH, RARE)
TURNS = st.sampled_from([0, 0, 3, 10, 40])
# The items at the start, the subscriptions to them, the steps that follow, each with the number of
# turns of the event loop after it, and the number of turns that a search takes.
HISTORY = st.tuples(
    st.lists(PUT, min_size=4, max_size=8),
    st.lists(SUBSCRIBE, min_size=2, max_size=4),
    st.lists(st.tuples(STEP, TURNS), min_size=15, max_size=40),
    st.integers(0, 25),
)
History = tuple[list[Any], list[Any], list[tuple[Any, int]], int]


# With more spare items every list would hold all items, and none would leave it.
SPARE = {"spare_items_min": 1, "spare_items_per_k": 0}
LIMITS = LiveLimits(lists=ListLimits(**SPARE))
# Every product takes place in a thread, and every change of a list is a step.
IN_STEPS = LiveLimits(lists=ListLimits(inline_pairs_max=-1, slice_s=-1.0, **SPARE))


class Watched:
    """One subscription of the scenario: its query, and the list that its messages lead to."""

    def __init__(self, kit: Kit, name: str, query: dict[str, Any]) -> None:
        self.name = name
        self.query = query
        self.over = False
        self.follower = Follower(kit.index, lambda as_of: exact_query(kit, query, as_of))

    def open(self, socket: Socket) -> None:
        socket.subscribe(self.name, self.follower.cursor, **self.query)


def exact_query(kit: Kit, query: dict[str, Any], as_of: AsOf) -> VectorQuery:
    """Return the query for the state `as_of`: the vectors of its items are those of that state."""
    then = kit.index.past[kit.index._key(as_of)]

    def vector(part: dict[str, Any]) -> Any:
        if "text" in part:
            return kit.text(part["text"])
        return then[part["of"], part["id"]].vector

    if "fuse" in query:
        total = sum(part["weight"] * vector(part).astype(float) for part in query["fuse"])
        asked = unit(total)
    else:
        asked = vector(query)
    target: Target = query["target"]
    return VectorQuery(
        target,
        asked,
        k=query["k"],
        min_score=query.get("min_score"),
        collapse=query.get("collapse") == "item",
        with_vector="include" in query,
    )


class Scenario:
    """One history that runs against one node; every message is checked as it comes."""

    def __init__(
        self, slowness: int, index: BruteIndex | None = None, limits: LiveLimits = LIMITS
    ) -> None:
        self.kit = Kit(index=index, live_limits=limits)
        self.watched: dict[str, Watched] = {}
        self.names = itertools.count()
        self.epochs = itertools.count(2)
        self.checked = 0

        async def slow() -> None:
            await turns(slowness)

        self.kit.index.gate = slow

    async def run(self, start: list[Any], steps: list[tuple[Any, int]]) -> None:
        await self._connect()
        for step in start:
            await self._step(*step)
        for step, after in steps:
            await self._step(*step)
            await turns(after)
            self._drain()
        self.socket.reading.set()
        await self._settle()
        for watched in self.watched.values():
            if not watched.over:
                now = self.kit.index.as_of_now()
                want = self.kit.index.wire_list_at(now, exact_query(self.kit, watched.query, now))
                assert watched.follower.hits == want, "the last state was never sent"
        await self.socket.stop()
        assert len(self.kit.index.listeners) == 2
        assert self.kit.sample("tidelens_live_subscriptions") == 0

    async def _step(self, what: str, *rest: Any) -> None:
        index = self.kit.index
        match what:
            case "put" | "remove":
                index.batch([self._change(what, *rest)])
            case "batch":
                index.batch([self._change(*change) for change in rest[0]])
            case "subscribe":
                watched = Watched(self.kit, str(next(self.names)), {**rest[0], **rest[1]})
                self.watched[watched.name] = watched
                watched.open(self.socket)
            case "unsubscribe":
                if watched := self.watched.get(str(rest[0])):
                    self.socket.send(op="unsubscribe", sub=watched.name)
                    watched.over = True
            case "hold":
                if self.socket.reading.is_set():
                    self.socket.reading.clear()
                else:
                    self.socket.reading.set()
            case "marker":
                index.move(rest[0], 0)
            case "reconnect":
                await self.socket.stop()
                self._drain()
                await self._connect()
                for watched in self.watched.values():
                    if not watched.over:
                        watched.open(self.socket)
            case "replaced":
                index.restart(f"epoch-{next(self.epochs)}")
                await self._step(*rest[0])

    def _change(self, what: str, target: Target, item_id: str, *rest: Any) -> Any:
        if what == "remove":
            return target, item_id, None, {}
        text, group = rest
        return target, item_id, self.kit.text(text), {"text": text, "item": group}

    async def _connect(self) -> None:
        self.socket = Socket(self.kit.app, {})
        self.socket.start()
        await self.socket.accepted()

    def _drain(self) -> None:
        for message in self.socket.waiting():
            watched = self.watched[message["sub"]]
            if message["type"] == "error":
                assert message["code"] in ("item_not_found", "query_item_gone", "unknown_sub")
                watched.over = True
            else:
                watched.follower.take(message)
                self.checked += 1

    async def _settle(self) -> None:
        index = self.kit.index
        quiet = 0
        while quiet < 100:
            # While the real index searches in its thread, it needs time, not turns of the loop.
            await asyncio.sleep(0.0005 if index.running else 0)
            before = (self.checked, index.searches)
            self._drain()
            still = before == (self.checked, index.searches)
            quiet = quiet + 1 if still and not index.running and not is_folding() else 0


def is_folding() -> bool:
    return any(task.get_name() == "folding" for task in asyncio.all_tasks())


def play(history: History, index: BruteIndex | None = None, limits: LiveLimits = LIMITS) -> None:
    items, subscriptions, steps, slowness = history
    asyncio.run(Scenario(slowness, index, limits).run([*items, *subscriptions], steps))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(HISTORY)
def test_every_list_is_exact_at_its_cursor(history: History) -> None:
    play(history)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(HISTORY)
def test_the_same_on_the_index_that_is_served(history: History) -> None:
    """The real index searches in a thread, and the test cannot choose the order of the ends."""
    play(history, RealIndex())


@contextmanager
def slow_matching(slowness: int) -> Iterator[None]:
    """Make every product take some turns of the loop, and every change of a list one."""

    async def slowly(work: Callable[[], Any]) -> Any:
        await turns(slowness)
        return work()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply_queue, "in_thread", slowly)
        yield


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(HISTORY, st.integers(0, 25))
def test_the_same_where_matching_takes_a_while(history: History, slowness: int) -> None:
    with slow_matching(slowness):
        play(history, limits=IN_STEPS)


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (_SharedItem, "join", lambda *_: None),
        (RefilledList, "apply", lambda *_: True),
        (StandingList, "floor", property(lambda _: float("inf"))),
        (StandingList, "is_short", property(lambda _: False)),
    ],
)
def test_the_check_would_notice(
    owner: type, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list is wrong as soon as a rule of standing_set.py or ranked_list.py is missing."""
    monkeypatch.setattr(owner, name, broken)
    expect_a_wrong_list()


def settle_at_once(self: ApplyQueue, *found: Any) -> None:
    if (searched := self._queries.refill_result(*found)) is not None:
        self._queries.complete_refill(searched)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("as_of", lambda self, _: self._searcher.as_of()),
        ("add_result", settle_at_once),
    ],
)
def test_the_check_would_notice_a_list_of_another_state(
    name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list is wrong as soon as a rule of api/live/top/apply_queue.py is missing."""
    monkeypatch.setattr(ApplyQueue, name, broken)
    with slow_matching(3):
        expect_a_wrong_list(IN_STEPS)


def expect_a_wrong_list(limits: LiveLimits = LIMITS) -> None:
    @settings(
        max_examples=1000,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(HISTORY)
    def look_for_a_wrong_list(history: History) -> None:
        play(history, limits=limits)

    with pytest.raises((AssertionError, KeyError)):
        look_for_a_wrong_list()
