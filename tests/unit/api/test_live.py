"""Live lists on the ports in memory: what is sent, when, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter
from structlog.testing import capture_logs

from api.app import background
from contracts.ports.hit import VectorQuery
from contracts.wire.cursor import Cursor
from contracts.wire.server_messages import ServerMessage
from tests.kits.api_kit import Closed, Follower, Kit, Socket, brute

pytestmark = pytest.mark.anyio
SERVER_MESSAGE: TypeAdapter[Any] = TypeAdapter(ServerMessage)


@pytest.fixture
async def kit() -> Kit:
    kit = Kit()
    kit.caption("a", "red cat")
    kit.caption("b", "red dog")
    kit.caption("c", "blue dog")
    return kit


@pytest.fixture
async def socket(kit: Kit) -> AsyncIterator[Socket]:
    async with kit.live() as socket:
        await socket.accepted()
        yield socket


async def quiet(socket: Socket) -> None:
    """Nothing more comes."""
    for _ in range(50):
        await asyncio.sleep(0)
    assert socket.waiting() == []


def ids(message: Any) -> list[str]:
    return [hit["id"] for hit in message["hits"]]


async def opened(socket: Socket, sub: str = "s", **query: Any) -> Any:
    socket.subscribe(sub, **{"target": "captions", "text": "red cat", "k": 2, **query})
    return await socket.receive()


async def test_a_snapshot_then_a_delta(kit: Kit, socket: Socket) -> None:
    follower = Follower(kit.index, lambda _: VectorQuery("captions", kit.text("red cat"), k=2))
    follower.take(await opened(socket))
    assert [hit["id"] for hit in follower.hits] == ["a", "b"]
    kit.caption("d", "red cat")
    delta = await socket.receive()
    follower.take(delta)
    assert [c["change"] for c in delta["changes"]] == ["leave", "enter"]
    assert [hit["id"] for hit in follower.hits] == ["a", "d"]
    SERVER_MESSAGE.validate_python(delta)


async def test_the_first_snapshot_warns_of_what_nobody_has(kit: Kit, socket: Socket) -> None:
    condition = {"not": {"exists": "draft"}}
    snapshot = await opened(socket, filter=condition)
    SERVER_MESSAGE.validate_python(snapshot)
    assert ids(snapshot) == ["a", "b"]
    [warning] = snapshot["warnings"]
    assert (warning["code"], warning["field"]) == ("unknown_field", "filter.draft")
    kit.caption("d", "red cat", metadata={"draft": True})
    # One list for both, which was first asked for when nobody had the field.
    assert "warnings" not in await opened(socket, "t", filter=condition)
    kit.caption("a", "red cat", metadata={"n": 1})
    assert "warnings" not in await socket.receive()


async def test_the_next_best_enters_when_one_is_deleted(kit: Kit, socket: Socket) -> None:
    await opened(socket)
    kit.index.remove("captions", "a")
    delta = await socket.receive()
    assert [(c["change"], c["id"]) for c in delta["changes"]] == [("leave", "a"), ("enter", "c")]


async def test_nothing_is_sent_when_nothing_changes(kit: Kit, socket: Socket) -> None:
    await opened(socket)
    searches = kit.index.searches
    kit.caption("far", "quite another thing")
    kit.index.put("images", "a", kit.text("red cat"))
    await quiet(socket)
    assert kit.index.searches == searches, "what lies below the floor costs no search"


async def test_changed_metadata_is_an_update(kit: Kit, socket: Socket) -> None:
    await opened(socket)
    kit.caption("a", "red cat", metadata={"seen": 2})
    delta = await socket.receive()
    assert [c["change"] for c in delta["changes"]] == ["update"]
    assert delta["changes"][0]["hit"]["metadata"] == {"seen": 2}


async def test_many_batches_while_a_client_reads_slowly_become_one_delta(
    kit: Kit, socket: Socket
) -> None:
    await opened(socket, k=3)
    socket.reading.clear()
    for number in range(100):
        kit.caption(f"n{number}", "red cat")
        await asyncio.sleep(0)
    socket.reading.set()
    deltas = [await socket.receive(), await socket.receive()]
    assert [d["type"] for d in deltas] == ["delta", "delta"]
    await quiet(socket)


async def test_a_client_that_does_not_read_is_closed_with_1013() -> None:
    kit = Kit(send_timeout_s=0.05)
    async with kit.live() as socket:
        await socket.accepted()
        await opened(socket)
        socket.reading.clear()
        kit.caption("a", "red cat")
        await asyncio.sleep(0.2)
        socket.reading.set()
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 1013
    assert kit.sample("tidelens_live_subscriptions") == 0
    assert kit.sample("tidelens_live_connections") == 0


async def test_a_batch_between_view_and_answer_is_not_lost(kit: Kit, socket: Socket) -> None:
    """The list has an item that arrived while its search ran, though the search missed it."""
    for n in range(20):
        kit.caption(f"far{n}", f"far {n}")
    query = VectorQuery("captions", kit.text("red cat"), k=100)
    order = [hit.id for hit in brute(kit.index.items, query)]
    await opened(socket, k=1)
    started, go = asyncio.Event(), asyncio.Event()

    async def gate() -> None:
        started.set()
        await go.wait()

    kit.index.gate = gate
    # As many as the list holds: the next one has to be searched.
    kit.index.batch([("captions", gone, None, {}) for gone in order[:11]])
    await started.wait()
    kit.index.remove("captions", order[11])
    kit.caption(order[13], "red cat")
    kit.index.gate = None
    go.set()
    changes = (await socket.receive())["changes"]
    assert [(c["change"], c["id"]) for c in changes] == [("leave", "a"), ("enter", order[13])]
    kit.index.remove("captions", order[13])
    assert [c["id"] for c in (await socket.receive())["changes"]] == [order[13], order[12]]


async def test_a_batch_during_the_first_search_is_not_lost(kit: Kit, socket: Socket) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def gate() -> None:
        started.set()
        await go.wait()

    kit.index.gate = gate
    socket.subscribe("s", target="captions", text="red cat", k=1)
    await started.wait()
    kit.index.remove("captions", "a")
    kit.index.gate = None
    go.set()
    assert ids(await socket.receive()) == ["b"]


async def test_a_query_by_id_follows_its_item(kit: Kit, socket: Socket) -> None:
    first = await opened(socket, text=None, id="a", of="captions", k=1)
    assert ids(first) == ["a"]
    kit.index.put("images", "cat", kit.text("blue dog"))
    second = await opened(socket, "t", text=None, id="cat", of="images", k=1)
    assert ids(second) == ["c"]
    kit.index.put("images", "cat", kit.text("red dog"))
    delta = await socket.receive()
    assert (delta["sub"], delta["changes"][-1]["id"]) == ("t", "b")


async def test_its_item_changing_during_a_search_gives_no_list_of_the_old_vector(
    kit: Kit, socket: Socket
) -> None:
    kit.index.put("images", "cat", kit.text("red cat"))
    searches = 0

    async def gate() -> None:
        nonlocal searches
        searches += 1
        if searches == 1:
            kit.index.put("images", "cat", kit.text("blue dog"))

    kit.index.gate = gate
    assert ids(await opened(socket, text=None, id="cat", of="images", k=1)) == ["c"]
    assert searches == 2


async def test_the_subscription_ends_with_its_item(kit: Kit, socket: Socket) -> None:
    await opened(socket, text=None, id="a", of="captions")
    kit.index.remove("captions", "a")
    error = await socket.receive()
    assert (error["type"], error["sub"], error["code"]) == ("error", "s", "query_item_gone")
    await opened(socket, "s")  # the name is free again


async def test_an_item_that_never_was(socket: Socket) -> None:
    error = await opened(socket, text=None, id="nobody", of="images")
    assert (error["code"], error["field"]) == ("item_not_found", "id")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"min_score": 0.3, "k": 5}, ["a", "b"]),
        ({"collapse": "item", "k": 5}, ["a", "b", "c"]),
        ({"text": None, "fuse": [{"text": "red cat"}, {"text": "cat", "weight": -1}]}, ["b", "a"]),
        ({"text": None, "vector": [1.0] + [0.0] * 63, "k": 3}, None),
        ({"text": None, "image": "AAAA", "k": 3}, None),
    ],
)
async def test_every_kind_of_query(
    socket: Socket, query: dict[str, Any], found: list[str] | None
) -> None:
    snapshot = await opened(socket, **query)
    assert snapshot["type"] == "snapshot"
    assert found is None or ids(snapshot) == found


async def test_only_what_reaches_min_score_enters(kit: Kit, socket: Socket) -> None:
    await opened(socket, min_score=0.6, k=5)
    kit.caption("low", "green tree")
    await quiet(socket)
    kit.caption("high", "red cat")
    assert (await socket.receive())["changes"][0]["id"] == "high"


async def test_a_list_with_a_filter_follows_metadata(kit: Kit, socket: Socket) -> None:
    assert ids(await opened(socket, filter={"eq": {"lang": "en"}})) == []
    kit.caption("b", "red dog", metadata={"lang": "en"})
    assert [one["change"] for one in (await socket.receive())["changes"]] == ["enter"]
    kit.caption("a", "red cat", metadata={"lang": "de"})
    await quiet(socket)
    kit.caption("b", "red dog", metadata={"lang": "de"})
    assert [one["change"] for one in (await socket.receive())["changes"]] == ["leave"]


async def test_a_cursor_of_another_filter_is_refused(socket: Socket) -> None:
    cursor = (await opened(socket, filter={"exists": "a"}))["cursor"]
    query = {"target": "captions", "text": "red cat", "k": 2, "filter": {"exists": "b"}}
    socket.send(op="subscribe", sub="t", query=query, cursor=cursor)
    assert (await socket.receive())["code"] == "invalid_cursor"


async def test_resuming_an_unchanged_list(kit: Kit, socket: Socket) -> None:
    cursor = (await opened(socket))["cursor"]
    socket.send(op="unsubscribe", sub="s")
    kit.caption("far", "quite another thing")
    resumed = await opened(socket, cursor=None) and await resume(socket, cursor, "t")
    assert resumed["type"] == "resumed"
    assert resumed["cursor"] != cursor, "it stands for the state of now"
    kit.index.remove("captions", "a")
    assert {(await socket.receive())["sub"] for _ in range(2)} == {"s", "t"}


async def resume(socket: Socket, cursor: str, sub: str = "s", **query: Any) -> Any:
    asked = {"target": "captions", "text": "red cat", "k": 2, **query}
    socket.subscribe(sub, cursor, **asked)
    return await socket.receive()


async def test_resuming_a_changed_list(kit: Kit, socket: Socket) -> None:
    cursor = (await opened(socket))["cursor"]
    socket.send(op="unsubscribe", sub="s")
    kit.caption("d", "red cat")
    snapshot = await resume(socket, cursor)
    assert (snapshot["type"], ids(snapshot)) == ("snapshot", ["a", "d"])


async def test_resuming_on_a_node_that_is_behind_waits(kit: Kit) -> None:
    async with kit.live() as socket:
        await socket.accepted()
        kit.caption("x", "quite another thing")
        cursor = (await opened(socket))["cursor"]
    behind = Kit()
    for name, text in (("a", "red cat"), ("b", "red dog"), ("c", "blue dog")):
        behind.caption(name, text)
    async with behind.live() as socket:
        await socket.accepted()
        socket.subscribe("s", cursor, target="captions", text="red cat", k=2)
        await quiet(socket)
        behind.caption("x", "quite another thing")
        assert (await socket.receive())["type"] == "resumed"


async def test_that_wait_is_bounded(kit: Kit, socket: Socket) -> None:
    kit.caption("x", "quite another thing")
    cursor = (await opened(socket))["cursor"]
    behind = Kit(wait_s_max=0.05)
    async with behind.live() as late:
        await late.accepted()
        error = await resume(late, cursor)
        assert (error["type"], error["code"]) == ("error", "timed_out")


async def test_a_query_that_is_not_encoded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error does not blame the cursor; a node that has just started encodes slowly."""
    kit = Kit(wait_s_max=0.05)
    monkeypatch.setattr(kit.queries, "text", lambda _: asyncio.Event().wait())
    async with kit.live() as socket:
        await socket.accepted()
        socket.subscribe("s", text="red cat")
        error = await socket.receive()
    assert (error["type"], error["code"]) == ("error", "timed_out")
    assert error["message"] == "subscribe: not opened within 0.05 s"


