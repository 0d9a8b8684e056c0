"""Mode `matches` misses nothing that matches, however long a client was away, and repeats nothing.

In these random histories the log runs ahead of the index, clients read slowly, come and go, and
logs are replaced. With every cursor that the server sends, everything before it has been sent: the
newest version of each item as of that cursor, if it matches and came after the subscription.
"""

import asyncio
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from api.live.limits import AlertLimits, LiveLimits, ReplayLimits
from api.live.matches.alert import Alert
from api.live.matches.alert_set import AlertSet
from api.live.matches.replay_pass import ReplayPass
from contracts.filters.json_form import parse
from contracts.score import exact_scores
from contracts.topics import Target
from contracts.wire.as_of import AsOf
from contracts.wire.cursor import Cursor
from tests.kits.api_kit import Kit, Socket
from tests.kits.waiting import turns
from tests.oracles.logged_index import LoggedIndex, Version

WORDS = ("red", "cat", "dog")
TARGET = st.sampled_from(["images", "captions"])
ID = st.sampled_from(tuple("abcdefgh"))
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
PUT = st.tuples(st.just("put"), TARGET, ID, TEXT, st.integers(0, 2))
REMOVE = st.tuples(st.just("remove"), TARGET, ID)
SUBSCRIBE = st.tuples(
    st.just("subscribe"),
    st.fixed_dictionaries(
        {"target": TARGET, "text": TEXT},
        optional={
            "min_score": st.sampled_from([0.0, 0.3, 0.7]),
            "filter": st.integers(0, 2).map(lambda n: {"eq": {"n": n}}),
        },
    ),
)
CHANGES = st.lists(PUT | REMOVE, min_size=1, max_size=6)
STEP = st.one_of(
    PUT,
    REMOVE,
    st.tuples(st.just("batch"), CHANGES),
    st.tuples(st.just("write"), CHANGES),
    st.tuples(st.just("write"), CHANGES),
    st.tuples(st.just("apply")),
    st.tuples(st.just("hold")),
    st.tuples(st.just("marker"), TARGET),
    st.tuples(st.just("reconnect")),
    st.tuples(st.just("away")),
    st.tuples(st.just("progress")),
    st.tuples(st.just("generation")),
    SUBSCRIBE,
    st.tuples(st.just("replaced")),
)
HISTORY = st.tuples(
    st.lists(PUT, max_size=5),
    st.lists(SUBSCRIBE, min_size=1, max_size=3),
    st.lists(st.tuples(STEP, st.sampled_from([0, 0, 3, 20])), min_size=15, max_size=40),
)
History = tuple[list[Any], list[Any], list[tuple[Any, int]]]


# The limits are low: such short histories would never reach those of a node.
LIMITS = LiveLimits(
    alerts=AlertLimits(
        pending_max=4, pending_of_all_max=9, inline_matches_max=6, message_hits_max=2
    ),
    replay=ReplayLimits(
        pass_records_max=6,
        fetch_records_max=3,
        inline_records_max=2,
        near_records_max=5,
        matches_max=5,
        inline_matches_max=3,
        fetch_ms=1,
        retry_s=0.001,
    ),
)


class Watched:
    """One subscription: where it began, what it got, and what it must have got."""

    def __init__(self, kit: Kit, query: dict[str, Any]) -> None:
        self.query = query
        self.cursor: str | None = None
        self._kit = kit
        self._vector = kit.text(query["text"])
        self._start: AsOf | None = None
        self._got: set[Version] = set()
        self._here: set[Version] = set()
        self._opened_at: AsOf | None = None
        self.messages = 0

    def connected(self) -> None:
        self._here = set()

    def take(self, message: dict[str, Any]) -> None:
        self.messages += 1
        kind = message["type"]
        if kind == "reset":
            self.cursor, self._start, self._got, self._here = None, None, set(), set()
            return
        assert kind in ("resumed", "match", "progress"), message
        as_of = Cursor.decode(message["cursor"]).as_of
        if self._start is None:
            assert kind == "resumed"
            self._start = as_of
        if kind == "resumed":
            self._opened_at = as_of
        for hit in message.get("hits", ()):
            self._take_hit(hit, as_of.epoch)
        assert self.cursor is None or as_of.covers(Cursor.decode(self.cursor).as_of)
        self.cursor = message["cursor"]
        assert self._wanted(as_of) <= self._got, "got less than the cursor says"

    def _take_hit(self, hit: dict[str, Any], epoch: str) -> None:
        [version] = [
            version
            for version in self._versions(epoch)
            if (version.id, version.partition, version.offset)
            == (hit["id"], hit["source"]["partition"], hit["source"]["offset"])
        ]
        assert self._matches(version)
        assert (hit["text"], hit["metadata"], hit["rank"]) == (version.text, version.metadata, 0)
        assert hit["score"] == self._score(version)
        assert version not in self._here, "sent twice on one connection"
        assert self._opened_at is not None
        assert version.offset >= self._opened_at.offsets[version.target][version.partition]
        self._here.add(version)
        self._got.add(version)

    def complete(self, now: AsOf) -> None:
        """Check that nothing is missing, since nothing more will come."""
        assert self._start is not None
        assert self._wanted(now) <= self._got, "never sent"

    def _wanted(self, as_of: AsOf) -> set[Version]:
        assert self._start is not None
        newest = {
            version.id: version
            for version in self._versions(as_of.epoch)
            if version.offset < as_of.offsets[version.target][version.partition]
        }
        return {
            version
            for version in newest.values()
            if version.offset >= self._start.offsets[version.target][version.partition]
            and self._matches(version)
        }

    def _versions(self, epoch: str) -> list[Version]:
        index = self._kit.index
        assert isinstance(index, LoggedIndex)
        return [
            version
            for version in index.versions
            if (version.epoch, version.target) == (epoch, self.query["target"])
        ]

    def _score(self, version: Version) -> float:
        assert version.vector is not None
        return float(exact_scores(np.stack([version.vector]), self._vector)[0])

    def _matches(self, version: Version) -> bool:
        if version.vector is None:
            return False
        if "filter" in self.query and not parse(self.query["filter"]).matches(
            version.metadata or {}
        ):
            return False
        return self._score(version) >= self.query.get("min_score", -2.0)


