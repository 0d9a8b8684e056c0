"""Mode `matches` on the ports in memory: what is sent, when, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from api.live.limits import AlertLimits, LiveLimits, ReplayLimits
from api.live.matches.alert import Alert, AlertState
from api.live.matches.replay import AlertReplay
from api.queries.prepare import PreparedQuery
from contracts.errors import BrokerUnavailable, LogChanged
from contracts.testing.event_log import MemoryLogReader
from contracts.wire.cursor import Cursor
from contracts.wire.server_messages import ServerMessage
from contracts.wrong_step import WrongStep
from tests.kits.api_kit import Kit, Socket
from tests.oracles.logged_index import LoggedIndex

pytestmark = pytest.mark.anyio
QUICK_RETRY = LiveLimits(replay=ReplayLimits(retry_s=0.001))
SERVER_MESSAGE: TypeAdapter[Any] = TypeAdapter(ServerMessage)


@pytest.fixture
def limits() -> LiveLimits:
    return LiveLimits()


@pytest.fixture
async def kit(limits: LiveLimits) -> Kit:
    index = LoggedIndex()
    kit = Kit(index=index, live_limits=limits)
    index.log = kit.log
    kit.caption("a", "red cat")
    return kit


@pytest.fixture
async def socket(kit: Kit) -> AsyncIterator[Socket]:
    async with kit.live() as socket:
        await socket.accepted()
        yield socket


def subscribe(socket: Socket, cursor: str | None = None, **query: Any) -> None:
    asked = {"text": "red cat", "target": "captions", "min_score": 0.6, **query}
    socket.send(op="subscribe", sub="s", mode="matches", query=asked, cursor=cursor)


async def opened(socket: Socket, cursor: str | None = None, **query: Any) -> Any:
    subscribe(socket, cursor, **query)
    resumed = await socket.receive()
    assert resumed["type"] == "resumed", resumed
    return resumed


def ids(message: Any) -> list[str]:
    SERVER_MESSAGE.validate_python(message)
    assert message["type"] == "match"
    return [hit["id"] for hit in message["hits"]]


async def test_what_is_applied_from_now_on_and_matches(kit: Kit, socket: Socket) -> None:
    await opened(socket)
    kit.caption("b", "blue dog")
    kit.caption("c", "red cat")
    found = await socket.receive()
    assert ids(found) == ["c"]
    assert (found["hits"][0]["rank"], found["hits"][0]["score"]) == (0, pytest.approx(1, abs=1e-3))
    # Each new version is sent, and the items of one batch come together.
    changes = [("captions", name, kit.text("red cat"), {"text": "red cat"}) for name in "cde"]
    kit.index.batch(changes)
    assert sorted(ids(await socket.receive())) == ["c", "d", "e"]


async def test_coming_back_it_is_told_what_it_missed(kit: Kit) -> None:
    async with kit.live() as socket:
        await socket.accepted()
        resumed = await opened(socket)
    for number in range(300):
        kit.caption(f"n{number}", "red cat" if number % 3 == 0 else "blue dog")
    async with kit.live() as socket:
        await socket.accepted()
        again = await opened(socket, resumed["cursor"])
        assert again["cursor"] == resumed["cursor"]
        told: list[str] = []
        while len(told) < 100:
            told += (found := ids(await socket.receive()))
            assert len(found) <= 100
        assert sorted(told) == sorted(f"n{number}" for number in range(0, 300, 3))
        kit.caption("new", "red cat")
        assert ids(await socket.receive()) == ["new"]


async def test_with_another_log_it_is_reset(kit: Kit, socket: Socket) -> None:
    assert isinstance(kit.index, LoggedIndex)
    resumed = await opened(socket)
    kit.index.restart("epoch-2")
    kit.caption("b", "red cat")
    reset, anew = await socket.receive(), await socket.receive()
    assert (reset["type"], anew["type"]) == ("reset", "resumed")
    assert Cursor.decode(anew["cursor"]).as_of.epoch == "epoch-2"
    async with kit.live() as other:
        await other.accepted()
        subscribe(other, resumed["cursor"])
        assert [(await other.receive())["type"] for _ in range(2)] == ["reset", "resumed"]
        kit.caption("c", "red cat")
        assert ids(await other.receive()) == ["c"]


async def test_a_query_by_an_item_follows_it(kit: Kit, socket: Socket) -> None:
    await opened(socket, text=None, id="a", of="captions")
    kit.caption("b", "red cat")
    assert ids(await socket.receive()) == ["b"]
    kit.caption("a", "blue dog")
    # The item itself matches, by its new vector.
    assert ids(await socket.receive()) == ["a"]
    kit.caption("c", "red cat")
    kit.caption("d", "blue dog")
    assert ids(await socket.receive()) == ["d"]
    kit.index.remove("captions", "a")
    error = await socket.receive()
    assert (error["type"], error["code"]) == ("error", "query_item_gone")


@pytest.mark.parametrize("limits", [LiveLimits(alerts=AlertLimits(pending_max=10))])
async def test_one_that_does_not_read_holds_little_and_misses_nothing(
    kit: Kit, socket: Socket
) -> None:
    await opened(socket)
    [alert] = kit.app.state.live.registry.alerts._all
    socket.reading.clear()
    for number in range(50):
        kit.caption(f"n{number}", "red cat")
        await asyncio.sleep(0)
        assert alert.pending_count <= 10
    socket.reading.set()
    told: list[str] = []
    while len(told) < 50:
        told += ids(await socket.receive())
    assert sorted(told) == sorted(f"n{number}" for number in range(50))


async def test_progress_tells_how_far_nothing_matched(kit: Kit, socket: Socket) -> None:
    resumed = await opened(socket)
    kit.caption("b", "blue dog")
    for _ in range(2):
        # The second time nothing is new.
        [session] = kit.app.state.live._sessions
        session.check(session._progress_at + 31)
        await asyncio.sleep(0.01)
    [progress] = socket.waiting()
    SERVER_MESSAGE.validate_python(progress)
    assert progress["type"] == "progress"
    before, now = (Cursor.decode(one["cursor"]).as_of for one in (resumed, progress))
    assert now.covers(before) and not before.covers(now)


@pytest.mark.parametrize("limits", [QUICK_RETRY])
async def test_a_broker_that_is_away_is_waited_for(
    kit: Kit, socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = await opened(socket)
    socket.send(op="unsubscribe", sub="s")
    kit.caption("b", "red cat")
    tail, tries = kit.log.tail, 0

    async def away(start: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise BrokerUnavailable("away")
        return await tail(start)

    monkeypatch.setattr(kit.log, "tail", away)
    await opened(socket, resumed["cursor"])
    assert ids(await socket.receive()) == ["b"]
    assert tries == 3


async def test_one_whose_items_give_no_vector_ends_alone(kit: Kit, socket: Socket) -> None:
    resumed = await opened(socket)
    socket.send(op="unsubscribe", sub="s")
    kit.caption("b", "red cat")
    subscribe(socket, resumed["cursor"])
    nothing = [{"id": "a", "of": "captions", "weight": weight} for weight in (1.0, -1.0)]
    query = {"target": "captions", "fuse": nothing}
    socket.send(op="subscribe", sub="x", mode="matches", query=query)
    messages = [await socket.receive() for _ in range(4)]
    assert [(m["type"], m.get("code")) for m in messages if m["sub"] == "x"] == [
        ("resumed", None),
        ("error", "zero_vector"),
    ]
    assert [m["type"] for m in messages if m["sub"] == "s"] == ["resumed", "match"]


async def test_progress_is_not_that_of_another_log(kit: Kit, socket: Socket) -> None:
    await opened(socket)
    assert isinstance(kit.index, LoggedIndex)
    # Before anybody noticed by a batch, or by the look that is taken every second.
    kit.index.restart("epoch-2")
    [session] = kit.app.state.live._sessions
    session.check(session._progress_at + 31)
    reset, anew = await socket.receive(), await socket.receive()
    assert (reset["type"], anew["type"]) == ("reset", "resumed")
    assert Cursor.decode(anew["cursor"]).as_of.epoch == "epoch-2"


@pytest.mark.parametrize("limits", [QUICK_RETRY])
async def test_an_index_replaced_while_the_log_is_read(
    kit: Kit, socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = await opened(socket)
    socket.send(op="unsubscribe", sub="s")
    for name in "bcd":
        kit.caption(name, "red cat")
    index, fetch = kit.index, MemoryLogReader.fetch

    async def replaced(self: MemoryLogReader, **limits: Any) -> Any:
        assert isinstance(index, LoggedIndex)
        if index.epoch == "epoch-1":
            index.restart("epoch-2")
            kit.caption("z", "blue dog")
        return await fetch(self, **limits)

    monkeypatch.setattr(MemoryLogReader, "fetch", replaced)
    await opened(socket, resumed["cursor"])
    reset, anew = await socket.receive(), await socket.receive()
    assert (reset["type"], anew["type"]) == ("reset", "resumed")
    kit.caption("y", "red cat")
    assert ids(await socket.receive()) == ["y"]


async def test_nothing_comes_for_one_that_was_ended_meanwhile(kit: Kit, socket: Socket) -> None:
    resumed = await opened(socket)
    assert isinstance(kit.index, LoggedIndex)
    kit.index.restart("epoch-2")
    socket.send(op="unsubscribe", sub="s")
    await asyncio.sleep(0.01)
    socket.reading.clear()
    subscribe(socket, resumed["cursor"])  # answered with reset, which is not taken, and resumed
    await asyncio.sleep(0.01)
    socket.send(op="unsubscribe", sub="s")
    subscribe(socket, text="blue dog")
    await asyncio.sleep(0.01)
    socket.reading.set()
    await asyncio.sleep(0.01)
    assert [message["type"] for message in socket.waiting()] == ["reset", "resumed"]


async def test_what_ended_does_not_wait(
    kit: Kit, socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may come and go, and must not use up what all clients may have waiting."""
    resumed = await opened(socket)
    socket.send(op="unsubscribe", sub="s")
    kit.caption("b", "blue dog")
    free, tail = asyncio.Event(), kit.log.tail

    async def busy(start: Any) -> Any:
        await free.wait()
        return await tail(start)

    monkeypatch.setattr(kit.log, "tail", busy)
    for _ in range(10):
        await opened(socket, resumed["cursor"])
        await asyncio.sleep(0)
        socket.send(op="unsubscribe", sub="s")
    await opened(socket, resumed["cursor"])
    assert kit.app.state.live.registry.replay.waiting() <= 1
    free.set()