async def test_a_cursor_of_another_query_is_refused(socket: Socket) -> None:
    cursor = (await opened(socket))["cursor"]
    socket.send(op="unsubscribe", sub="s")
    error = await resume(socket, cursor, k=3)
    assert (error["code"], error["field"], error["sub"]) == ("invalid_cursor", "cursor", "s")


@pytest.mark.parametrize("cursor", ["", "zzz", "!!!", "WzEsMl0", "x" * 200_000])
async def test_a_cursor_that_is_none(socket: Socket, cursor: str) -> None:
    error = await resume(socket, cursor)
    assert (error["code"], error["field"]) == ("invalid_cursor", "cursor")


async def test_a_cursor_of_another_number_of_partitions(kit: Kit, socket: Socket) -> None:
    cursor = Cursor.decode((await opened(socket))["cursor"])
    socket.send(op="unsubscribe", sub="s")
    other = replace(cursor, as_of=replace(cursor.as_of, offsets={"images": [0]}))
    error = await resume(socket, other.encode())
    assert error["field"] == "cursor"


async def test_another_epoch_resets(kit: Kit, socket: Socket) -> None:
    cursor = (await opened(socket))["cursor"]
    kit.index.restart("epoch-2")
    kit.caption("z", "red cat")
    reset, snapshot = await socket.receive(), await socket.receive()
    assert (reset["type"], snapshot["type"], ids(snapshot)) == ("reset", "snapshot", ["z"])
    assert reset["reason"].startswith("epoch_changed")
    reset = await resume(socket, cursor, "again")
    assert (reset["type"], reset["sub"]) == ("reset", "again")
    assert ids(await socket.receive()) == ["z"]


