"""Large live messages: written in slices, bounded, and dropped where they are not wanted."""

import asyncio
from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter

from api.http.answer_memory import AnswerBudget
from contracts.settings import MIB
from contracts.wire.server_messages import ServerMessage
from tests.kits.api_kit import Kit, Socket

pytestmark = pytest.mark.anyio

LONG = "länger ✓ " * 1000
MESSAGE: TypeAdapter[Any] = TypeAdapter(ServerMessage)


def filled(count: int = 150, text: str = LONG, **settings: Any) -> Kit:
    kit = Kit(k_max=1000, **settings)
    vector = kit.text("long")
    rest = {"text": text, "metadata": {"lang": "de"}}
    kit.index.batch([("captions", f"c{n}", vector, rest) for n in range(count)])
    return kit


def budget(kit: Kit) -> AnswerBudget:
    found: AnswerBudget = kit.app.state.live.registry.budget
    return found


def subscribe(socket: Socket, sub: str = "a", **query: Any) -> None:
    socket.subscribe(sub, **{"text": "long", "target": "captions", **query})


async def test_a_large_snapshot_is_what_a_small_one_would_be() -> None:
    kit = filled()
    query = {"text": "long", "target": "captions", "k": 150, "include": ["vector", "vector_f16"]}
    answer = await kit.http.post("/v1/search", json=query)
    async with kit.live() as socket:
        await socket.accepted()
        subscribe(socket, k=150, include=["vector", "vector_f16"])
        snapshot = await socket.receive()
        assert snapshot["hits"] == answer.json()["hits"]
        MESSAGE.validate_json(orjson.dumps(snapshot))
        kit.index.batch([("captions", f"b{n}", kit.text("long"), {"text": LONG}) for n in range(9)])
        delta = await socket.receive()
        MESSAGE.validate_json(orjson.dumps(delta))
        changes = [change["change"] for change in delta["changes"]]
        assert (changes.count("leave"), changes.count("enter")) == (9, 9)


async def test_a_list_that_cannot_fit_a_message_is_refused_at_once() -> None:
    kit = filled(1, message_bytes_max=MIB)
    async with kit.live() as socket:
        await socket.accepted()
        subscribe(socket, k=1000, include=["vector"])
        error = await socket.receive()
        assert (error["code"], error["field"], error["limit"]) == (
            "answer_too_large",
            "query.k",
            MIB,
        )
        assert error["value"] > MIB and "retry_after" not in error
        subscribe(socket, k=1000, include=["vector_f16"])
        assert (await socket.receive())["type"] == "snapshot"


async def test_a_list_that_texts_make_too_large_ends() -> None:
    kit = filled(message_bytes_max=MIB)
    async with kit.live() as socket:
        await socket.accepted()
        subscribe(socket, k=150)
        error = await socket.receive()
        assert (error["type"], error["sub"], error["code"]) == ("error", "a", "answer_too_large")
        subscribe(socket, k=50)
        assert len((await socket.receive())["hits"]) == 50


async def test_large_messages_wait_for_room_and_small_ones_do_not() -> None:
    kit = filled(answers_bytes_max=2 * MIB)
    async with kit.live() as slow, kit.live() as other, kit.live() as small:
        for socket in (slow, other, small):
            await socket.accepted()
        slow.reading.clear()
        subscribe(slow, k=150)
        while not budget(kit).used_bytes:
            await asyncio.sleep(0)
        subscribe(other, k=150)
        subscribe(small, k=1)
        assert len((await small.receive())["hits"]) == 1
        assert other.waiting() == []
        slow.reading.set()
        for socket in (slow, other):
            assert len((await socket.receive())["hits"]) == 150


async def test_who_finds_no_room_in_time_is_told_to_try_again() -> None:
    kit = filled(answers_bytes_max=2 * MIB, send_timeout_s=0.2)
    share = budget(kit).reserve(int(1.5 * MIB))
    async with kit.live() as socket:
        await socket.accepted()
        subscribe(socket, k=150)
        error = await socket.receive()
        assert (error["code"], error["limit"], error["retry_after"]) == ("too_many", 2 * MIB, 1)
        share.close()
        subscribe(socket, k=150)
        assert len((await socket.receive())["hits"]) == 150
    assert budget(kit).used_bytes == 0


async def test_nothing_is_sent_for_what_was_unsubscribed_while_it_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.http.time_slices.SLICE_S", -1.0)
    kit = filled()
    async with kit.live() as socket:
        await socket.accepted()
        socket.reading.clear()
        subscribe(socket, k=150)
        while not budget(kit).used_bytes:
            await asyncio.sleep(0)
        socket.send(op="unsubscribe", sub="a")
        subscribe(socket, k=1)
        socket.reading.set()
        assert len((await socket.receive())["hits"]) == 1