async def test_much_to_tell_leaves_others_their_turns(kit: Kit, socket: Socket) -> None:
    await opened(socket)
    socket.reading.clear()
    item = kit.text("red cat"), {"text": "red cat"}
    kit.index.batch([("captions", f"n{number}", *item) for number in range(1000)])
    await asyncio.sleep(0.01)
    socket.reading.set()
    told = 0
    while told < 1000:
        await asyncio.sleep(0)
        messages = socket.waiting()
        assert len(messages) <= 2
        told += sum(len(message["hits"]) for message in messages)


async def test_one_pass_at_a_time_reads_for_an_alert(
    kit: Kit, socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_item: dict[str, Any] = {"text": None, "id": "a", "of": "captions"}
    resumed = await opened(socket, **by_item)
    socket.send(op="unsubscribe", sub="s")
    await asyncio.sleep(0.01)
    kit.caption("b", "blue dog")
    closing, closed, tails, tail = asyncio.Event(), asyncio.Event(), 0, kit.log.tail

    async def close(self: MemoryLogReader) -> None:
        closing.set()
        await closed.wait()

    async def counted(start: Any) -> Any:
        nonlocal tails
        tails += 1
        await asyncio.sleep(0.05)
        return await tail(start)

    monkeypatch.setattr(MemoryLogReader, "close", close)
    await opened(socket, resumed["cursor"], **by_item)
    await closing.wait()
    # It follows. Its item changes: another pass is to read for it, while this one closes.
    monkeypatch.setattr(kit.log, "tail", counted)
    kit.caption("a", "blue dog")
    await asyncio.sleep(0.01)
    closed.set()
    await asyncio.sleep(0.02)
    assert tails == 1


async def test_only_those_whose_past_is_gone_are_reset(
    kit: Kit, socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = await opened(socket)
    socket.send(op="unsubscribe", sub="s")
    kit.index.batch(
        [("captions", name, kit.text("blue dog"), {"text": "blue dog"}) for name in "bcdefgh"]
    )
    late = await opened(socket)
    socket.send(op="unsubscribe", sub="s")
    await asyncio.sleep(0.01)
    kit.caption("i", "red cat")
    first = Cursor.decode(late["cursor"]).as_of.offsets["captions"]
    tail = kit.log.tail

    async def cut(start: Any) -> Any:
        await asyncio.sleep(0.01)
        if any(offset < first[partition.partition] for partition, offset in start.items()):
            raise LogChanged("offsets out of range")
        return await tail(start)

    monkeypatch.setattr(kit.log, "tail", cut)
    query = {"text": "red cat", "target": "captions", "min_score": 0.6}
    for name, resumed in (("early", early), ("late", late)):
        socket.send(op="subscribe", sub=name, mode="matches", query=query, cursor=resumed["cursor"])
    messages = [await socket.receive() for _ in range(5)]
    told = {name: [m["type"] for m in messages if m["sub"] == name] for name in ("early", "late")}
    assert told == {"early": ["resumed", "reset", "resumed"], "late": ["resumed", "match"]}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"query": {"text": "x", "collapse": "item"}}, "query.collapse"),
        ({"query": {"text": "x"}, "throttle_ms": 5}, "throttle_ms"),
        ({"query": {"text": "x"}, "min_change": 0.5}, "min_change"),
    ],
)
async def test_what_goes_with_lists_only(socket: Socket, message: Any, field: str) -> None:
    socket.send(op="subscribe", sub="s", mode="matches", **message)
    error = await socket.receive()
    assert (error["code"], error["sub"]) == ("invalid_request", "s")
    assert field in error["message"]