async def test_a_log_made_anew_is_noticed_without_a_batch(kit: Kit, socket: Socket) -> None:
    running = asyncio.create_task(background(kit.app)["live"]())
    await opened(socket)
    kit.index.restart("epoch-2")
    reset, snapshot = await socket.receive(), await socket.receive()
    assert (reset["type"], snapshot["hits"]) == ("reset", [])
    running.cancel()


async def test_another_space_resets(kit: Kit, socket: Socket) -> None:
    cursor = Cursor.decode((await opened(socket))["cursor"])
    socket.send(op="unsubscribe", sub="s")
    other = replace(cursor, as_of=replace(cursor.as_of, space="old"))
    assert (await resume(socket, other.encode()))["reason"] == "space_changed: from old to hash-v1"
    assert (await socket.receive())["type"] == "snapshot"


async def test_not_ready_refuses_new_ones_and_keeps_open_ones(kit: Kit, socket: Socket) -> None:
    await opened(socket)
    kit.index.ready = False
    error = await opened(socket, "t")
    assert (error["sub"], error["code"]) == ("t", "not_ready")
    kit.caption("d", "red cat")
    await quiet(socket)
    kit.index.ready = True
    assert (await socket.receive())["type"] == "delta"


async def test_a_list_searched_anew_while_the_node_was_not_ready_goes_on(
    kit: Kit, socket: Socket
) -> None:
    """The list of the next search is sent even if the client heard late of the failed one."""
    await opened(socket)
    socket.reading.clear()
    kit.caption("x", "red cat")
    await asyncio.sleep(0.01)  # being sent
    kit.index.ready = False
    kit.index.restart("epoch-2")
    kit.caption("d", "red cat")
    await asyncio.sleep(0.05)  # searched in vain
    kit.index.ready = True
    kit.caption("e", "red cat")
    await asyncio.sleep(0.3)  # searched again
    socket.reading.set()
    found = [await socket.receive() for _ in range(3)]
    assert [message["type"] for message in found] == ["delta", "reset", "snapshot"]
    assert ids(found[2]) == ["d", "e"]
    kit.caption("a", "red cat")
    assert (await socket.receive())["type"] == "delta"