class Scenario:
    """One history that runs against one node; every message is checked as it comes."""

    def __init__(self) -> None:
        self.index = LoggedIndex()
        self.kit = Kit(index=self.index, live_limits=LIMITS)
        self.index.log = self.kit.log
        self.watched: dict[str, Watched] = {}
        self.names = itertools.count()
        self.epochs = itertools.count(2)
        self.here = True

    async def run(self, start: list[Any], steps: list[tuple[Any, int]]) -> None:
        await self._connect()
        for step in start:
            await self._step(*step)
        for step, after in steps:
            await self._step(*step)
            await turns(after)
            self._drain()
        self.index.apply()
        if not self.here:
            await self._step("away")
        self.socket.reading.set()
        await self._settle()
        for watched in self.watched.values():
            watched.complete(self.index.as_of_now())
        await self.socket.stop()
        assert self.kit.sample("tidelens_live_subscriptions") == 0

    async def _step(self, what: str, *rest: Any) -> None:
        index = self.index
        match what:
            case "put" | "remove":
                index.batch([self._change(what, *rest)])
            case "batch":
                index.batch([self._change(*change) for change in rest[0]])
            case "write":
                index.write([self._change(*change) for change in rest[0]])
            case "apply":
                index.apply()
            case "subscribe":
                name = str(next(self.names))
                self.watched[name] = Watched(self.kit, rest[0])
                if self.here:
                    self._open(name)
            case "hold":
                if self.socket.reading.is_set():
                    self.socket.reading.clear()
                else:
                    self.socket.reading.set()
            case "marker":
                index.apply()
                index.move(rest[0], 0)
            case "reconnect":
                if self.here:
                    await self._step("away")
                await self._step("away")
            case "away":
                if self.here:
                    await self.socket.stop()
                    self._drain()
                else:
                    await self._connect()
                    for name in self.watched:
                        self._open(name)
                self.here = not self.here
            case "progress":
                live = self.kit.app.state.live
                for one in live._sessions:
                    one._progress_at -= 1000
                    one.check(one._progress_at + 1000)
            case "generation":
                # The state is the same in another index: after a restore, for example.
                index.generation += 1
                self.kit.app.state.live.registry.check_generation()
            case "replaced":
                index.restart(f"epoch-{next(self.epochs)}")
                self.kit.app.state.live.registry.check_generation()

    def _open(self, name: str) -> None:
        watched = self.watched[name]
        watched.connected()
        self.socket.send(
            op="subscribe", sub=name, mode="matches", query=watched.query, cursor=watched.cursor
        )

    def _change(self, what: str, target: Target, item_id: str, *rest: Any) -> Any:
        if what == "remove":
            return target, item_id, None, {}
        text, number = rest
        return target, item_id, self.kit.text(text), {"text": text, "metadata": {"n": number}}

    async def _connect(self) -> None:
        self.socket = Socket(self.kit.app, {})
        self.socket.start()
        await self.socket.accepted()

    def _drain(self) -> None:
        for message in self.socket.waiting():
            self.watched[message["sub"]].take(message)

    async def _settle(self) -> None:
        quiet = 0
        live = self.kit.app.state.live
        while quiet < 5:
            # A read waits for the log, which needs time, not turns of the loop.
            await asyncio.sleep(0.0005)
            self._drain()
            followed = all(
                alert.is_live and not alert.has_news for alert in live.registry.alerts._all
            )
            quiet = quiet + 1 if followed else 0


def play(history: History, patience_s: float = 60) -> None:
    items, subscriptions, steps = history

    async def bounded() -> None:
        async with asyncio.timeout(patience_s):
            await Scenario().run([*items, *subscriptions], steps)

    asyncio.run(bounded())


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(HISTORY)
def test_nothing_is_missed_and_nothing_is_sent_twice(history: History) -> None:
    play(history)


def go_live_early(one: Any, at: Any) -> bool:
    """Start matching at the index's state, regardless of what was read."""
    now = one._now()
    for alert in one._alerts_read:
        one._alerts.go_live(alert, one._vectors[alert], now)
    one._alerts_read = []
    return True


def take_all(alert: Any, count_max: int) -> list[Any]:
    """Note that all hits are sent when only a part is."""
    hits = Alert_take(alert, count_max)
    alert.delivered = alert.position
    return hits


def stop_for_ever(alerts: Any, alert: Any) -> None:
    """Stop matching a live alert, and never read for it."""
    alerts._matrices[alert.target].remove(alert)


Alert_take = Alert.take


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (AlertSet, "_stop", stop_for_ever),
        (ReplayPass, "_go_live", go_live_early),
        (Alert, "take", take_all),
    ],
)
def test_the_check_would_notice(
    owner: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message is wrong as soon as a rule of api/live/matches is missing."""
    monkeypatch.setattr(owner, name, broken)

    @settings(
        max_examples=500,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(HISTORY)
    def look_for_a_wrong_word(history: History) -> None:
        play(history, patience_s=1)

    with pytest.raises((AssertionError, TimeoutError)):
        look_for_a_wrong_word()