async def test_who_stands_near_does_not_wait_for_all_who_are_far_behind(kit: Kit) -> None:
    behind = kit.index.as_of_now()
    for number in range(10):
        kit.caption(f"n{number}", "red cat")
    limits = ReplayLimits(near_records_max=1, passes_max=0)
    replay, query = AlertReplay(kit.node, limits=limits), PreparedQuery("captions", [])
    for one in range(5):
        replay.replay(Alert(query, replace(behind, epoch=f"epoch-{one}"), lambda: None))
    near = Alert(query, kit.index.as_of_now(), lambda: None)
    replay.replay(near)
    assert near in replay._take_next() + replay._take_next()
    assert replay.waiting() == 4


@pytest.mark.parametrize("limits", [LiveLimits(alerts=AlertLimits(inline_matches_max=3))])
async def test_one_that_matches_everything_does_not_hold_up_the_others(
    kit: Kit, socket: Socket
) -> None:
    asked = {"text": "red cat", "target": "captions"}
    for name, least in (("all", -2.0), ("some", 0.6)):
        query = {**asked, "min_score": least}
        socket.send(op="subscribe", sub=name, mode="matches", query=query)
        assert (await socket.receive())["type"] == "resumed"
    alerts = kit.app.state.live.registry.alerts
    texts = {"a": "red cat", "b": "blue dog", "c": "one more", "d": "another"}
    kit.index.batch([("captions", n, kit.text(text), {"text": text}) for n, text in texts.items()])
    assert [alert.query.min_score for alert in alerts._all if alert.is_live] == [0.6]
    told: dict[str, list[str]] = {"all": [], "some": []}
    for _ in range(2):
        message = await socket.receive()
        told[message["sub"]] += ids(message)
    assert {name: sorted(found) for name, found in told.items()} == {
        "all": ["a", "b", "c", "d"],
        "some": ["a"],
    }


async def test_a_step_of_an_alert_that_its_state_does_not_allow(kit: Kit) -> None:
    alert = Alert(PreparedQuery("captions", []), kit.index.as_of_now(), lambda: None)
    with pytest.raises(WrongStep, match=r"^alert: want REPLAYING, got NEW$"):
        alert.move_to(AlertState.LIVE)
    alert.move_to(AlertState.QUEUED)
    with pytest.raises(WrongStep, match=r"^alert: want REPLAYING or LIVE, got QUEUED$"):
        alert.move_to(AlertState.PAUSED)
    alert.move_to(AlertState.REPLAYING)
    alert.fail(ValueError("no"))
    for state in set(AlertState) - {AlertState.NEW, AlertState.REMOVED}:
        with pytest.raises(WrongStep, match=r"^alert: want .*, got FAILED$"):
            alert.move_to(state)
    assert str(alert.error) == "no"