async def test_wait_for_a_token_before_the_snapshot(kit: Kit, socket: Socket) -> None:
    token = {"topic": "tidelens.captions", "partition": 0, "offset": 50}
    socket.subscribe("s", target="captions", text="red cat", wait_for=token)
    await quiet(socket)
    kit.index.put("captions", "late", kit.text("red cat"), at=50)
    kit.index.sources["captions", 0] = 50
    kit.index.move("captions", 0)
    snapshot = await socket.receive()
    assert "late" in ids(snapshot)


async def test_unsubscribing(kit: Kit, socket: Socket) -> None:
    await opened(socket)
    socket.send(op="unsubscribe", sub="s")
    kit.caption("d", "red cat")
    await quiet(socket)
    assert kit.sample("tidelens_live_subscriptions") == 0
    socket.send(op="unsubscribe", sub="s")
    assert (await socket.receive())["code"] == "unknown_sub"


async def test_unsubscribing_while_it_opens(kit: Kit, socket: Socket) -> None:
    token = {"topic": "tidelens.captions", "partition": 0, "offset": 50}
    socket.subscribe("s", target="captions", text="red cat", wait_for=token)
    socket.send(op="unsubscribe", sub="s")
    await quiet(socket)
    assert (await opened(socket))["type"] == "snapshot"


