"""The checker of live lists notices: each way in which a message can be wrong is a violation."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from contracts.events.embedding_record import embedding_record, encode_embedding
from contracts.events.record import Fetched, Record, Source, TopicPartition
from contracts.topics import Names
from contracts.wire.as_of import AsOf
from contracts.wire.cursor import Cursor, wire_list_digest
from contracts.wire.delta import WireHit, wire_list_changes
from tests.oracles import live_alerts, live_followers
from tests.oracles.live_alerts import MatchesFollower
from tests.oracles.live_followers import TopFollower
from tests.oracles.live_lists import ENCODER, History, ItemRef, Violation, text_vector

pytestmark = pytest.mark.anyio

NAMES = Names("t.", "hash-v1")
PLACE = TopicPartition(NAMES.embeddings("captions"), 0)
QUERY = {"text": "red cat", "target": "captions", "k": 3}
BY_ITEM = {"id": "b", "of": "captions", "target": "captions", "k": 3}
# What the log holds, by offset: a text, or a tombstone.
LOG = [("a", "red"), ("b", "red cat"), ("c", "dog"), ("d", "cat"), ("b", None), ("a", "cat")]


class Bench:
    """A follower, and the log that its messages are held against."""

    def __init__(self, query: dict[str, Any] = QUERY, kind: type[Any] = TopFollower) -> None:
        self.history = History(NAMES, 1)
        self.claims: asyncio.Queue[live_followers.Claim] = asyncio.Queue()
        self.follower = kind("f", query, self.claims, Counter())
        self.query = query

    async def read_log(self) -> None:
        records = []
        for offset, (item_id, text) in enumerate(LOG):
            value = None if text is None else encode_embedding(ENCODER.space, text_vector(text))
            content = Record("t.captions", 0, offset, 1, item_id.encode(), None)
            out = embedding_record(PLACE.topic, content, Source("id", 0, offset), value)
            headers = tuple(out.headers)
            records.append(Record(*PLACE, offset, 1, out.key, out.value, headers))
        await self.history.take(Fetched({PLACE: records}, {PLACE: len(LOG)}))

    def exact(self, offset: int) -> list[WireHit]:
        found = self.history.list_at(self.query, self.history.positions_of(as_of(offset)))
        assert found is not None
        return found

    def open(self) -> None:
        self.follower.opening("replica", afresh=False)

    async def receive(self, kind: str, offset: int, hits: list[WireHit], **more: Any) -> None:
        """Pass the follower a message of that type, which leads to `hits`."""
        held = list(self.follower.hits)
        told = {"snapshot": {"hits": hits}, "delta": {"changes": wire_list_changes(held, hits)}}
        cursor = Cursor(as_of(offset), "query", wire_list_digest(hits)).encode()
        self.take({"type": kind, "cursor": cursor, **told.get(kind, {}), **more})
        await self.judge()

    def take(self, message: dict[str, Any]) -> None:
        self.follower.take(message)

    async def matched(self, kind: str, offset: int, *versions: tuple[str, int]) -> None:
        """Pass the follower a message of mode `matches` with these versions."""
        hits = []
        for item_id, source in versions:
            found = self.history.match({**self.query, "min_score": -2}, (item_id, 0, source))
            assert found is not None
            hits.append(found[1])
        cursor = Cursor(as_of(offset), "query", "").encode()
        self.take({"type": kind, "cursor": cursor, **({"hits": hits} if hits else {})})
        await self.judge()

    async def judge(self) -> None:
        while not self.claims.empty():
            await self.claims.get_nowait().judge(self.history)


def as_of(offset: int) -> AsOf:
    return AsOf("hash-v1", "epoch", {"captions": [offset]})


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    await made.read_log()
    made.open()
    return made


async def test_what_the_log_says_holds(bench: Bench) -> None:
    await bench.receive("snapshot", 2, bench.exact(2))
    await bench.receive("delta", 4, bench.exact(4))
    bench.follower.left()
    bench.open()
    await bench.receive("resumed", 4, bench.exact(4))
    bench.open()
    await bench.receive("snapshot", 6, bench.exact(6))
    bench.follower.check_end(bench.history, {PLACE: 6})
    assert [hit["id"] for hit in bench.follower.hits] == ["a", "d", "c"]


WRONG: dict[str, Callable[[list[WireHit]], object]] = {
    "score": lambda hits: hits[0].update(score=hits[0]["score"] + 2**-48),
    "order": lambda hits: hits.insert(0, hits.pop(1)),
    "missing": lambda hits: hits.pop(),
    "twice": lambda hits: hits.append(hits[0]),
    "rank": lambda hits: hits[2].update(rank=4),
    "another version": lambda hits: hits[0]["source"].update(offset=0),
    "metadata": lambda hits: hits[1].update(metadata={"lang": "en"}),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_wrong_list(bench: Bench, wrong: Callable[[list[WireHit]], object]) -> None:
    hits = bench.exact(4)
    wrong(hits)
    with pytest.raises(Violation, match=r"rank \d: want"):
        await bench.receive("snapshot", 4, hits)


async def test_a_list_of_another_state_than_the_cursors(bench: Bench) -> None:
    with pytest.raises(Violation, match=r"captions.*5"):
        await bench.receive("snapshot", 5, bench.exact(4))


async def test_a_delta_that_leaves_one_out(bench: Bench) -> None:
    await bench.receive("snapshot", 2, bench.exact(2))
    with pytest.raises(Violation):
        await bench.receive("delta", 4, bench.exact(3))


async def test_a_digest_of_another_list(bench: Bench) -> None:
    cursor = Cursor(as_of(4), "query", wire_list_digest([])).encode()
    bench.take({"type": "snapshot", "hits": bench.exact(4), "cursor": cursor})
    with pytest.raises(Violation, match="digest"):
        await bench.judge()


async def test_back_in_time(bench: Bench) -> None:
    await bench.receive("snapshot", 4, bench.exact(4))
    bench.open()
    with pytest.raises(Violation, match="back in time"):
        await bench.receive("snapshot", 3, bench.exact(3))


async def test_resumed_where_the_list_changed(bench: Bench) -> None:
    await bench.receive("snapshot", 4, bench.exact(4))
    bench.open()
    with pytest.raises(Violation):
        await bench.receive("resumed", 5, bench.exact(4))


async def test_a_last_change_that_never_came(bench: Bench) -> None:
    await bench.receive("snapshot", 4, bench.exact(4))
    with pytest.raises(Violation, match="after quiet"):
        bench.follower.check_end(bench.history, {PLACE: 6})


@pytest.mark.parametrize("kind", ["resumed", "delta"])
async def test_what_cannot_come_first(bench: Bench, kind: str) -> None:
    with pytest.raises(Violation):
        await bench.receive(kind, 4, bench.exact(4))


@pytest.mark.parametrize("kind", ["snapshot", "resumed"])
async def test_what_cannot_come_later(bench: Bench, kind: str) -> None:
    await bench.receive("snapshot", 3, bench.exact(3))
    with pytest.raises(Violation, match="not what is said"):
        await bench.receive(kind, 4, bench.exact(4))


async def test_a_snapshot_or_delta_that_says_nothing(bench: Bench) -> None:
    await bench.receive("snapshot", 4, bench.exact(4))
    with pytest.raises(Violation, match="without changes"):
        await bench.receive("delta", 4, bench.exact(4))
    bench.open()
    with pytest.raises(Violation, match="of the list"):
        await bench.receive("snapshot", 4, bench.exact(4))


@pytest.mark.parametrize(
    "message",
    [
        {"type": "reset", "reason": "epoch_changed"},
        {"type": "error", "code": "invalid_cursor", "message": "no"},
        {"type": "error", "code": "query_item_gone", "message": "no"},
    ],
)
async def test_what_has_no_reason(bench: Bench, message: dict[str, Any]) -> None:
    await bench.receive("snapshot", 4, bench.exact(4))
    with pytest.raises(Violation):
        bench.take(message)


async def test_an_item_that_is_gone_and_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_followers, "_PROOF_S", 0.0)
    gone = {"type": "error", "code": "query_item_gone", "message": "no item"}
    bench = Bench(BY_ITEM)
    await bench.read_log()
    bench.open()
    await bench.receive("snapshot", 2, bench.exact(2))
    bench.take(gone)
    await bench.judge()
    bench.follower.check_end(bench.history, {PLACE: 6})
    with pytest.raises(Violation, match="still without"):
        bench.follower.check_end(bench.history, {PLACE: 4})
    bench.history = History(NAMES, 1)
    bench.query = bench.follower.query = {**BY_ITEM, "id": "d"}
    await bench.read_log()
    bench.open()
    await bench.receive("snapshot", 4, bench.exact(4))
    bench.take(gone)
    with pytest.raises(Violation, match="never missing"):
        await bench.judge()
    assert not bench.history.was_missing(ItemRef("captions", "d"), {PLACE: 4})


@pytest.fixture
async def alert(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return an alert on b, d and the second a, at offsets 1, 3 and 5; b is then deleted."""
    monkeypatch.setattr(live_alerts, "_PROOF_S", 0.0)
    query = {"text": "cat", "target": "captions", "min_score": 0.6}
    made = Bench(query, MatchesFollower)
    await made.read_log()
    made.open()
    await made.matched("resumed", 0)
    return made


