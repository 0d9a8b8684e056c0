"""Answers are bounded in bytes: one beforehand and while it is written, all of them together."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import orjson
import pytest

from api.http.answer_pieces import StreamedAnswer
from api.http.answers import ResponseWriter
from contracts.errors import RejectedRequest
from contracts.settings import MIB
from contracts.wire.server_messages import AnswerMessage
from tests.kits.api_kit import Kit

pytestmark = pytest.mark.anyio

LONG = "long " * 2000


def filled(count: int = 150, text: str = LONG, **settings: Any) -> Kit:
    kit = Kit(k_max=1000, **settings)
    vector = kit.text("long")
    kit.index.batch([("captions", f"c{n}", vector, {"text": text}) for n in range(count)])
    return kit


async def asked(kit: Kit, **query: Any) -> Any:
    return await kit.http.post("/v1/search", json={"text": "long", "target": "captions", **query})


async def test_a_vector_is_shown_as_numbers_or_compact() -> None:
    kit = filled(1, "long")
    vector = kit.text("long")
    for include in (["vector"], ["vector_f16"], ["vector_f16", "vector"]):
        response = await asked(kit, include=include)
        AnswerMessage.model_validate_json(response.content)
        [hit] = response.json()["hits"]
        assert {name for name in hit if name.startswith("vector")} == set(include)
        if "vector" in include:
            assert hit["vector"] == vector.tolist()
        if "vector_f16" in include:
            numbers = np.frombuffer(base64.b64decode(hit["vector_f16"]), "<f2")
            assert numbers.tolist() == vector.tolist()


async def test_a_live_list_shows_them_too() -> None:
    kit = filled(1, "long")
    async with kit.live() as socket:
        await socket.accepted()
        for mode in ("top", "matches"):
            query = {"text": "long", "target": "captions", "include": ["vector_f16"]}
            socket.send(op="subscribe", sub=mode, mode=mode, query=query)
            message = await socket.receive()
            if mode == "matches":
                kit.caption("new", "long")
                messages = {m["sub"]: m for m in [await socket.receive(), await socket.receive()]}
                message = messages["matches"]
            [hit] = message["hits"]
            assert np.frombuffer(base64.b64decode(hit["vector_f16"]), "<f2").size == 64
            assert "vector" not in hit


async def test_too_much_is_refused_before_it_is_searched() -> None:
    kit = filled(10)
    query = {"text": "long", "target": "captions", "k": 1000, "include": ["vector"]}
    response = await kit.http.post("/v1/search", json=[query] * 64)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (400, "answer_too_large")
    assert (problem["field"], problem["limit"]) == ("k", 32 * MIB)
    assert problem["value"] > 64_000 * 64 * 17
    assert "vector_f16" in problem["detail"]
    assert kit.index.searches == 0
    compact = [{**query, "include": ["vector_f16"]}] * 64
    assert (await kit.http.post("/v1/search", json=compact)).status_code == 200


async def test_what_texts_make_too_much_is_refused_while_it_is_written() -> None:
    kit = filled(answer_bytes_max=MIB)
    assert (await asked(kit, k=90)).status_code == 200
    problem = (await asked(kit, k=150)).json()
    assert (problem["code"], problem["limit"]) == ("answer_too_large", MIB)
    assert problem["value"] > MIB
    assert (await asked(kit, k=90)).status_code == 200, "nothing of the refused one is held"


class Reader:
    """A client that reads as much of its answer as it is allowed to."""

    def __init__(self, kit: Kit, **query: Any) -> None:
        self._app, self.taken = kit.app, b""
        self._body = orjson.dumps({"text": "long", "target": "captions", **query})
        self.reading = asyncio.Event()
        self.status: int | None = None

    async def run(self) -> None:
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/search",
            "query_string": b"",
            "headers": headers,
        }
        receive: Callable[[], Awaitable[Any]] = self._receive
        await self._app(scope, receive, self._take)

    async def _receive(self) -> Any:
        return {"type": "http.request", "body": self._body}

    async def _take(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        if "body" in message:
            await self.reading.wait()
            self.taken += message["body"]


async def test_all_answers_in_memory_are_bounded_together() -> None:
    kit = filled(answers_bytes_max=2 * MIB)
    slow = Reader(kit, k=150)
    reading = asyncio.create_task(slow.run())
    async with asyncio.timeout(30):
        while slow.status is None:
            await asyncio.sleep(0)
    refused = await asked(kit, k=150)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    problem = refused.json()
    assert (problem["code"], problem["limit"]) == ("too_many", 2 * MIB)
    assert problem["value"] > 2 * MIB
    assert (await asked(kit, k=1)).status_code == 200, "a small one has room"
    slow.reading.set()
    await reading
    assert len(orjson.loads(slow.taken)["hits"]) == 150
    assert (await asked(kit, k=150)).status_code == 200


async def test_who_does_not_take_its_answer_in_time_is_left() -> None:
    kit = filled(answers_bytes_max=2 * MIB, send_timeout_s=0.05)
    stuck = Reader(kit, k=150)
    async with asyncio.timeout(30):
        await stuck.run()
    assert (stuck.status, stuck.taken) == (200, b"")
    assert (await asked(kit, k=150)).status_code == 200, "its bytes are given back"


async def test_an_answer_whose_last_piece_is_too_much_gives_its_bytes_back() -> None:
    responses = ResponseWriter(Kit(answer_bytes_max=MIB).node)
    with pytest.raises(RejectedRequest) as refused:
        await responses.json({"whole": "x" * (MIB - 50_000), "last": "x" * 100_000})
    assert refused.value.code == "answer_too_large"
    assert responses.budget.used_bytes == 0


async def test_bytes_that_are_added_and_taken_are_all_sent_in_order() -> None:
    pieces = ResponseWriter(Kit().node).body()
    pieces.add(b"begin ")
    pieces.take(LONG.encode() * 20)
    pieces.add(b"end")
    response = StreamedAnswer(pieces, timeout_s=1)
    whole = b"begin " + LONG.encode() * 20 + b"end"
    assert response.headers["content-length"] == str(len(whole))
    assert b"".join(pieces.whole) == whole
    pieces.close()