async def test_ping(socket: Socket) -> None:
    socket.send(op="ping")
    assert await socket.receive() == {"type": "pong"}


@pytest.mark.parametrize(
    ("message", "code", "field"),
    [
        ({"op": "dance"}, "invalid_request", "op"),
        ({"sub": "s"}, "invalid_request", "op"),
        ([], "invalid_request", "body"),
        ({"op": "subscribe", "sub": "", "query": {"text": "x"}}, "invalid_request", "sub"),
        ({"op": "subscribe", "sub": "s", "query": {}}, "invalid_request", "query"),
        ({"op": "subscribe", "sub": "s", "query": {"text": "x"}, "x": 1}, "invalid_request", "x"),
        ({"op": "ping", "extra": 1}, "invalid_request", "extra"),
        (
            {"op": "subscribe", "sub": "s", "mode": "all", "query": {"text": "x"}},
            "invalid_request",
            "mode",
        ),
        (
            {"op": "subscribe", "sub": "s", "query": {"text": "x", "filter": {"eq": {"a": []}}}},
            "invalid_filter",
            "filter.eq.a",
        ),
        (
            {"op": "subscribe", "sub": "s", "query": {"text": "x", "offset": 3}},
            "invalid_request",
            "query.offset",
        ),
        ({"op": "subscribe", "sub": "s", "query": {"text": "x", "k": 1000}}, "too_many", "k"),
        (
            {"op": "subscribe", "sub": "s", "query": {"image": "https://x/y.png"}},
            "not_enabled",
            "image.ref",
        ),
        (
            {"op": "subscribe", "sub": "s", "query": {"vector": [1, 2]}},
            "wrong_dimension",
            "vector",
        ),
        ({"op": "unsubscribe", "sub": "none"}, "unknown_sub", "sub"),
    ],
)
async def test_a_bad_message_is_told_and_the_connection_goes_on(
    socket: Socket, message: Any, code: str, field: str
) -> None:
    socket.send_text(orjson.dumps(message).decode())
    error = await socket.receive()
    assert (error["type"], error["code"]) == ("error", code)
    assert error["field"].endswith(field)
    SERVER_MESSAGE.validate_python(error)
    if isinstance(message, dict) and "sub" in message:
        assert error["sub"] == message["sub"]
    socket.send(op="ping")
    assert (await socket.receive())["type"] == "pong"


@pytest.mark.parametrize("levels", [30, 300, 1_000])
async def test_a_filter_nested_too_deep(socket: Socket, levels: int) -> None:
    condition = '{"not": ' * levels + '{"exists": "a"}' + "}" * levels
    query = f'{{"text": "x", "filter": {condition}}}'
    socket.send_text(f'{{"op": "subscribe", "sub": "s", "query": {query}}}')
    error = await socket.receive()
    assert (error["type"], error["sub"], error["code"]) == ("error", "s", "invalid_filter")
    assert error["field"].startswith("filter.not")
    socket.send(op="ping")
    assert (await socket.receive())["type"] == "pong"


async def test_what_is_not_json(socket: Socket) -> None:
    socket.send_text("{")
    assert (await socket.receive())["code"] == "invalid_json"
    socket.send(op="ping")
    assert (await socket.receive())["type"] == "pong"


async def test_a_name_that_is_taken(kit: Kit, socket: Socket) -> None:
    await opened(socket)
    assert (await opened(socket))["code"] == "duplicate_sub"
    kit.caption("d", "red cat")
    assert (await socket.receive())["type"] == "delta", "the first one goes on"


async def test_binary_frames_close_with_1003(socket: Socket) -> None:
    socket.send_bytes(b"{}")
    with pytest.raises(Closed) as closed:
        await socket.receive()
    assert closed.value.code == 1003