async def test_matches_that_the_log_has(alert: Bench) -> None:
    await alert.matched("match", 2, ("b", 1))
    await alert.matched("progress", 3)
    await alert.matched("match", 4, ("d", 3))
    alert.follower.left()
    alert.open()
    await alert.matched("resumed", 4)
    await alert.matched("match", 6, ("a", 5))
    alert.follower.check_end(alert.history, {PLACE: 6})


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (("match", 2), "not what is said"),
        (("match", 2, ("c", 2)), "no match"),
        (("match", 2, ("b", 1), ("b", 1)), "sent twice"),
        (("progress", 2), "never sent"),
        (("match", 6, ("a", 5)), "never sent .*d"),
        (("resumed", 0), "not what is said"),
    ],
)
async def test_wrong_matches(alert: Bench, told: Any, why: str) -> None:
    with pytest.raises(Violation, match=why):
        await alert.matched(*told)


async def test_a_match_from_before_and_one_sent_too_late(alert: Bench) -> None:
    await alert.matched("match", 2, ("b", 1))
    alert.open()
    await alert.matched("resumed", 2)
    with pytest.raises(Violation, match="from before"):
        await alert.matched("match", 4, ("b", 1), ("d", 3))
    with pytest.raises(Violation, match=r"never sent .*'a'"):
        alert.follower.check_end(alert.history, {PLACE: 6})


async def test_a_match_with_a_wrong_member(alert: Bench) -> None:
    found = alert.history.match(alert.query, ("b", 0, 1))
    assert found is not None
    wrong = {**found[1], "score": found[1]["score"] + 2**-48}
    cursor = Cursor(as_of(2), "query", "").encode()
    alert.take({"type": "match", "cursor": cursor, "hits": [wrong]})
    with pytest.raises(Violation, match="want"):
        await alert.judge()