async def test_a_frame_over_the_limit_closes_with_1009() -> None:
    kit = Kit(frame_bytes_max=100)
    async with kit.live() as socket:
        await socket.accepted()
        socket.send_text('{"op": "ping", "x": "' + "é" * 45 + '"}')
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 1009


async def test_too_many_subscriptions() -> None:
    kit = Kit(subscriptions_max=2)
    async with kit.live() as socket:
        await socket.accepted()
        for name in ("a", "b"):
            assert (await opened(socket, name))["type"] == "snapshot"
        error = await opened(socket, "c")
        assert (error["code"], error["limit"]) == ("too_many", 2)


async def test_too_many_lists_that_wait_to_be_searched() -> None:
    kit, go = Kit(standing_searches_max=1), asyncio.Event()
    kit.index.gate = go.wait
    async with kit.live() as socket:
        await socket.accepted()
        socket.subscribe("searched", text="red cat")
        while not kit.index.searches:
            await asyncio.sleep(0)
        socket.subscribe("waits", text="red cat", k=2)
        socket.subscribe("refused", text="red cat", k=3)
        error = await socket.receive()
        assert (error["sub"], error["code"], error["limit"]) == ("refused", "too_many", 1)
        go.set()
        assert {(await socket.receive())["sub"] for _ in range(2)} == {"searched", "waits"}


async def test_too_many_connections() -> None:
    kit = Kit(connections_max=1)
    async with kit.live() as first:
        await first.accepted()
        async with kit.live() as second:
            status, body = await second.refused()
            assert (status, body["code"], body["limit"]) == (429, "too_many", 1)
    async with kit.live() as third:
        await third.accepted()


async def test_a_defect_closes_with_1011_and_tells_nothing(kit: Kit, socket: Socket) -> None:
    async def gate() -> None:
        raise ZeroDivisionError("secret")

    kit.index.gate = gate
    with capture_logs() as logs:
        socket.subscribe("s", text="x")
        with pytest.raises(Closed) as closed:
            await socket.receive()
        await socket.stop()
    assert (closed.value.code, "secret" in closed.value.reason) == (1011, False)
    assert "secret" in logs[0]["error"]


async def test_messages_are_counted(kit: Kit, socket: Socket) -> None:
    await opened(socket)
    kit.caption("d", "red cat")
    await socket.receive()
    sent = "tidelens_live_messages_total"
    assert kit.sample(sent, {"type": "snapshot"}) == kit.sample(sent, {"type": "delta"}) == 1
    assert kit.sample("tidelens_live_connections") == 1
    assert kit.sample("tidelens_live_subscriptions") == 1
    assert kit.sample("tidelens_stage_seconds_count", {"stage": "pushed"}) == 1


async def test_many_subscriptions_on_one_connection(kit: Kit, socket: Socket) -> None:
    for number in range(40):
        await opened(socket, f"s{number}")
    kit.index.remove("captions", "a")
    subs = {(await socket.receive())["sub"] for _ in range(40)}
    assert len(subs) == 40
    await quiet(socket)


async def test_throttled_it_is_told_of_many_changes_at_once(kit: Kit, socket: Socket) -> None:
    asked = {"text": "red cat", "target": "captions", "k": 2}
    socket.send(op="subscribe", sub="s", query=asked, throttle_ms=700)
    follower = Follower(kit.index, lambda _: VectorQuery("captions", kit.text("red cat"), k=2))
    follower.take(await socket.receive())
    for number in range(5):
        kit.caption(f"n{number}", "red cat")
        await quiet(socket)
    follower.take(await socket.receive())
    assert [hit["id"] for hit in follower.hits] == ["a", "n0"]
    kit.index.remove("captions", "a")
    await quiet(socket)
    [session] = kit.app.state.live._sessions
    [delivery] = session._lists.values()
    assert delivery._throttle is not None
    socket.send(op="unsubscribe", sub="s")
    await quiet(socket)
    assert (session._lists, delivery._throttle) == ({}, None)


async def test_changes_that_are_too_small_are_not_told(kit: Kit, socket: Socket) -> None:
    asked = {"text": "red cat", "target": "captions", "k": 2}
    socket.send(op="subscribe", sub="s", query=asked, min_change=0.2)
    follower = Follower(kit.index, lambda _: VectorQuery("captions", kit.text("red cat"), k=2))
    follower.take(await socket.receive())
    kit.caption("a", "red cat", metadata={"seen": 1})
    await quiet(socket)
    # An item enters: now all changes are sent, and the cursor is exact again.
    kit.caption("d", "red cat")
    follower.take(await socket.receive())
    kit.caption("d", "red cat dog")
    follower.take(await socket.receive())
    assert follower.cursors == 3


async def test_one_without_subscriptions_is_closed_after_a_while() -> None:
    kit = Kit(idle_s_max=5)
    async with kit.live() as socket:
        await socket.accepted()
        kit.caption("a", "red cat")
        await opened(socket)
        [session] = kit.app.state.live._sessions
        session.check(session._heard_at + 6)
        await quiet(socket)
        socket.send(op="unsubscribe", sub="s")
        await quiet(socket)
        session.check(session._heard_at + 6)
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 1000


async def test_a_session_whose_check_fails_keeps_no_other_unchecked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = Kit(idle_s_max=5)
    endpoints = kit.app.state.live
    async with kit.live() as one, kit.live() as other:
        await one.accepted()
        await other.accepted()
        first, second = endpoints._sessions  # in the order in which they are checked

        def broken(now: float) -> None:
            raise ZeroDivisionError("broken check")

        monkeypatch.setattr(first, "check", broken)
        monkeypatch.setattr("api.live.hub.monotonic", lambda: second._heard_at + 6)
        with pytest.raises(ExceptionGroup, match="broken check"):
            await endpoints._check_sessions()
        assert second._is_idle


@pytest.mark.parametrize("limit", ["standing_max", "standing_searches_max"])
async def test_too_many_are_told_when_to_try_again(limit: str) -> None:
    kit = Kit(**{limit: 0})
    async with kit.live() as socket:
        await socket.accepted()
        error = await opened(socket)
        SERVER_MESSAGE.validate_python(error)
        assert (error["code"], error["retry_after"]) == ("too_many", 1)
        assert limit in error["message"]


async def test_who_asks_the_same_shares_one_list(kit: Kit, socket: Socket) -> None:
    registry = kit.app.state.live.registry
    await opened(socket, "one")
    searches = kit.index.searches
    async with kit.live() as other:
        await other.accepted()
        assert ids(await opened(other, "two", timeout_s=5, exact=True)) == ["a", "b"]
        assert ids(await opened(other, "three", k=1)) == ["a"]
        assert (kit.index.searches, len(registry.queries)) == (searches + 1, 2)
        assert kit.sample("tidelens_live_subscriptions") == 3
        kit.caption("d", "red cat")
        assert [c["id"] for c in (await socket.receive())["changes"]] == ["b", "d"]
        assert (await other.receive())["sub"] == "two"
        await quiet(other)
        socket.send(op="unsubscribe", sub="one")
        await quiet(socket)
        kit.index.remove("captions", "d")
        assert [c["id"] for c in (await other.receive())["changes"]] == ["d", "b"]
    await quiet(socket)
    assert (len(registry.queries), registry._queries_by_key, registry._keys) == (0, {}, {})


async def test_one_whose_item_is_gone_is_not_shared(kit: Kit, socket: Socket) -> None:
    asked = {"id": "a", "of": "captions", "text": None}
    await opened(socket, **asked)
    kit.index.remove("captions", "a")
    while (message := await socket.receive())["type"] != "error":
        pass
    assert message["code"] == "query_item_gone"
    assert (await opened(socket, **asked))["code"] == "item_not_found"
    kit.caption("a", "red cat")
    assert (await opened(socket, **asked))["type"] == "snapshot"


class ClosedBeneath(Socket):
    """A socket like Uvicorn's, which closes without a pong, and raises at the next message only."""

    is_closed = False

    async def _take(self, message: Any) -> None:
        if self.is_closed:
            raise RuntimeError("Unexpected ASGI message, after sending 'websocket.close'.")
        await super()._take(message)


async def test_a_connection_that_the_server_closed_is_no_defect(kit: Kit) -> None:
    socket = ClosedBeneath(kit.app, {})
    socket.start()
    await socket.accepted()
    await opened(socket)
    with capture_logs() as logs:
        socket.is_closed = True
        kit.index.remove("captions", "a")
        await socket.stop()
    assert not logs
    assert kit.sample("tidelens_live_connections") == 0
